package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/bundle"
	"bulkhead/runtime/cgroup"
	"bulkhead/runtime/console"
	"bulkhead/runtime/network"
	"bulkhead/runtime/program"
	"bulkhead/runtime/sandbox"
	"bulkhead/runtime/spec"
	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// AnnotationPrefix is what the names of all annotations of ours begin with.
const AnnotationPrefix = "dev.bulkhead."

// Annotations that a bundle can carry.
const (
	isolationAnnotation = "dev.bulkhead.isolation" // sentry, vm, auto
	platformAnnotation  = "dev.bulkhead.platform"  // auto, kvm, ptrace
	overlayAnnotation   = "dev.bulkhead.overlay"   // none, memory
	// socketsAnnotation false: the host's sockets in bind mounts do not let the container through.
	socketsAnnotation = "dev.bulkhead.host-sockets"
)

// Create says how to make a container.
type Create struct {
	ID            string
	Bundle        *bundle.Bundle
	PidFile       string
	ConsoleSocket string       // where the master of the container's terminal goes
	Pty           *console.Pty // or a pair whose master stays with the caller
	Stdio         [3]*os.File  // without a terminal; nil is our own. They stay the caller's
	PreserveFDs   int          // descriptors 3 and up to hand on
	Start         bool         // let the program run at once; Start then does what remains
	NoCgroup      bool
	DieWithCaller bool
	OrdinaryInit  bool     // signals end the program, though it is process 1 (do)
	Restore       *os.File // a checkpoint to go on from; the caller's
	RootShared    bool     // the root's files may change under the container (do)
}

// creation is a Create under way.
type creation struct {
	*Create
	rt   *Runtime
	c    *Container
	spec *specs.Spec

	pod        *Container // in whose sandbox it will be, or nil
	gofer      *os.File   // the Sentry's end of the socket to a further container's; or nil
	config     sandbox.Config
	overlay    string // kind
	overlayDir string
	root       rootImage // of a machine
	disks      []hostDisk
	template   templateUse
	group      *cgroup.Group // or nil
	undo       []func()      // in reverse, if anything fails
	own        []*os.File    // to close in any case
}

// Create makes a container, up to just before its program's first instruction.
// The lock is held until Release.
func (r *Runtime) Create(ctx context.Context, o *Create) (_ *Container, err error) {
	n := &creation{Create: o, rt: r, spec: o.Bundle.Spec}
	defer func() {
		for _, f := range n.own {
			f.Close()
		}
		if err != nil {
			n.rollBack()
		}
	}()
	if err := n.choose(ctx); err != nil {
		return nil, err
	}
	steps := []creationStep{
		{"", n.makeState},
		{"", n.prepareCgroup},
		{"set up the terminal", n.openTerminal},
		{"open descriptors", n.openFiles},
		{"", n.startProcesses},
		{"", n.enterCgroup},
		{"", n.runHooks},
		{"", n.boot},
		{"", n.finish},
	}
	if n.pod != nil {
		steps = []creationStep{
			{"", n.makeState},
			{"", n.prepareCgroup},
			{"set up the terminal", n.openTerminal},
			{"open descriptors", n.openPodFiles},
			{"", n.attachFiles},
			{"", n.runHooks},
			{"", n.add},
			{"", n.enterCgroup},
			{"", n.finishPod},
		}
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := step.do(ctx); err != nil {
			if step.name != "" {
				err = fmt.Errorf("%s: %w", step.name, err)
			}
			return nil, err
		}
	}
	return n.c, nil
}

type creationStep struct {
	name string
	do   func(context.Context) error
}

// Release gives up the lock that Create holds.
func (c *Container) Release() { c.dir.Unlock() }

// rollBack undoes what was done, newest first. Poststop hooks run before the
// state goes, as runtime.md, "Lifecycle", has it after a failed hook.
func (n *creation) rollBack() {
	for i := len(n.undo) - 1; i >= 0; i-- {
		n.undo[i]()
	}
}

// The kinds of isolation.
const (
	sentryWall = "sentry"
	vmWall     = "vm"
	autoWall   = "auto" // becomes one of them
)

// pickWall refuses what this host cannot do before anything is made.
func (n *creation) pickWall(name string) error {
	switch {
	case name == sentryWall:
		return nil
	case name != vmWall:
		return fmt.Errorf("isolation %q is unknown (%s, %s, %s)", name, sentryWall, vmWall, autoWall)
	case n.rt.Machine == nil:
		return errors.New("isolation vm: this build has no machines; use --isolation=sentry")
	}
	if err := n.rt.machineRuns(); err != nil {
		return fmt.Errorf("isolation vm: %w; --isolation=sentry needs no such host", err)
	}
	switch {
	case n.PreserveFDs > 0:
		return errors.New("isolation vm: --preserve-fds: descriptors cannot be handed into a machine")
	case n.c.State.Platform == "ptrace":
		return errors.New("isolation vm: --platform=ptrace is the Sentry's; a machine runs on kvm")
	case n.network() == "host":
		return errors.New("isolation vm: the container is to share the host's network, which a guest's kernel cannot; give it a network namespace")
	}
	if err := bundle.CheckMachine(n.spec); err != nil {
		return fmt.Errorf("isolation vm: %w", err)
	}
	if _, err := cgroup.Guest(n.spec.Linux.Resources); err != nil {
		return fmt.Errorf("isolation vm: %w", err)
	}
	return nil
}

// choose settles wall, platform and overlay before anything is made.
func (n *creation) choose(context.Context) error {
	s := &state.State{
		ID: n.ID, OCIVersion: n.spec.Version, Bundle: n.Bundle.Dir, Rootfs: n.spec.Root.Path,
		Created: time.Now().UTC(), Owner: os.Getuid(), Status: specs.StateCreating,
		Isolation: first(n.rt.Isolation, n.spec.Annotations[isolationAnnotation], n.rt.DefaultIsolation, "sentry"),
		Platform:  first(n.rt.Platform, n.spec.Annotations[platformAnnotation], n.rt.DefaultPlatform, "auto"),
		Terminal:  n.spec.Process.Terminal, Process: n.spec.Process, Hooks: n.spec.Hooks,
		Annotations: n.spec.Annotations, Resources: n.spec.Linux.Resources,
		MachineMemory: cgroup.Inside(n.spec.Linux.Resources).Memory,
	}
	n.c = &Container{State: s, rt: n.rt}
	if err := state.CheckID(n.ID); err != nil {
		return err
	}
	switch s.Platform {
	case "auto", "kvm", "ptrace":
	default:
		return fmt.Errorf("platform %q is unknown (auto, kvm, ptrace)", s.Platform)
	}
	pod, err := n.findPod()
	if err != nil {
		return err
	}
	switch {
	case s.Isolation == autoWall && pod != nil: // auto does not part them
		s.Isolation = pod.State.Isolation
	case s.Isolation == autoWall:
		s.Isolation = n.chooseWall()
	default:
		if err := n.pickWall(s.Isolation); err != nil {
			return err
		}
	}
	if err := n.choosePod(pod); err != nil {
		return err
	}
	if err := n.chooseFiles(); err != nil {
		return err
	}
	n.rt.grantable(n.ID, n.spec.Process)
	if err := n.checkNetwork(); err != nil {
		return err
	}
	for i, ns := range n.spec.Linux.Namespaces {
		if ns.Path == "" || n.pod != nil || ns.Type == specs.UserNamespace { // whose maps the specification has
			continue
		}
		if !sandbox.Joinable(ns.Type) {
			return fmt.Errorf("linux.namespaces[%d].path: a sandbox cannot join a %s namespace of the host's", i, ns.Type)
		}
		n.config.Join = append(n.config.Join, ns)
	}
	if n.spec.Hostname == "" {
		// A new uts namespace begins as a copy, one that is joined has a name.
		name, err := sandbox.Hostname(n.spec.Linux.Namespaces)
		if err != nil {
			return err
		}
		n.spec.Hostname = name
	}
	if n.spec.Process.Terminal != (n.ConsoleSocket != "" || n.Pty != nil) {
		if n.spec.Process.Terminal {
			return errors.New("process.terminal: a detached container needs --console-socket for its terminal")
		}
		return errors.New("--console-socket is given, but process.terminal is false")
	}
	return nil
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func (n *creation) makeState(context.Context) error {
	dir, err := state.Create(n.rt.Root, n.ID)
	if err != nil {
		return err
	}
	n.c.dir = dir
	n.undo = append(n.undo, func() { dir.Remove() })
	if n.pod != nil { // whose sandbox logs
		return dir.Save(n.c.State)
	}
	n.c.State.Log = n.rt.LogFile
	switch n.rt.LogFile {
	case "":
		n.c.State.Log = dir.Log()
	case "-":
		n.c.State.Log = ""
	}
	return dir.Save(n.c.State)
}

func (n *creation) openTerminal(context.Context) error {
	n.config.Stdio = [3]*os.File{os.Stdin, os.Stdout, os.Stderr}
	for i, f := range n.Stdio {
		if f != nil {
			n.config.Stdio[i] = f
		}
	}
	if !n.spec.Process.Terminal {
		return nil
	}
	n.config.Terminal = true
	pty := n.Pty
	if pty == nil {
		var rows, columns uint16
		if size := n.spec.Process.ConsoleSize; size != nil {
			rows, columns = uint16(size.Height), uint16(size.Width)
		}
		var err error
		if pty, err = console.New(rows, columns); err != nil {
			return err
		}
		n.own = append(n.own, pty.Master)
		if err := pty.Send(n.ConsoleSocket); err != nil {
			return err
		}
	}
	n.own = append(n.own, pty.Slave)
	n.config.Stdio = [3]*os.File{pty.Slave, pty.Slave, pty.Slave}
	return nil
}

func (n *creation) openFiles(ctx context.Context) (err error) {
	if n.config.Control, err = agent.Listen(n.c.dir.Socket()); err != nil {
		return err
	}
	n.own = append(n.own, n.config.Control)
	if n.c.State.Log == "" {
		n.config.Log = os.Stderr
	} else {
		n.config.Log, err = os.OpenFile(n.c.State.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
		if err != nil {
			return err
		}
		n.own = append(n.own, n.config.Log)
	}
	if n.c.State.Platform != "ptrace" {
		n.config.KVM, err = os.OpenFile("/dev/kvm", os.O_RDWR, 0)
		if err != nil && n.c.State.Platform == "kvm" {
			return fmt.Errorf("platform kvm: %w (--platform=ptrace needs no KVM)", err)
		}
		if err == nil {
			n.own = append(n.own, n.config.KVM)
		} else {
			n.config.KVM, n.config.NoKVM = nil, err.Error()
		}
	}
	if n.config.Preserve, err = Inherited(n.PreserveFDs); err != nil {
		return err
	}
	n.own = append(n.own, n.config.Preserve...)
	if n.config.Restore = n.Restore; n.Restore != nil && n.c.State.Isolation == vmWall {
		return errors.New("isolation vm: a machine's state cannot be restored yet; --isolation=sentry can")
	}
	if err := n.shareFiles(); err != nil || n.c.State.Isolation != vmWall {
		return err
	}
	return n.openMachine(ctx)
}

// openMachine opens what a machine boots: beside this program, or where make install
// puts things.
func (n *creation) openMachine(ctx context.Context) (err error) {
	if n.config.Machine == nil {
		if err := n.openBoot(); err != nil {
			return err
		}
	}
	m := n.config.Machine
	if m.Console, err = os.OpenFile(n.c.dir.Console(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	n.own = append(n.own, m.Console)
	if err := n.openDisks(ctx); err != nil {
		return err
	}
	return n.openTemplate()
}

// openBoot opens kernel and init.
func (n *creation) openBoot() (err error) {
	m := &sandbox.Machine{}
	if m.Kernel, err = openBeside("vmlinux", "make it (make kernel)"); err != nil {
		return fmt.Errorf("isolation vm: the guest's kernel: %w", err)
	}
	n.own = append(n.own, m.Kernel)
	if m.Init, err = openBeside("guestinit", "build it (make build)"); err != nil {
		return fmt.Errorf("isolation vm: the guest's init: %w", err)
	}
	n.own = append(n.own, m.Init)
	n.config.Machine = m
	return nil
}

func openBeside(name, remedy string) (*os.File, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(self)
	places := []string{filepath.Join(dir, name), filepath.Join(dir, "../libexec/bulkhead", name)}
	for _, p := range places {
		if f, err := os.Open(p); !errors.Is(err, os.ErrNotExist) {
			return f, err
		}
	}
	return nil, fmt.Errorf("neither %s nor %s is there; %s", places[0], places[1], remedy)
}

// Inherited are copies of the descriptors 3 to n+2, for --preserve-fds. They are
// copies since a File closes its descriptor when it is collected.
func Inherited(n int) (files []*os.File, err error) {
	for fd := 3; fd < 3+n; fd++ {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3+n)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, fmt.Errorf("--preserve-fds=%d: descriptor %d: %w", n, fd, err)
		}
		files = append(files, os.NewFile(uintptr(own), "preserved"))
	}
	return files, nil
}

// shareFiles says what the gofer holds.
func (n *creation) shareFiles() error {
	dir, err := n.chooseOverlay()
	switch {
	case err != nil:
		return err
	case n.c.State.Isolation == vmWall:
		n.overlayDir = dir // in which a disk is made
	case dir != "":
		// One directory a container, so that two do not share an upper layer.
		dir = filepath.Join(dir, "bulkhead-"+n.ID)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("--overlay: %w", err)
		}
		n.undo = append(n.undo, func() { os.RemoveAll(dir) })
		n.config.Gofer.Overlay = &agent.GoferMount{Source: dir, Exclusive: true}
		n.c.State.OverlayDir = dir
	}
	if n.spec.Root.Readonly && n.overlay == "none" && n.root.kind == "" {
		if err := makeMountPoints(n.spec.Root.Path, n.spec.Mounts); err != nil {
			return err
		}
	}
	n.config.Gofer.Debug = n.rt.Debug
	if n.root.kind == "" {
		n.config.Gofer.Root = agent.GoferMount{
			Source: n.spec.Root.Path, Destination: "/", Recursive: true,
			ReadOnly:  n.spec.Root.Readonly || n.overlay != "none",
			Exclusive: !n.RootShared,
		}
	}
	sockets := n.spec.Annotations[socketsAnnotation] != "false"
	for i := range n.spec.Mounts {
		m := &n.spec.Mounts[i]
		if !bundle.IsBind(m) {
			continue
		}
		g := agent.GoferMount{Source: m.Source, Destination: m.Destination, Sockets: sockets && maySockets(m.Source)}
		for _, o := range m.Options {
			switch o {
			case "ro", "rro":
				g.ReadOnly = true
			case "rw", "rrw":
				g.ReadOnly = false
			case "rbind":
				g.Recursive = true
			}
		}
		n.config.Gofer.Mounts = append(n.config.Gofer.Mounts, g)
	}
	return nil
}

func (n *creation) startProcesses(context.Context) (err error) {
	n.config.DieWithCaller = n.DieWithCaller
	n.config.HostNetwork = n.network() == "host"
	n.config.Warn = n.rt.Log.Warn
	if n.c.Process, err = sandbox.Start(&n.config); err != nil {
		return err
	}
	n.undo = append(n.undo, func() { n.c.Process.Kill() })
	n.rt.Milestone("processes started")
	s := n.c.State
	if s.Sandbox, err = state.Find(n.c.Process.Process.Pid); err != nil {
		return err
	}
	if s.Gofer, err = state.Find(n.c.Process.Gofer.Pid); err != nil {
		return err
	}
	// Early, so that delete --force finds them should we be killed.
	if err := n.c.dir.Save(s); err != nil {
		return err
	}
	n.adjust(s.Sandbox.PID)
	return n.nameHost()
}

// nameHost gives the pod's name to the host's uts namespace that a pod's further
// containers are told to join. Nobody joins another container's.
func (n *creation) nameHost() error {
	if !podSandbox(n.spec.Annotations) || rootless() {
		return nil
	}
	for _, ns := range n.spec.Linux.Namespaces {
		if ns.Type == specs.UTSNamespace && ns.Path == "" {
			if err := sandbox.SetHostname(n.c.State.Sandbox.PID, n.spec.Hostname); err != nil {
				return fmt.Errorf("hostname: %w", err)
			}
		}
	}
	return nil
}

// adjust gives the sandbox what it has no right to take itself: descriptors for
// all files of all processes inside, signals, and the container's place in the
// OOM killer's order. Rootless, one or the other may be refused, which only
// means a lower ceiling.
func (n *creation) adjust(pid int) {
	const files = 1 << 20 // fs.nr_open as it usually is
	unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files}, nil)
	for _, r := range []int{unix.RLIMIT_NPROC, unix.RLIMIT_MEMLOCK, unix.RLIMIT_AS, unix.RLIMIT_SIGPENDING, unix.RLIMIT_CPU, unix.RLIMIT_FSIZE} {
		unix.Prlimit(pid, r, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}, nil)
	}
	unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil) // a core would hold the application's memory
	if p := n.spec.Process.IOPriority; p != nil {
		// Before they have threads, which get it from them.
		for _, pid := range []int{pid, n.c.State.Gofer.PID} {
			if err := setIOPriority(pid, p); err != nil {
				n.rt.Log.Warn("process.ioPriority not set", "container", n.ID, "err", err)
			}
		}
	}
	if adj := n.spec.Process.OOMScoreAdj; adj != nil {
		for _, p := range []int{pid, n.c.State.Gofer.PID} {
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p), []byte(strconv.Itoa(*adj)), 0); err != nil {
				n.rt.Log.Debug("oom_score_adj not set", "container", n.ID, "err", err)
			}
		}
	}
}

// setIOPriority is ioprio_set(2), for which x/sys/unix has no words.
func setIOPriority(pid int, p *specs.LinuxIOPriority) error {
	const whoProcess, classShift = 1, 13
	classes := map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}
	_, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(pid), uintptr(classes[p.Class]<<classShift|p.Priority))
	if errno != 0 {
		return os.NewSyscallError("ioprio_set", errno)
	}
	return nil
}

// prepareCgroup settles where the control group will be.
func (n *creation) prepareCgroup(context.Context) (err error) {
	if n.NoCgroup {
		return nil
	}
	s := n.c.State
	n.group, err = cgroup.New(n.ID, n.spec.Linux.CgroupsPath, n.rt.SystemdCgroup, n.c.outside(s.Resources))
	if err != nil && rootless() && cgroup.Inside(s.Resources) == (agent.Limits{}) {
		return nil
	}
	if err == nil {
		go n.group.Warm()
	}
	return err
}

func (n *creation) enterCgroup(context.Context) error {
	if n.group == nil {
		return nil
	}
	s := n.c.State
	// Known to delete --force before it exists.
	s.Cgroup = n.group.Place()
	if err := n.c.dir.Save(s); err != nil {
		return err
	}
	n.undo = append(n.undo, func() { n.c.Process.Kill(); n.group.Destroy() })
	pids := []int{s.Sandbox.PID}
	if s.Gofer.PID != 0 {
		pids = append(pids, s.Gofer.PID)
	}
	if err := n.group.Start(n.c.outside(s.Resources), pids...); err != nil {
		if rootless() && cgroup.Inside(s.Resources) == (agent.Limits{}) {
			n.group.Destroy()
			s.Cgroup = nil
			return nil
		}
		return err
	}
	s.Cgroup = n.group.Place()
	n.rt.Milestone("control group")
	return nil
}

// outside is what the host's control group is to hold a new container to.
func (c *Container) outside(r *specs.LinuxResources) *specs.LinuxResources { return c.room(r, 0) }

// room is outside of a container whose limits may have changed since. The group of a machine
// has room for all of that, which the guest's kernel has a use for beside what the container
// may use (files that were read), less what the guest has given back: it is the guest that
// holds the container to less, and has memory to spare in its own time. With less than it
// still has, the host's kernel would end the machine (Documentation/admin-guide/cgroup-v2.rst,
// memory.max). What is named by a file of a control group is the guest's.
func (c *Container) room(r *specs.LinuxResources, given uint64) *specs.LinuxResources {
	if !c.isMachine() || r == nil {
		return r
	}
	whole := *r
	whole.Unified = nil
	if r.Memory == nil {
		return &whole
	}
	memory := *r.Memory
	limit := max(value(memory.Limit), 0)
	if made := c.State.MachineMemory; made > 0 || limit > 0 {
		most := made + agent.MachineOverhead
		// An annotation that says nothing of sense the sandbox refuses.
		if machine, err := agent.MachineMemory(c.State.Annotations, agent.Limits{Memory: made}); err == nil {
			most = max(most, int64(machine))
		}
		most -= min(most, int64(given))
		if swap := value(memory.Swap); swap > 0 { // of memory and swap together
			both := most
			if limit > 0 {
				both += max(swap-limit, 0)
			}
			memory.Swap = &both
		}
		memory.Limit = &most
	}
	if least := value(memory.Reservation); least > 0 {
		more := least + agent.MachineOverhead
		memory.Reservation = &more
	}
	whole.Memory = &memory
	return &whole
}

func value(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// within is what the machine's guest is to hold the container to, beside its limits.
func (c *Container) within(r *specs.LinuxResources) (agent.Cgroup, error) {
	if !c.isMachine() {
		return nil, nil
	}
	return cgroup.Guest(r)
}

func rootless() bool { return program.Rootless() }

func (n *creation) runHooks(ctx context.Context) error {
	if n.spec.Hooks == nil {
		return nil
	}
	n.undo = append(n.undo, func() {
		// The sandbox is gone by its own undo only after this; it is idle yet.
		n.c.Process.Kill()
		if err := n.c.hooks(context.Background(), "poststop"); err != nil {
			n.rt.Log.Warn("after a failed create", "container", n.ID, "err", err)
		}
	})
	for _, kind := range []string{"prestart", "createRuntime"} {
		if err := n.c.hooks(ctx, kind); err != nil {
			return err
		}
	}
	if len(n.spec.Hooks.CreateContainer) == 0 {
		return nil
	}
	// "In the container namespace", before the root is changed: the sandbox's
	// network, ipc and uts namespaces; the host's mounts.
	return sandbox.InNamespacesOf(n.c.State.Sandbox.PID, func() error { return n.c.hooks(ctx, "createContainer") })
}

func (n *creation) boot(ctx context.Context) (err error) {
	// A signal to us in the middle ends the sandbox, and with it the waiting.
	defer context.AfterFunc(ctx, func() { n.c.Process.Process.Kill() })()
	s := n.c.State
	c := &agent.BootConfig{
		ID: n.ID, Bundle: n.Bundle.Dir, Spec: spec.Of(n.spec), Platform: s.Platform,
		Overlay: agent.Overlay{Kind: n.overlay}, Limits: cgroup.Inside(s.Resources),
		Network: n.network(), Terminal: n.spec.Process.Terminal,
		DiskSlots: s.DiskSlots, Start: n.startsAtOnce(), OrdinaryInit: n.OrdinaryInit, LogLevel: "info", LogFormat: n.rt.LogFormat, Began: n.rt.Began,
	}
	if n.rt.Debug {
		c.LogLevel = "debug"
	}
	if c.Cgroup, err = n.c.within(s.Resources); err != nil {
		return err
	}
	c.GoferMounts = bindMounts(n.spec)
	if c.Terminal {
		if rows, columns, err := console.Size(n.config.Stdio[0]); err == nil {
			c.Console = &agent.Console{Rows: rows, Columns: columns}
		}
	}
	defer func() { network.Close(c) }()
	if err := n.takeNetwork(c); err != nil {
		if ctx.Err() != nil { // the sandbox, whose network it was, has been ended
			return ctx.Err()
		}
		return err
	}
	ready, err := n.c.Process.Boot(c)
	switch {
	case n.template.store == nil:
	case err == nil:
		if err := n.template.settle(ready.Template); err != nil {
			n.rt.Log.Warn("no template of the guest could be kept", "container", n.ID, "err", err)
		}
	case n.config.Machine.Template != nil && errors.Is(err, sandbox.ErrSilent) && ctx.Err() == nil:
		n.template.store.Remove(n.template.key) // the machine's process did not survive it
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, sandbox.ErrSilent):
		return n.c.explain(err)
	case err != nil:
		return err
	case ready.Error != "" && ready.Usage:
		return errors.New(ready.Error)
	case ready.Error != "":
		return fmt.Errorf("start the sandbox: %s", ready.Error)
	}
	if n.rt.Debug {
		for _, m := range ready.Milestones {
			n.rt.Log.Debug("milestone", "step", "sandbox: "+m.Step, "at", m.At.Round(10*time.Microsecond).String())
		}
	}
	if ready.Template != "" {
		n.rt.Log.Debug("template", "container", n.ID, "use", string(ready.Template))
	}
	n.rt.Milestone("ready")
	n.c.Ready = ready
	s.Platform = first(ready.Platform, s.Platform)
	return nil
}

// bindMounts are the indices of those that the gofer serves.
func bindMounts(s *specs.Spec) (list []int) {
	for i := range s.Mounts {
		if bundle.IsBind(&s.Mounts[i]) {
			list = append(list, i)
		}
	}
	return list
}

// startsAtOnce saves the way to the sandbox and back, which on a busy host takes
// longer than all the rest of Start. Hooks before the program stand against it.
func (n *creation) startsAtOnce() bool {
	return n.Start && (n.spec.Hooks == nil || len(n.spec.Hooks.StartContainer) == 0)
}

func (n *creation) finish(context.Context) error {
	s := n.c.State
	s.Status = specs.StateCreated
	if n.c.begun = n.startsAtOnce(); n.c.begun {
		s.Status = specs.StateRunning
	}
	if err := n.c.dir.Save(s); err != nil {
		return err
	}
	if err := WritePid(n.PidFile, s.Sandbox.PID); err != nil {
		return err
	}
	n.c.Process.Keep()
	return nil
}

// WritePid writes a pid file, all of it or nothing, unless path is empty.
func WritePid(path string, pid int) error {
	if path == "" {
		return nil
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)), 0o644)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		if pe := (*os.PathError)(nil); errors.As(err, &pe) {
			err = pe.Err // of the temporary file
		}
		return fmt.Errorf("pid file %s: %w", bundle.OneLine(path), err)
	}
	return nil
}

// maySockets: what is bound is a socket, or a directory that may have some. Who binds one
// means it to be talked to, as with runc; a container without such mounts keeps a gofer that
// can connect to nothing.
func maySockets(source string) bool {
	st, err := os.Stat(source)
	return err == nil && (st.IsDir() || st.Mode()&os.ModeSocket != 0)
}
