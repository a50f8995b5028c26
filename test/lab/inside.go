package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// bench is this program inside the lab.
type bench struct {
	options
	dir   string // with the programs
	vmms  []vmm
	guest guest
	trace *trace
	all   []*result
}

// measure is the program inside the lab: it prints the results of one part.
func (o options) measure() error {
	dir, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("measure %s: %w", o.inside, err)
	}
	// What is on the lab's own tmpfs is read at the same price each time.
	here, err := os.MkdirTemp("", "compare-")
	if err != nil {
		return fmt.Errorf("measure %s: %w", o.inside, err)
	}
	for _, name := range []string{"vmm", "gokvm", "bulkhead", "guestinit", "vmlinux", "bzImage", "ready", "load"} {
		if err := copyFile(filepath.Join(here, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("measure %s: %w", o.inside, err)
		}
	}
	b := &bench{options: o, dir: here, guest: guest{kernel: here, initrd: filepath.Join(here, "initrd"), cmdline: cmdline}}
	var names []string
	if o.vmms != "" {
		names = strings.Split(o.vmms, ",")
	}
	b.vmms = chosen(names, o.inside != "boot")
	if b.trace, err = newTrace(); err != nil {
		return err
	}
	if err := map[string]func() error{"boot": b.boot, "disk": b.disk, "net": b.net, "container": b.container, "memory": b.memory}[o.inside](); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(b.all)
}

// cmdline is each guest's: no PCI, which none of these machines has.
const cmdline = "console=ttyS0 quiet panic=-1 pci=off"

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// add keeps a number.
func (b *bench) add(vmm, what, unit string, value float64) {
	for _, r := range b.all {
		if r.VMM == vmm && r.What == what {
			r.Runs = append(r.Runs, value)
			return
		}
	}
	b.all = append(b.all, &result{vmm, what, unit, []float64{value}})
}

// enough is what the lab may execute with nothing heard of a guest. Its monitor then gets a
// SIGQUIT, on which a Go program says where it is. It is counted in work, and not by the clock: that jumps
// ahead while the lab waits for the host's files.
const enough = 4 * time.Second

// guestRun is a monitor with a guest in it.
type guestRun struct {
	name  string
	cmd   *exec.Cmd
	began time.Duration // monotonic clock
	typed *os.File      // its standard input's other end
	out   *os.File
	ended chan struct{}
	since atomic.Int64 // work when it was last heard of
	said  bytes.Buffer
	err   lockedBuffer
}

func start(name string, argv []string) (*guestRun, error) {
	r := &guestRun{name: name, cmd: exec.Command(argv[0], argv[1:]...)}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer write.Close()
	in, typed, err := terminal()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer in.Close()
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = in, write, &r.err
	r.typed, r.out = typed, read
	r.began = monotonic()
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r.ended = make(chan struct{})
	r.heard()
	go r.watch()
	return r, nil
}

// heard begins to count anew.
func (r *guestRun) heard() {
	if now, err := work(); err == nil {
		r.since.Store(int64(now))
	}
}

// watch ends a monitor whose guest is not heard of.
func (r *guestRun) watch() {
	for look := time.NewTicker(time.Second); ; {
		select {
		case <-r.ended:
			look.Stop()
			return
		case <-look.C:
		}
		if now, err := work(); err == nil && now-time.Duration(r.since.Load()) > enough {
			fmt.Fprintf(os.Stderr, "lab: %s: nothing heard of its guest\n", r.name)
			r.cmd.Process.Signal(unix.SIGQUIT)
			return
		}
	}
}

// terminal is a standard input on which nobody types; gokvm wants one.
func terminal() (in, typed *os.File, err error) {
	if typed, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	number, err := unix.IoctlGetInt(int(typed.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(typed.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		in, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		typed.Close()
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	return in, typed, nil
}

// until reads what the guest prints up to the byte end, and says when it came.
func (r *guestRun) until(end byte) (string, time.Duration, error) {
	buffer := make([]byte, 4096)
	for {
		if line, rest, found := bytes.Cut(r.said.Bytes(), []byte{end}); found {
			text := string(line)
			left := bytes.Clone(rest)
			r.said.Reset()
			r.said.Write(left)
			return text, monotonic(), nil
		}
		n, err := r.out.Read(buffer)
		r.heard()
		r.said.Write(buffer[:n])
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("it ended")
			}
			return "", 0, fmt.Errorf("%s: wait for its guest: %w; it said %q %q", r.name, err, r.said.String(), r.err.String())
		}
	}
}

// end ends it, in a way that lets it tell its times.
func (r *guestRun) end() {
	close(r.ended)
	r.cmd.Process.Signal(unix.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { r.cmd.Process.Kill() })
	defer kill.Stop()
	go io.Copy(io.Discard, r.out)
	r.cmd.Wait()
	r.out.Close()
	r.typed.Close()
}

// lockedBuffer may be written to and read at once.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// monotonic is CLOCK_MONOTONIC, the clock of the kernel's trace.
func monotonic() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // it cannot fail with this clock
	}
	return time.Duration(t.Nano())
}
