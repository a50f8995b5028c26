package kernel

import (
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// WaitFor says which children a wait is about; the fields add up.
type WaitFor struct {
	PID   *PID         // not nil: this one
	Job   *PID         // not nil: members of this process group
	Group *ThreadGroup // not nil: this one (P_PIDFD)
	Flags int          // WNOHANG, WEXITED, WSTOPPED, WCONTINUED, WNOWAIT, __WALL, __WCLONE, __WNOTHREAD
}

// Waited is what became of a child.
type Waited struct {
	PID    *PID // nil: nothing
	UID    uint32
	Status int32 // as wait4(2) stores it
	Code   int32 // CLD_…
	Value  int32 // si_status
	User   time.Duration
	Sys    time.Duration
	MaxRSS uint64
}

// Linux's numbers that x/sys lacks.
const (
	WNOTHREAD = 0x20000000
	WALL      = 0x40000000
	WCLONE    = 0x80000000
)

// WaitChild is wait4(2) and waitid(2). A zero Waited means that WNOHANG found
// nothing.
func (t *Task) WaitChild(w WaitFor) (Waited, error) {
	var got Waited
	err := t.Wait(&t.group.waiters, ^vfs.Events(0), false, 0, func() error {
		var err error
		got, err = t.tryWait(w)
		return err
	})
	return got, err
}

func (t *Task) tryWait(w WaitFor) (Waited, error) {
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	some := false
	for c := range t.group.children {
		if tr := c.leader.tr; tr != nil && tr.tracer.group == t.group || !w.matches(t, c) {
			continue // one that we trace is looked at below
		}
		some = true
		if r, ok := k.waitedLocked(c, w.Flags); ok {
			return r, nil
		}
	}
	for _, tracer := range t.group.tasks {
		if w.Flags&WNOTHREAD != 0 && tracer != t {
			continue
		}
		for x := range tracer.tracees {
			if !w.matchesTracee(x) {
				continue
			}
			some = true
			if r, ok := k.waitedTraceeLocked(x, w.Flags); ok {
				return r, nil
			}
		}
	}
	switch {
	case !some:
		return Waited{}, unix.ECHILD
	case w.Flags&unix.WNOHANG != 0:
		return Waited{}, nil
	}
	return Waited{}, unix.EAGAIN
}

func (w *WaitFor) matches(t *Task, c *ThreadGroup) bool {
	switch {
	case w.PID != nil && c.id != w.PID,
		w.Job != nil && (c.jobs == nil || c.jobs.id != w.Job),
		w.Group != nil && c != w.Group,
		w.Flags&WNOTHREAD != 0 && c.parentTask != t:
		return false
	case w.Flags&WALL != 0:
		return true
	}
	return (c.leader.exitSignal != unix.SIGCHLD) == (w.Flags&WCLONE != 0)
}

// waitedLocked looks whether c has something to report, and takes it.
func (k *Kernel) waitedLocked(c *ThreadGroup, flags int) (Waited, bool) {
	r := Waited{PID: c.id, UID: c.leader.Creds().UID}
	take := flags&unix.WNOWAIT == 0
	switch {
	case c.dead && c.leader.tr != nil:
		return r, false // its tracer is first
	case c.dead:
		if flags&unix.WEXITED == 0 {
			return r, false
		}
		r.Status = c.exitStatus
		r.Code, r.Value = endOf(c.exitStatus)
		r.User, r.Sys = c.deadCPU[0]+c.childCPU[0], c.deadCPU[1]+c.childCPU[1]
		r.MaxRSS = max(c.maxRSS, c.childRSS)
		if take {
			k.reapLocked(c)
		}
		return r, true
	case flags&unix.WSTOPPED != 0 && c.stopped && !c.stopTold:
		r.Status = int32(c.stopSig)<<8 | 0x7f
		r.Code, r.Value = 5, int32(c.stopSig)
		c.stopTold = c.stopTold || take
	case flags&unix.WCONTINUED != 0 && c.continued:
		r.Status = 0xffff
		r.Code, r.Value = 6, int32(unix.SIGCONT)
		c.continued = c.continued && !take
	default:
		return r, false
	}
	r.User, r.Sys = c.cpuTimeLocked()
	return r, true
}

// matchesTracee is matches for a thread that the caller's process traces: there
// it does not count what it tells its parent (kernel/exit.c, eligible_child).
func (w *WaitFor) matchesTracee(x *Task) bool {
	return !(w.PID != nil && x.ID() != w.PID || w.Job != nil && (x.group.jobs == nil || x.group.jobs.id != w.Job) ||
		w.Group != nil && x != w.Group.leader)
}

// waitedTraceeLocked looks whether a tracee has something to report, and takes it.
func (k *Kernel) waitedTraceeLocked(x *Task, flags int) (Waited, bool) {
	g := x.group
	r := Waited{PID: x.ID(), UID: x.Creds().UID}
	take := flags&unix.WNOWAIT == 0
	if x.state == taskDead {
		if x == g.leader && !g.dead || flags&unix.WEXITED == 0 {
			return r, false
		}
		k.endOfTraceeLocked(x, &r, take)
		return r, true
	}
	r.User, r.Sys = x.CPUTime()
	h := x.halt
	switch {
	case h != nil && h.traced && !h.told && !h.listening && !h.woken:
		r.Status = h.code<<8 | 0x7f
		r.Code, r.Value = cldTrapped, h.code
		h.told = take
		return r, true
	case flags&unix.WCONTINUED != 0 && x == g.leader && g.continued:
		r.Status = 0xffff
		r.Code, r.Value = cldContinued, int32(unix.SIGCONT)
		g.continued = !take
		return r, true
	}
	return r, false
}

// endOfTraceeLocked reports the end of x to its tracer.
func (k *Kernel) endOfTraceeLocked(x *Task, r *Waited, take bool) {
	g := x.group
	r.Status = x.endStatusLocked()
	r.Code, r.Value = endOf(r.Status)
	r.User, r.Sys = x.CPUTime()
	if x == g.leader {
		r.User, r.Sys = g.deadCPU[0]+g.childCPU[0], g.deadCPU[1]+g.childCPU[1]
		r.MaxRSS = max(g.maxRSS, g.childRSS)
	}
	if !take {
		return
	}
	own := g.parent == x.tr.tracer.group
	k.unlinkLocked(x)
	switch {
	case x != g.leader:
		k.buryLocked(x)
	case own:
		k.reapLocked(g)
	default:
		k.announceLocked(g)
	}
}
