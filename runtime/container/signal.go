package container

import (
	"context"
	"errors"
	"os"
	"time"

	"bulkhead/runtime/agent"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// answerPatience bounds a call that a sandbox answers at once if it is well.
const answerPatience = 2 * time.Second

// postPatience is for a frozen sandbox, which cannot answer: what is sent lies
// in its socket until it goes on.
const postPatience = 20 * time.Millisecond

// Signal sends a signal to the container's program, or to all of its processes.
// SIGKILL always works, also where the Sentry itself hangs: the sandbox is
// killed then.
func (c *Container) Signal(ctx context.Context, n unix.Signal, all bool) error {
	now := c.Status()
	if now == specs.StateStopped {
		if all {
			return nil // "all processes" of none, as runc has it
		}
		return ErrNotRunning
	}
	if now == Paused && n == unix.SIGKILL {
		g, err := c.group()
		if err != nil {
			return err
		}
		// The kill waits for the thaw, which goes last so that nothing runs in between.
		err = c.State.Sandbox.Signal(unix.SIGKILL)
		if g != nil {
			g.Freeze(false)
		}
		return err
	}
	client, err := c.dial(ctx)
	if err == nil {
		defer client.Close()
		patience := answerPatience
		if now == Paused {
			patience = postPatience
		}
		limited, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		err = client.Signal(limited, &agent.SignalRequest{Container: c.inside(), Signal: int(n), All: all})
	}
	switch {
	case err == nil:
		return nil
	case now == Paused && errors.Is(err, context.DeadlineExceeded):
		// As Linux has it: the signal is there when the container goes on. docker
		// stop signals first and resumes then.
		return nil
	case n == unix.SIGKILL:
		c.rt.Log.Warn("the sandbox does not answer and is killed", "container", c.State.ID, "err", err)
		if err := c.State.Sandbox.Signal(unix.SIGKILL); err != nil && err != unix.ESRCH {
			return err
		}
		return nil
	case errors.Is(err, agent.ErrGone), errors.Is(err, unix.ESRCH):
		return ErrNotRunning
	}
	return err
}

// Pause stops the container and Resume lets it go on: its processes on the host are
// frozen, or its sandbox does it.
func (c *Container) Pause(ctx context.Context) error {
	if err := c.lock(); err != nil {
		return err
	}
	defer c.dir.Unlock()
	if err := c.alive(specs.StateRunning, specs.StateCreated); err != nil {
		return err
	}
	if c.pausesInside() {
		return c.pauseInside(true, func() error {
			return c.ask(ctx, func(ctx context.Context, a *agent.Client) error { return a.Pause(ctx, c.inside()) })
		})
	}
	g, err := c.group()
	if err != nil {
		return err
	}
	if g == nil {
		return errors.New("cannot pause: the container has no control group")
	}
	return g.Freeze(true)
}

// Resume undoes Pause.
func (c *Container) Resume(ctx context.Context) error {
	if err := c.lock(); err != nil {
		return err
	}
	defer c.dir.Unlock()
	if now := c.Status(); now != Paused {
		if now == specs.StateStopped {
			return ErrNotRunning
		}
		return errors.New("container is not paused")
	}
	if !c.pausedInside() {
		return c.thaw()
	}
	return c.pauseInside(false, func() error {
		err := c.ask(ctx, func(ctx context.Context, a *agent.Client) error { return a.Resume(ctx, c.inside()) })
		if errors.Is(err, ErrNotRunning) || errors.Is(err, agent.ErrGone) {
			return nil // it went on, and ended: by a signal that came while it was paused
		}
		return err
	})
}

// pauseInside has the sandbox pause the container or not, and says so before and after:
// killed in between, what is so is the sandbox's to tell.
func (c *Container) pauseInside(paused bool, do func() error) error {
	c.State.Pausing = true
	if err := c.dir.Save(c.State); err != nil {
		return err
	}
	err := do()
	if err == nil {
		c.State.Paused = paused
	}
	c.State.Pausing = false
	return errors.Join(err, c.dir.Save(c.State))
}

func (c *Container) thaw() error {
	g, err := c.group()
	if err != nil {
		return err
	}
	return g.Freeze(false)
}

// ask makes one call that is answered at once.
func (c *Container) ask(ctx context.Context, f func(context.Context, *agent.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	client, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	err = f(ctx, client)
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("the sandbox does not answer")
	}
	return err
}

// Debug asks the sandbox about itself.
func (c *Container) Debug(ctx context.Context, what string) (text string, err error) {
	if err := c.alive(specs.StateCreated, specs.StateRunning); err != nil {
		return "", err
	}
	err = c.ask(ctx, func(ctx context.Context, a *agent.Client) (err error) {
		text, err = a.Debug(ctx, what)
		return err
	})
	return text, err
}

// Metrics is what the sandbox has counted.
func (c *Container) Metrics(ctx context.Context) (m *agent.Metrics, err error) {
	if err := c.alive(specs.StateCreated, specs.StateRunning); err != nil {
		return nil, err
	}
	err = c.ask(ctx, func(ctx context.Context, a *agent.Client) (err error) {
		m, err = a.Metrics(ctx, c.inside())
		return err
	})
	return m, err
}

// Trace has the sandbox tell of system calls: TraceEvents as lines of JSON come to
// to, until ctx ends, to has no reader any more, or the sandbox has ended (nil).
func (c *Container) Trace(ctx context.Context, r *agent.TraceRequest, to *os.File) error {
	if err := c.alive(specs.StateCreated, specs.StateRunning); err != nil {
		return err
	}
	if c.isMachine() {
		return errors.New("it is in a machine, whose own kernel answers its calls: trace from inside (bulkhead exec ID strace -p 1)")
	}
	client, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	of := *r
	of.Container = c.inside()
	err = client.Trace(ctx, &of, to)
	if errors.Is(err, agent.ErrGone) || ctx.Err() != nil {
		return nil
	}
	return err
}

// Processes are those inside, as they see themselves.
func (c *Container) Processes(ctx context.Context) (list []agent.Process, err error) {
	if err := c.alive(specs.StateCreated, specs.StateRunning); err != nil {
		return nil, err
	}
	err = c.ask(ctx, func(ctx context.Context, a *agent.Client) (err error) {
		list, err = a.Processes(ctx, c.inside())
		return err
	})
	return list, err
}

// HostPIDs are the container's processes on the host, the sandbox first.
func (c *Container) HostPIDs() ([]int, error) {
	if c.Status() == specs.StateStopped {
		return nil, ErrNotRunning
	}
	// The gofer and ptrace's stubs are no business of an engine that asks which
	// processes to show: of all these the sandbox stands for the container.
	return []int{c.State.Sandbox.PID}, nil
}
