package rig

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Terminal is a program at a terminal, with us in front of it.
type Terminal struct {
	tb     testing.TB
	master *os.File
	cmd    *exec.Cmd
	screen chan string
	text   strings.Builder // all that was shown
	seen   int             // bytes of text that Expect has passed
}

// Open starts args on a new terminal of 24 rows and 80 columns, as its session's leader.
func Open(tb testing.TB, command Command, args ...string) *Terminal {
	tb.Helper()
	master, slave := pty(tb)
	defer slave.Close()
	cmd := command.cmd(context.Background(), args)
	cmd.Cancel, cmd.WaitDelay = nil, 0
	cmd.Env = append(cmd.Env, "TERM=dumb", "PS1=% ")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	t := &Terminal{tb: tb, master: master, cmd: cmd, screen: make(chan string)}
	go func() {
		defer close(t.screen)
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			if n > 0 {
				t.screen <- string(b[:n])
			}
			if err != nil { // EIO when the last slave is closed
				return
			}
		}
	}()
	tb.Cleanup(func() {
		if cmd.ProcessState == nil {
			unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		}
		master.Close()
		for range t.screen {
		}
	})
	return t
}

// OpenIn opens `bulkhead do` of the command's arguments on platform.
func OpenIn(tb testing.TB, command Command, platform string) *Terminal {
	args := append([]string{Bulkhead(tb), "--platform=" + platform, "do"}, command.Flags...)
	return Open(tb, command, append(append(args, "--"), command.Args...)...)
}

func pty(tb testing.TB) (master, slave *os.File) {
	tb.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		tb.Skipf("needs a pseudo-terminal: %v", err)
	}
	fd := int(master.Fd())
	number, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80})
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return master, slave
}

// Type sends keys.
func (t *Terminal) Type(keys string) {
	t.tb.Helper()
	if _, err := t.master.WriteString(keys); err != nil {
		t.tb.Fatalf("type %q: %v", keys, err)
	}
}

// Expect waits until text is shown after what earlier calls waited for.
func (t *Terminal) Expect(text string) {
	t.tb.Helper()
	limit := time.After(Limit)
	for {
		if at := strings.Index(t.text.String()[t.seen:], text); at >= 0 {
			t.seen += at + len(text)
			return
		}
		select {
		case more, ok := <-t.screen:
			if !ok {
				t.tb.Fatalf("the terminal closed before %q was shown:\n%s", text, t.text.String())
			}
			t.text.WriteString(more)
		case <-limit:
			t.tb.Fatalf("%q was not shown within %v:\n%s", text, Limit, t.text.String())
		}
	}
}

// Resize changes the window.
func (t *Terminal) Resize(rows, columns uint16) {
	t.tb.Helper()
	if err := unix.IoctlSetWinsize(int(t.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.tb.Fatal(err)
	}
}

// Close waits for the program's end and returns all that was shown and its exit status.
func (t *Terminal) Close() (string, int) {
	t.tb.Helper()
	limit := time.After(Limit)
	for {
		select {
		case more, ok := <-t.screen:
			if ok {
				t.text.WriteString(more)
				continue
			}
			t.cmd.Wait()
			return t.text.String(), t.cmd.ProcessState.ExitCode()
		case <-limit:
			t.tb.Fatalf("the program did not end within %v:\n%s", Limit, t.text.String())
		}
	}
}
