package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"bulkhead/runtime/agent"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// imageName is the file in an image's directory; package sentry/checkpoint has its format.
const imageName = "bulkhead.img"

// Checkpoint saves the container's state to a directory, all of it or nothing, and ends the
// container unless it is to be left running.
func (c *Container) Checkpoint(ctx context.Context, dir string, leaveRunning bool) error {
	if err := c.lock(); err != nil {
		return err
	}
	defer c.dir.Unlock()
	if err := c.alive(specs.StateRunning); err != nil {
		return err
	}
	switch {
	case c.isMachine():
		return errors.New("checkpoint: isolation vm: a machine's state cannot be saved yet")
	case c.State.Pod != "":
		return errors.New("checkpoint: the container is one of a pod's")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	f, err := os.CreateTemp(dir, "."+imageName+"-") // mode 0600
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	defer f.Close()
	defer os.Remove(f.Name())
	client, err := c.dial(ctx) // not ask: there may be much to write
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Checkpoint(ctx, &agent.CheckpointRequest{LeaveRunning: leaveRunning}, f); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if err := keep(f.Name(), dir); err != nil {
		if !leaveRunning { // it stands still, and is not saved
			err = errors.Join(err, c.ask(context.WithoutCancel(ctx), func(ctx context.Context, a *agent.Client) error { return a.Resume(ctx, c.inside()) }))
		}
		return fmt.Errorf("checkpoint: %w", err)
	}
	if !leaveRunning {
		c.kill()
	}
	return nil
}

// keep gives a file in dir, written and synced, the image's name for good.
func keep(file, dir string) error {
	if err := os.Rename(file, filepath.Join(dir, imageName)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// OpenImage opens what Checkpoint has written.
func OpenImage(dir string) (*os.File, error) {
	f, err := os.Open(filepath.Join(dir, imageName))
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	return f, nil
}
