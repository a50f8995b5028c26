package shell

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// sh runs args as sh(1) in dir and returns what it printed.
func sh(t *testing.T, dir, stdin string, args ...string) (out string, code int) {
	t.Helper()
	in := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(in, []byte(stdin), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(in)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Chdir(dir)
	var b bytes.Buffer
	s := stdio{in: f, out: &b, err: &b}
	code, err = s.shell(args)
	if err != nil {
		b.WriteString(err.Error())
	}
	return b.String(), code
}

func TestShell(t *testing.T) {
	// No PATH: every command is ours.
	t.Setenv("PATH", "")
	t.Setenv("GREETING", "hello")
	for _, row := range []struct {
		stdin string
		args  []string
		out   string
		code  int
	}{
		{"echo a; exit 3", nil, "a\n", 3},
		{"", []string{"-c", "echo $0 $1", "name", "x"}, "name x\n", 0},
		{"", []string{"-ec", "false; echo no"}, "", 1},
		{"", []string{"-c"}, "-c: no command", 127},
		{"", []string{"-c", "if"}, "1:1: `if` must be followed by a statement list", 2},
		{"", []string{"nothing-here"}, "open nothing-here: no such file or directory", 127},
		{"", []string{"-c", "no-such-command"}, `"no-such-command": executable file not found in $PATH` + "\n", 127},
		{"", []string{"-c", "env | grep GREETING"}, "GREETING=hello\n", 0},
		{"", []string{"-c", "XYZZY=1 env | grep XYZZY="}, "XYZZY=1\n", 0},
		{"", []string{"-c", "printf 'a b\\nc\\n' >f; wc f; cat f; head -n 1 f; grep c f; grep x f"}, "2 3 6 f\na b\nc\na b\nc\n", 1},
		{"", []string{"-c", "mkdir -p d/e; cd d; echo x >e/f; cp e/f g; ln -s g h; cat h; mv h i; ls; rm -rf e; ls"}, "x\ne\ng\ni\ng\ni\n", 0},
		{"", []string{"-c", "dd if=/dev/zero of=f bs=1K count=3; dd if=f bs=1000 skip=3 | wc"}, "3072 bytes copied\n72 bytes copied\n0 1 72\n", 0},
		{"", []string{"-c", "printf a | sha256sum"}, "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb -\n", 0},
		{"", []string{"-c", "printf 'AB' | hexdump"}, "00000000  41 42                                             |AB|\n", 0},
		{"", []string{"-c", "sleep 0; sleep x"}, "usage: sleep SECONDS\n", 2},
		{"", []string{"-c", "kill -0 $$ && kill"}, "usage: kill [-SIGNAL] PID…\n", 2},
		{"", []string{"-c", "dd bs=0"}, "dd: bs=0\n", 1},
		{"", []string{"-c", "umount /nowhere"}, "umount: /nowhere: no such file or directory\n", 1},
		{"", []string{"-c", "uname"}, "Linux\n", 0},
	} {
		out, code := sh(t, t.TempDir(), row.stdin, row.args...)
		if code != row.code || out != row.out {
			t.Errorf("sh %q < %q\ngot  %d %q\nwant %d %q", row.args, row.stdin, code, out, row.code, row.out)
		}
	}
}

// TestCommandsRun runs each command that shows something of the system.
func TestCommandsRun(t *testing.T) {
	t.Setenv("PATH", "")
	for command, want := range map[string]string{
		"help": "poweroff", "ps": "shell.test", "free": "MemTotal", "df": "KiB", "date": "UTC",
		"ip addr": "1: lo", "ip r": "", "nproc": "", "uname -a": "Linux", "mount": "proc",
	} {
		out, code := sh(t, t.TempDir(), "", "-c", command)
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("%s: exit code %d, no %q in:\n%s", command, code, want, out)
		}
	}
}

func TestCommandsAreSorted(t *testing.T) {
	all := commands()
	for i := range all[1:] {
		if all[i].name >= all[i+1].name {
			t.Errorf("%s stands before %s", all[i].name, all[i+1].name)
		}
	}
}

func TestInstall(t *testing.T) {
	root := t.TempDir()
	for range 2 { // the second finds a shell and leaves all as it is
		if err := Install(root); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"sh", "ls", "poweroff"} {
			if target, err := os.Readlink(root + "/bin/" + name); target != "/init" || err != nil {
				t.Errorf("%s: %q, %v", name, target, err)
			}
		}
	}
}

func TestKernelMessage(t *testing.T) {
	for record, want := range map[string]string{
		"6,339,5140900,-;virtio\n SUBSYSTEM=x\n": "[    5.140900] virtio",
		"6,1,x,-;text":                           "text",
		"garbage":                                "",
	} {
		if got := kernelMessage(record); got != want {
			t.Errorf("%q: got %q, want %q", record, got, want)
		}
	}
}

func TestProcessLine(t *testing.T) {
	for stat, want := range map[string]string{
		"7 (a) b) S 1 7 7": "7\t1\tS\t[a) b]",
		"7 (a) S":          "",
		")(":               "",
	} {
		if got := processLine(stat, "/nowhere"); got != want {
			t.Errorf("%q: got %q, want %q", stat, got, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "512": 512, "4k": 4096, "1M": 1 << 20, "2G": 2 << 30} {
		if got, err := parseSize(text); got != want || err != nil {
			t.Errorf("%s: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "x", "k", "9999999999999G"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
}

// TestPerson types at a terminal. Ctrl-C ends what runs, and not the shell.
func TestPerson(t *testing.T) {
	master, terminal := openTerminal(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"sh"}
	cmd.Env = []string{asShell + "=1", "PATH="}
	cmd.Dir = t.TempDir()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	screen := bufio.NewReader(master)
	prompt := "# "
	if os.Geteuid() != 0 {
		prompt = "$ "
	}
	const more = "> "
	for _, row := range []struct{ keys, shows, until string }{
		{"", "", prompt},
		{"echo one $((1 + 1))\n", "\none 2\r\n", prompt},
		{"if true\n", "", more},
		{"then echo then; fi\n", "\nthen\r\n", prompt},
		{"echo 'a\n", "", more},
		{"b'\n", "\na\r\nb\r\n", prompt},
		{"if fi\n", "\nsh: 6:4: ", prompt},
		{"cat\n", "", "cat\r\n"},
		{"line\n", "", "line\r\nline\r\n"}, // it runs
		{"\x03", "^C", prompt},
		{"echo code $?\n", "\ncode 130\r\n", prompt},
		{"while true; do echo tick; done; echo never\n", "", "\ntick\r\ntick\r\n"},
		{"\x03", "", prompt},
		{"echo still here\n", "\nstill here\r\n", prompt},
		{"nothing-like-this\n", "not found", prompt},
		{"exit 4\n", "", "exit 4"},
	} {
		if _, err := master.WriteString(row.keys); err != nil {
			t.Fatal(err)
		}
		seen, ok := readUntil(screen, row.until)
		if !ok || !strings.Contains(seen, row.shows) || strings.Contains(seen, "\nnever") {
			t.Fatalf("after %q: no %q and %q in %q", row.keys, row.shows, row.until, seen)
		}
	}
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 4 {
		t.Errorf("the shell ended with %v, want 4", cmd.ProcessState)
	}
}

const asShell = "GUESTINIT_TEST_SHELL"

func TestMain(m *testing.M) {
	if os.Getenv(asShell) != "" {
		os.Exit(Main(os.Args))
	}
	os.Exit(m.Run())
}

func openTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs a pseudo-terminal: mount devpts (%v)", err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return master, terminal
}

func readUntil(r *bufio.Reader, text string) (seen string, ok bool) {
	for !strings.HasSuffix(seen, text) {
		b, err := r.ReadByte()
		if err != nil {
			return seen, false
		}
		seen += string(b)
	}
	return seen, true
}
