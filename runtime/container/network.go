package container

import (
	"errors"
	"fmt"
	"os"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/network"
	"bulkhead/runtime/sandbox"
	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// networkAnnotation none: the container has loopback alone, whatever there is.
const networkAnnotation = "dev.bulkhead.network"

// network is host where the specification asks for no network namespace, or names the
// host's own, as docker does (and so the sandbox joins none). A stand-in of ours, whose
// own it is, stands for its container's network.
func (n *creation) network() string {
	if n.spec.Annotations[networkAnnotation] == "none" {
		return "none"
	}
	for _, ns := range n.spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace && (!hostNetwork(ns.Path) || n.rt.processAt(ns.Path, "net") != nil) {
			return "sandbox"
		}
	}
	return "host"
}

// hostNetwork says that a path leads to the network namespace that we are in, or the
// host's first process.
func hostNetwork(path string) bool {
	there, err := os.Stat(path)
	if err != nil {
		return false
	}
	for _, p := range []string{"/proc/self/ns/net", "/proc/1/ns/net"} {
		if own, err := os.Stat(p); err == nil && os.SameFile(there, own) {
			return true
		}
	}
	return false
}

// checkNetwork refuses what the Sentry does not give: it has no sockets of the host's, and
// who asks for the host's network would miss it in a program that waits for connections.
func (n *creation) checkNetwork() error {
	switch v := n.spec.Annotations[networkAnnotation]; {
	case v != "" && v != "none" && v != "sandbox":
		return fmt.Errorf("annotation %s: %q is neither none nor sandbox", networkAnnotation, v)
	case n.c.State.Isolation == sentryWall && n.network() == "host":
		return fmt.Errorf("the host's network is not to be had in a sandbox (linux.namespaces names no other network namespace): use a network of the engine's (docker run --network=bridge), or the annotation %s: none for loopback alone", networkAnnotation)
	}
	return nil
}

// takeNetwork takes over what there is in the sandbox's network namespace, which engines
// fill before a container is created or by its first hooks. Who is not root may not, and
// nobody has prepared anything for them.
func (n *creation) takeNetwork(c *agent.BootConfig) error {
	s := n.c.State
	machine := n.c.isMachine()
	if c.Network != "sandbox" || os.Geteuid() != 0 { // what a user namespace calls root has its network
		return nil
	}
	pid := s.Sandbox.PID
	unlock, err := network.Lock(pid) // until it is saved who has it
	if err != nil {
		return err
	}
	defer unlock()
	shared, err := network.Shared(pid)
	if err != nil {
		return err
	}
	holder := n.rt.foreign(shared)
	return sandbox.InNetworkOf(pid, func() error {
		if holder != "" {
			empty, err := network.Empty()
			if err == nil && !empty {
				err = fmt.Errorf("its network namespace is that of %s as well: a sandbox, or a machine, has its network for itself and its own containers; the annotation %s: none gives loopback alone", holder, networkAnnotation)
			}
			return err
		}
		var err error
		if c.Devices, err = network.Take(); err != nil {
			return err
		}
		s.Network = &state.Network{Path: n.networkPath(), Devices: c.Devices}
		n.undo = append(n.undo, n.c.returnNetwork)
		if err := n.c.dir.Save(s); err != nil || machine {
			return err
		}
		c.NameServer, err = network.NameServer()
		return err
	})
}

// foreign describes one of the processes of a network namespace, "" for none.
func (r *Runtime) foreign(pids []int) string {
	if len(pids) == 0 {
		return ""
	}
	known := map[int]*state.State{}
	ids, _ := state.List(r.Root)
	for _, id := range ids {
		if c, err := r.Open(id); err == nil {
			known[c.State.Sandbox.PID] = c.State
		}
	}
	for _, pid := range pids {
		if s := sandboxOf(pid, known); s != nil {
			return "the container " + s.ID
		}
	}
	return fmt.Sprintf("process %d of this host", pids[0])
}

// sandboxOf finds the sandbox that a process is, or is a child's child of (a stub of ptrace's).
func sandboxOf(pid int, known map[int]*state.State) *state.State {
	for range 8 { // a sandbox's own are fewer
		if s := known[pid]; s != nil && s.Sandbox.Alive() {
			return s
		}
		parent, err := state.Parent(pid)
		if err != nil || parent <= 1 {
			break
		}
		pid = parent
	}
	return nil
}

// networkPath is that of a namespace that somebody else keeps.
func (n *creation) networkPath() string {
	for _, ns := range n.spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			return ns.Path
		}
	}
	return ""
}

// returnNetwork gives the interfaces of a namespace that outlives the container their
// addresses and routes again: the next container there wants to find them.
func (c *Container) returnNetwork() {
	d := c.State.Network
	if d == nil || d.Path == "" || len(d.Devices) == 0 {
		return
	}
	err := sandbox.InNetworkAt(d.Path, func() error { return network.Return(d.Devices) })
	if err != nil && !errors.Is(err, sandbox.ErrNoNamespace) {
		c.rt.Log.Warn("the network namespace did not get its addresses back", "container", c.State.ID, "err", err)
	}
}
