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
	return c.removeLocked(ctx)
}

// unblock frees the lock of a command that hangs on a sandbox, such as a
// create whose start does not come to an end: that sandbox is killed.
func (r *Runtime) unblock(dir *state.Dir) {
	const patience = 2 * time.Second // for a command that is just about its work
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err := dir.TryLock(); !errors.Is(err, unix.EWOULDBLOCK) {
			dir.Unlock()
			return
		}
	}
	if s, err := dir.Load(); err == nil {
		c := &Container{State: s, rt: r, dir: dir}
		c.kill()
	}
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
	return c.removeLocked(ctx)
}
