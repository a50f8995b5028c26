package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/bundle"
	"bulkhead/runtime/cgroup"
	"bulkhead/runtime/console"
	"bulkhead/runtime/sandbox"
	"bulkhead/runtime/spec"
	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A pod is a container that is its sandbox, and others that name it, or its network (join.go). All are in that one's
// sandbox, the Sentry or a machine: it begins with the first and ends with it. On the host
// a further one is a stand-in, as a process that exec has started is, whose end and
// status are the container's. A machine gets its files by the share that it has; the Sentry
// by a gofer of the container's own.

// podAnnotations are what engines say of a container's place in a pod.
var podAnnotations = []struct{ kind, sandbox string }{
	{"io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"},   // containerd, pkg/cri/annotations
	{"io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"}, // CRI-O, pkg/annotations
}

// podOf is the ID of the pod that a container is a further one of, "" for none. Podman speaks
// CRI-O's words of a pod that may have no container of its own, whose ID is that of nothing
// then (pod create --infra=false), and does not say of one that it is the pod's: with Podman
// a container is where its namespaces are.
func podOf(annotations map[string]string) string {
	if annotations["io.container.manager"] == "libpod" {
		return ""
	}
	for _, a := range podAnnotations {
		if annotations[a.kind] == "container" {
			return annotations[a.sandbox]
		}
	}
	return ""
}

// podSandbox says that a container is one that keeps a pod's namespaces and has no
// program of its own to speak of.
func podSandbox(annotations map[string]string) bool {
	for _, a := range podAnnotations {
		if annotations[a.kind] == "sandbox" {
			return true
		}
	}
	return false
}

// findPod is the container in whose sandbox this one is to be, nil for none.
func (n *creation) findPod() (*Container, error) {
	id := podOf(n.spec.Annotations)
	if id == "" {
		return n.holder(), nil
	}
	if id == n.ID {
		return nil, nil
	}
	pod, err := n.rt.Open(id)
	if err != nil {
		return nil, fmt.Errorf("its pod %s: %w", bundle.OneLine(id), err)
	}
	return pod, nil
}

// choosePod has a further container be in the sandbox that there is.
func (n *creation) choosePod(pod *Container) error {
	if pod == nil {
		return nil
	}
	s, id := n.c.State, pod.State.ID
	switch {
	case pod.State.Isolation != s.Isolation:
		return fmt.Errorf("isolation %s: its pod %s has isolation %s", s.Isolation, id, pod.State.Isolation)
	case pod.State.Pod != "":
		return fmt.Errorf("its pod %s is itself in the pod %s", id, pod.State.Pod)
	}
	if err := pod.alive(specs.StateCreated, specs.StateRunning); err != nil {
		return fmt.Errorf("its pod %s: %w", id, err)
	}
	s.Pod, s.Log = id, pod.State.Log
	n.pod = pod
	return nil
}

// podNamespaces are those of the pod's first container that the specification asks for: by
// the namespaces of that one's process on the host. pidsOf is another of the pod's containers,
// if the pid namespace is to be that one's.
func (n *creation) podNamespaces() (share []string, pidsOf string, err error) {
	kinds := map[specs.LinuxNamespaceType]string{specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.PIDNamespace: "pid", specs.NetworkNamespace: "net"}
	own := map[specs.LinuxNamespaceType]bool{}
	for i, ns := range n.spec.Linux.Namespaces {
		file, ok := kinds[ns.Type]
		own[ns.Type] = ns.Path == ""
		if ns.Path == "" {
			continue
		}
		same := false
		if ok {
			ours, err := os.Stat(fmt.Sprintf("/proc/%d/ns/%s", n.pod.State.Sandbox.PID, file))
			if err != nil {
				return nil, "", err
			}
			theirs, err := os.Stat(ns.Path)
			same = err == nil && os.SameFile(ours, theirs)
		}
		switch sibling := n.siblingAt(ns.Path, file); {
		case sibling == "":
		case ns.Type == specs.PIDNamespace:
			pidsOf = sibling
			continue
		case ns.Type == specs.NetworkNamespace: // which is the pod's
			continue
		}
		if !same {
			return nil, "", fmt.Errorf("linux.namespaces[%d].path: %s is not the pod's %s namespace, and its containers are in no other", i, bundle.OneLine(ns.Path), ns.Type)
		}
	}
	for _, t := range []specs.LinuxNamespaceType{specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace} {
		if !own[t] && (t != specs.PIDNamespace || pidsOf == "") {
			share = append(share, kinds[t])
		}
	}
	return share, pidsOf, nil
}

// siblingAt is the further container of the pod whose process on the host the path of a
// namespace names, as /proc/PID/ns/pid: so engines ask for a container's (CRI's
// NamespaceMode TARGET, kubectl debug --target; docker run --network=container:ID). The
// process is a stand-in, by whose own namespace nobody is found. "" if there is none.
func (n *creation) siblingAt(path, file string) string {
	if c := n.rt.processAt(path, file); c != nil && c.State.Pod == n.pod.State.ID {
		return c.State.ID
	}
	return ""
}

// openPodFiles says what files the container has.
func (n *creation) openPodFiles(ctx context.Context) (err error) {
	if n.config.Preserve, err = Inherited(n.PreserveFDs); err != nil {
		return err
	}
	n.own = append(n.own, n.config.Preserve...)
	if n.c.State.Log != "" {
		if n.config.Log, err = os.OpenFile(n.c.State.Log, os.O_APPEND|os.O_WRONLY, 0); err != nil {
			return err
		}
		n.own = append(n.own, n.config.Log)
	}
	if err := n.shareFiles(); err != nil || !n.c.isMachine() {
		return err
	}
	n.config.Machine = &sandbox.Machine{} // which runs, and whose disks these are to be
	return n.openDisks(ctx)
}

// attachFiles brings them to where the sandbox finds them.
func (n *creation) attachFiles(context.Context) error {
	n.c.State.Sandbox = n.pod.State.Sandbox // for hooks, which want a process; the stand-in follows
	n.c.Process = &sandbox.Sandbox{}
	if !n.pod.State.Gofer.Alive() {
		return fmt.Errorf("its pod %s: %w", n.pod.State.ID, ErrNotRunning)
	}
	if !n.c.isMachine() {
		return n.startGofer()
	}
	r := &agent.AttachRequest{PID: n.pod.State.Gofer.PID, Container: n.ID, GoferConfig: n.config.Gofer}
	n.undo = append(n.undo, func() { _ = sandbox.Detach(r) })
	if err := sandbox.Attach(r); err != nil {
		return fmt.Errorf("add files to the pod's machine: %w", err)
	}
	n.rt.Milestone("files attached")
	return nil
}

// startGofer starts one for the container alone.
func (n *creation) startGofer() (err error) {
	s := n.c.State
	n.config.DieWithCaller = n.DieWithCaller
	if n.c.Process.Gofer, n.gofer, err = sandbox.StartGofer(&n.config); err != nil {
		return err
	}
	n.own = append(n.own, n.gofer)
	n.undo = append(n.undo, func() { n.c.Process.Kill() })
	if s.Gofer, err = state.Find(n.c.Process.Gofer.Pid); err != nil {
		return err
	}
	// Early, so that delete --force finds it should we be killed. Of the pod's sandbox it
	// must not think that it is the container's.
	alone := *s
	alone.Sandbox = state.Process{}
	n.rt.Milestone("gofer started")
	return n.c.dir.Save(&alone)
}

// add has the pod's sandbox make the container, and leaves a stand-in for it.
func (n *creation) add(ctx context.Context) error {
	share, pidsOf, err := n.podNamespaces()
	if err != nil {
		return err
	}
	if pidsOf != "" && n.c.isMachine() {
		return fmt.Errorf("linux.namespaces: the pid namespace of container %s cannot be shared in a machine; the pod's can", pidsOf)
	}
	s := n.c.State
	r := &agent.AddRequest{
		Container: n.ID, Spec: spec.Of(n.spec), Overlay: agent.Overlay{Kind: n.overlay}, Limits: cgroup.Inside(s.Resources),
		OrdinaryInit: n.OrdinaryInit, Share: share, PIDsOf: pidsOf, GoferMounts: bindMounts(n.spec),
	}
	if r.Cgroup, err = n.c.within(s.Resources); err != nil {
		return err
	}
	files := n.config.Stdio[:]
	var slave *os.File
	if n.spec.Process.Terminal {
		slave = files[0]
		files = files[:1]
		if rows, columns, err := console.Size(slave); err == nil {
			r.Console = &agent.Console{Rows: rows, Columns: columns}
		}
	}
	if n.config.Machine != nil {
		files = files[:len(files):len(files)]
		for _, d := range n.config.Machine.Disks {
			r.Disks = append(r.Disks, d.Disk)
			files = append(files, d.File)
		}
	}
	if n.gofer != nil {
		files = append(append(files[:len(files):len(files)], n.config.Preserve...), n.gofer)
	}
	if err := n.pod.makeRoom(ctx); err != nil {
		return err
	}
	client, err := n.c.dial(ctx)
	if err != nil {
		return err
	}
	n.undo = append(n.undo, func() { client.Close() })
	if err := client.Add(ctx, r, files); err != nil {
		if refusal := (*agent.Error)(nil); errors.As(err, &refusal) && !strings.HasPrefix(refusal.Message, `exec: "`) {
			err = fmt.Errorf("add to the pod %s: %w", s.Pod, err)
		}
		return err
	}
	n.undo = append(n.undo, func() {
		limited, cancel := context.WithTimeout(context.Background(), removePatience)
		defer cancel()
		_ = client.Remove(limited, n.ID)
	})
	n.rt.Milestone("added")
	e := &Exec{client: client, c: n.c}
	if n.c.Process.Process, err = e.StandIn(slave); err != nil {
		return err
	}
	n.undo = append(n.undo, func() { n.c.Process.Kill() })
	if s.Sandbox, err = state.Find(n.c.Process.Process.Pid); err != nil {
		return err
	}
	if err := n.c.dir.Save(s); err != nil {
		return err
	}
	if n.startsAtOnce() {
		if err := client.Start(ctx, n.ID); err != nil {
			return err
		}
	}
	return nil
}

// finishPod is finish, of what the pod knows.
func (n *creation) finishPod(ctx context.Context) error {
	n.c.Ready = &agent.Ready{Ready: true, Platform: n.pod.State.Platform}
	n.c.State.Platform = n.pod.State.Platform
	return n.finish(ctx)
}

// removePatience is for the end of a container's processes in a sandbox that is well.
const removePatience = 10 * time.Second

// leavePod takes a further container out of its pod's sandbox. One that does not answer
// keeps what it has until its end.
func (c *Container) leavePod(ctx context.Context) error {
	pod, err := c.rt.Open(c.State.Pod)
	if err != nil || !pod.State.Sandbox.Alive() {
		return nil // all ended with it
	}
	limited, cancel := context.WithTimeout(ctx, removePatience)
	defer cancel()
	client, err := agent.Dial(limited, pod.dir.Socket())
	if err == nil {
		err = client.Remove(limited, c.State.ID)
		client.Close()
	}
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, agent.ErrGone) {
		c.rt.Log.Warn("the pod's sandbox keeps what is left of a container", "container", c.State.ID, "err", err)
	}
	if !c.isMachine() || !pod.State.Gofer.Alive() {
		return nil
	}
	err = sandbox.Detach(&agent.AttachRequest{PID: pod.State.Gofer.PID, Container: c.State.ID})
	if err != nil && pod.State.Gofer.Alive() {
		return fmt.Errorf("take files from the pod's machine: %w", err)
	}
	return nil
}

// home is the directory of the sandbox that the container is in.
func (c *Container) home() *state.Dir {
	if c.State.Pod == "" {
		return c.dir
	}
	return &state.Dir{Path: filepath.Join(filepath.Dir(c.dir.Path), c.State.Pod)}
}

// inside is what its sandbox calls the container.
func (c *Container) inside() string {
	if c.State.Pod == "" {
		return ""
	}
	return c.State.ID
}
