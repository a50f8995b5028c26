package boot

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/guestinit/config"
)

// A guest in the tests is this test program as PID 1 of namespaces of its own, in
// a root that holds the real init. What it tells the machine it writes to a pipe;
// reboot(2) in a pid namespace ends it with a signal (pid_namespaces(7)).
const (
	guestRoot = "GUESTINIT_TEST_ROOT"
	portsPipe = 3
)

func TestMain(m *testing.M) {
	if root := os.Getenv(guestRoot); root != "" && os.Getpid() == 1 {
		actAsGuest(root)
	}
	os.Exit(m.Run())
}

func actAsGuest(root string) {
	os.Unsetenv(guestRoot)
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Chroot(root))
	must(unix.Chdir("/"))
	pipe := os.NewFile(portsPipe, "ports")
	unix.CloseOnExec(portsPipe)
	g := &guest{config: new(config.Config), out: func(port uint16, value byte) {
		fmt.Fprintf(pipe, "%#x=%d\n", port, value)
	}}
	g.live()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// buildInit builds the real program once.
var buildInit = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "guestinit")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", dir+"/init", "bulkhead/guestinit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return os.ReadFile(dir + "/init")
})

// boot runs a guest with c, and links to its init in the root, and returns what the command printed, what the
// machine was told, and the signal that reboot(2) ended it with.
func boot(t *testing.T, c *config.Config, links ...string) (output string, ports []string, ended syscall.Signal) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for namespaces: run the tests as root")
	}
	init, err := buildInit()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	// The real console is the host's; a guest here has none.
	c.Console, c.Rows, c.Columns = "null", 24, 80
	file, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"/init": init, config.Path: file} {
		if err := os.WriteFile(root+name, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	if err := os.Mkdir(root+"/out", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root+"/out", 0o777); err != nil { // whoever the command is
		t.Fatal(err)
	}
	for _, link := range links {
		if err := errors.Join(os.MkdirAll(root+filepath.Dir(link), 0o755), os.Symlink("/init", root+link)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), guestRoot+"="+root)
	cmd.ExtraFiles = []*os.File{write}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("needs namespaces: %v: run the tests as root", err)
	}
	write.Close()
	for lines := bufio.NewScanner(read); lines.Scan(); {
		ports = append(ports, lines.Text())
	}
	cmd.Wait()
	out, err := os.ReadFile(root + "/out/out")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() {
		t.Fatalf("the guest ended with %v and no reboot(2); it said:\n%s", status, &stderr)
	}
	return string(out), ports, status.Signal()
}

func told(stages int, code int) []string {
	all := []string{"0x5f1=1", "0x5f1=2", "0x5f1=3"}[:stages]
	return append(all, "0x5f0="+strconv.Itoa(code))
}

func TestExitCodes(t *testing.T) {
	for _, row := range []struct {
		name   string
		config config.Config
		stages int
		code   int
	}{
		{"success", config.Config{Args: []string{"sh", "-c", "true"}}, 3, 0},
		{"code", config.Config{Args: []string{"/bin/sh", "-c", "exit 42"}}, 3, 42},
		{"signal", config.Config{Args: []string{"sh", "-c", "kill -KILL $$"}}, 3, 128 + 9},
		{"missing", config.Config{Args: []string{"no-such-command"}}, 2, config.ExitMissing},
		{"not executable", config.Config{Args: []string{"/dev/null"}}, 2, config.ExitNoExec},
		{"no working directory", config.Config{Args: []string{"true"}, Cwd: "/nowhere"}, 2, config.ExitMissing},
		{"no share", config.Config{Mounts: []config.Mount{{Source: "x", Target: "/x", Type: "nosuchfs"}}}, 1, config.ExitInit},
		{"no interface", config.Config{Network: config.Network{Interfaces: []config.Interface{{MAC: "02:00:00:00:00:01"}}}}, 1, config.ExitInit},
		{"no module", config.Config{Modules: []string{"/x.ko"}}, 1, config.ExitInit},
		{"a shell without input", config.Config{}, 3, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, ports, ended := boot(t, &row.config)
			if want := told(row.stages, row.code); !slices.Equal(ports, want) {
				t.Errorf("the machine was told %v, want %v", ports, want)
			}
			if ended != unix.SIGINT { // LINUX_REBOOT_CMD_POWER_OFF
				t.Errorf("reboot(2) ended it with %v, want a power-off", ended)
			}
		})
	}
}

func TestSignalsToInit(t *testing.T) {
	for _, row := range []struct {
		command string
		ports   []string
		ended   syscall.Signal
	}{
		{"poweroff; sleep 100", told(3, 0), unix.SIGINT},
		{"halt; sleep 100", told(3, 0), unix.SIGINT},
		{"reboot; sleep 100", told(3, 0)[:3], unix.SIGHUP},
		{"kill -INT 1; sleep 100", told(3, 128+15), unix.SIGINT}, // Ctrl-Alt-Del
		{"kill -38 1; sleep 100", told(3, 128+15), unix.SIGINT},  // the power button
		{"trap '' TERM; kill -38 1; while true; do sleep 100; done", told(3, 128+15), unix.SIGINT},
	} {
		_, ports, ended := boot(t, &config.Config{Args: []string{"sh", "-c", row.command}})
		if !slices.Equal(ports, row.ports) || ended != row.ended {
			t.Errorf("%s: told %v and ended with %v, want %v and %v", row.command, ports, ended, row.ports, row.ended)
		}
	}
}

// TestGuest looks at a guest from inside.
func TestGuest(t *testing.T) {
	shared := t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "file"), []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, ports, _ := boot(t, &config.Config{
		Hostname: "box",
		Env:      []string{"A=b c"},
		Cwd:      "/out",
		Mounts:   []config.Mount{{Source: "none", Target: "/deep/tmp", Type: "tmpfs", Options: []string{"ro", "size=1M"}}},
		Args: []string{"sh", "-c", `exec >/out/out
			uname -n; echo "$A"; pwd; cat /proc/1/comm; ls /dev/fd/0
			grep /deep/tmp /proc/self/mounts; ip addr`},
	})
	if want := told(3, 0); !slices.Equal(ports, want) {
		t.Errorf("the machine was told %v, want %v", ports, want)
	}
	for _, want := range []string{"box\n", "b c\n", "/out\n", "/deep/tmp tmpfs ro,", "size=1024k", "1: lo ", "127.0.0.1/8"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

// TestRoot makes a bind mount of the whole root the new one, which then has what
// the old one had, and all that was mounted before.
func TestRoot(t *testing.T) {
	c := &config.Config{
		Root:   "/new",
		UID:    1000,
		GID:    1001,
		Groups: []uint32{1002},
		Mounts: []config.Mount{
			{Source: "/", Target: "/new", Type: "none", Options: []string{"bind"}},
			{Source: "none", Target: "/new/data", Type: "tmpfs"},
		},
		Network: config.Network{Hosts: map[string]netip.Addr{"peer": netip.MustParseAddr("10.0.0.1")}},
		Args: []string{"sh", "-c", `exec >/out/out
			ls /; cat /etc/hosts; grep id: /proc/self/status; grep Groups: /proc/self/status
			grep tmpfs /proc/self/mounts; echo $HOME`},
	}
	out, ports, _ := boot(t, c, "/bin/sh")
	if want := told(3, 0); !slices.Equal(ports, want) {
		t.Errorf("the machine was told %v, want %v", ports, want)
	}
	for _, want := range []string{"data\n", "10.0.0.1 peer\n", "Uid:\t1000\t1000", "Gid:\t1001\t1001", "Groups:\t1002", " /data tmpfs ", " /run tmpfs ", "\n/\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if strings.Contains(out, " /new") {
		t.Errorf("the old root is still in sight:\n%s", out)
	}
}
