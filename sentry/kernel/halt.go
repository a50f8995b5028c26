package kernel

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// halt is a stop that a thread waits in: a group-stop (job control), or a
// ptrace-stop. It is under Kernel.mu.
type halt struct {
	traced    bool
	code      int32    // traced: the signal, and the event above it
	info      *SigInfo // traced: nil in a group-stop
	told      bool     // traced: wait(2) has reported it
	exiting   bool     // the thread is dying: no signal ends this stop
	listening bool     // PTRACE_LISTEN
	frozen    bool     // the tracer is at work on the thread's registers
	woken     bool     // meanwhile somebody ended the stop
	sig       unix.Signal
	done      chan struct{}
}

// si_code of SIGCHLD.
const (
	cldTrapped   = 4
	cldStopped   = 5
	cldContinued = 6
)

// wakeLocked ends t's stop, now or when the tracer is done.
func (t *Task) wakeLocked(h *halt) {
	if h.woken = true; h.frozen || t.halt != h {
		return
	}
	t.halt = nil
	close(h.done)
}

// haltLocked waits in h; it drops Kernel.mu meanwhile.
func (t *Task) haltLocked(h *halt) {
	t.Context() // whole, for whoever looks
	h.done = make(chan struct{})
	t.halt = h
	if h.traced {
		t.endTrapping()
	}
	t.k.mu.Unlock()
	t.account(&t.sys)
	<-h.done
	t.entered.Store(int64(t.k.Clock.forCPUTime()))
	t.k.mu.Lock()
}

func (t *Task) endTrapping() {
	if t.trapping != nil {
		close(t.trapping)
		t.trapping = nil
	}
}

// beginStopLocked starts a group-stop (kernel/signal.c, do_signal_stop).
func (t *Task) beginStopLocked(sig unix.Signal) {
	g := t.group
	if !t.stopDequeued || g.exiting {
		return // SIGCONT came between
	}
	if !g.stopped {
		g.stopSig = sig
	}
	g.stopCount = 0
	for _, x := range g.tasks {
		if x.killed || x.halt != nil && !x.halt.traced {
			continue
		}
		x.stopPending, x.stopCounts, x.stopSig = true, true, sig
		g.stopCount++
		switch {
		case x == t:
		case x.tr != nil && x.tr.seized:
			x.trapNotify = true
			x.wakeListeningLocked()
		default:
			x.kick(workSignal)
		}
	}
}

// joinStopLocked is t's part in a group-stop. It reports whether that was the
// last that was missing (task_participate_group_stop).
func (t *Task) joinStopLocked() bool {
	g := t.group
	t.stopPending = false
	if !t.stopCounts {
		return false
	}
	t.stopCounts = false
	if g.stopCount--; g.stopCount > 0 || g.stopped {
		return false
	}
	g.stopped, g.stopTold, g.continued = true, false, false
	return true
}

// groupStopLocked waits in a group-stop, unless a tracer is to hear of it first.
func (t *Task) groupStopLocked() {
	if t.tr != nil {
		t.trapStop = true
		return
	}
	if t.joinStopLocked() {
		t.k.tellParentLocked(t.group, cldStopped, int32(t.group.stopSig))
	}
	t.haltLocked(&halt{})
}

// continueLocked is what SIGCONT does when it is sent.
func (k *Kernel) continueLocked(g *ThreadGroup) {
	for _, x := range g.tasks {
		x.stopPending, x.stopCounts, x.stopDequeued = false, false, false
		switch {
		case x.tr != nil && x.tr.seized:
			x.trapNotify = true
			x.wakeListeningLocked()
		case x.halt != nil && !x.halt.traced:
			x.wakeLocked(x.halt)
		}
	}
	was := g.stopped
	g.stopped, g.stopCount = false, 0
	if was {
		g.continued, g.stopTold = true, false
		k.tellParentLocked(g, cldContinued, int32(unix.SIGCONT))
	}
}

// endStopsLocked wakes threads of a dying process; keep may stay as it is.
func (g *ThreadGroup) endStopsLocked(keep *Task) {
	g.stopped, g.stopCount = false, 0
	for _, x := range g.tasks {
		if x == keep {
			continue
		}
		x.stopPending, x.stopCounts, x.trapStop, x.trapNotify = false, false, false, false
		if h := x.halt; h != nil && !h.exiting {
			x.wakeLocked(h)
		}
	}
}

// trapped says that t has to stop.
func (t *Task) trappedLocked() bool {
	return t.stopPending || t.trapStop || t.trapNotify || t.group.cgroup.thaw != nil
}

// traceStop stops t for its tracer, code being the signal that wait(2) shows and an
// event above that. It returns the signal to go on with: the tracer's, or what code
// says if there is no tracer. info nil stands for what ptrace_notify makes up.
func (t *Task) traceStop(code, why int32, message uint64, info *SigInfo) unix.Signal {
	if info == nil {
		info = UserInfo(unix.SIGTRAP, code, t.TID(), t.Creds().UID)
	}
	t.saveForTracer()
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	if t.tr == nil || t.killed && code>>8 != EventExit {
		return 0
	}
	return t.traceStopLocked(code, why, message, info)
}

// saveForTracer makes t's whole state readable.
func (t *Task) saveForTracer() {
	if t.thread == nil {
		return
	}
	if err := t.thread.Save(&t.ctx); err != nil {
		t.k.Log.Error("save registers", "task", t.TID(), "err", err)
	}
}

// traceStopLocked is ptrace_stop; the registers have been saved.
func (t *Task) traceStopLocked(code, why int32, message uint64, info *SigInfo) unix.Signal {
	k := t.k
	h := &halt{traced: true, code: code, info: info, exiting: code>>8 == EventExit}
	last := why == cldStopped && t.stopPending && t.joinStopLocked()
	t.trapStop = false
	if info != nil && info.Code()>>8 == EventStop {
		t.trapNotify = false
	}
	t.message = message
	k.tellTracerLocked(t, why, code&0x7f)
	if g := t.group; last && t.tr.tracer.group != g.parent {
		k.tellParentLocked(g, cldStopped, int32(g.stopSig))
	}
	t.haltLocked(h)
	return h.sig
}

// jobTrapLocked is do_jobctl_trap: a group-stop that the tracer sees, or what
// PTRACE_INTERRUPT and the end of a group-stop are.
func (t *Task) jobTrapLocked() {
	g := t.group
	sig := t.stopSig
	if t.tr == nil {
		t.trapStop, t.trapNotify = false, false
		return
	}
	var info *SigInfo
	code := int32(sig)
	if t.tr.seized {
		if g.stopCount == 0 && !g.stopped || sig == 0 {
			sig = unix.SIGTRAP
		}
		code = int32(sig) | EventStop<<8
		info = UserInfo(sig, code, t.TID(), t.Creds().UID)
	}
	t.traceStopLocked(code, cldStopped, 0, info)
}

// signalStopLocked shows a signal to the tracer before it is delivered. It returns
// what is to be delivered, or nil (ptrace_signal).
func (t *Task) signalStopLocked(info *SigInfo) *SigInfo {
	k := t.k
	t.stopDequeued = true
	if t.tr == nil || t.killed {
		return info
	}
	tracer := t.tr.tracer
	sig := t.traceStopLocked(int32(info.Signo()), cldTrapped, 0, info)
	if sig == 0 {
		return nil
	}
	if sig != info.Signo() {
		info = UserInfo(sig, SI_USER, t.Number(tracer.group.id), t.Creds().User.ShowUID(tracer.Creds().UID))
	}
	if t.mask.Has(sig) || t.killed {
		k.sendLocked(t.group, t, info, true)
		return nil
	}
	return info
}

// tellTracerLocked reports a stop of x to its tracer (do_notify_parent_cldstop).
func (k *Kernel) tellTracerLocked(x *Task, code, status int32) {
	p := x.tr.tracer.group
	u, s := x.CPUTime()
	if a := p.Handlers.get(unix.SIGCHLD); a.Handler != SigIgn && a.Flags&SA_NOCLDSTOP == 0 {
		k.sendGroupLocked(p, x.childInfoFor(p, code, status, ticks(u), ticks(s)))
	}
	p.waiters.Notify(vfs.EventIn)
}

// childInfoFor is what p is told of the thread x.
func (x *Task) childInfoFor(p *ThreadGroup, code, status int32, user, sys int64) *SigInfo {
	return childInfo(code, x.ID().In(p.id.ns), p.leader.Creds().User.ShowUID(x.Creds().UID), status, user, sys)
}

// tellParentLocked reports a stop or continue to the parent.
func (k *Kernel) tellParentLocked(g *ThreadGroup, code, status int32) {
	p := g.parent
	if p == nil {
		return
	}
	u, s := g.cpuTimeLocked()
	info := childInfo(code, g.id.In(p.id.ns), p.leader.Creds().User.ShowUID(g.leader.Creds().UID), status, ticks(u), ticks(s))
	if a := p.Handlers.get(unix.SIGCHLD); a.Handler != SigIgn && a.Flags&SA_NOCLDSTOP == 0 {
		k.sendGroupLocked(p, info)
	}
	p.waiters.Notify(vfs.EventIn)
}
