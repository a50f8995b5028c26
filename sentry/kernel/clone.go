package kernel

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

// CloneArgs are clone3(2)'s, without the exit signal in Flags.
type CloneArgs struct {
	Flags      uint64
	PIDFD      memory.Addr
	ChildTID   memory.Addr
	ParentTID  memory.Addr
	ExitSignal unix.Signal
	Stack      uint64 // the stack pointer to start with; 0 keeps the parent's
	TLS        uint64
	SetTID     []int32 // wanted ids, the innermost namespace's first
}

// sharing that needs other sharing (kernel/fork.c, copy_process).
var cloneNeeds = []struct{ flag, needs uint64 }{
	{unix.CLONE_THREAD, unix.CLONE_SIGHAND},
	{unix.CLONE_SIGHAND, unix.CLONE_VM},
}

// Clone makes a thread or a process that is a copy of t. It returns the new
// task, already running, and waits for it where CLONE_VFORK says so.
func (t *Task) Clone(a CloneArgs) (*Task, error) {
	for _, n := range cloneNeeds {
		if a.Flags&n.flag != 0 && a.Flags&n.needs == 0 {
			return nil, unix.EINVAL
		}
	}
	if err := t.mayCloneInto(a.Flags); err != nil {
		return nil, err
	}
	if err := t.thread.Save(&t.ctx); err != nil {
		return nil, err
	}
	k := t.k
	n := &Task{k: k, interrupt: make(chan struct{}, 1), exitSignal: a.ExitSignal}
	n.ctx = t.ctx
	n.ctx.FPU = append([]byte(nil), t.ctx.FPU...)
	n.ctx.Rax = 0
	n.ctx.Orig_rax = ^uint64(0)
	n.ctx.Dirty = platform.DirtyAll
	n.ctx.SingleStep = false
	if a.Stack != 0 {
		n.ctx.Rsp = a.Stack
	}
	if a.Flags&unix.CLONE_SETTLS != 0 {
		n.ctx.Fs_base = a.TLS
	}
	n.inherit(t)
	creds, set, err := t.namespacesFor(a.Flags)
	if err != nil {
		return nil, err
	}
	n.creds.Store(creds)
	n.namespaces.Store(set)
	if err := n.share(t, a.Flags); err != nil {
		set.drop()
		return nil, err
	}
	if err := k.addLocked(t, n, a); err != nil {
		n.dropResources()
		return nil, err
	}
	k.Forks.Add(1)
	if a.Flags&unix.CLONE_SYSVSEM != 0 {
		n.semUndo = t.SemUndo().Share()
	}
	if a.Flags&unix.CLONE_VM == 0 {
		n.mm.SetOwner(n.PID())
	}
	if n.group != t.group {
		k.Started.Add(1)
		n.group.Timers.LimitCPU()
	}
	if a.Flags&unix.CLONE_PARENT_SETTID != 0 {
		t.mm.StoreUint32(a.ParentTID, uint32(t.Number(n.ID())))
	}
	if a.Flags&unix.CLONE_CHILD_SETTID != 0 {
		n.mm.StoreUint32(a.ChildTID, uint32(n.TID()))
	}
	if a.Flags&unix.CLONE_CHILD_CLEARTID != 0 {
		n.clearTID = a.ChildTID
	}
	n.publish()
	return n, nil
}

// Go lets a task that Clone made run. With CLONE_VFORK it waits until the child
// has its own memory; a fatal signal ends the wait.
func (t *Task) Go(n *Task, flags uint64) {
	done, id := n.vforkDone, n.ID()
	event := cloneEvent(flags, n.exitSignal)
	n.start()
	t.spawned = true
	if flags&unix.CLONE_UNTRACED == 0 {
		t.eventPID(event, id)
	}
	if flags&unix.CLONE_VFORK == 0 {
		return
	}
	defer t.eventPID(EventVforkDone, id)
	for {
		if t.BlockOn(done, 0) == nil {
			return
		}
		t.k.mu.Lock()
		killed := t.killed
		t.k.mu.Unlock()
		if killed {
			return
		}
		// Other signals wait until the child lets go (TASK_KILLABLE).
		select {
		case <-done:
			return
		case <-t.interrupt:
		}
	}
}

// inherit copies what a child has of its own from the start.
func (n *Task) inherit(t *Task) {
	n.creds.Store(t.creds.Load())
	n.comm.Store(t.comm.Load())
	n.mask = t.mask
	if t.restoreMask {
		n.mask = t.savedMask
	}
	n.Nice.Store(t.Nice.Load())
	n.Policy.Store(t.Policy.Load())
	n.Priority.Store(t.Priority.Load())
	n.Personality.Store(t.Personality.Load())
	n.Slack.Store(t.Slack.Load())
	n.SessionKeyring.Store(t.SessionKeyring.Load())
	n.login.Store(t.login.Load())
	n.Affinity.Store(t.Affinity.Load())
	n.StartTime = t.k.Clock.Boottime()
	n.callNumber.Store(-1)
	n.startInfo.Store(t.startInfo.Load())
}

// share gives n the parent's memory, files and directories or copies of them.
func (n *Task) share(t *Task, flags uint64) error {
	if flags&unix.CLONE_VM != 0 {
		t.mm.Retain()
		n.mm = t.mm
		if flags&unix.CLONE_VFORK != 0 || flags&unix.CLONE_THREAD != 0 {
			n.altStack = AltStack{}
			if flags&unix.CLONE_VFORK != 0 {
				n.altStack = t.altStack
			}
		}
	} else {
		mm, err := t.mm.Fork()
		if err != nil {
			return err
		}
		n.mm = mm
		n.altStack = t.altStack
		n.RSeq = t.RSeq
	}
	n.fs = t.fs
	if flags&unix.CLONE_FS != 0 {
		n.fs.take()
	} else {
		n.fs = t.fs.clone()
	}
	if flags&unix.CLONE_NEWNS != 0 {
		n.fs.unshareMounts(n.Creds().User)
	}
	n.fds = t.fds
	if flags&unix.CLONE_FILES != 0 {
		n.fds.Ref()
	} else {
		n.fds = t.fds.Clone()
	}
	return nil
}

func (n *Task) dropResources() {
	n.mm.Release()
	n.fds.Unref()
	n.fs.drop()
	n.namespaces.Swap(nil).drop()
}

// addLocked gives n its id and place among tasks. (It takes Kernel.mu itself for
// all of it, so that n is seen whole or not at all.)
func (k *Kernel) addLocked(t, n *Task, a CloneArgs) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := t.group
	if a.Flags&unix.CLONE_THREAD != 0 && (g.exiting || g.execing != nil) {
		return unix.EAGAIN
	}
	if t.killed || t.deliverableLocked() != 0 && a.Flags&unix.CLONE_THREAD == 0 && g.exiting {
		return ERESTARTNOINTR
	}
	if k.processLimitLocked(t) {
		return unix.EAGAIN
	}
	ns := n.Namespaces().PIDForChildren
	if err := mayChoose(t.Creds(), ns, a.SetTID); err != nil {
		return err
	}
	id, err := k.allocPIDLocked(ns, g.cgroup, a.SetTID)
	if err != nil {
		return err
	}
	n.id.Store(id)
	id.task = n
	if a.Flags&unix.CLONE_VFORK != 0 {
		n.vforkDone, n.vforker = make(chan struct{}), t
	}
	n.state = taskRunning
	n.inheritFilterLocked(t)
	if a.Flags&unix.CLONE_THREAD != 0 {
		n.group, n.exitSignal = g, 0
		g.tasks = append(g.tasks, n)
		if g.stopCount > 0 || g.stopped { // kernel/signal.c, task_join_group_stop
			n.stopPending, n.stopCounts, n.stopSig = true, g.stopCount > 0, g.stopSig
			if n.stopCounts {
				g.stopCount++
			}
			n.work.Or(workSignal)
		}
		k.inheritTraceLocked(t, n, a.Flags)
		return nil
	}
	n.group = k.newGroup(n, g.cgroup, g.Handlers.fork(false))
	if id.Here() == 1 {
		ns.init = n.group
	}
	if a.Flags&unix.CLONE_SIGHAND != 0 {
		n.group.Handlers = g.Handlers
	}
	const clearSighand = 0x100000000 // CLONE_CLEAR_SIGHAND
	if a.Flags&clearSighand != 0 {
		n.group.Handlers = g.Handlers.fork(true)
	}
	n.group.Limits.SetAll(g.Limits.All())
	n.group.inheritExe(g)
	n.group.OOMScoreAdj.Store(g.OOMScoreAdj.Load())
	n.group.Dumpable.Store(g.Dumpable.Load())
	n.group.DumpFilter.Store(g.DumpFilter.Load())
	n.group.Membarrier.Store(g.Membarrier.Load())
	parent, via := g, t
	if a.Flags&unix.CLONE_PARENT != 0 {
		parent, via = g.parent, g.parentTask
		n.exitSignal = g.leader.exitSignal
	}
	n.group.parent, n.group.parentTask = parent, via
	if parent != nil {
		parent.children[n.group] = struct{}{}
	}
	k.joinLocked(n.group, g.jobs)
	k.inheritTraceLocked(t, n, a.Flags)
	return nil
}

// processLimitLocked is RLIMIT_NPROC, which privileged users and init pass.
func (k *Kernel) processLimitLocked(t *Task) bool {
	limit := t.group.Limits.Get(unix.RLIMIT_NPROC).Cur
	if limit == ^uint64(0) {
		return false
	}
	c := t.Creds()
	if c.UID == 0 || c.Has(unix.CAP_SYS_RESOURCE) || c.Has(unix.CAP_SYS_ADMIN) {
		return false
	}
	n := uint64(0)
	for _, p := range k.root.ids {
		if p.task != nil && p.task.Creds().UID == c.UID {
			n++
		}
	}
	return n >= limit
}

func (k *Kernel) newGroup(leader *Task, c *Cgroup, h *SignalHandlers) *ThreadGroup {
	g := &ThreadGroup{
		k: k, cgroup: c, id: leader.ID(), leader: leader, tasks: []*Task{leader}, Handlers: h,
		children: map[*ThreadGroup]struct{}{}, ended: make(chan struct{}),
	}
	g.Dumpable.Store(1)
	g.DumpFilter.Store(defaultDump)
	g.Timers.init(g)
	return g
}

// NewProcess is a process that nobody inside cloned: init, or one that the host
// asks for (exec).
type NewProcess struct {
	FS     *FSContext
	FDs    *vfs.FDTable
	MM     *memory.Space
	Creds  *vfs.Creds
	Limits [16]Limit
	Comm   string
	Filter *Filter // the container's; nil: none
	Home   *Home   // nil: the first container's
}

// Spawn makes it, with a session of its own, stopped before its first
// instruction: the caller loads a program into its Context and calls Begin.
func (k *Kernel) Spawn(p NewProcess) (*Task, error) {
	home := p.Home
	if home == nil {
		home = k.first
	}
	n := &Task{k: k, interrupt: make(chan struct{}, 1), exitSignal: unix.SIGCHLD, fs: p.FS, fds: p.FDs, mm: p.MM}
	n.creds.Store(p.Creds)
	n.namespaces.Store(home.set.take())
	n.callNumber.Store(-1)
	n.Slack.Store(50000)
	n.SetComm(p.Comm)
	n.StartTime = k.Clock.Boottime()
	k.mu.Lock()
	defer k.mu.Unlock()
	id, err := k.allocPIDLocked(home.PIDs(), home.cgroup, nil)
	if err != nil {
		return nil, err
	}
	n.id.Store(id)
	id.task, n.state = n, taskRunning
	n.group = k.newGroup(n, home.cgroup, &SignalHandlers{})
	n.group.Limits.SetAll(p.Limits)
	k.newSessionLocked(n.group)
	if p.Filter != nil {
		p.Filter.users.Add(1)
		n.filter.Store(p.Filter)
		n.hooks.Or(hookSeccomp)
	}
	if id.Here() == 1 {
		id.ns.init = n.group
	}
	n.mm.SetOwner(n.PID())
	n.publish()
	return n, nil
}

// Begin lets a spawned task run.
func (t *Task) Begin() {
	t.publish()
	t.k.Started.Add(1)
	t.group.Timers.LimitCPU()
	t.start()
}

// Abandon ends a spawned task that never began.
func (t *Task) Abandon() {
	t.k.mu.Lock()
	t.killed = true
	t.group.exiting, t.group.exitStatus = true, int32(unix.SIGKILL)
	t.k.mu.Unlock()
	t.exit()
}

// Adopt puts a loaded program into a spawned task that has not begun.
func (t *Task) Adopt(img Image) {
	old := t.mm
	t.mm = img.MM
	t.mm.SetOwner(t.PID())
	old.Release()
	t.group.SetExe(img.Exe)
	t.SetComm(img.Comm)
	t.SetCreds(img.Creds)
	t.SetEntry(img)
	t.publish()
}
