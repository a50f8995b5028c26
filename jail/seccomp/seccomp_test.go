package seccomp

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// scenes are run in a child process, for a filter can not be taken off again.
var scenes = map[string]struct {
	rows []Row
	off  Action
	act  func() error
	want string // what the child says, or the signal that it dies of
}{
	"a call on the list": {nil, Kill, func() error { _, err := unix.Write(1, nil); return err }, "<nil>"},
	"off the list, refused": {nil, Refuse, func() error { _, err := unix.Open("/", unix.O_PATH, 0); return err },
		unix.EPERM.Error()},
	"off the list, another errno": {nil, Errno(unix.ENOSYS), func() error { return unix.Chdir("/") }, unix.ENOSYS.Error()},
	"off the list, killed":        {nil, Kill, func() error { return unix.Chdir("/") }, "bad system call"},
	"argument as listed": {[]Row{{unix.SYS_LSEEK, "lseek", "test", []Cond{{Arg: 2, Value: 7}, {Arg: 1, Value: 1 << 40}}}}, Refuse,
		func() error { _, err := unix.Seek(99, 1<<40, 7); return err }, unix.EBADF.Error()},
	"argument's upper half differs": {[]Row{{unix.SYS_LSEEK, "lseek", "test", Is(1, 1<<40)}}, Refuse,
		func() error { _, err := unix.Seek(99, 1<<41, 0); return err }, unix.EPERM.Error()},
	"second alternative": {[]Row{{unix.SYS_LSEEK, "lseek", "a", Is(1, 5)}, {unix.SYS_LSEEK, "lseek", "b", Lacks(1, 3)}}, Refuse,
		func() error { _, err := unix.Seek(99, 8, 0); return err }, unix.EBADF.Error()},
	"no alternative": {[]Row{{unix.SYS_LSEEK, "lseek", "a", Is(1, 5)}, {unix.SYS_LSEEK, "lseek", "b", Lacks(1, 3)}}, Refuse,
		func() error { _, err := unix.Seek(99, 9, 0); return err }, unix.EPERM.Error()},
	"the first time of day": {nil, Kill, func() error { _ = time.Now().Format(time.RFC3339); return nil }, "<nil>"},
	"threads to come":       {nil, Kill, newThreads, "<nil>"},
	"another thread":        {nil, Refuse, onAnotherThread, unix.EPERM.Error()},
	"no new process": {nil, Refuse, func() error {
		_, _, e := unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0)
		return e
	}, unix.EPERM.Error()},
	"x32 numbers": {[]Row{{unix.SYS_CHDIR, "chdir", "test", nil}}, Refuse, func() error {
		_, _, e := unix.RawSyscall(unix.SYS_CHDIR|0x40000000, 0, 0, 0)
		return e
	}, unix.EPERM.Error()},
}

var threadStarted, threadGo, threadSaid = make(chan bool), make(chan bool), make(chan error)

// newThreads makes more threads than there can be already.
func newThreads() error {
	var all, held sync.WaitGroup
	held.Add(1)
	for range 50 {
		all.Add(1)
		go func() {
			runtime.LockOSThread()
			all.Done()
			held.Wait()
		}()
	}
	all.Wait()
	return nil
}

// onAnotherThread asks a thread that was there before the filter.
func onAnotherThread() error {
	threadGo <- true
	return <-threadSaid
}

func TestMain(m *testing.M) {
	name := os.Getenv("SECCOMP_SCENE")
	if name == "" {
		os.Exit(m.Run())
	}
	go func() {
		runtime.LockOSThread()
		threadStarted <- true
		<-threadGo
		threadSaid <- unix.Chdir("/")
	}()
	<-threadStarted
	s := scenes[name]
	if err := Install(append(Runtime(os.Getpid()), s.rows...), s.off); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.act())
	os.Exit(0)
}

func TestInstall(t *testing.T) {
	for name, s := range scenes {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			// With TZ set a program may have no file to read for it.
			cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "TZ=") }), "SECCOMP_SCENE="+name)
			out, err := cmd.CombinedOutput()
			got := strings.TrimSpace(string(out))
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled() {
				got = exit.Sys().(syscall.WaitStatus).Signal().String()
			}
			if got != s.want {
				t.Errorf("got %q (%v), want %q", got, err, s.want)
			}
		})
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, r := range []Row{
		{NR: 1, Name: "write"},
		{NR: 1, Why: "no name"},
		{1, "write", "argument 6", Is(6, 0)},
		{1, "write", "value outside its mask", []Cond{{0, 1, 2}}},
	} {
		if _, err := compile([]Row{r}, Kill); err == nil {
			t.Errorf("%+v: got no error", r)
		}
	}
}
