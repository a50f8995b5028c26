package shim

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"bulkhead/runtime/container"

	taskapi "github.com/containerd/containerd/api/types/task"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// killed is the status of a process that SIGKILL has ended.
const killed = 128 + uint32(unix.SIGKILL)

// A process is a container's program, or one that was started beside it.
type process struct {
	execID  string // "" of a container's program
	streams streams
	spec    *specs.Process // of an exec

	starting sync.Mutex // held by Start until its event is out, which the end's follows

	mu     sync.Mutex
	pid    uint32
	stdio  *stdio
	exec   *container.Exec
	size   [2]uint16 // rows and columns asked for before the start
	status taskapi.Status
	exit   uint32
	at     time.Time
	done   chan struct{} // closed when it has ended
}

func newProcess(execID string, s streams) *process {
	return &process{execID: execID, streams: s, status: taskapi.Status_CREATED, done: make(chan struct{})}
}

// ended notes the end, once.
func (p *process) ended(status uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status == taskapi.Status_STOPPED {
		return false
	}
	p.status, p.exit, p.at = taskapi.Status_STOPPED, status, time.Now()
	if p.stdio != nil {
		p.stdio.ended()
	}
	close(p.done)
	return true
}

func (p *process) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// taskState is a container.
type taskState struct {
	id, bundle string
	rt         *container.Runtime
	init       *process
	kills      *container.OOMWatch // nil: the sandbox does not tell
	forwards   io.Closer           // nil: of no pod's loopback

	mu    sync.Mutex
	execs map[string]*process
}

// find gives a process, nil if there is none.
func (t *taskState) find(execID string) *process {
	if execID == "" {
		return t.init
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.execs[execID]
}

// awaitSandbox waits for a container's process on the host, our child, which ends as the
// program did.
func (t *taskState) awaitSandbox(p *os.Process, c *container.Container) (uint32, error) {
	state, err := p.Wait()
	if err != nil {
		return killed, nil // somebody else has waited for it, which is who has killed it
	}
	status := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + uint32(status.Signal()), nil
	}
	return uint32(status.ExitStatus()), c.Crash(status.ExitStatus())
}

// start lets a container's program run.
func (t *taskState) start(ctx context.Context) error {
	c, err := t.rt.Open(t.id)
	if err != nil {
		return err
	}
	return c.Start(ctx)
}

// startExec starts a process beside it.
func (t *taskState) startExec(ctx context.Context, p *process, namespace string) error {
	c, err := t.rt.Open(t.id)
	if err != nil {
		return err
	}
	o, err := openStreams(p.streams, p.execID, namespace)
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	defer o.handedOver()
	files := o.files[:]
	if p.streams.Terminal {
		files = files[:1]
	}
	p.mu.Lock()
	size := p.size
	p.mu.Unlock()
	if p.streams.Terminal && size != [2]uint16{} {
		o.resize(size[0], size[1])
	}
	e, err := c.Exec(ctx, p.spec, files)
	if err != nil {
		o.handedOver()
		o.ended()
		return err
	}
	p.mu.Lock()
	p.exec, p.stdio, p.pid, p.status = e, o, uint32(c.State.Sandbox.PID), taskapi.Status_RUNNING
	p.mu.Unlock()
	return nil
}
