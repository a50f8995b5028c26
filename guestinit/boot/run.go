package boot

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/guestinit/config"
	"bulkhead/guestinit/shell"
)

// ending is how the guest goes down.
type ending struct {
	code    int
	restart bool // rather than power off; the host hears of no code
}

func powerOff(code int) ending { return ending{code: code} }

// request is what a signal to PID 1 asks for.
type request int

const (
	forward  request = iota // to the command's process group
	stop                    // ask the command to end, and go down with its code, or after a while without
	shutDown                // power off now, with code 0
	restart                 // restart now
)

// powerButton is SIGRTMIN+4, systemd's word for it, which Linux says to init
// where it has no input devices (drivers/acpi/tiny-power-button.c).
const powerButton = unix.Signal(38)

// patience is how long the command may take to end when it is asked to.
const patience = 5 * time.Second

// requests are busybox's words for its init, so that the poweroff and reboot of
// any small userland work, and what the machine's keys mean to a kernel.
var requests = map[os.Signal]request{
	unix.SIGINT:   stop, // Ctrl-Alt-Del (reboot(2), CAD_OFF)
	unix.SIGPWR:   stop,
	powerButton:   stop,
	unix.SIGUSR1:  shutDown, // halt
	unix.SIGUSR2:  shutDown, // poweroff
	unix.SIGTERM:  restart,  // reboot
	unix.SIGHUP:   forward,
	unix.SIGQUIT:  forward,
	unix.SIGCONT:  forward,
	unix.SIGWINCH: forward,
}

// run runs the command until it ends or a signal says how the guest shall.
func (g *guest) run() ending {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, unix.SIGCHLD)
	for s := range requests {
		signal.Notify(signals, s)
	}
	// Ctrl-Alt-Del is ours to answer. It fails in a pid namespace, which has no such key.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)

	pid, err := g.spawn()
	if err != nil {
		complain(err)
		return powerOff(spawnCode(err))
	}
	g.reached(config.Running)
	var overdue <-chan time.Time
	for {
		var s os.Signal
		select {
		case s = <-signals:
		case <-overdue:
			return powerOff(128 + int(unix.SIGTERM))
		}
		if s == unix.SIGCHLD {
			if status, ended := reap(pid); ended {
				return powerOff(exitCode(status))
			}
			continue
		}
		switch requests[s] {
		case forward:
			kill(-pid, s.(unix.Signal))
		case stop:
			kill(-pid, unix.SIGTERM)
			overdue = time.After(patience)
		case shutDown:
			return powerOff(0)
		case restart:
			return ending{restart: true}
		}
	}
}

// kill has nobody to tell of ESRCH: the process has just ended.
func kill(pid int, s unix.Signal) { _ = unix.Kill(pid, s) }

// spawn starts the command as the leader of a session that has the console.
func (g *guest) spawn() (pid int, err error) {
	env := g.environment()
	path, args, err := g.command(env)
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", quoted(g.config.Args), err)
	}
	cwd := cmp.Or(g.config.Cwd, "/")
	if _, err := os.Stat(cwd); err != nil {
		return 0, fmt.Errorf("run %s: working directory: %w", quoted(args), err)
	}
	groups := g.config.Groups
	pid, err = syscall.ForkExec(path, args, &syscall.ProcAttr{
		Dir:   cwd,
		Env:   env,
		Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Setctty:    isTerminal(0),
			Credential: &syscall.Credential{Uid: g.config.UID, Gid: g.config.GID, Groups: groups},
		},
	})
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", quoted(args), err)
	}
	return pid, nil
}

// command finds the program: the configured one, or a shell; in a root that has
// none, our own.
func (g *guest) command(env []string) (path string, args []string, err error) {
	args = g.config.Args
	if len(args) == 0 {
		if _, err := os.Stat(shell.Path); err != nil {
			return "/proc/self/exe", []string{"sh"}, nil
		}
		return shell.Path, []string{"sh"}, nil
	}
	for _, pair := range env { // the last PATH wins, as in execvp(3)'s environ
		if value, ok := strings.CutPrefix(pair, "PATH="); ok {
			os.Setenv("PATH", value)
		}
	}
	path, err = exec.LookPath(args[0])
	return path, args, err
}

func (g *guest) environment() []string {
	home := "/"
	if _, err := os.Stat("/root"); err == nil && g.config.UID == 0 {
		home = "/root"
	}
	defaults := []string{"PATH=" + shell.SearchPath, "HOME=" + home}
	if isTerminal(0) {
		defaults = append(defaults, "TERM=linux")
	}
	return append(defaults, g.config.Env...)
}

// spawnCode is a shell's code for a command that did not start.
func spawnCode(err error) int {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return config.ExitMissing
	}
	return config.ExitNoExec
}

// reap waits for every child that has ended, ours and the orphans that are now
// PID 1's, and says how pid did if it was among them.
func reap(pid int) (status unix.WaitStatus, ended bool) {
	for {
		var s unix.WaitStatus
		got, err := unix.Wait4(-1, &s, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || got == 0 { // ECHILD, or none that has ended
			return status, ended
		}
		if got == pid {
			status, ended = s, true
		}
	}
}

// exitCode is a shell's: a signal counts from 128.
func exitCode(s unix.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

func quoted(args []string) string {
	return strings.TrimSuffix(fmt.Sprintf("%q", args), "]")[1:]
}

// installShell gives a guest without any userland ours, as links to /init.
func (g *guest) installShell() error {
	if g.config.Root != "" {
		return nil
	}
	return shell.Install("/")
}
