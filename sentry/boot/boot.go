// Package boot is the sandbox process: it puts the rooms of the Sentry together
// for one container, gives up every privilege it was started with, loads init,
// and serves the runtime over the agent protocol until init ends. Its exit code
// is init's. The further containers of a pod come and go meanwhile (container.go).
//
// It is the one place in the Sentry that knows OCI and the agent protocol.
package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/jail"
	"bulkhead/runtime/agent"
	"bulkhead/sentry/checkpoint"
	"bulkhead/sentry/fs/gofer"
	"bulkhead/sentry/fs/sys"
	"bulkhead/sentry/gofer/wire"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/syscalls"
)

// Exit codes of the sandbox process that are not init's.
const (
	exitBoot  = 125 // init never ran
	exitPanic = 70  // a bug of ours ended the container (EX_SOFTWARE)
	exitGofer = 70  // its gofer ended, and the container with it
)

// sandbox is what its containers have in common.
type sandbox struct {
	config   *agent.BootConfig
	log      *slog.Logger
	plat     platform.Platform
	why      string // this platform was chosen
	arena    *memory.Arena
	kernel   *kernel.Kernel
	calls    *syscalls.Server
	watch    *watcher
	listener *net.UnixListener
	cpuinfo  []byte // the host's /proc/cpuinfo
	caches   []sys.Cache

	first *container
	image *image             // to be restored; nil: a new container
	pages *checkpoint.Reader // of image

	mu      sync.Mutex
	further map[string]*container // of a pod, by name; nil while one is being made

	startup    jail.Startup
	milestones []agent.Milestone
	left       error // of leaving the host
}

// Main is the sandbox process. The arguments are unused: everything comes by
// descriptors (agent.BootConfig).
func Main([]string) int {
	debug.SetGCPercent(50)
	sync := agent.OpenSync()
	s := &sandbox{further: map[string]*container{}}
	// The configuration comes when the control group and the hooks are done, which
	// is time for what needs none; and it is the first that a container can influence.
	s.left = s.leaveHost()
	config, err := agent.ReadBootConfig(os.NewFile(agent.ConfigFD, "config"))
	if errors.Is(err, io.EOF) {
		return exitBoot
	}
	s.config = config
	if err == nil {
		agent.Kept(sync, func() { os.Exit(exitBoot) })
		s.log = newLog(config)
		s.first = newContainer(s, firstRequest(config))
		s.milestone("sandbox process running")
		err = s.boot()
	}
	if err != nil {
		var usage *programError
		ready := agent.Ready{Error: err.Error(), Usage: errors.As(err, &usage)}
		ready.Write(sync)
		return exitBoot
	}
	ready := agent.Ready{Ready: true, Platform: s.plat.Name(), Reason: s.why, Milestones: s.milestones}
	if err := ready.Write(sync); err != nil {
		return exitBoot // the runtime has gone
	}
	if config.Start {
		s.Start(context.Background(), "")
	}
	return s.run()
}

func newLog(c *agent.BootConfig) *slog.Logger {
	var level slog.Level
	if c.LogLevel == "trace" { // every system call, at debug level
		level = slog.LevelDebug
	} else if level.UnmarshalText([]byte(c.LogLevel)) != nil {
		level = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: level}
	f := os.NewFile(agent.LogFD, "log")
	if f == nil {
		return slog.New(slog.DiscardHandler)
	}
	debug.SetCrashOutput(f, debug.CrashOptions{}) // stderr is the container's
	var h slog.Handler = slog.NewTextHandler(f, o)
	if c.LogFormat == "json" {
		h = slog.NewJSONHandler(f, o)
	}
	return slog.New(h).With("sandbox", c.ID)
}

func (s *sandbox) milestone(step string) {
	m := agent.Milestone{Step: step, At: time.Since(s.config.Began)}
	s.milestones = append(s.milestones, m)
	s.log.Debug("milestone", "step", step, "at", m.At)
}

// steps of the start, in order. What needs the host's files or privileges stands
// before "leave the host"; what a container's data can influence behind it.
func (s *sandbox) steps() []struct {
	name string
	do   func() error
} {
	return []struct {
		name string
		do   func() error
	}{
		{"leave the host", func() error { return s.left }},
		{"choose a platform", s.choosePlatform},
		{"set up memory", s.makeArena},
		{"restrict system calls", s.restrict},
		{"reach the gofer", s.reachGofer},
		{"restore", s.openImage},
		{"make the kernel", s.makeKernel},
		{"attach the network", s.attachNetwork},
		{"watch descriptors", s.watchHost},
		{"mount file systems", s.first.mountAll},
		{"load init", s.loadInit},
		{"watch the gofer", s.watchGofer},
		{"serve the runtime", s.serve},
	}
}

func (s *sandbox) boot() error {
	for _, step := range s.steps() {
		if err := step.do(); err != nil {
			var p *programError
			if errors.As(err, &p) {
				return err // in the words that engines parse
			}
			return fmt.Errorf("%s: %w", step.name, err)
		}
		s.milestone(step.name)
	}
	return nil
}

func (s *sandbox) makeArena() (err error) {
	if s.arena, err = memory.NewArena(s.plat, uint64(max(s.config.Limits.Memory, 0))); err != nil {
		return err
	}
	s.arena.SetTotal(memoryTotal(0))
	s.first.arena = s.arena
	return nil
}

func (s *sandbox) reachGofer() error {
	conn, err := wire.NewConn(agent.GoferFD)
	if err != nil {
		return err
	}
	s.first.files, err = gofer.Attach(conn, s.arena)
	return err
}

// watchHost prepares for what comes from the host by itself, and for devices.
func (s *sandbox) watchHost() (err error) {
	if s.watch, err = newWatcher(); err != nil {
		return err
	}
	s.kernel.World.(*syscalls.World).Names.WatchHost(s.watch.watchSocket)
	handleDevices()
	return nil
}

// watchGofer ends the sandbox with its gofer: what would be left is a container that
// finds none of its files, and is said to run.
func (s *sandbox) watchGofer() error {
	return s.watch.atEnd(agent.GoferFD, func() {
		s.log.Error("gofer ended", "how", "the process with the container's files has ended")
		os.Exit(exitGofer)
	})
}

func (s *sandbox) makeKernel() (err error) {
	spec := s.config.Spec
	calls := syscalls.NewServer(s.log)
	if s.config.LogLevel == "trace" {
		calls.Trace(syscalls.LogTracer{Log: s.log})
	}
	s.calls = calls
	c, group := s.first, s.first.groupConfig()
	mono, boot, err := c.timeOffsets()
	if err != nil {
		return err
	}
	s.kernel, err = kernel.New(kernel.Config{
		Platform: s.plat, Arena: group.Arena, Calls: calls, Log: s.log,
		Hostname: spec.Hostname, Domain: spec.Domainname,
		Monotonic: mono, Boottime: boot,
		PIDs: group.PIDs, Memory: group.Memory, CPUs: group.CPUs, Local: group.Local,
		World: syscalls.NewWorld(), NewNet: syscalls.NewNet(), OrdinaryInit: s.config.OrdinaryInit,
	})
	if err != nil {
		return err
	}
	c.home = s.kernel.Home()
	s.kernel.OnPanic(func(*kernel.Panic) { os.Exit(exitPanic) })
	c.home.Cgroup().OnOOM(c.reportOOM)
	return c.compileFilter()
}

// Guard implements agent.Guarded.
func (s *sandbox) Guard() {
	if v := recover(); v != nil {
		s.kernel.Crash(0, v)
	}
}

// run serves until init has ended, and gives its exit code.
func (s *sandbox) run() int {
	defer s.plat.Close()
	// What the start took goes back, when the container is under way.
	time.AfterFunc(500*time.Millisecond, func() {
		debug.FreeOSMemory()
		s.startup.Drop()
	})
	init := s.first.init
	g := init.task.Group()
	<-g.Ended()
	s.kernel.Wait()
	s.first.reportOOM() // who was killed is counted before it ends
	init.finish()
	status := exitStatus(g.ExitStatus())
	s.log.Info("init ended", "code", status.Code, "signal", status.Signal)
	return status.Exit()
}

func exitStatus(w unix.WaitStatus) agent.ExitStatus {
	if w.Signaled() {
		return agent.ExitStatus{Signal: int(w.Signal()), Core: w.CoreDump()}
	}
	return agent.ExitStatus{Code: w.ExitStatus()}
}

// serve answers the runtime's calls in the background.
func (s *sandbox) serve() error {
	go agent.Serve(context.Background(), s.listener, s, s.log)
	return nil
}

// sizeOf is a console's size in the specification's words.
func sizeOf(c *agent.Console) *specs.Box {
	return &specs.Box{Height: uint(c.Rows), Width: uint(c.Columns)}
}

func (s *sandbox) loadInit() (err error) {
	p := s.config.Spec.Process
	var files []*os.File
	for fd := range 3 {
		files = append(files, os.NewFile(uintptr(fd), "stdio"))
	}
	for _, fd := range s.config.Files.Preserve {
		files = append(files, os.NewFile(uintptr(fd), "preserved"))
	}
	if s.config.Terminal {
		files = append(files[:1], files[3:]...)
		if c := s.config.Console; c != nil && p.ConsoleSize == nil {
			p.ConsoleSize = sizeOf(c)
		}
	}
	c := s.first
	defer func() { c.mountEvents, c.mountedAt = c.ns.Events(), s.kernel.Clock.Realtime() }()
	if s.image != nil {
		if s.config.Terminal {
			return errors.New("a checkpoint is of a container without a terminal; process.terminal is true")
		}
		if c.init, err = c.restore(files); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		return nil
	}
	if c.init, err = c.prepare(p, s.config.Terminal, files); err == nil && c.init.bridge != nil {
		go func() {
			defer s.Guard()
			c.init.followSize()
		}()
	}
	return err
}
