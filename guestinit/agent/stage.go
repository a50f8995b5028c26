package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/runtime/spec"
)

// StageName is what this program is called where it is about to become a
// container's process. Only server.fork calls it so.
const StageName = "bulkhead-stage"

// spareWord is the argument of a stage that is a spare (spare.go).
const spareWord = "spare"

// stageEnvironment is for Go's runtime alone. Between a filter and the program no
// signal of that runtime's may come: rt_sigreturn(2) may not be allowed.
var stageEnvironment = []string{"GODEBUG=asyncpreemptoff=1"}

// Descriptors of a stage beside its standard streams.
const (
	configFD = 3 // a stream socket: a stage as JSON, up to the end, and a spare's streams with it
	reportFD = 4 // a packet socket: a report when all is ready, another if the exec fails
	gateFD   = 5 // a byte lets the program run; the end without one ends the stage
)

// stage is what a process is to become. It is in its namespaces already, but for
// one that joins a container's: it is in that one's pid namespace alone.
type stage struct {
	Spec    *spec.Spec        `json:"spec,omitempty"` // of init
	Process *specs.Process    `json:"process"`
	Root    string            `json:"root,omitempty"`  // directory of the share
	Binds   map[uint32]string `json:"binds,omitempty"` // index of a mount → name in the share
	Overlay bool              `json:"overlay,omitempty"`
	Disks   []disk            `json:"disks,omitempty"` // of the container's
	Share   []string          `json:"share,omitempty"` // namespaces that are another container's
	Join    bool              `json:"join,omitempty"`
	Init    int               `json:"init,omitempty"` // the container's, as the guest has it, to join

	Domain specs.LinuxPersonalityDomain `json:"domain,omitempty"` // linux.personality's

	Filter      []byte `json:"filter,omitempty"` // the container's seccomp filter
	FilterFlags uint32 `json:"filterFlags,omitempty"`

	spare bool                // it was started before its container was known
	final [2]unix.CapUserData // what is left when the filter is set
}

// report is what a stage says, in one packet; with the first comes the master of
// the process's terminal, if it has one.
type report struct {
	Error string     `json:"error,omitempty"`
	Errno unix.Errno `json:"errno,omitempty"`
}

// refusal is a report's error.
type refusal struct{ report }

func (r *refusal) Error() string { return r.report.Error }
func (r *refusal) Unwrap() error {
	if r.Errno == 0 {
		return nil
	}
	return r.Errno
}

// Stage is the process's main. All of it happens on one thread, the main one, since
// namespaces and capabilities are a thread's; it is the thread that executes the program.
func Stage() {
	runtime.LockOSThread()
	for fd := configFD; fd <= gateFD; fd++ {
		unix.CloseOnExec(fd)
	}
	st := &stage{spare: len(os.Args) > 1 && os.Args[1] == spareWord}
	path, err := st.prepare()
	if err == nil {
		err = st.await(path)
	}
	r := report{Error: err.Error()}
	if !errors.As(err, &r.Errno) {
		r.Errno = 0
	}
	_ = send(reportFD, r, -1) // nobody listens where the guest's init has given up
	os.Exit(1)
}

// prepare does all that can be done before the program may run, and finds it.
func (st *stage) prepare() (path string, err error) {
	if st.spare {
		if err := st.beSpare(); err != nil {
			return "", fmt.Errorf("wait for a configuration: %w", err)
		}
	}
	b, err := receive(configFD)
	if err == nil && len(b) == 0 {
		os.Exit(1) // the guest's init has given up
	}
	if err == nil {
		err = json.Unmarshal(b, st)
	}
	if err != nil {
		return "", fmt.Errorf("read the configuration: %w", err)
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"", st.enter},
		{"set up the terminal", st.openTerminal},
		{"", st.finishRoot},
		{"", st.changeDirectory},
		{"", st.schedule},
		{"process.rlimits", st.limit},
		{"", st.becomeUser},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			if step.name != "" {
				err = fmt.Errorf("%s: %w", step.name, err)
			}
			return "", err
		}
	}
	return lookUp(st.Process.Args[0], st.Process.Env)
}

// enter gets to the container's root: by making it, or by joining it.
func (st *stage) enter() error {
	if st.spare {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("mount namespace: %w", err)
		}
	}
	if !st.Join {
		return st.makeRoot()
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // a thread with others may not join a mount namespace
		return fmt.Errorf("unshare: %w", err)
	}
	return joinNamespaces(st.Init)
}

// joined are the namespaces of a container that a further process of it enters.
var joined = []struct {
	name string
	flag int
}{
	{"uts", unix.CLONE_NEWUTS}, {"ipc", unix.CLONE_NEWIPC}, {"cgroup", unix.CLONE_NEWCGROUP}, {"mnt", unix.CLONE_NEWNS},
}

// joinNamespaces enters those of the process first, which is the init of the pid
// namespace that we are in already: a number may have come to mean another.
func joinNamespaces(first int) error {
	ours, _ := os.Readlink("/proc/self/ns/pid")
	theirs, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", first))
	if ours != theirs {
		return fmt.Errorf("the container has ended: %w", unix.ESRCH)
	}
	var files []*os.File // all before the first is entered: with the last /proc is another
	for _, ns := range joined {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", first, ns.name))
		if err != nil {
			return fmt.Errorf("the container has ended: %w", err)
		}
		defer f.Close()
		files = append(files, f)
	}
	for i, ns := range joined {
		if err := unix.Setns(int(files[i].Fd()), ns.flag); err != nil {
			return fmt.Errorf("join the %s namespace: %w", ns.name, err)
		}
	}
	return nil
}

// await reports, and executes the program when it is told to.
func (st *stage) await(path string) error {
	if err := send(reportFD, report{}, st.master()); err != nil {
		return err
	}
	var one [1]byte
	if n, _ := unix.Read(gateFD, one[:]); n != 1 {
		os.Exit(1) // the guest's init has given up
	}
	return &execError{st.Process.Args[0], st.execute(path)}
}

// execute becomes the program.
func (st *stage) execute(path string) error {
	if len(st.Filter) == 0 {
		return unix.Exec(path, st.Process.Args, st.environment())
	}
	return execFiltered(st.Filter, st.FilterFlags, &st.final, path, st.Process.Args, st.environment())
}

// environment is the process's, with a HOME as engines expect it.
func (st *stage) environment() []string {
	for _, e := range st.Process.Env {
		if strings.HasPrefix(e, "HOME=") {
			return st.Process.Env
		}
	}
	return append(st.Process.Env, "HOME="+home("/etc/passwd", st.Process.User.UID))
}

// home is a user's in a passwd(5) file, "/" where that does not say.
func home(passwd string, uid uint32) string {
	const most = 1 << 20 // bytes
	f, err := os.Open(passwd)
	if err != nil {
		return "/"
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, most))
	for line := range strings.Lines(string(b)) {
		if fields := strings.Split(strings.TrimSuffix(line, "\n"), ":"); len(fields) >= 6 && fields[2] == fmt.Sprint(uid) && fields[5] != "" {
			return fields[5]
		}
	}
	return "/"
}

// execError is a program that cannot be run, in the words of the shells, which
// docker parses (runtime/agent, Handler.Exec).
type execError struct {
	name string
	err  error
}

func (e *execError) Error() string { return fmt.Sprintf("exec: %q: %v", e.name, e.err) }
func (e *execError) Unwrap() error { return e.err }

type notFound struct{ name string }

func (e *notFound) Error() string {
	return fmt.Sprintf("exec: %q: executable file not found in $PATH", e.name)
}
func (*notFound) Unwrap() error { return unix.ENOENT }

// lookUp finds a program as execvp(3) does, for who we are now.
func lookUp(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if err := executable(name); err != nil {
			return "", &execError{name, err}
		}
		return name, nil
	}
	search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	var denied error
	for dir := range strings.SplitSeq(search, ":") {
		if dir == "" {
			dir = "."
		}
		path := strings.TrimSuffix(dir, "/") + "/" + name
		err := executable(path)
		if err == nil {
			return path, nil
		}
		if errors.Is(err, unix.EACCES) {
			denied = err
		}
	}
	if denied != nil {
		return "", &execError{name, denied}
	}
	return "", &notFound{name}
}

func executable(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EACCES // fs/exec.c, do_open_execat
	}
	return unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
}

// socketPair is a connection with a stage.
func socketPair(kind int) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "stage"), os.NewFile(uintptr(fds[1]), "stage"), nil
}

const maxReport = 16 << 10 // bytes

// send sends a report and, if fd is not negative, that descriptor.
func send(to int, r report, fd int) error {
	r.Error = r.Error[:min(len(r.Error), maxReport/4)]
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	return unix.Sendmsg(to, b, rights, nil, unix.MSG_NOSIGNAL)
}

// readReport waits for a report. The end without one is an exec that was done, or a
// stage that was killed, which its status tells.
func readReport(f *os.File) (master *os.File, err error) {
	b, oob := make([]byte, maxReport), make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	for {
		n, oobn, _, _, err = unix.Recvmsg(int(f.Fd()), b, oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read a report: %w", err)
	}
	if oobn > 0 {
		if master, err = received(oob[:oobn]); err != nil {
			return nil, err
		}
	}
	if n == 0 {
		return master, nil
	}
	var r report
	if err := json.Unmarshal(b[:n], &r); err != nil {
		return master, fmt.Errorf("read a report: %w", err)
	}
	if r.Error != "" {
		return master, &refusal{r}
	}
	return master, nil
}

func received(oob []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("a report with %d descriptors: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("a report with %d descriptors: %w", len(fds), err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}
