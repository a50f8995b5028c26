package boot

import (
	"context"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent"
	"bulkhead/sentry/fs/devpts"
	"bulkhead/sentry/fs/gofer"
	"bulkhead/sentry/gofer/wire"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/syscalls"
	"bulkhead/sentry/vfs"
)

// container is one of a sandbox's: the first, whose end is the sandbox's, or a further
// one of a pod. Each has a tree of files from a gofer of its own, a control group and an
// account of memory; the network is the first's, and other namespaces if it says so.
type container struct {
	*sandbox
	config *agent.AddRequest
	arena  *memory.Arena
	files  []*gofer.FS
	gofer  *wire.Conn // of a further one, as fd is
	fd     int
	home   *kernel.Home
	filter *kernel.Filter // of linux.seccomp; nil: none
	ns     *vfs.Namespace
	root   vfs.Path
	pts    *devpts.FileSystem
	init   *process

	// Of what there was when init was loaded: a checkpoint keeps no other mounts, and no
	// files in memory that are newer.
	mountEvents uint64
	mountedAt   int64 // CLOCK_REALTIME, nanoseconds

	kills agent.Kills

	// The sandbox's mu guards these.
	started bool
	procs   map[int32]*process // started from outside, not yet waited for
}

func newContainer(s *sandbox, r *agent.AddRequest) *container {
	return &container{sandbox: s, config: r, fd: -1, procs: map[int32]*process{}}
}

// firstRequest is the part of the configuration that is the first container's.
func firstRequest(b *agent.BootConfig) *agent.AddRequest {
	return &agent.AddRequest{Container: b.ID, Spec: b.Spec, GoferMounts: b.GoferMounts, Overlay: b.Overlay, Limits: b.Limits,
		Console: b.Console, OrdinaryInit: b.OrdinaryInit}
}

// groupConfig is what the container's control group is made of.
func (c *container) groupConfig() kernel.CgroupConfig {
	l := c.config.Limits
	return kernel.CgroupConfig{Arena: c.arena, PIDs: int(max(l.Pids, 0)), Memory: memoryTotal(l.Memory), CPUs: cpus(l),
		Local: syscalls.NewLocal(c.arena, c.fsTypes())}
}

// limits are what holds now.
func (c *container) limits() agent.Limits {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.config.Limits
}

func (c *container) local() *syscalls.Local { return c.home.Cgroup().Local.(*syscalls.Local) }

// process is one that the host started: init, or by exec.
type process struct {
	task     *kernel.Task
	bridge   *devpts.Bridge
	finished sync.Once
	streams  map[int]*vfs.Description // that it was started with
}

// remember keeps what the process was started with, held for good: it is told by identity.
func (p *process) remember(fds *vfs.FDTable) {
	p.streams = map[int]*vfs.Description{}
	for _, fd := range fds.FDs() {
		if d, err := fds.Get(fd); err == nil {
			d.Unref()
			p.streams[fd] = d
		}
	}
}

// finish brings out what the process has printed.
func (p *process) finish() {
	if p.bridge == nil {
		return
	}
	p.finished.Do(func() {
		p.bridge.Drain()
		p.bridge.Close()
	})
}

// find gives the container of a name; "" is the first.
func (s *sandbox) find(name string) (*container, error) {
	if name == "" || name == s.config.ID {
		return s.first, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.further[name]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %s is not in this sandbox: %w", name, unix.ESRCH)
}

var _ agent.Podding = (*sandbox)(nil)

// Add implements agent.Podding, as does Remove. The last of the files is the socket to the
// container's gofer; those between it and the standard streams become 3, 4, ….
func (s *sandbox) Add(_ context.Context, r *agent.AddRequest, files []*os.File) error {
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	streams := 3
	if r.Spec.Process.Terminal {
		streams = 1
	}
	if len(files) < streams+1 {
		return fmt.Errorf("%d descriptors for a container, want %d: %w", len(files), streams+1, unix.EINVAL)
	}
	if err := s.reserve(r.Container); err != nil {
		return err
	}
	c := newContainer(s, r)
	err := c.make(files)
	if err != nil {
		c.release()
		c = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c == nil {
		delete(s.further, r.Container)
		return err
	}
	s.further[r.Container] = c
	s.log.Info("container added", "container", r.Container)
	return nil
}

// reserve keeps a name from a second who comes meanwhile.
func (s *sandbox) reserve(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.further[name]; there || name == s.config.ID {
		return fmt.Errorf("container %s: %w", name, unix.EEXIST)
	}
	s.further[name] = nil
	return nil
}

// make builds the container up to its program's first instruction.
func (c *container) make(files []*os.File) (err error) {
	if err := c.attachGofer(files[len(files)-1]); err != nil {
		return fmt.Errorf("reach the gofer: %w", err)
	}
	if err := c.makeHome(); err != nil {
		return err
	}
	if err := c.compileFilter(); err != nil {
		return err
	}
	if err := c.mountAll(); err != nil {
		return fmt.Errorf("mount file systems: %w", err)
	}
	p := *c.config.Spec.Process
	if size := c.config.Console; size != nil && p.ConsoleSize == nil {
		p.ConsoleSize = sizeOf(size)
	}
	if c.init, err = c.prepare(&p, p.Terminal, files[:len(files)-1]); err != nil {
		return err
	}
	g := c.init.task.Group()
	go func() {
		defer c.Guard()
		<-g.Ended()
		<-c.home.Cgroup().Kill() // as its pid namespace's end does, if it has one of its own
		c.reportOOM()
		c.kills.End()
		c.closeGofer()
	}()
	return nil
}

// attachGofer takes the socket over.
func (c *container) attachGofer(socket *os.File) error {
	fd, err := unix.FcntlInt(socket.Fd(), unix.F_DUPFD_CLOEXEC, agent.FirstFD)
	if err != nil {
		return err
	}
	if c.arena, err = c.sandbox.arena.Divide(uint64(max(c.config.Limits.Memory, 0))); err != nil {
		unix.Close(fd)
		return err
	}
	if c.gofer, err = wire.NewConn(fd); err != nil {
		unix.Close(fd)
		return err
	}
	c.fd = fd
	if c.files, err = gofer.Attach(c.gofer, c.arena); err != nil {
		return err
	}
	return c.watch.atEnd(fd, func() {
		c.log.Error("gofer ended", "container", c.config.Container, "how", "the process with the container's files has ended")
		c.home.Cgroup().Kill()
	})
}

func (c *container) makeHome() (err error) {
	h := kernel.HomeConfig{CgroupConfig: c.groupConfig(), Hostname: c.config.Spec.Hostname, Domain: c.config.Spec.Domainname, OrdinaryInit: c.config.OrdinaryInit}
	if h.Monotonic, h.Boottime, err = c.timeOffsets(); err != nil {
		return err
	}
	for _, ns := range c.config.Share {
		switch ns {
		case "uts":
			h.ShareUTS = true
		case "ipc":
			h.ShareIPC = true
		case "pid":
			h.SharePID = true
		case "net": // always
		default:
			return fmt.Errorf("a %s namespace cannot be shared: %w", ns, unix.EINVAL)
		}
	}
	if name := c.config.PIDsOf; name != "" {
		other, err := c.sandbox.find(name)
		if err != nil {
			return fmt.Errorf("the container %s, whose pid namespace it is to share: %w", name, err)
		}
		h.PIDs = other.home.PIDs()
	}
	if c.home, err = c.kernel.NewHome(h); err != nil {
		return err
	}
	c.home.Cgroup().OnOOM(c.reportOOM)
	return nil
}

// Remove implements agent.Podding.
func (s *sandbox) Remove(ctx context.Context, name string) error {
	c, err := s.find(name)
	if err != nil {
		return err
	}
	if c == s.first {
		return fmt.Errorf("container %s ends with its sandbox: %w", name, unix.EBUSY)
	}
	ended := c.home.Cgroup().Kill()
	if !c.begin() {
		c.init.task.Abandon()
	}
	select {
	case <-ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	mine := s.further[name] == c // not another Remove's
	delete(s.further, name)
	s.mu.Unlock()
	if mine {
		c.release()
		s.log.Info("container removed", "container", name)
	}
	return nil
}

// begin is true for all but the first who asks, if the program has not been let run.
func (c *container) begin() (begun bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	begun, c.started = c.started, true
	return begun
}

// release gives back what is left when no task is.
func (c *container) release() {
	c.mu.Lock()
	procs := c.procs
	c.procs = nil
	c.mu.Unlock()
	c.kills.End()
	for _, p := range procs {
		p.finish()
	}
	if c.init != nil {
		c.init.finish()
	}
	if c.ns != nil {
		c.ns.Drop()
	}
	if c.home != nil {
		c.home.Release()
	} else if c.arena != nil {
		c.arena.GiveUp()
	}
	c.closeGofer()
}

// closeGofer has the gofer end, which the container's end is to bring about as well.
func (c *container) closeGofer() {
	if c.fd >= 0 {
		c.watch.forget(c.fd)
	}
	gofer.Detach(c.files)
	if c.gofer != nil {
		c.gofer.Close()
	}
}
