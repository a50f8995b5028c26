// Package sandbox starts the processes of a wall: the sandbox (the Sentry, or a
// machine), which runs the container, and the gofer, which holds its files. Both are the program bulkhead again,
// each in namespaces of its own and with exactly the descriptors that
// runtime/agent names. It knows nothing of bundles, state or verbs.
//
// The sandbox process starts at once and waits for its configuration, so that
// the Go runtime's start, the control group and the hooks overlap.
package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/program"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The hidden verbs, and the names under which the processes show in ps.
const (
	Verb        = "sandbox"
	GoferVerb   = "gofer"
	MachineVerb = "machine" // in the sandbox's place
	ShareVerb   = "share"   // in the gofer's
	name        = "bulkhead-sandbox"
	goferName   = "bulkhead-gofer"
)

// Machine is what a sandbox that is a machine starts with besides.
type Machine struct {
	Kernel  *os.File
	Init    *os.File // guestinit
	Console *os.File // where its console goes

	Template    *os.File // a guest to go on from, or nil
	NewTemplate *os.File // an empty file to keep this one in, or nil

	Disks []Disk
}

// Disk is one of a machine's, without its descriptor.
type Disk struct {
	File *os.File
	agent.Disk
}

// Config is what the processes start with. All files stay the caller's.
type Config struct {
	Stdio    [3]*os.File
	Terminal bool     // Stdio[0] is the slave of a pty and becomes the controlling terminal
	Control  *os.File // the listening socket
	Log      *os.File
	KVM      *os.File // or nil
	NoKVM    string   // why nil
	Restore  *os.File // a checkpoint of the Sentry's to go on from, or nil
	Preserve []*os.File
	Gofer    agent.GoferConfig
	Machine  *Machine // nil: the Sentry

	Join        []specs.LinuxNamespace // namespaces to enter, those with a path
	HostNetwork bool                   // stay in our network namespace

	// DieWithCaller kills both when the calling thread ends, to which the caller
	// has locked its goroutine.
	DieWithCaller bool

	// Warn hears of a wall that this host lacks.
	Warn func(message string, attrs ...any)
}

// Sandbox is a pair of processes that has been started.
type Sandbox struct {
	Process *os.Process
	Gofer   *os.Process
	Files   agent.Files // the numbers of the optional descriptors

	config *os.File // the socket that the sandbox reads its configuration from
	ready  *os.File // the socket that it reports on, and hears Keep
}

// Start starts the processes. The sandbox then waits for Boot.
func Start(c *Config) (_ *Sandbox, err error) {
	s := &Sandbox{}
	var ours closer // what the children have copies of, or never had
	defer ours.close()
	defer func() {
		if err != nil {
			s.Kill()
		}
	}()

	configRead, configWrite, err := pair(unix.SOCK_STREAM, "config") // with descriptors
	if err != nil {
		return nil, err
	}
	ours.add(configRead)
	s.config = configWrite
	readyWrite, readyRead, err := pair(unix.SOCK_STREAM, "ready")
	if err != nil {
		return nil, err
	}
	ours.add(readyWrite)
	s.ready = readyRead
	sandboxEnd, goferEnd, err := pair(unix.SOCK_SEQPACKET, "gofer socket")
	if err != nil {
		return nil, err
	}
	ours.add(sandboxEnd, goferEnd)

	files := []*os.File{c.Stdio[0], c.Stdio[1], c.Stdio[2],
		agent.ConfigFD: configRead, agent.ControlFD: c.Control, agent.GoferFD: sandboxEnd, agent.SyncFD: readyWrite, agent.LogFD: c.Log}
	s.Files.NoKVM = c.NoKVM
	if c.KVM != nil {
		s.Files.KVM = len(files)
		files = append(files, c.KVM)
	}
	if c.Restore != nil {
		s.Files.Restore = len(files)
		files = append(files, c.Restore)
	}
	for _, f := range c.Preserve {
		s.Files.Preserve = append(s.Files.Preserve, len(files))
		files = append(files, f)
	}
	verb, goferVerb := Verb, GoferVerb
	if m := c.Machine; m != nil {
		verb, goferVerb = MachineVerb, ShareVerb
		for _, f := range []struct {
			to *int
			f  *os.File
		}{{&s.Files.Kernel, m.Kernel}, {&s.Files.Init, m.Init}, {&s.Files.Console, m.Console},
			{&s.Files.Template, m.Template}, {&s.Files.NewTemplate, m.NewTemplate}} {
			if f.f == nil {
				continue
			}
			*f.to = len(files)
			files = append(files, f.f)
		}
		for _, d := range m.Disks {
			d.FD = len(files)
			s.Files.Disks = append(s.Files.Disks, d.Disk)
			files = append(files, d.File)
		}
	}
	err = c.joined(func() (err error) {
		s.Process, err = start(name, verb, files, c.sandboxAttr(true))
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			// No user namespaces here (user.max_user_namespaces is 0), or the
			// program is not executable for others. The other walls stand.
			c.Warn("the sandbox has no user namespace of its own: this host refuses one (user.max_user_namespaces, kernel.unprivileged_userns_clone)", "err", err)
			s.Process, err = start(name, verb, files, c.sandboxAttr(false))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start the sandbox: %w", err)
	}
	// Second, since it is sooner done with its own start.
	if s.Gofer, err = c.startGofer(goferVerb, goferEnd); err != nil {
		return nil, err
	}
	return s, nil
}

// joined runs f in the namespaces to join. A thread that has started a process which is to die
// with us stays as long as we do: it is the thread's end that the kernel looks at
// (prctl(2), PR_SET_PDEATHSIG).
func (c *Config) joined(f func() error) error {
	if len(c.Join) == 0 || !c.DieWithCaller {
		return within(c.Join, f)
	}
	done := make(chan error, 1)
	go func() {
		done <- within(c.Join, func() error {
			done <- f()
			select {}
		})
	}()
	return <-done
}

func (c *Config) startGofer(verb string, socket *os.File) (*os.Process, error) {
	var ours closer
	defer ours.close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	ours.add(null)
	config, err := memfd(c.Gofer)
	if err != nil {
		return nil, err
	}
	ours.add(config)
	p, err := start(goferName, verb, []*os.File{null, null, null, config, socket, nil, nil, c.Log}, c.goferAttr())
	if err != nil {
		return nil, fmt.Errorf("start the gofer: %w", err)
	}
	return p, nil
}

// StartGofer starts the gofer of a further container of the Sentry's, of which c has what
// concerns it, and gives the sandbox's end of its socket.
func StartGofer(c *Config) (*os.Process, *os.File, error) {
	sandboxEnd, goferEnd, err := pair(unix.SOCK_SEQPACKET, "gofer socket")
	if err != nil {
		return nil, nil, err
	}
	defer goferEnd.Close()
	p, err := c.startGofer(GoferVerb, goferEnd)
	if err != nil {
		sandboxEnd.Close()
		return nil, nil, err
	}
	return p, sandboxEnd, nil
}

// start executes the program again.
func start(name, verb string, files []*os.File, attr *syscall.SysProcAttr) (*os.Process, error) {
	return os.StartProcess(program.Path(), []string{name, verb}, &os.ProcAttr{Files: files, Env: environment(), Sys: attr})
}

// environment is what the Go runtime may need of ours; nothing else goes over.
func environment() []string {
	env := []string{}
	for _, name := range []string{"GODEBUG", "GOTRACEBACK", "GOCOVERDIR", "GORACE"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// nobody is the user that a sandbox is on the host, whatever it is inside
// (kernel/sysctl.c, DEFAULT_OVERFLOWUID).
const nobody = 65534

func (c *Config) sandboxAttr(ownUser bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP,
		Setsid:     true,
		Setctty:    c.Terminal, // Ctty is 0
		Pdeathsig:  c.deathSignal(),
	}
	for _, ns := range c.Join {
		attr.Cloneflags &^= joinable[ns.Type]
	}
	if c.HostNetwork {
		attr.Cloneflags &^= unix.CLONE_NEWNET
	}
	if ownUser {
		addUser(attr)
	}
	return attr
}

// addUser gives the process a user namespace, where it is root, and which is
// nobody outside; without root's rights outside, ourselves.
func addUser(attr *syscall.SysProcAttr) {
	uid, gid := nobody, nobody
	if os.Geteuid() != 0 {
		uid, gid = os.Geteuid(), os.Getegid()
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	attr.GidMappingsEnableSetgroups = os.Geteuid() == 0
	attr.Credential = &syscall.Credential{NoSetGroups: os.Geteuid() != 0}
}

// goferAttr: the gofer needs root's rights over files, and so our user
// namespace, if we have them.
func (c *Config) goferAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP,
		Setsid:     true,
		Pdeathsig:  c.deathSignal(),
	}
	if os.Geteuid() != 0 {
		addUser(attr)
	}
	return attr
}

func (c *Config) deathSignal() syscall.Signal {
	if c.DieWithCaller {
		return syscall.SIGKILL
	}
	return 0
}

// Keep lets a sandbox that is ready outlive us.
func (s *Sandbox) Keep() {
	if s.ready != nil { // the stand-in of a pod's container has no such thing
		agent.Keep(s.ready)
		s.ready.Close()
	}
}

// Boot sends the configuration and waits until the sandbox is ready. It then ends with
// us until Keep.
func (s *Sandbox) Boot(c *agent.BootConfig) (*agent.Ready, error) {
	c.Version = agent.Version
	c.Files = s.Files
	data, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var rights []byte
	if fds := c.Descriptors(); len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	err = unix.Sendmsg(int(s.config.Fd()), data[:1], rights, nil, unix.MSG_NOSIGNAL)
	if err == nil {
		_, err = s.config.Write(data[1:])
	}
	s.config.Close()
	// A sandbox that died before it read all may have said why.
	if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return nil, fmt.Errorf("send the configuration: %w", err)
	}
	r, err := agent.ReadReady(s.ready)
	if err == io.EOF {
		return nil, s.silence()
	}
	return r, err
}

// ErrSilent is wrapped by Boot's error when the sandbox died without a word.
var ErrSilent = errors.New("the sandbox ended during its start")

func (s *Sandbox) silence() error {
	s.Process.Kill()
	status, err := s.Process.Wait()
	if err != nil {
		return ErrSilent
	}
	return fmt.Errorf("%w (%v)", ErrSilent, status)
}

// Kill ends both processes and waits for them. It is for failures; a sandbox
// that is done ends by itself, and its gofer with it.
func (s *Sandbox) Kill() {
	for _, f := range []*os.File{s.config, s.ready} {
		if f != nil {
			f.Close()
		}
	}
	for _, p := range []*os.Process{s.Process, s.Gofer} {
		if p != nil {
			p.Kill()
			p.Wait()
		}
	}
}

// pair is a connection between two processes.
func pair(kind int, name string) (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}

// memfd holds v as JSON, to be read from the start.
func memfd(v any) (*os.File, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("config", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "config")
	if _, err = f.Write(data); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("memfd: %w", err)
	}
	return f, nil
}

// closer collects files to close.
type closer []*os.File

func (c *closer) add(files ...*os.File) { *c = append(*c, files...) }

func (c *closer) close() {
	for _, f := range *c {
		f.Close()
	}
}
