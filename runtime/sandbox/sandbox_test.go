package sandbox

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/spec"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The test program plays both processes: they say what they see.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case Verb:
			os.Exit(playSandbox())
		case GoferVerb:
			io.Copy(io.Discard, os.NewFile(agent.GoferSocketFD, "socket"))
			os.Exit(0)
		}
	}
	os.Exit(besides(m.Run))
}

func playSandbox() int {
	config, err := agent.ReadBootConfig(os.NewFile(agent.ConfigFD, "config"))
	if err != nil {
		return 99 // given up
	}
	var seen []string
	note := func(format string, args ...any) { seen = append(seen, fmt.Sprintf(format, args...)) }
	note("pid %d", os.Getpid())
	note("uid %d", os.Getuid())
	name, _ := os.Hostname()
	note("hostname %s", name)
	sid, _ := unix.Getsid(0)
	note("session %d", sid)
	note("env %v", os.Environ())
	note("arguments %v", os.Args)
	note("preserved %v kvm %d", config.Files.Preserve, config.Files.KVM)
	for fd := 0; fd < 20; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && fd <= agent.LogFD {
			note("fd %d", fd)
		}
	}
	for _, fd := range config.Files.Preserve {
		b, _ := io.ReadAll(os.NewFile(uintptr(fd), ""))
		note("preserved %s", b)
	}
	ready := os.NewFile(agent.SyncFD, "sync")
	(&agent.Ready{Ready: true, Reason: strings.Join(seen, "\n")}).Write(ready)
	return 0
}

func config(t *testing.T) *Config {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for namespaces: run the tests as root")
	}
	open := func(path string) *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	null := open("/dev/null")
	control, err := agent.Listen(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	return &Config{Stdio: [3]*os.File{null, null, null}, Control: control, Log: open(filepath.Join(t.TempDir(), "log"))}
}

func boot() *agent.BootConfig {
	return &agent.BootConfig{Spec: spec.Of(&specs.Spec{Process: &specs.Process{}, Root: &specs.Root{}})}
}

func TestStart(t *testing.T) {
	c := config(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.WriteString("kept")
	w.Close()
	c.Preserve = []*os.File{r}
	t.Setenv("SECRET", "1")
	s, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Kill()
	for _, kind := range []string{"net", "mnt", "pid", "ipc", "uts", "cgroup", "user"} {
		ours, _ := os.Readlink("/proc/self/ns/" + kind)
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", s.Process.Pid, kind))
		if err != nil || ours == theirs {
			t.Errorf("%s namespace: %s is ours, too (%v)", kind, theirs, err)
		}
		gofers, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", s.Gofer.Pid, kind))
		if err != nil || ours == gofers != (kind == "user") || gofers == theirs {
			t.Errorf("gofer's %s namespace: %s, ours %s, the sandbox's %s (%v)", kind, gofers, ours, theirs, err)
		}
	}
	ready, err := s.Boot(boot())
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(ready.Reason, "\n")
	host, _ := os.Hostname()
	want := []string{"pid 1", "uid 0", "hostname " + host, "session 1", "env []", "arguments [bulkhead-sandbox sandbox]", "preserved [8] kvm 0", "preserved kept"}
	for fd := 0; fd <= agent.LogFD; fd++ {
		want = append(want, "fd "+strconv.Itoa(fd))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the sandbox sees\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if st, err := s.Process.Wait(); err != nil || !st.Success() {
		t.Errorf("sandbox: %v, %v", st, err)
	}
	// Nobody tells the gofer; it learns from its socket.
	if st, err := s.Gofer.Wait(); err != nil || !st.Success() {
		t.Errorf("gofer: %v, %v", st, err)
	}
}

// On the host a sandbox is nobody.
func TestUser(t *testing.T) {
	s, err := Start(config(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Kill()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", s.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if ids, ok := strings.CutPrefix(lines.Text(), "Uid:"); ok {
			if got := strings.Fields(ids); !slices.Equal(got, []string{"65534", "65534", "65534", "65534"}) {
				t.Errorf("user %v, want nobody", got)
			}
		}
	}
}

// A sandbox whose creator gives up ends by itself.
func TestGivenUp(t *testing.T) {
	s, err := Start(config(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Kill()
	s.config.Close()
	if st, err := s.Process.Wait(); err != nil || st.ExitCode() != 99 {
		t.Errorf("%v, %v", st, err)
	}
}

func TestJoin(t *testing.T) {
	c := config(t)
	// A process in a uts namespace of its own, with another name.
	other := exec.Command("unshare", "--uts", "sh", "-c", "hostname elsewhere && echo done && cat")
	in, _ := other.StdinPipe()
	out, _ := other.StdoutPipe()
	if err := other.Start(); err != nil {
		t.Skipf("needs unshare(1): %v: apt-get install util-linux", err)
	}
	defer other.Wait()
	defer in.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "done\n" {
		t.Fatalf("%q, %v", line, err)
	}
	c.Join = []specs.LinuxNamespace{{Type: specs.UTSNamespace, Path: fmt.Sprintf("/proc/%d/ns/uts", other.Process.Pid)}}
	if name, err := Hostname(c.Join); err != nil || name != "elsewhere" {
		t.Errorf("Hostname: %q, %v", name, err)
	}
	s, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Kill()
	ready, err := s.Boot(boot())
	if err != nil || !strings.Contains(ready.Reason, "hostname elsewhere") {
		t.Errorf("%+v, %v", ready, err)
	}
	if name, _ := os.Hostname(); name == "elsewhere" {
		t.Error("we are in the other namespace now")
	}
	if err := InNamespacesOf(other.Process.Pid, func() error {
		if name, _ := os.Hostname(); name != "elsewhere" {
			return fmt.Errorf("the name is %q", name)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
