// Package lab is a machine with AMD-V and nested paging that needs no hardware: QEMU emulates it,
// Debian's kernel runs on it, and a program of ours runs inside, with /dev/kvm
// that really has a ring 0. Everything about microVMs is proven here on hosts
// that cannot run one. shared design: kvm-hosts.md, "The lab".
//
//	code, err := lab.Machine{Memory: 2048}.Run(ctx, lab.Job{
//		Cmd:    []string{"/job/kvm.test", "-test.v"},
//		Files:  map[string]string{"/job/kvm.test": "/tmp/kvm.test"},
//		Stdout: os.Stdout, Stderr: os.Stderr,
//	})
//
// A test of any package runs itself inside by labtest.Inside. By hand:
//
//	go test -c -o /tmp/kvm.test ./kvm && hwtest lab -- /tmp/kvm.test -test.v
//
// Files go in with the job; directories that are shared go both ways. The
// machine is made anew for each job, in about three seconds, and machines
// take turns: on a host with few processors two at once gain nothing.
//
// What it is made of comes from Debian packages, by apt-get download, into the
// cache (kernels/cache); QEMU alone must be installed.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"bulkhead/kernels/cache"
)

// Variable is set to 1 in the environment of every job.
const Variable = "BULKHEAD_LAB"

// minMemory is what Debian's kernel starts with, in MiB. With much less it hangs
// before it can say so.
const minMemory = 256

// ErrMissing means a host that lacks what the lab needs; the error's text says what.
var ErrMissing = errors.New("missing")

// Machine is what a job runs on. Its zero value will do for most.
type Machine struct {
	Memory int // MiB; 0 is 1024
	// CPUs is how many processors it has; 0 is 1. With more, each a thread of QEMU, its emulation
	// goes wrong under guests (seen with 7.2 and 10.0): an exit of a guest that is entered
	// with an interrupt leaves the machine's own registers, CR3 and RIP, as the guest's, which ends
	// in a triple fault or a spin. Three of nine guests of two vCPUs that worked their devices on a busy host
	// met it, and none of those seen on one processor, which has another fault (pulse.go).
	CPUs    int
	Network bool // eth0 with the host's network behind a NAT, the host at 10.0.2.2
	// Icount lets the clock count instructions, one a nanosecond. Timings
	// then say the same on each run and nothing about the host.
	Icount bool
	// HostRoot gives the job this host's root directory, to run any program
	// of it; what the job writes stays in memory. Otherwise there is busybox.
	HostRoot   bool
	Console    io.Writer // gets the kernel's messages; may be nil
	KernelArgs string    // appended to the kernel's command line
}

// Job is a program to run in a Machine.
type Job struct {
	Cmd    []string
	Dir    string            // where it starts; "" is /
	Env    []string          // KEY=value, beside PATH, HOME and Variable
	Files  map[string]string // copies of the host's files: path inside → path here
	Shares []Share

	// Timeout is how long the machine may run, from its start: the wait for
	// another's turn to end is not in it. 0 is for ever.
	Timeout time.Duration

	Stdin          io.Reader // nil is an empty one
	Stdout, Stderr io.Writer // written to as the job prints; nil throws it away
	// Terminal runs the job on this process's terminal in place of the three above.
	Terminal bool
}

// Share is a directory of the host that the job sees.
type Share struct {
	Host, Inside string
	ReadOnly     bool
}

// Check says what the host lacks to run a lab, as an ErrMissing, or nil.
func Check() error {
	if _, err := exec.LookPath(qemu); err != nil {
		return fmt.Errorf("lab: start the machine: %s is %w: as root: apt-get install qemu-system-x86", qemu, ErrMissing)
	}
	return nil
}

// Run starts m, runs job in it and returns its exit code (128 and more for a
// signal, as the shell has it). An error means that there was no such code: the
// machine could not start, or it ended before the job did.
func (m Machine) Run(ctx context.Context, job Job) (int, error) {
	if len(job.Cmd) == 0 {
		return 0, errors.New("lab: run a job: it has no command")
	}
	if m.Memory != 0 && m.Memory < minMemory {
		return 0, fmt.Errorf("lab: start the machine: %d MiB are too little: it needs %d", m.Memory, minMemory)
	}
	if err := Check(); err != nil {
		return 0, err
	}
	base, err := fetchBase(ctx)
	if err != nil {
		return 0, err
	}
	image, err := m.image(base, job)
	if err != nil {
		return 0, err
	}
	defer os.Remove(image)
	unlock, err := cache.Lock(ctx, "lab")
	if err != nil {
		return 0, err
	}
	defer unlock()
	return m.run(ctx, job, base, image)
}

// run starts QEMU and waits for its end. The machine powers itself off.
func (m Machine) run(ctx context.Context, job Job, base base, image string) (int, error) {
	var lines wires
	defer lines.close()
	if job.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, job.Timeout, fmt.Errorf("no end after %v: %w", job.Timeout, context.DeadlineExceeded))
		defer cancel()
	}
	kernelLog, control := &tail{also: m.Console}, &tail{}
	cmd := exec.CommandContext(ctx, qemu)
	if job.Terminal {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	} else {
		lines.add("console", nil, kernelLog)
		lines.add("stdin", orEmpty(job.Stdin), nil)
		lines.add("stdout", nil, orDiscard(job.Stdout))
		lines.add("stderr", nil, orDiscard(job.Stderr))
		cmd.Stderr = &tail{also: m.Console}
	}
	lines.add("control", nil, control)
	if !m.Icount { // it would let the host's time in
		lines.add(pulseName, pulse{}, nil)
	}
	monitor := lines.addMonitor()
	if lines.err != nil {
		return 0, fmt.Errorf("lab: start the machine: %w", lines.err)
	}
	cmd.Args = append(cmd.Args, m.arguments(job, base, image, &lines)...)
	cmd.ExtraFiles = lines.theirs()
	// The machine dies with this thread, so the thread stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var processors string
	cmd.Cancel = func() error {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			processors = monitor.ask("info registers -a")
		}
		return cmd.Process.Kill()
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("lab: start the machine: %w", err)
	}
	lines.carry()
	ended := cmd.Wait()
	lines.drain()
	if code, ok := exitCode(control.String()); ok {
		return code, nil
	}
	if ctx.Err() != nil {
		return 0, fmt.Errorf("lab: run %s: %w%s%s", job.Cmd[0], context.Cause(ctx), said(cmd.Stderr, kernelLog), where(processors))
	}
	return 0, fmt.Errorf("lab: run %s: the machine ended before it did (%s: %v)%s", job.Cmd[0], qemu, ended, said(cmd.Stderr, kernelLog))
}

// exitCode reads what init.sh writes last.
func exitCode(line string) (int, bool) {
	word, ok := strings.CutPrefix(strings.TrimSpace(line), "exit ")
	if !ok {
		return 0, false
	}
	code, err := strconv.Atoi(word)
	return code, err == nil
}

// said is the last lines of QEMU and of the kernel, for an error.
func said(qemuErr io.Writer, kernel *tail) string {
	var text string
	if t, ok := qemuErr.(*tail); ok {
		text = t.String()
	}
	text = strings.TrimSpace(text + kernel.String())
	if text == "" {
		return ""
	}
	return ":\n" + text
}

// where is what of QEMU's registers tells where a machine that hung had come to.
func where(processors string) string {
	var text strings.Builder
	for line := range strings.Lines(processors) {
		for _, start := range []string{"CPU#", "RIP=", "CS ="} {
			if strings.HasPrefix(line, start) {
				text.WriteString("\n" + strings.TrimSpace(line))
			}
		}
	}
	return text.String()
}

func orEmpty(r io.Reader) io.Reader {
	if r == nil {
		return strings.NewReader("")
	}
	return r
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// tail keeps the last few kilobytes that were written to it.
type tail struct {
	also io.Writer
	mu   sync.Mutex
	kept bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	const keep = 4 << 10 // bytes
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept.Write(p)
	t.kept.Next(t.kept.Len() - min(t.kept.Len(), keep))
	if t.also != nil {
		return t.also.Write(p)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kept.String()
}
