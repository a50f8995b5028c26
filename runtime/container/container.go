// Package container takes containers through their lives: create, start, exec,
// signal, pause, update, delete, as runtime-spec runtime.md, "Lifecycle" orders
// them. It joins what the other rooms of the runtime do (bundle, state, cgroup,
// hook, console, sandbox) and asks the sandbox through runtime/agent. It does not
// know the command line.
//
// Whatever fails is undone: no process, control group or directory stays.
// Commands on one container take turns by the lock of its directory; those that
// only ask or signal take no lock.
package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/cgroup"
	"bulkhead/runtime/sandbox"
	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Sentinels in runc's words, which containerd's shim looks for.
var (
	ErrNotRunning = errors.New("container not running")
	ErrPaused     = errors.New("container is paused")
)

// Runtime is what all commands have in common.
type Runtime struct {
	Root          string // of the state
	SystemdCgroup bool
	Platform      string // auto, kvm, ptrace
	Isolation     string // sentry, vm, auto; "": the annotation's, or sentry
	Overlay       string // none, memory, dir=…; "" is none
	Disks         string // the host's that annotations may name: patterns, with colons between them
	Template      string // of a machine: auto, off, or where templates are; "" is auto

	// Machine says why this host runs no machine, nil if it does: isolation vm.
	Machine func() error

	// Weaker than the bundle's annotations.
	DefaultPlatform, DefaultIsolation, DefaultOverlay, DefaultTemplate string

	Log       *slog.Logger
	LogFile   string // where sandboxes log; "" is their directory, "-" is standard error
	LogFormat string // text, json
	Debug     bool
	Began     time.Time
}

// Milestone logs how long after our start a step was done.
func (r *Runtime) Milestone(step string) {
	if r.Debug {
		r.Log.Debug("milestone", "step", step, "at", time.Since(r.Began).Round(10*time.Microsecond).String())
	}
}

// Container is one that exists.
type Container struct {
	State *state.State
	rt    *Runtime
	dir   *state.Dir

	// Process is set for the creator alone, whose child the sandbox is.
	Process *sandbox.Sandbox
	Ready   *agent.Ready
	begun   bool // the program runs since Create; the rest of Start is to be done
}

// Open finds a container.
func (r *Runtime) Open(id string) (*Container, error) {
	dir, err := state.Open(r.Root, id)
	if err != nil {
		return nil, err
	}
	s, err := dir.Load()
	if err != nil {
		return nil, err
	}
	return &Container{State: s, rt: r, dir: dir}, nil
}

// lock takes the container's lock and reads its state again.
func (c *Container) lock() error {
	if err := c.dir.Lock(); err != nil {
		return err
	}
	s, err := c.dir.Load()
	if err != nil {
		c.dir.Unlock()
		return err
	}
	c.State = s
	return nil
}

// Paused is runc's addition to the specification's states.
const Paused specs.ContainerState = "paused"

// Status says what is true now.
func (c *Container) Status() specs.ContainerState {
	s := c.State
	if !s.Sandbox.Alive() {
		if s.Status == specs.StateCreating && s.Sandbox.PID == 0 && c.attended() {
			return specs.StateCreating
		}
		return specs.StateStopped
	}
	now := s.Status
	if (now == specs.StateCreating || now == specs.StateCreated) && !c.attended() {
		// Who was about it has written down how that ended, or was killed.
		if s, err := c.dir.Load(); err == nil {
			now = s.Status
		}
		switch {
		case now == specs.StateCreating:
			return specs.StateStopped // and what there is of it will not be more
		case now == specs.StateCreated && c.condition().Begun:
			now = specs.StateRunning
		}
	}
	if now == specs.StateRunning && c.frozen() {
		return Paused
	}
	return now
}

// attended tells whether a command is about to change the container: we as its creator,
// or another that has its lock.
func (c *Container) attended() bool {
	if c.Process != nil || c.dir.Held() {
		return c.Process != nil
	}
	other := &state.Dir{Path: c.dir.Path}
	defer other.Unlock()
	return errors.Is(other.TryLock(), unix.EWOULDBLOCK)
}

// condition asks the sandbox what nobody has lived to write down. One that does not
// answer has not been brought to anything.
func (c *Container) condition() *agent.Condition {
	answer := &agent.Condition{}
	_ = c.ask(context.Background(), func(ctx context.Context, a *agent.Client) error {
		if said, err := a.Condition(ctx, c.inside()); err == nil {
			answer = said
		}
		return nil
	})
	return answer
}

func (c *Container) frozen() bool {
	if c.pausedInside() {
		return true
	}
	g, err := c.group()
	return err == nil && g != nil && g.Frozen()
}

// pausedInside says that the sandbox has been told to pause the container.
func (c *Container) pausedInside() bool {
	if c.State.Pausing && !c.attended() {
		return c.condition().Paused
	}
	return c.State.Paused
}

// pausesInside tells one whose pause is its sandbox's: a machine stops its vCPUs, and the
// Sentry the tasks of one container of several, whose others go on. To freeze a machine's
// control group (version 2) did not come to an end in the lab's Linux 6.1. It was not
// looked into; KVM's kernel thread of each machine is in that group there, and no
// freezer stops it (arch/x86/kvm/mmu/mmu.c, kvm_mmu_post_init_vm).
func (c *Container) pausesInside() bool {
	return c.isMachine() || c.State.Pod != "" || podSandbox(c.State.Annotations) || len(c.guests()) > 0
}

func (c *Container) isMachine() bool { return c.State.Isolation == vmWall }

// group is nil where the container has none.
func (c *Container) group() (*cgroup.Group, error) {
	if c.State.Cgroup == nil {
		return nil, nil
	}
	return cgroup.Open(c.State.Cgroup)
}

// OCI is the container's state as the specification has it.
func (c *Container) OCI() *specs.State {
	s := &specs.State{
		Version:     c.State.OCIVersion,
		ID:          c.State.ID,
		Status:      c.Status(),
		Bundle:      c.State.Bundle,
		Annotations: c.State.Annotations,
	}
	if s.Status != specs.StateStopped {
		s.Pid = c.State.Sandbox.PID
	}
	return s
}

// Log is the path of the sandbox's log, or of what its machine's kernel has printed.
func (c *Container) Log(kernel bool) (string, error) {
	switch {
	case kernel && !c.isMachine():
		return "", errors.New("its kernel is the Sentry, which logs with the sandbox (without --kernel)")
	case kernel:
		return c.home().Console(), nil
	case c.State.Log == "":
		return "", errors.New("its sandbox logs to a standard error")
	}
	return c.State.Log, nil
}

// dial connects to the sandbox.
func (c *Container) dial(ctx context.Context) (*agent.Client, error) {
	client, err := agent.Dial(ctx, c.home().Socket())
	if errors.Is(err, agent.ErrGone) || err == nil && !c.State.Sandbox.Alive() {
		if err == nil {
			client.Close()
		}
		return nil, ErrNotRunning
	}
	return client, err
}

// alive demands that the container runs, or is created if that is allowed.
func (c *Container) alive(states ...specs.ContainerState) error {
	now := c.Status()
	for _, s := range states {
		if s == now {
			return nil
		}
	}
	switch now {
	case specs.StateStopped:
		return ErrNotRunning
	case Paused:
		return ErrPaused
	}
	return fmt.Errorf("container is %s", now)
}

// Start lets the container's program run.
func (c *Container) Start(ctx context.Context) error {
	if err := c.lock(); err != nil {
		return err
	}
	defer c.dir.Unlock()
	return c.startLocked(ctx)
}

func (c *Container) startLocked(ctx context.Context) error {
	if c.begun {
		c.begun = false
		return c.afterStart(ctx)
	}
	if now := c.Status(); now != specs.StateCreated {
		if now == specs.StateStopped {
			return errors.New("cannot start a container that has stopped")
		}
		return fmt.Errorf("cannot start a container that is %s", now)
	}
	client, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := c.hooksInside(ctx, client); err != nil {
		c.destroyLocked(ctx)
		return err
	}
	if err := client.Start(ctx, c.inside()); err != nil {
		if errors.Is(err, agent.ErrGone) {
			return c.explain(err)
		}
		return err
	}
	c.rt.Milestone("started")
	c.State.Status = specs.StateRunning
	if err := c.dir.Save(c.State); err != nil {
		c.kill()
		return err
	}
	return c.afterStart(ctx)
}

// afterStart runs the poststart hooks.
func (c *Container) afterStart(ctx context.Context) error {
	if err := c.hooks(ctx, "poststart"); err != nil {
		c.destroyLocked(ctx)
		return err
	}
	return nil
}

// destroyLocked is what a failed hook of start's leads to: "stop the container, and
// continue the lifecycle at step 12", which is to destroy it and call the poststop hooks
// (runtime.md, "Lifecycle"). Engines that then delete it take it well that it is no more.
func (c *Container) destroyLocked(ctx context.Context) {
	if err := c.removeLocked(context.WithoutCancel(ctx)); err != nil {
		c.rt.Log.Warn("after a failed hook", "container", c.State.ID, "err", err)
	}
}

// explain adds the last line of the sandbox's log, if it has one.
func (c *Container) explain(err error) error {
	if line := lastLine(c.State.Log); line != "" {
		return fmt.Errorf("%w; its last words: %s", err, line)
	}
	return err
}

// lastLine is from the end of a log, cut to a length that one can read.
func lastLine(path string) string {
	const limit = 400 // bytes
	b, _ := tail(path)
	end := len(b)
	for end > 0 && b[end-1] == '\n' {
		end--
	}
	start := end
	for start > 0 && b[start-1] != '\n' {
		start--
	}
	return string(b[start:min(end, start+limit)])
}

// kill ends the container's processes on the host.
func (c *Container) kill() {
	if g, err := c.group(); err == nil && g != nil && g.Frozen() {
		g.Freeze(false)
	}
	if c.Process != nil {
		c.Process.Kill()
		return
	}
	c.State.Sandbox.Signal(unix.SIGKILL)
	c.State.Gofer.Signal(unix.SIGKILL)
	c.State.Sandbox.WaitGone(killPatience)
	c.State.Gofer.WaitGone(killPatience)
}

// killPatience is how long a killed process may take to go: it may have
// gigabytes of memory to give back, or sit in an uninterruptible call.
const killPatience = 10 * time.Second
