package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/cgroup"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Stats are both views of what a container uses; either may be nil.
type Stats struct {
	Host   *cgroups.Stats // the sandbox's processes, the Sentry included
	Inside *agent.Stats

	// Network is what the sandbox's interfaces have carried, under the names that their engine
	// gave them. A pod's has its first container alone.
	Network []Interface
}

// Interface is one that a sandbox has taken over.
type Interface struct {
	Name string
	agent.Traffic
}

// Stats asks the host and, unless it is frozen, the sandbox.
func (c *Container) Stats(ctx context.Context) (*Stats, error) {
	if err := c.alive(specs.StateCreated, specs.StateRunning, Paused); err != nil {
		return nil, err
	}
	s := &Stats{}
	var err error
	if s.Host, err = c.HostStats(); err != nil {
		return nil, err
	}
	if !c.frozen() {
		err := c.ask(ctx, func(ctx context.Context, a *agent.Client) (err error) {
			s.Inside, err = a.Stats(ctx, c.inside())
			return err
		})
		if err != nil && s.Host == nil {
			return nil, err
		}
		if err == nil && c.State.Pod != "" {
			s.Host = nil // it has the stand-in alone; what the container uses the pod's group counts
		}
		if err == nil {
			s.Network = c.Interfaces(s.Inside)
		}
	}
	return s, nil
}

// Interfaces name what the sandbox tells of its interfaces. It may tell of fewer, or more,
// than there are.
func (c *Container) Interfaces(s *agent.Stats) (all []Interface) {
	if c.State.Network == nil {
		return nil
	}
	for i, d := range c.State.Network.Devices[:min(len(c.State.Network.Devices), len(s.Interfaces))] {
		all = append(all, Interface{d.Name, s.Interfaces[i]})
	}
	return all
}

// HostStats is what the host's control group has counted, nil if there is none.
func (c *Container) HostStats() (*cgroups.Stats, error) {
	g, err := c.group()
	if err != nil || g == nil {
		return nil, err
	}
	return g.Stats()
}

// Update changes limits. change edits what is in force now.
func (c *Container) Update(ctx context.Context, change func(*specs.LinuxResources) error) error {
	if err := c.lock(); err != nil {
		return err
	}
	defer c.dir.Unlock()
	if err := c.alive(specs.StateCreated, specs.StateRunning, Paused); err != nil {
		return err
	}
	r, err := copyOf(c.State.Resources)
	if err != nil {
		return err
	}
	if err := change(r); err != nil {
		return err
	}
	files, err := c.within(r)
	if err != nil {
		return err
	}
	g, err := c.group()
	if err != nil {
		return err
	}
	// The Sentry first: where it refuses, nothing has changed. A frozen one is
	// thawed for it.
	if g != nil && g.Frozen() {
		if err := g.Freeze(false); err != nil {
			return err
		}
		defer g.Freeze(true)
	}
	pod := c // whose sandbox it is
	if c.State.Pod != "" {
		if pod, err = c.rt.Open(c.State.Pod); err != nil {
			return err
		}
		if err := pod.lock(); err != nil {
			return err
		}
		defer pod.dir.Unlock()
	}
	// What a machine's guest may have again it takes at once.
	if err := pod.roomAsMadeLocked(); err != nil {
		return err
	}
	err = c.ask(ctx, func(ctx context.Context, a *agent.Client) error {
		if err := c.checkBefore(ctx, a, r.Memory); err != nil {
			return err
		}
		return a.Update(ctx, &agent.UpdateRequest{Container: c.inside(), Limits: cgroup.Inside(r), Cgroup: files})
	})
	if err != nil {
		return errors.Join(err, pod.makeRoomLocked(ctx, pod.State.Resources))
	}
	if pod == c {
		if err := c.makeRoomLocked(ctx, r); err != nil {
			return err
		}
		c.State.Resources = r
		return c.dir.Save(c.State)
	}
	if g != nil {
		if err := g.Set(c.room(r, 0)); err != nil {
			return err
		}
	}
	c.State.Resources = r
	if err := c.dir.Save(c.State); err != nil {
		return err
	}
	return pod.makeRoomLocked(ctx, pod.State.Resources)
}

// copyOf is one that can be changed, and be dropped if the sandbox refuses it.
func copyOf(r *specs.LinuxResources) (*specs.LinuxResources, error) {
	c := &specs.LinuxResources{}
	if r == nil {
		return c, nil
	}
	text, err := json.Marshal(r)
	if err == nil {
		err = json.Unmarshal(text, c)
	}
	return c, err
}

// checkBefore refuses a limit below what is in use, if the configuration says that it is to
// be looked at: else the programs that are in excess are killed (config-linux.md, "Memory").
func (c *Container) checkBefore(ctx context.Context, a *agent.Client, m *specs.LinuxMemory) error {
	if m == nil || m.CheckBeforeUpdate == nil || !*m.CheckBeforeUpdate || m.Limit == nil || *m.Limit <= 0 {
		return nil
	}
	used, err := a.Stats(ctx, c.inside())
	if err != nil {
		return err
	}
	if used.Memory > uint64(*m.Limit) {
		return fmt.Errorf("linux.resources.memory.limit: %d is below the %d bytes that are in use, and checkBeforeUpdate is set", *m.Limit, used.Memory)
	}
	return nil
}
