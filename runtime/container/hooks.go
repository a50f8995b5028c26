package container

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/bundle"
	"bulkhead/runtime/hook"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hooks runs one kind of hooks on the host. Those of poststop all run, whichever fails.
func (c *Container) hooks(ctx context.Context, kind string) error {
	for _, k := range bundle.HookKinds(c.State.Hooks) {
		if k.Name == kind && len(k.Hooks) > 0 {
			s := c.OCI()
			if kind == "poststart" {
				// The program has started, though it may have ended since.
				s.Status, s.Pid = specs.StateRunning, c.State.Sandbox.PID
			}
			run := hook.Run
			if kind == "poststop" {
				run = hook.RunAll
			}
			if err := run(ctx, kind, k.Hooks, s); err != nil {
				return err
			}
			c.rt.Milestone("hooks " + kind)
		}
	}
	return nil
}

// hooksInside runs the startContainer hooks, which are programs of the
// container's, as its root and before its own program.
func (c *Container) hooksInside(ctx context.Context, client *agent.Client) error {
	if c.State.Hooks == nil {
		return nil
	}
	for i := range c.State.Hooks.StartContainer {
		h := &c.State.Hooks.StartContainer[i]
		if err := c.hookInside(ctx, client, h); err != nil {
			return fmt.Errorf("hook startContainer[%d], %s: %w", i, h.Path, err)
		}
	}
	return nil
}

func (c *Container) hookInside(ctx context.Context, client *agent.Client, h *specs.Hook) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	stdin, feed, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	if err != nil {
		feed.Close()
		return err
	}
	defer null.Close()
	state := c.OCI()
	// "For hooks executed in the container namespace, it is the pid as seen by the
	// container" (runtime.md, "State"); there is no process yet but its first.
	if list, err := client.Processes(ctx, c.inside()); err == nil && len(list) > 0 {
		state.Pid = list[0].PID
	}
	data, err := json.Marshal(state)
	if err != nil {
		feed.Close()
		return err
	}
	// A state fits a pipe's 64 KiB but for giant annotations; one that does not
	// is written as the hook reads.
	go func() { feed.Write(data); feed.Close() }()

	p := &specs.Process{Args: h.Args, Env: h.Env, Cwd: "/", Capabilities: c.State.Process.Capabilities}
	if len(p.Args) == 0 {
		p.Args = []string{h.Path}
	}
	p.Args[0] = h.Path
	pid, err := client.Exec(ctx, &agent.ExecRequest{Container: c.inside(), Process: p}, []*os.File{stdin, null, null})
	if err != nil {
		return err
	}
	status, err := client.Wait(ctx, &agent.WaitRequest{Container: c.inside(), PID: pid})
	if ctx.Err() == context.DeadlineExceeded {
		return fmt.Errorf("took longer than its %d s", *h.Timeout)
	}
	if err == nil && status.Exit() != 0 {
		err = fmt.Errorf("exit status %d", status.Exit())
	}
	return err
}
