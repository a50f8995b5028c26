package kernel

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func ticks(d time.Duration) int64 { return int64(d / (10 * time.Millisecond)) } // USER_HZ

// Exit makes the calling thread end, with status as wait(2) has it.
func (t *Task) Exit(status int32) {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	t.exitStatus = status
	t.killed = true
	t.work.Or(workExit)
}

// ExitGroup makes all threads of the process end.
func (t *Task) ExitGroup(status int32) {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	t.k.exitGroupLocked(t.group, status)
}

// exit takes the task apart; it is the last thing its goroutine does.
func (t *Task) exit() {
	k := t.k
	t.joinDump()
	t.exitEvent()
	t.exitRobust()
	t.exitPI()
	t.DropSemUndo()
	t.callEnds()
	if t.clearTID != 0 && t.mm != nil {
		t.mm.StoreUint32(t.clearTID, 0)
		if key, err := t.mm.Key(t.clearTID, true); err == nil {
			k.Futex.wake(key, 1, ^uint32(0))
		}
		if key, err := t.mm.Key(t.clearTID, false); err == nil {
			k.Futex.wake(key, 1, ^uint32(0))
		}
	}
	_, _, mm := t.Look()
	rss := uint64(0)
	if mm != nil {
		rss = mm.Sizes().Resident
	}
	t.view.Store(nil)
	t.account(&t.sys)
	t.meterOut(t.mm.Platform(), true)
	t.mm.Release()
	t.releaseVfork()
	t.fds.Unref()
	t.fs.drop()
	t.namespaces.Swap(nil).drop()

	k.mu.Lock()
	t.mm = nil
	g := t.group
	g.maxRSS = max(g.maxRSS, rss)
	u, s := t.CPUTime()
	g.deadCPU[0] += u
	g.deadCPU[1] += s
	g.cgroup.endedCPU[0] += u
	g.cgroup.endedCPU[1] += s
	for i, x := range g.tasks {
		if x == t {
			g.tasks = append(g.tasks[:i], g.tasks[i+1:]...)
			break
		}
	}
	t.state = taskDead
	k.live--
	g.cgroup.leaveLocked()
	switch {
	case t == g.leader:
	case t.tr != nil:
		g.zombies = append(g.zombies, t)
	default:
		t.ID().task = nil
		t.ID().freeLocked()
	}
	t.endTrapping()
	t.filter.Swap(nil).drop()
	k.tracerEndedLocked(t)
	g.tellExecLocked()
	// A thread that was to take a shared signal leaves it to another.
	if g.pending.set != 0 {
		for _, x := range g.tasks {
			x.kick(workSignal)
		}
	}
	k.parentDiedLocked(t)
	if t.stopPending && t.joinStopLocked() {
		k.tellParentLocked(g, cldStopped, int32(g.stopSig))
	}
	if len(g.tasks) == 0 && g.execing == nil {
		k.zapLocked(g)
	}
	if len(g.tasks) == 0 && len(g.zombies) == 0 && g.execing == nil {
		k.groupEndedLocked(g, t)
	} else if t.tr != nil {
		k.tellEndLocked(t)
	}
	k.mu.Unlock()
}

// exitEvent is PTRACE_EVENT_EXIT.
func (t *Task) exitEvent() {
	if !t.EventWanted(EventExit) {
		return
	}
	t.k.mu.Lock()
	status := t.exitStatus
	if t.group.exiting {
		status = t.group.exitStatus
	}
	t.k.mu.Unlock()
	t.event(EventExit, uint64(uint32(status)))
}

// tellExecLocked wakes who waits in SingleOut.
func (g *ThreadGroup) tellExecLocked() {
	if g.execDone != nil {
		select {
		case g.execDone <- struct{}{}:
		default:
		}
	}
}

// tellEndLocked tells t's tracer that t has ended, while its process may go on.
func (k *Kernel) tellEndLocked(t *Task) {
	p := t.tr.tracer.group
	code, status := endOf(t.endStatusLocked())
	u, s := t.CPUTime()
	k.sendGroupLocked(p, t.childInfoFor(p, code, status, ticks(u), ticks(s)))
	p.waiters.Notify(vfs.EventIn)
}

// endStatusLocked is what wait(2) says of an ended thread.
func (t *Task) endStatusLocked() int32 {
	if t.group.exiting {
		return t.group.exitStatus
	}
	return t.exitStatus
}

func (t *Task) releaseVfork() {
	if t.vforkDone != nil {
		close(t.vforkDone)
		t.vforker.rouse()
		t.vforkDone, t.vforker = nil, nil
	}
}

// parentDiedLocked sends PR_SET_PDEATHSIG to children that t made.
func (k *Kernel) parentDiedLocked(t *Task) {
	for c := range t.group.children {
		if c.parentTask != t || c.dead {
			continue
		}
		for _, x := range c.tasks {
			if x.pdeath != 0 {
				k.sendLocked(c, nil, kernelInfo(x.pdeath), false)
			}
		}
	}
}

// groupEndedLocked makes g a zombie and tells everybody.
func (k *Kernel) groupEndedLocked(g *ThreadGroup, last *Task) {
	if !g.exiting {
		g.exiting, g.exitStatus = true, g.leader.exitStatus
		if last != g.leader {
			g.exitStatus = g.leader.exitStatus
		}
	}
	g.dead = true
	k.countEnd(g.exitStatus)
	if p := g.exe.Load(); p != nil {
		letExe(*p)
	}
	g.Timers.stop()
	k.orphanChildrenLocked(g)
	jobs := g.jobs
	if s := jobs.session; s.leader == g && s.tty != nil {
		tty, fg := s.tty, s.foreground
		s.tty, s.foreground = nil, nil
		if fg != nil {
			for m := range fg.members {
				k.sendGroupLocked(m, kernelInfo(unix.SIGHUP))
				k.sendGroupLocked(m, kernelInfo(unix.SIGCONT))
			}
		}
		go func() {
			defer k.Guard()
			tty.Hangup()
		}()
	}
	defer func() {
		g.endQueue.Notify(vfs.EventIn | vfs.EventHup)
		close(g.ended)
		if g == k.first.PIDs().init { // the sandbox ends with it
			for _, x := range k.groupsLocked() {
				if !x.dead {
					k.killGroupLocked(x, unix.SIGKILL)
				}
			}
		}
	}()
	if tr := g.leader.tr; tr != nil && tr.tracer.group != g.parent {
		k.tellEndLocked(g.leader) // the parent hears of it when the tracer has
		return
	}
	k.announceLocked(g)
}

// announceLocked tells the parent of a zombie, which may not want to hear it.
func (k *Kernel) announceLocked(g *ThreadGroup) {
	p, jobs := g.parent, g.jobs
	if p == nil || p.dead || p.zapping() {
		k.reapLocked(g)
		return
	}
	a := p.Handlers.get(unix.SIGCHLD)
	sig := g.leader.exitSignal
	if sig != 0 && sig <= NSIG { // clone(2) takes any byte (kernel/signal.c, do_notify_parent)
		info := g.childInfoLocked(p)
		info.put32(0, uint32(sig))
		k.sendGroupLocked(p, info)
	}
	if g.leader.tr == nil && sig == unix.SIGCHLD && (a.Handler == SigIgn || a.Flags&SA_NOCLDWAIT != 0) {
		k.reapLocked(g)
	}
	p.waiters.Notify(vfs.EventIn)
	if jobs.linkedBy(p) { // the last link to the session, maybe
		k.hangUpOrphansLocked(jobs)
	}
}

// childInfoLocked is the siginfo of g's end, for its parent.
func (g *ThreadGroup) childInfoLocked(to *ThreadGroup) *SigInfo {
	u, s := g.deadCPU[0], g.deadCPU[1]
	code, status := endOf(g.exitStatus)
	return childInfo(code, g.id.In(to.id.ns), to.leader.Creds().User.ShowUID(g.leader.Creds().UID), status, ticks(u), ticks(s))
}

// endOf divides a wait status into si_code and si_status.
func endOf(status int32) (code, value int32) {
	if sig := status & 0x7f; sig != 0 {
		if status&0x80 != 0 {
			return 3, sig // CLD_DUMPED
		}
		return 2, sig // CLD_KILLED
	}
	return 1, status >> 8 & 0xff // CLD_EXITED
}

// orphanChildrenLocked gives g's children to the nearest subreaper of its
// namespace or to that's process 1.
func (k *Kernel) orphanChildrenLocked(g *ThreadGroup) {
	var to *ThreadGroup
	ns := g.id.ns
	for p := g.parent; p != nil && p.id.ns == ns; p = p.parent {
		if p.subreaper.Load() && !p.dead && !p.exiting {
			to = p
			break
		}
	}
	if to == nil && ns.init != nil && ns.init != g && !ns.init.dead {
		to = ns.init
	}
	for c := range g.children {
		delete(g.children, c)
		c.parent, c.parentTask = to, nil
		traced := c.leader.tr != nil // then it is announced later
		if to == nil {
			if c.dead && !traced {
				k.reapLocked(c)
			}
			continue
		}
		c.parentTask = to.leader
		c.leader.exitSignal = unix.SIGCHLD
		to.children[c] = struct{}{}
		if c.dead && !traced {
			if a := to.Handlers.get(unix.SIGCHLD); to.zapping() || a.Handler == SigIgn || a.Flags&SA_NOCLDWAIT != 0 {
				k.reapLocked(c)
				continue
			}
			k.sendGroupLocked(to, c.childInfoLocked(to))
			to.waiters.Notify(vfs.EventIn)
		}
		if c.jobs.linkedBy(g) {
			k.hangUpOrphansLocked(c.jobs)
		}
	}
}

// reapLocked removes a zombie.
func (k *Kernel) reapLocked(g *ThreadGroup) {
	if g.leader.tr != nil {
		k.unlinkLocked(g.leader)
	}
	if p := g.parent; p != nil {
		delete(p.children, g)
		p.childCPU[0] += g.deadCPU[0] + g.childCPU[0]
		p.childCPU[1] += g.deadCPU[1] + g.childCPU[1]
		p.childRSS = max(p.childRSS, g.maxRSS, g.childRSS)
		g.parent = nil
	}
	g.id.task = nil
	k.joinLocked(g, nil)
	g.id.freeLocked()
}

// ChildMaxRSS is the largest resident size of a reaped child, MaxRSS of threads
// that have ended; in bytes.
func (g *ThreadGroup) MaxRSS() (self, children uint64) {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return g.maxRSS, g.childRSS
}

// SetClearTID is set_tid_address(2); SetParentDeath PR_SET_PDEATHSIG.
func (t *Task) SetClearTID(at memory.Addr) { t.clearTID = at }

func (t *Task) SetParentDeath(sig unix.Signal) {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	t.pdeath = sig
}

func (t *Task) ParentDeath() unix.Signal {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	return t.pdeath
}

// RobustList is what set_robust_list(2) registered.
type RobustList struct {
	Head memory.Addr
	Size uint64
}

// Robust and SetRobust get and set it.
func (t *Task) Robust() RobustList     { return t.robust }
func (t *Task) SetRobust(r RobustList) { t.robust = r }

const robustLimit = 2048 // ROBUST_LIST_LIMIT

// exitRobust marks the robust futexes that the thread holds as owned by a dead
// one and wakes a waiter each (kernel/futex/core.c, exit_robust_list).
func (t *Task) exitRobust() {
	if t.robust.Head == 0 || t.mm == nil {
		return
	}
	word := func(at memory.Addr) (uint64, bool) {
		var b [8]byte
		if n, _ := t.mm.Read(at, b[:]); n != 8 {
			return 0, false
		}
		return binary.LittleEndian.Uint64(b[:]), true
	}
	head := t.robust.Head
	next, ok := word(head)
	offset, ok2 := word(head + 8)
	pendingOp, ok3 := word(head + 16)
	if !ok || !ok2 || !ok3 {
		return
	}
	for n := 0; n < robustLimit && memory.Addr(next&^1) != head; n++ {
		entry := next &^ 1
		if next, ok = word(memory.Addr(entry)); entry != pendingOp&^1 {
			t.dieHolding(memory.Addr(entry + offset))
		}
		if !ok {
			return
		}
	}
	if pendingOp != 0 {
		t.dieHolding(memory.Addr(pendingOp&^1 + offset))
	}
}

func (t *Task) dieHolding(at memory.Addr) {
	const waiters, ownerDied, tidMask = 0x80000000, 0x40000000, 0x3fffffff
	for {
		v, err := t.mm.LoadUint32(at)
		if err != nil || v&tidMask != uint32(t.TID()) {
			return
		}
		done, err := t.mm.CompareAndSwapUint32(at, v, v&waiters|ownerDied)
		if err != nil {
			return
		}
		if !done {
			continue
		}
		if v&waiters != 0 {
			for _, shared := range []bool{true, false} {
				if key, err := t.mm.Key(at, shared); err == nil {
					t.k.Futex.wake(key, 1, ^uint32(0))
				}
			}
		}
		return
	}
}
