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
		if !w.matches(t, c) {
			continue
		}
		some = true
		if r, ok := k.waitedLocked(c, w.Flags); ok {
			return r, nil
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
