package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/bundle"
	"bulkhead/runtime/console"
	"bulkhead/runtime/program"
	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// grantable takes capabilities away that nobody knows, and warns of them: "Any value which
// cannot be mapped to a relevant kernel interface, or cannot be granted otherwise MUST be
// logged as a warning by the runtime" (config.md, "Linux Process").
func (r *Runtime) grantable(id string, p *specs.Process) {
	for _, name := range bundle.UnknownCapabilities(p.Capabilities) {
		r.Log.Warn("a capability is not known and not granted", "container", id, "capability", name)
	}
}

// Exec is a process inside that was started from outside.
type Exec struct {
	PID    int // inside
	client *agent.Client
	c      *Container
}

// Exec starts a further process with files as its descriptors, or, with a
// terminal, with the slave of a pty as the first.
func (c *Container) Exec(ctx context.Context, p *specs.Process, files []*os.File) (*Exec, error) {
	if err := c.alive(specs.StateRunning, specs.StateCreated); err != nil {
		if errors.Is(err, ErrPaused) {
			return nil, errors.New("cannot exec in a paused container")
		}
		return nil, err
	}
	client, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	c.rt.grantable(c.State.ID, p)
	pid, err := client.Exec(ctx, &agent.ExecRequest{Container: c.inside(), Process: p}, files)
	if err != nil {
		client.Close()
		return nil, err
	}
	return &Exec{pid, client, c}, nil
}

// Wait waits for the process. Should we be killed in the meantime, so is it.
func (e *Exec) Wait(ctx context.Context) (agent.ExitStatus, error) {
	defer e.client.Close()
	s, err := e.client.Wait(ctx, &agent.WaitRequest{Container: e.c.inside(), PID: e.PID, Kill: true})
	if errors.Is(err, agent.ErrGone) {
		// The sandbox ended, and all in it by force.
		return agent.ExitStatus{Signal: int(unix.SIGKILL)}, nil
	}
	return s, err
}

// Signal sends the process a signal.
func (e *Exec) Signal(ctx context.Context, n unix.Signal) error {
	return e.client.Signal(ctx, &agent.SignalRequest{Container: e.c.inside(), PID: e.PID, Signal: int(n)})
}

// Kill ends a process that is not waited for.
func (e *Exec) Kill() {
	e.client.Signal(context.Background(), &agent.SignalRequest{Container: e.c.inside(), PID: e.PID, Signal: int(unix.SIGKILL)})
	e.client.Close()
}

// Hidden verb and name of the stand-in.
const (
	StandInVerb = "stand-in"
	standInName = "bulkhead-exec"
)

// StandIn leaves a process on the host that lives as long as e does and ends
// with its status: containerd's shim waits for it, and signals it. slave is the
// process's terminal, whose changes of size it follows, or nil.
func (e *Exec) StandIn(slave *os.File) (*os.Process, error) {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	attr := &syscall.SysProcAttr{Setsid: true}
	stdin := null
	if slave != nil {
		stdin, attr.Setctty = slave, true
	}
	ready, done, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	p, err := os.StartProcess(program.Path(), []string{standInName, StandInVerb, e.c.home().Socket(), strconv.Itoa(e.PID), e.c.inside()},
		&os.ProcAttr{Files: []*os.File{stdin, null, null, done}, Env: []string{"GOGC=20"}, Sys: attr})
	done.Close()
	if err != nil {
		return nil, fmt.Errorf("start the stand-in: %w", err)
	}
	// It must be waiting before we tell of it: a signal must find its handler.
	var one [1]byte
	if n, _ := ready.Read(one[:]); n != 1 {
		p.Kill()
		state, _ := p.Wait()
		return nil, fmt.Errorf("the stand-in ended during its start (%v)", state)
	}
	return p, nil
}

// standInReady is the descriptor on which a stand-in says that it is.
const standInReady = 3

// RunStandIn is the stand-in's main: its arguments are the socket, the pid, and the
// container's name in its sandbox.
func RunStandIn(args []string, signals <-chan os.Signal) int {
	const internal = 255
	if len(args) != 3 {
		return internal
	}
	pid, err := strconv.Atoi(args[1])
	if err != nil {
		return internal
	}
	ctx := context.Background()
	client, err := agent.Dial(ctx, args[0])
	if err != nil {
		return 128 + int(unix.SIGKILL) // gone already
	}
	e := &Exec{PID: pid, client: client, c: &Container{State: &state.State{ID: args[2], Pod: args[2]}}}
	go Forward(signals, func(s unix.Signal) {
		if s != unix.SIGWINCH {
			e.Signal(ctx, s)
			return
		}
		if rows, columns, err := console.Size(os.Stdin); err == nil {
			e.Resize(ctx, rows, columns)
		}
	})
	ready := os.NewFile(standInReady, "ready")
	ready.Write([]byte{1})
	ready.Close()
	status, err := e.Wait(ctx)
	if err != nil {
		return internal
	}
	return status.Exit()
}

// Forward calls f with each signal that is worth passing on.
func Forward(signals <-chan os.Signal, f func(unix.Signal)) {
	for s := range signals {
		n, ok := s.(syscall.Signal)
		if !ok || n == unix.SIGCHLD || n == unix.SIGURG || n == unix.SIGPIPE {
			continue // ours, or of the Go runtime
		}
		f(n)
	}
}

// Resize tells the process's terminal its new size.
func (e *Exec) Resize(ctx context.Context, rows, columns uint16) error {
	return e.client.Resize(ctx, &agent.ResizeRequest{Container: e.c.inside(), PID: e.PID, Rows: rows, Columns: columns})
}
