package kernel

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
)

// CgroupConfig is what a Cgroup is made of.
type CgroupConfig struct {
	Arena  *memory.Arena // its account
	PIDs   int           // most tasks at one time, 0 for none
	Memory uint64        // bytes, 0 for the host's; what /proc/meminfo shows
	CPUs   int           // what programs count, at least 1
	Local  any           // what rooms above keep for the container; see syscalls.Local
}

// Cgroup is a container's control group: all its tasks are in it, from whichever program
// they come, and nobody leaves it. It counts what they use, and holds them to the
// container's limits.
type Cgroup struct {
	CgroupConfig
	OOMKills atomic.Uint64
	k        *Kernel

	// Under Kernel.mu.
	live     int              // tasks that count against limit
	limit    int              // 0: none
	endedCPU [2]time.Duration // user, system: of tasks that have ended
	thaw     chan struct{}    // frozen until it is closed; nil: not frozen
	stirred  chan struct{}    // told when a task has stopped for it
	onOOM    func()
	closed   bool          // no more tasks
	empty    chan struct{} // closed when none is left, if closed
}

// NewCgroup makes the group of a further container.
func (k *Kernel) NewCgroup(c CgroupConfig) *Cgroup {
	c.CPUs = max(c.CPUs, 1)
	g := &Cgroup{CgroupConfig: c, k: k, limit: c.PIDs, stirred: make(chan struct{}, 1)}
	c.Arena.SetOnLimit(func() bool { return k.killLargest(g) })
	return g
}

// Cgroup is the task's.
func (t *Task) Cgroup() *Cgroup { return t.group.cgroup }

// Arena is the task's container's memory.
func (t *Task) Arena() *memory.Arena { return t.group.cgroup.Arena }

// Cgroup is the process's.
func (g *ThreadGroup) Cgroup() *Cgroup { return g.cgroup }

// Cgroup is that of the sandbox's first container.
func (k *Kernel) Cgroup() *Cgroup { return k.first.cgroup }

// OnOOM sets who hears when OOMKills has grown; f is not to wait.
func (g *Cgroup) OnOOM(f func()) {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	g.onOOM = f
}

// SetPIDs changes the limit on tasks; 0 for none.
func (g *Cgroup) SetPIDs(n int) {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	g.limit = n
}

// Live is how many tasks there are.
func (g *Cgroup) Live() int {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return g.live
}

// Groups returns the processes, zombies included, in no order.
func (g *Cgroup) Groups() []*ThreadGroup {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return g.groupsLocked()
}

func (g *Cgroup) groupsLocked() (own []*ThreadGroup) {
	for _, p := range g.k.root.ids {
		if p.task != nil && p.task.group.id == p && p.task.group.cgroup == g {
			own = append(own, p.task.group)
		}
	}
	return own
}

// CPUTime is that of all tasks, the living and those that have ended. It does not go back.
func (g *Cgroup) CPUTime() (user, sys time.Duration) {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	user, sys = g.endedCPU[0], g.endedCPU[1]
	for _, p := range g.k.root.ids {
		if t := p.task; t != nil && t.state != taskDead && t.group.cgroup == g {
			u, s := t.CPUTime()
			user, sys = user+u, sys+s
		}
	}
	return user, sys
}

// Frozen says whether Freeze holds.
func (g *Cgroup) Frozen() bool {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return g.thaw != nil
}

// Freeze stops all tasks where they next come to or from the kernel, in a call that waits
// at once, and lets them go on: a call that was interrupted by it alone begins anew, as
// with Linux's freezer (Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze). SIGKILL
// ends a task that is frozen.
func (g *Cgroup) Freeze(frozen bool) {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	switch {
	case frozen == (g.thaw != nil):
	case frozen:
		g.thaw = make(chan struct{})
		for _, x := range g.groupsLocked() {
			for _, t := range x.tasks {
				t.kick(workSignal)
			}
		}
	default:
		close(g.thaw)
		g.thaw = nil
	}
}

// frozenLocked waits while t's group is frozen, and t is not killed. It drops Kernel.mu
// meanwhile, and reports whether it waited.
func (t *Task) frozenLocked() bool {
	thaw := t.group.cgroup.thaw
	if thaw == nil || t.killed {
		return false
	}
	t.k.mu.Unlock()
	t.Context()
	t.saveForTracer() // for a checkpoint
	t.account(&t.sys)
	t.k.mu.Lock()
	t.frozen = true
	for t.group.cgroup.thaw == thaw && !t.killed {
		select {
		case t.group.cgroup.stirred <- struct{}{}:
		default:
		}
		t.k.mu.Unlock()
		select {
		case <-thaw:
		case <-t.interrupt: // killed, maybe
		}
		t.k.mu.Lock()
	}
	t.frozen = false
	t.entered.Store(int64(t.k.Clock.forCPUTime()))
	return true
}

// Kill ends all tasks, and lets no more be made. The channel is closed when none is left.
func (g *Cgroup) Kill() <-chan struct{} {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	if !g.closed {
		g.closed, g.empty = true, make(chan struct{})
		if g.live == 0 {
			close(g.empty)
		}
	}
	for _, x := range g.groupsLocked() {
		if !x.dead {
			g.k.killGroupLocked(x, unix.SIGKILL)
		}
	}
	return g.empty
}

// joinLocked counts a task more, unless there may be none.
func (g *Cgroup) joinLocked() error {
	switch {
	case g.closed:
		return unix.ENODEV
	case g.limit > 0 && g.live >= g.limit:
		return unix.EAGAIN // kernel/cgroup/pids.c, pids_can_fork
	}
	g.live++
	return nil
}

func (g *Cgroup) leaveLocked() {
	if g.live--; g.live == 0 && g.closed {
		close(g.empty)
	}
}
