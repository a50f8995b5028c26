package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/cgroup"
	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Who joins the network namespace of a container that is in a sandbox (docker run
// --network=container:ID, podman's pods) finds interfaces without an address there, and a
// loopback that nobody uses: the network is in the sandbox. So the container goes there,
// as one of a pod's does. It ends with the container whose network it has; each has its
// own limits of memory and processes inside, and the control group of that one, in which
// the sandbox is, has room for both.

// holder is the container whose network this one's specification asks for, if that is one
// of ours and has its network in its sandbox; else nil.
func (n *creation) holder() *Container {
	if n.network() == "none" {
		return nil
	}
	for _, ns := range n.spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace && ns.Path != "" {
			return n.rt.holderOf(ns.Path)
		}
	}
	return nil
}

func (r *Runtime) holderOf(path string) *Container {
	if c := r.processAt(path, "net"); c != nil && c.State.Pod != "" {
		if pod, err := r.Open(c.State.Pod); err == nil {
			return pod
		}
		return nil
	}
	there, err := os.Stat(path)
	if err != nil {
		return nil
	}
	return r.first(func(c *Container) bool {
		s := c.State
		if s.Pod != "" || s.Network == nil || !s.Sandbox.Alive() {
			return false
		}
		theirs, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", s.Sandbox.PID))
		return err == nil && os.SameFile(there, theirs)
	})
}

// processAt is the container whose process on the host the path of a namespace names, as
// /proc/PID/ns/net, or nil.
func (r *Runtime) processAt(path, file string) *Container {
	pid, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(path, "/proc/"), "/ns/"+file))
	if err != nil {
		return nil
	}
	return r.first(func(c *Container) bool { return c.State.Sandbox.PID == pid && c.State.Sandbox.Alive() })
}

// first is a container of which is is true.
func (r *Runtime) first(is func(*Container) bool) *Container {
	ids, _ := state.List(r.Root)
	for _, id := range ids {
		if c, err := r.Open(id); err == nil && is(c) {
			return c
		}
	}
	return nil
}

// guests are the other containers in its sandbox.
func (c *Container) guests() (list []*Container) {
	ids, _ := state.List(c.rt.Root)
	for _, id := range ids {
		if o, err := c.rt.Open(id); err == nil && o.State.Pod == c.State.ID {
			list = append(list, o)
		}
	}
	return list
}

// with adds up limits of containers in one sandbox, for the control group that it is in. One
// without a limit leaves none. Time, which inside nobody is held to, is not added to: the
// sandbox's is that of its first container.
func with(r *specs.LinuxResources, guests []*Container) *specs.LinuxResources {
	if r == nil || len(guests) == 0 {
		return r
	}
	all := *r
	if r.Memory != nil {
		memory := *r.Memory
		all.Memory = &memory
	}
	if r.Pids != nil {
		pids := *r.Pids
		all.Pids = &pids
	}
	for _, g := range guests {
		theirs := g.State.Resources
		if theirs == nil {
			theirs = &specs.LinuxResources{}
		}
		if m := all.Memory; m != nil {
			t := theirs.Memory
			if t == nil {
				t = &specs.LinuxMemory{}
			}
			m.Limit, m.Swap = sum(m.Limit, t.Limit), sum(m.Swap, t.Swap)
		}
		if p := all.Pids; p != nil {
			var t *int64
			if theirs.Pids != nil {
				t = theirs.Pids.Limit
			}
			p.Limit = sum(p.Limit, t)
		}
	}
	return &all
}

// sum of two limits, of which nil says nothing and less than 1 is none.
func sum(a, b *int64) *int64 {
	if a == nil {
		return nil
	}
	n := int64(-1)
	if *a > 0 && b != nil && *b > 0 {
		n = *a + *b
	}
	return &n
}

// makeRoom sets what the control group of the sandbox holds all its containers to, after one
// has come, has left or has been given other limits.
func (c *Container) makeRoom(ctx context.Context) error {
	if err := c.lock(); err != nil {
		return err
	}
	defer c.dir.Unlock()
	return c.makeRoomLocked(ctx, c.State.Resources)
}

// makeRoomLocked does so with limits of the container's own that may not be in force yet.
func (c *Container) makeRoomLocked(ctx context.Context, r *specs.LinuxResources) error {
	g, err := c.group()
	if err != nil || g == nil || r == nil {
		return err
	}
	if c.isMachine() {
		r = c.room(r, c.givenBack(ctx))
	} else {
		r = with(r, c.guests())
	}
	if err = g.Fit(r); errors.Is(err, cgroup.ErrHeld) {
		c.rt.Log.Warn("the sandbox's control group keeps its limit of memory until more is free", "container", c.State.ID, "err", err)
		return nil
	}
	return err
}

// roomAsMadeLocked gives a machine all that it was made with.
func (c *Container) roomAsMadeLocked() error {
	g, err := c.group()
	if err != nil || g == nil || !c.isMachine() {
		return err
	}
	return g.Set(c.room(c.State.Resources, 0))
}

// giveBackPatience is for a guest that frees memory; one that has it at hand takes some
// milliseconds.
const giveBackPatience = 5 * time.Second

// givenBack is how much memory a machine has less than it was made with, in bytes. One that
// does not say so has all of it.
func (c *Container) givenBack(ctx context.Context) (n uint64) {
	_ = c.ask(ctx, func(ctx context.Context, a *agent.Client) (err error) {
		n, err = a.GivenBack(ctx, giveBackPatience)
		return err
	})
	return n
}
