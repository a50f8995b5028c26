package kernel

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// PID is the identity of a task, and of the process group and session that it
// founded (struct pid). In each namespace that sees it it has a number.
type PID struct {
	ns *PIDNamespace // the innermost
	nr []int32       // by level of namespace

	// Under Kernel.mu. Without all three the numbers are free again.
	task    *Task
	job     *ProcessGroup
	session *Session
}

// In is p's number in ns, 0 where it has none.
func (p *PID) In(ns *PIDNamespace) int32 {
	if p == nil || ns.level >= len(p.nr) || p.ns.up(ns.level) != ns {
		return 0
	}
	return p.nr[ns.level]
}

// Global is the number in the sandbox's first namespace, which no other task there has;
// Contained that in the container's first, and Here that in p's own.
func (p *PID) Global() int32    { return p.nr[0] }
func (p *PID) Contained() int32 { return p.nr[p.ns.base] }
func (p *PID) Here() int32      { return p.nr[len(p.nr)-1] }

// Numbers are those in ns and in the namespaces below, as /proc/PID/status
// lists them.
func (p *PID) Numbers(ns *PIDNamespace) []int32 {
	if p.In(ns) == 0 {
		return []int32{0}
	}
	return p.nr[ns.level:]
}

// Namespace is the innermost that p is in.
func (p *PID) Namespace() *PIDNamespace { return p.ns }

// PIDNamespace numbers processes (pid_namespaces(7)).
type PIDNamespace struct {
	NamespaceBase
	parent *PIDNamespace
	level  int
	base   int // the level of containers' first namespaces: those above are nobody's to see

	// ordinary: signals end process 1 as they end any other.
	ordinary bool

	// Under Kernel.mu.
	ids   map[int32]*PID
	last  int32
	init  *ThreadGroup // process 1, whose end is the namespace's
	ended bool         // process 1 is on its way out: no more
	empty chan struct{}
}

// maxPIDDepth is MAX_PID_NS_LEVEL.
const maxPIDDepth = 32

func newPIDNamespace(parent *PIDNamespace, owner *vfs.UserNamespace) (*PIDNamespace, error) {
	ns := &PIDNamespace{parent: parent, ids: map[int32]*PID{}}
	number := uint64(firstPID)
	if parent != nil {
		ns.base = parent.base
		if ns.level = parent.level + 1; ns.level > maxPIDDepth+ns.base {
			return nil, unix.ENOSPC
		}
		number = vfs.NewNamespaceNumber()
	}
	ns.NamespaceBase.init(number, owner, nil)
	return ns, nil
}

// Parent is the namespace that ns is in, nil for a container's first.
func (ns *PIDNamespace) Parent() *PIDNamespace {
	if ns.level <= ns.base {
		return nil
	}
	return ns.parent
}

// Under reports whether ns is anc or below it.
func (ns *PIDNamespace) Under(anc *PIDNamespace) bool {
	return anc.level <= ns.level && ns.up(anc.level) == anc
}

func (ns *PIDNamespace) up(level int) *PIDNamespace {
	for ns.level > level {
		ns = ns.parent
	}
	return ns
}

// allocPIDLocked finds a free number at each level of ns and takes a place among
// the tasks that c allows. wanted are the numbers asked for, the innermost first (clone3's set_tid).
func (k *Kernel) allocPIDLocked(ns *PIDNamespace, c *Cgroup, wanted []int32) (_ *PID, err error) {
	if err := c.joinLocked(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.leaveLocked()
		}
	}()
	p := &PID{ns: ns, nr: make([]int32, ns.level+1)}
	for at := ns; at != nil; at = at.parent {
		want := int32(0)
		if i := ns.level - at.level; i < len(wanted) {
			want = wanted[i]
		}
		id, err := at.pickLocked(want)
		if err != nil {
			return nil, err
		}
		p.nr[at.level] = id
	}
	for at := ns; at != nil; at = at.parent {
		at.ids[p.nr[at.level]] = p
		if i := ns.level - at.level; i >= len(wanted) {
			at.last = p.nr[at.level]
		}
	}
	k.live++
	return p, nil
}

// pickLocked is a free number, want if that is not 0 (kernel/pid.c, alloc_pid).
func (ns *PIDNamespace) pickLocked(want int32) (int32, error) {
	if ns.ended {
		return 0, unix.ENOMEM
	}
	if want != 0 {
		switch {
		case want < 1 || want >= PIDMax, want != 1 && ns.init == nil:
			return 0, unix.EINVAL
		case ns.ids[want] != nil:
			return 0, unix.EEXIST
		}
		return want, nil
	}
	for id := ns.last; ; {
		if id++; id >= PIDMax {
			id = 300 // RESERVED_PIDS, kernel/pid.c
		}
		if ns.ids[id] == nil {
			return id, nil
		}
		if id == ns.last {
			return 0, unix.EAGAIN
		}
	}
}

// freeLocked gives p's numbers back if nothing goes by them any more.
func (p *PID) freeLocked() {
	if p.task != nil || p.job != nil || p.session != nil {
		return
	}
	for ns := p.ns; ns != nil; ns = ns.parent {
		delete(ns.ids, p.nr[ns.level])
		if ns.empty != nil && len(ns.ids) <= 1 {
			close(ns.empty)
			ns.empty = nil
		}
	}
}

// zapLocked ends the namespace that g, whose last thread is exiting, is process 1
// of: all others in it are killed, and waited for with Kernel.mu let go
// (kernel/pid_namespace.c, zap_pid_ns_processes).
func (k *Kernel) zapLocked(g *ThreadGroup) {
	ns := g.id.ns
	if ns.init != g || ns.parent == nil {
		return
	}
	ns.ended = true
	for c := range g.children {
		if c.dead {
			k.reapLocked(c)
		}
	}
	for _, p := range ns.ids {
		if p.task != nil && p.task.group != g && !p.task.group.dead {
			k.killGroupLocked(p.task.group, unix.SIGKILL)
		}
	}
	for len(ns.ids) > 1 {
		if ns.empty == nil {
			ns.empty = make(chan struct{})
		}
		empty := ns.empty
		k.mu.Unlock()
		<-empty
		k.mu.Lock()
	}
}

// EndNamespace is what reboot(2) does outside Linux's first pid namespace: process 1
// of the caller's is killed, and its parent hears that sig did it; the caller exits
// (kernel/pid_namespace.c, reboot_pid_ns).
func (t *Task) EndNamespace(sig unix.Signal) {
	t.k.mu.Lock()
	if g := t.PIDNamespace().init; g != nil && !g.dead {
		t.k.killGroupLocked(g, sig)
	}
	t.k.mu.Unlock()
	t.Exit(0)
}

// zapping: g is process 1 of a namespace that is ending, and waits for its children to go.
func (g *ThreadGroup) zapping() bool { return g.id.ns.ended && g.id.ns.init == g }

// unkillable: process 1 of a namespace takes no signal from inside that it has no handler
// for (SIGNAL_UNKILLABLE).
func (g *ThreadGroup) unkillable() bool {
	ns := g.id.ns
	return ns.init == g && !ns.ordinary
}

// ID and GroupID are the task's identities as a thread and as a process; Number
// is how it sees another.
func (t *Task) ID() *PID                    { return t.id.Load() }
func (t *Task) Number(p *PID) int32         { return p.In(t.PIDNamespace()) }
func (t *Task) PIDNamespace() *PIDNamespace { return t.group.id.ns }

// ID is the process's identity.
func (g *ThreadGroup) ID() *PID { return g.id }

// Find is the thread that t knows by number tid, and FindGroup the process,
// zombies included; nil if there is none.
func (t *Task) Find(tid int32) *Task {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	return t.k.taskLocked(t.PIDNamespace(), tid)
}

func (t *Task) FindGroup(pid int32) *ThreadGroup { return t.k.GroupIn(t.PIDNamespace(), pid) }

// FindID is the identity that t knows by number id, nil if there is none.
func (t *Task) FindID(id int32) *PID {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	return t.PIDNamespace().ids[id]
}

// FindJob is the process group that t knows by number id.
func (t *Task) FindJob(id int32) *ProcessGroup {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	return t.PIDNamespace().jobLocked(id)
}

// TaskIn and GroupIn find by the number in ns.
func (k *Kernel) TaskIn(ns *PIDNamespace, tid int32) *Task {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.taskLocked(ns, tid)
}

func (k *Kernel) GroupIn(ns *PIDNamespace, pid int32) *ThreadGroup {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.groupLocked(ns, pid)
}

func (k *Kernel) taskLocked(ns *PIDNamespace, tid int32) *Task {
	p := ns.ids[tid]
	if p == nil || p.task == nil || p.task.state == taskDead {
		return nil
	}
	return p.task
}

func (k *Kernel) groupLocked(ns *PIDNamespace, pid int32) *ThreadGroup {
	if p := ns.ids[pid]; p != nil && p.task != nil && p.task.group.id == p {
		return p.task.group
	}
	return nil
}

func (ns *PIDNamespace) jobLocked(id int32) *ProcessGroup {
	if p := ns.ids[id]; p != nil {
		return p.job
	}
	return nil
}

// PIDsIn is how many tasks ns shows, and the youngest one's number.
func (k *Kernel) PIDsIn(ns *PIDNamespace) (n int, last int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range ns.ids {
		if p.task != nil && p.task.state != taskDead {
			n++
		}
	}
	return n, ns.last
}
