package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Delete removes what a container leaves on the host. It has to have stopped,
// or never started; with force it is killed, whatever its state, and a container
// that does not exist is no error.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	dir, err := state.Open(r.Root, id)
	if errors.Is(err, state.ErrNotExist) && force {
		return nil
	}
	if err != nil {
		return err
	}
	if force {
		r.unblock(dir)
	}
	if err := dir.Lock(); err != nil {
		if errors.Is(err, state.ErrNotExist) && force {
			return nil
		}
		return err
	}
	defer dir.Unlock()
	s, err := dir.Load()
	if errors.Is(err, state.ErrForeign) {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) && dir.Empty() {
		return dir.Remove() // of a creation that was cut off before it had made anything, or of a deletion after all was gone
	}
	if err != nil {
		if !force {
			return fmt.Errorf("%w; delete --force removes it", err)
		}
		r.Log.Warn("state is lost", "container", id, "err", err)
		return dir.Remove()
	}
	c := &Container{State: s, rt: r, dir: dir}
	if now := c.Status(); !force && now != specs.StateStopped && now != specs.StateCreated {
		return fmt.Errorf("cannot delete a container that is not stopped: it is %s", now)
	}
	if err := c.removeLocked(ctx); err != nil {
		return err
	}
	c.leaveRoom(ctx)
	return nil
}

// leaveRoom has its pod's control group hold those that stay, and no more, when the container
// is gone. A pod that another command is about keeps what it has until the next.
func (c *Container) leaveRoom(ctx context.Context) {
	if c.State.Pod == "" {
		return
	}
	pod, err := c.rt.Open(c.State.Pod)
	if err != nil || !pod.State.Sandbox.Alive() {
		return
	}
	if !within(patience, func() bool { return !errors.Is(pod.dir.TryLock(), unix.EWOULDBLOCK) }) {
		return
	}
	defer pod.dir.Unlock()
	if pod.State, err = pod.dir.Load(); err == nil {
		err = pod.makeRoomLocked(ctx, pod.State.Resources)
	}
	if err != nil && pod.State.Sandbox.Alive() {
		c.rt.Log.Warn("the pod's control group keeps the room of a container that is gone", "container", c.State.ID, "err", err)
	}
}

// unblock frees the lock of a command that hangs on a sandbox, such as a
// create whose start does not come to an end: that sandbox is killed.
func (r *Runtime) unblock(dir *state.Dir) {
	if within(patience, func() bool { return !errors.Is(dir.TryLock(), unix.EWOULDBLOCK) }) {
		dir.Unlock()
		return
	}
	if s, err := dir.Load(); err == nil {
		c := &Container{State: s, rt: r, dir: dir}
		c.kill()
	}
}

// patience is for a command that is just about its work.
const patience = 2 * time.Second

// within tells whether done comes true in time.
func within(d time.Duration, done func() bool) bool {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if done() {
			return true
		}
	}
	return false
}

// removeLocked takes everything away: processes, control group, files. It goes
// on after a failure and reports the first.
func (c *Container) removeLocked(ctx context.Context) error {
	var failed error
	keep := func(err error) {
		if err != nil && failed == nil {
			failed = err
		}
	}
	if c.State.Pod != "" {
		keep(c.leavePod(ctx))
	}
	c.kill()
	g, err := c.group()
	keep(err)
	if g != nil {
		keep(g.Destroy())
	}
	if c.State.OverlayDir != "" {
		keep(os.RemoveAll(c.State.OverlayDir))
	}
	c.returnNetwork()
	if failed != nil {
		return failed // the state stays, for another try
	}
	// "If any poststop hook fails, the runtime MUST log a warning" (runtime.md).
	if err := c.hooks(ctx, "poststop"); err != nil {
		c.rt.Log.Warn("poststop", "container", c.State.ID, "err", err)
	}
	return c.dir.Remove()
}

// Remove deletes a container that the caller has created and still holds.
func (c *Container) Remove(ctx context.Context) error {
	if err := c.lock(); err != nil {
		if errors.Is(err, state.ErrNotExist) {
			return nil // somebody else was faster
		}
		return err
	}
	defer c.dir.Unlock()
	if err := c.removeLocked(ctx); err != nil {
		return err
	}
	c.leaveRoom(ctx)
	return nil
}
