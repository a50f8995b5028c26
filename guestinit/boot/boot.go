// Package boot brings a guest up as its PID 1, runs one command, and takes the
// guest down with the command's exit code; or it leaves the guest to guestinit/agent,
// which runs containers, until the host hangs up. It knows its configuration
// (guestinit/config) and nothing of the host.
//
// All of it runs on the main goroutine, which stays on the main thread: the
// right to write to ports is a thread's.
package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/guestinit/agent"
	"bulkhead/guestinit/config"
)

// guest is the machine that we are the init of.
type guest struct {
	config *config.Config
	out    func(port uint16, value byte) // to the machine
}

// steps are the start of a guest. The first that fails ends it. Mounts come
// after the network, for file systems that need one; the console after the
// modules, which may hold its driver.
var steps = []struct {
	name string
	do   func(*guest) error
}{
	{"kernel file systems", (*guest).mountKernel},
	{"configuration", (*guest).configure},
	{"modules", (*guest).loadModules},
	{"console", (*guest).openConsole},
	{"clock", (*guest).setClock},
	{"hostname", (*guest).setHostname},
	{"network", (*guest).setNetwork},
	{"mounts", (*guest).mountAll},
	{"root", (*guest).switchRoot},
	{"name files", (*guest).writeNames},
	{"userland", (*guest).installShell},
}

// Main is PID 1's life. It does not return.
func Main() {
	runtime.LockOSThread()
	g := &guest{config: new(config.Config), out: openPorts()}
	g.live()
}

func (g *guest) live() {
	g.reached(config.Started)
	if err := g.start(); err != nil {
		complain(err)
		g.end(powerOff(config.ExitInit))
	}
	g.reached(config.Prepared)
	if g.config.Agent {
		complain(agent.Run())
		g.end(powerOff(config.ExitInit))
	}
	g.end(g.run())
}

func (g *guest) start() error {
	var times []string // told once we know whether anybody wants them
	for _, step := range steps {
		began := time.Now()
		if err := step.do(g); err != nil {
			return err
		}
		times = append(times, fmt.Sprintf("guestinit: %8.1f ms  %s (%.1f ms)\n",
			sinceBoot().Seconds()*1e3, step.name, time.Since(began).Seconds()*1e3))
		if g.config.Debug {
			os.Stderr.WriteString(strings.Join(times, ""))
			times = nil
		}
	}
	return nil
}

// configure reads the file, then the command line.
func (g *guest) configure() error {
	c, err := readConfig(config.Path, "/proc/cmdline")
	if err != nil {
		return err
	}
	g.config = c
	return nil
}

func readConfig(file, cmdline string) (*config.Config, error) {
	c := new(config.Config)
	b, err := os.ReadFile(file)
	if err == nil {
		c, err = config.Parse(b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	line, err := os.ReadFile(cmdline)
	if err != nil {
		return nil, err
	}
	return c, c.ParseCommandLine(string(line))
}

func (g *guest) setHostname() error {
	if g.config.Hostname == "" {
		return nil
	}
	if err := unix.Sethostname([]byte(g.config.Hostname)); err != nil {
		return fmt.Errorf("set the hostname %q: %w", g.config.Hostname, err)
	}
	return nil
}

func (g *guest) reached(s config.Stage) { g.out(config.ReadyPort, byte(s)) }

// sinceBoot is the kernel's own clock, which began before any init.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// complain says on the console, which may be anything by now, what is wrong.
func complain(err error) {
	line := "guestinit: " + strings.ReplaceAll(err.Error(), "\n", "; ")
	fmt.Fprintln(os.Stderr, line)
}
