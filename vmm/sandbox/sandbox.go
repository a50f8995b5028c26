// Package sandbox is the sandbox process of a container whose wall is a machine: it
// gives up every privilege that it was started with, boots a guest of our VMM, has the
// guest's init (guestinit/agent) run the container, and serves the runtime over the
// agent protocol until that ends. Its exit code is that of the container's init. To
// the runtime it is what the Sentry's process is (sentry/boot), by the same
// descriptors; the container's files are with a process of their own (vmm/share).
//
// Two parties are not believed. The runtime's calls come from the host and are taken
// as they are; what the guest says is bounded and parsed, and can cost its own
// container alone. Whatever of the host's a guest gets hold of by breaking out of its
// machine is this process's: pipes of the container's, and its share.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"bulkhead/jail"
	"bulkhead/kvm"
	"bulkhead/runtime/agent"
	"bulkhead/runtime/agent/rpc"
	"bulkhead/virtio/balloon"
	"bulkhead/virtio/blk"
	"bulkhead/virtio/fs/remote"
	"bulkhead/vmm/machine"
)

// Exit codes of the process that are not init's.
const (
	exitBoot  = 125 // init never ran
	exitGuest = 70  // the guest ended, and the container with it; the log says how
)

// sandbox is one machine, and the containers in it.
type sandbox struct {
	config   *agent.BootConfig
	log      *slog.Logger
	listener *net.UnixListener
	left     error // of leaving the host
	startup  jail.Startup

	patience time.Duration // with a guest that is to do what takes it no time

	number  func(name string) (int, bool) // of a system call
	size    size
	console *console
	lines   *switchboard // connections from the guest
	share   *remote.Client
	disks   []*blk.Device
	slots   []*diskSlot
	wires   wires
	balloon target // told with mu held
	vm      *machine.Machine
	machine life // the same

	client *ttrpc.Client
	guest  rpc.AgentService
	kernel string // the guest's, by version

	template agent.TemplateUse
	keeping  *machine.Keeping // nil where none is made
	begun    bool             // the guest is this container's

	first *container
	ended chan *rpc.WaitResponse // the first's end
	over  atomic.Bool            // it has come, and its output is waited for
	given chan struct{}          // closed when that is waited for no longer
	give  sync.Once

	mu         sync.Mutex
	containers map[string]*container // by the names that the runtime has for them

	milestones []agent.Milestone
}

// target is what calls need of the machine's balloon.
type target interface {
	SetTarget(pages uint32)
	Pages() balloon.Pages
	Await(ctx context.Context) balloon.Pages
}

// life is what calls need of a machine: a test has none.
type life interface {
	Pause() error
	Paused() bool
	Resume() error
	End(machine.Ending)
	Ended() bool
	Ending() machine.Ending
	Done() <-chan struct{}
}

// Program is what the process needs of others.
type Program struct {
	// Number is a system call's by its name, for the container's seccomp profile.
	Number func(name string) (int, bool)
}

// Main is the process. Everything comes by descriptors (agent.BootConfig).
func (p Program) Main([]string) int {
	collect := holdCollector()
	signal.Ignore(unix.SIGPIPE) // descriptors 1 and 2 are the container's
	rpc.Silence()               // and no library's to log to
	sync := agent.OpenSync()
	s := &sandbox{patience: bootPatience, number: p.Number, containers: map[string]*container{}, ended: make(chan *rpc.WaitResponse, 1), given: make(chan struct{})}
	s.left = s.leaveHost()
	config, err := agent.ReadBootConfig(os.NewFile(agent.ConfigFD, "config"))
	if errors.Is(err, io.EOF) {
		return exitBoot
	}
	s.config = config
	if err == nil {
		agent.Kept(sync, func() { os.Exit(exitBoot) })
		s.log = newLog(config)
		s.milestone("sandbox process running")
		err = s.boot()
	}
	if err != nil {
		var no *rpc.Refusal
		usage := errors.As(err, &no) && isExec(no.Message)
		if usage {
			err = no // in the words that engines parse
		}
		(&agent.Ready{Error: err.Error(), Usage: usage, Template: s.template}).Write(sync)
		return exitBoot
	}
	ready := agent.Ready{Ready: true, Platform: "kvm", Reason: "a machine with Linux " + s.kernel, Template: s.template, Milestones: s.milestones}
	if err := ready.Write(sync); err != nil {
		return exitBoot // the runtime has gone
	}
	if config.Start {
		if err := s.Start(context.Background(), ""); err != nil {
			s.log.Error("init did not start", "err", err)
			return exitBoot
		}
		s.milestone("start the program")
	}
	collect()
	return s.run()
}

// holdCollector keeps Go's collector from running until its result is called. At its usual
// pace it ran three times in the start of a copy, as the heap grew to the 1 or 2 MiB that it
// stays at: 20 of 127 million instructions (test/lab, -only container; each P that had
// nothing to do took part). Nobody but us decides before the program runs how much memory a
// start takes; should it be more than expected, it is collected all the same.
func holdCollector() (release func()) {
	const expected = 64 << 20 // bytes; a start takes some 5 MiB
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(expected)
	return func() {
		debug.SetGCPercent(50)
		debug.SetMemoryLimit(math.MaxInt64)
	}
}

func newLog(c *agent.BootConfig) *slog.Logger {
	var level slog.Level
	if level.UnmarshalText([]byte(c.LogLevel)) != nil {
		level = slog.LevelInfo
	}
	f := os.NewFile(agent.LogFD, "log")
	if f == nil {
		return slog.New(slog.DiscardHandler)
	}
	_ = debug.SetCrashOutput(f, debug.CrashOptions{}) // stderr is the container's
	o := &slog.HandlerOptions{Level: level}
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

// boot is the start, step by step. The process has left the host before it reads its
// configuration; the guest's first instruction comes behind the list of system calls.
func (s *sandbox) boot() error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"leave the host", func() error { return s.left }},
		{"settle the machine's size", s.settle},
		{"make the machine", s.makeMachine},
		{"restrict system calls", s.restrict},
		{"boot the guest", s.start},
		{"reach the guest's init", s.reachAgent},
		{"keep a template", s.keep},
		{"begin", s.begin},
		{"create the container", s.create},
		{"finish the template", s.keepRest},
		{"watch the guest", s.guard},
		{"serve the runtime", s.serve},
	} {
		if err := step.do(); err != nil {
			if s.template == agent.TemplateCopied && !s.begun {
				s.template = agent.TemplateUnfit // the next is not to fail as well
			}
			return fmt.Errorf("%s: %w%s", step.name, err, s.console.words())
		}
		s.milestone(step.name)
	}
	return nil
}

// leaveHost gives up the host's files and all privileges.
func (s *sandbox) leaveHost() (err error) {
	if s.listener, err = agent.Listener(agent.ControlFD); err != nil {
		return err
	}
	s.startup = jail.StartupPages()
	if err := jail.EmptyRoot(); err != nil {
		return err
	}
	if err := jail.DropCapabilities(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

func (s *sandbox) settle() (err error) {
	s.size, err = sizeOf(s.config.Spec.Annotations, s.config.Limits, runtime.NumCPU())
	return err
}

func (s *sandbox) makeMachine() error {
	sys, err := kvm.New(s.config.Files.KVM)
	if err != nil {
		return err
	}
	defer sys.Close()
	// Room for those that hold a place while they wait in the kernel: vCPUs, and queues
	// at their doorbells (vmm/cli, processors).
	runtime.GOMAXPROCS(runtime.NumCPU() + s.size.cpus + 4 + len(s.config.Devices) + len(s.config.Files.Disks) + s.config.DiskSlots)
	return s.assemble(sys)
}

func (s *sandbox) start() error {
	if err := s.vm.Start(); err != nil {
		return err
	}
	go func() {
		<-s.machine.Done()
		s.lines.close()
	}()
	go func() {
		<-s.share.Done()
		s.machine.End(machine.Ending{Reason: machine.Broken, Err: errors.New("the process with the container's files has ended")})
	}()
	return nil
}

// reachAgent waits for the guest's init to call, and greets it. Where the call ends before
// that, the init calls again.
func (s *sandbox) reachAgent() error {
	ctx, cancel := s.call()
	defer cancel()
	var hello *rpc.HelloResponse
	for hello == nil {
		conn, err := s.lines.agent(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("it has not called within %v", s.patience)
		}
		if err != nil {
			return s.why(err)
		}
		s.client = ttrpc.NewClient(&callsConn{conn, s.patience, s.machine.Paused})
		s.guest = rpc.NewAgentClient(s.client)
		hello, err = s.guest.Hello(ctx, &rpc.HelloRequest{Version: rpc.Version, Template: s.config.Files.NewTemplate != 0})
		if err == nil {
			break
		}
		s.client.Close()
		if !errors.Is(err, ttrpc.ErrClosed) {
			return s.why(rpc.Refused(err))
		}
		s.log.Debug("guest's init hung up before it was greeted", "err", err)
	}
	s.lines.greet()
	if hello.Version != rpc.Version {
		return fmt.Errorf("it speaks version %d of the protocol, we speak %d", hello.Version, rpc.Version)
	}
	s.kernel = printable(hello.Kernel, 64)
	return nil
}

// bootPatience is for a guest that hangs. Ten that booted at once on the one processor of an
// emulator, whose host was busy, had not called in two minutes (test/docker, TestTwenty); one
// alone comes up in a few seconds there.
const bootPatience = 5 * time.Minute

// call is for one call of the guest's init, while the sandbox starts. It is over when the
// guest is: no answer comes then, and nothing else says so before the device is closed.
func (s *sandbox) call() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	go func() {
		select {
		case <-s.machine.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// why prefers how the machine ended to what that did to a call.
func (s *sandbox) why(err error) error {
	if s.machine.Ended() {
		return fmt.Errorf("the guest ended: %v", s.machine.Ending())
	}
	return err
}

// serve answers the runtime's calls in the background.
func (s *sandbox) serve() error {
	go agent.Serve(context.Background(), s.listener, s, s.log)
	return nil
}

// run waits for the end of init, or of the guest, and gives the exit code.
func (s *sandbox) run() int {
	// What the start took goes back, when the guest's program is under way.
	time.AfterFunc(500*time.Millisecond, func() {
		debug.FreeOSMemory()
		s.startup.Drop()
	})
	select {
	case w := <-s.ended:
		s.over.Store(true)
		s.first.kills.Report(w.OomKills)
		s.first.init.output(s.given)
		status := exitStatus(w)
		s.log.Info("init ended", "code", status.Code, "signal", status.Signal)
		return status.Exit()
	case <-s.machine.Done():
	}
	select {
	case w := <-s.ended: // it ended first
		s.first.kills.Report(w.OomKills)
		return exitStatus(w).Exit()
	default:
	}
	s.log.Error("guest ended", "how", s.machine.Ending().String(), "console", s.console.tail())
	return exitGuest
}

func exitStatus(w *rpc.WaitResponse) agent.ExitStatus {
	const mostSignal = 64 // _NSIG; what a guest says is a number like any other
	if w.Signal > 0 && w.Signal <= mostSignal {
		return agent.ExitStatus{Signal: int(w.Signal), Core: w.Core}
	}
	return agent.ExitStatus{Code: int(w.Code) & 0xff}
}

// printable is what a guest said, for a person's terminal.
func printable(text string, most int) string {
	b := []byte(text[:min(len(text), most)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
