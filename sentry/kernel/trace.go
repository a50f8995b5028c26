package kernel

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

// What stands here and in halt.go is ptrace(2) as kernel/ptrace.c and
// kernel/signal.c have it. A tracee belongs to one thread of its tracer's
// process. It stops on its own goroutine (traceStop); while it is stopped the
// tracer's goroutine may look at and change its registers (WithTracee).

// trace is what a traced thread keeps of its tracer. It is under Kernel.mu.
type trace struct {
	tracer  *Task
	seized  bool   // PTRACE_SEIZE, not ATTACH or TRACEME
	options uint32 // PTRACE_O_…
}

// Events and options (include/uapi/linux/ptrace.h): option 1<<e turns event e on.
const (
	EventFork      = 1
	EventVfork     = 2
	EventClone     = 3
	EventExec      = 4
	EventVforkDone = 5
	EventExit      = 6
	EventSeccomp   = 7
	EventStop      = 128

	TraceSysGood  = 1
	TraceExitKill = 1 << 20
	TraceOptions  = 0xff | TraceExitKill
)

// Bits of Task.hooks: why a system call takes the long way.
const (
	hookCall    uint32 = 1 << iota // PTRACE_SYSCALL
	hookEmulate                    // PTRACE_SYSEMU
	hookStep                       // PTRACE_SINGLESTEP, also of a SYSEMU
	hookSeccomp
)

// MayAccess is __ptrace_may_access (kernel/ptrace.c): whether t may look into x. files
// says that the credentials for files count (/proc), not the real ones.
func (t *Task) MayAccess(x *Task, files bool) error {
	if t.group == x.group {
		return nil
	}
	return MayTrace(t.Creds(), x, files)
}

// MayTrace is MayAccess for somebody of another process.
func MayTrace(a *vfs.Creds, x *Task, files bool) error {
	b := x.Creds()
	uid, gid, caps := a.UID, a.GID, a.Permitted
	if files {
		uid, gid, caps = a.FSUID, a.FSGID, a.Effective
	}
	all := a.HasIn(b.User, unix.CAP_SYS_PTRACE)
	same := uid == b.UID && uid == b.EUID && uid == b.SUID && gid == b.GID && gid == b.EGID && gid == b.SGID
	if !all && (!same || x.group.Dumpable.Load() != 1 || a.User != b.User || b.Permitted&^caps != 0) {
		return unix.EPERM
	}
	return nil
}

// TraceMe is PTRACE_TRACEME: the parent becomes the tracer.
func (t *Task) TraceMe() error {
	k := t.k
	k.mu.Lock()
	p := t.group.parentTask
	if up := t.group.parent; up != nil && (p == nil || p.state == taskDead) && len(up.tasks) > 0 {
		p = up.tasks[0] // forget_original_parent gives a dead thread's children to another
	}
	if t.tr != nil || p == nil || p.state == taskDead {
		k.mu.Unlock()
		return unix.EPERM
	}
	k.linkLocked(p, t, &trace{tracer: p})
	k.mu.Unlock()
	t.mm.Unpatch()
	return nil
}

func (k *Kernel) linkLocked(tracer, x *Task, tr *trace) {
	x.tr = tr
	if tracer.tracees == nil {
		tracer.tracees = map[*Task]struct{}{}
	}
	tracer.tracees[x] = struct{}{}
}

// Attach is PTRACE_ATTACH, or with seize PTRACE_SEIZE.
func (t *Task) Attach(tid int32, seize bool, options uint32) error {
	k := t.k
	k.mu.Lock()
	x := t.anyLocked(tid)
	err := error(nil)
	switch {
	case x == nil:
		err = unix.ESRCH
	case x.group == t.group, t.MayAccess(x, false) != nil, x.state == taskDead, x.tr != nil, x.killed:
		err = unix.EPERM
	}
	if err != nil {
		k.mu.Unlock()
		return err
	}
	k.linkLocked(t, x, &trace{tracer: t, seized: seize, options: options})
	if !seize {
		k.sendLocked(x.group, x, kernelInfo(unix.SIGSTOP), true)
	}
	// A stopped thread comes out of its stop and into ours, as if from the start.
	var trapping chan struct{}
	if h := x.halt; h != nil && !h.traced {
		trapping = make(chan struct{})
		x.trapStop, x.trapping = true, trapping
		x.wakeLocked(h)
	}
	k.mu.Unlock()
	if _, _, mm := x.Look(); mm != nil {
		mm.Unpatch()
	}
	if trapping != nil {
		t.BlockUntil(trapping, 0)
	}
	return nil
}

// unlinkLocked takes the tracer away (__ptrace_unlink).
func (k *Kernel) unlinkLocked(x *Task) {
	delete(x.tr.tracer.tracees, x)
	x.tr = nil
	x.trapStop, x.trapNotify = false, false
	x.hooks.And(hookSeccomp)
	x.endTrapping()
	g := x.group
	if x.state != taskDead && !x.killed && (g.stopped || g.stopCount > 0) {
		x.stopPending = true
		x.kick(workSignal)
	}
	if h := x.halt; h != nil && h.traced {
		x.wakeLocked(h)
	}
}

// untraceLocked is unlinkLocked for a thread that may have ended: then it goes,
// or its parent hears of it at last (__ptrace_detach).
func (k *Kernel) untraceLocked(x *Task) {
	k.unlinkLocked(x)
	switch {
	case x.state != taskDead:
	case x != x.group.leader:
		k.buryLocked(x)
	case x.group.dead:
		k.announceLocked(x.group)
	}
}

// buryLocked removes a thread that its tracer has waited for, or does not have
// any more; with the last the process may end.
func (k *Kernel) buryLocked(x *Task) {
	g := x.group
	for i, z := range g.zombies {
		if z == x {
			g.zombies = append(g.zombies[:i], g.zombies[i+1:]...)
			break
		}
	}
	x.ID().task = nil
	x.ID().freeLocked()
	g.tellExecLocked()
	if len(g.tasks) == 0 && len(g.zombies) == 0 && g.execing == nil && !g.dead {
		k.groupEndedLocked(g, x)
	}
}

// tracerEndedLocked lets all tracees of t go (exit_ptrace).
func (k *Kernel) tracerEndedLocked(t *Task) {
	for x := range t.tracees {
		if x.tr.options&TraceExitKill != 0 && x.state != taskDead {
			k.killGroupLocked(x.group, unix.SIGKILL)
		}
		sig := unix.Signal(0)
		if h := x.halt; h != nil && h.traced && !h.told && h.info != nil && h.code == int32(h.info.Signo()) {
			sig = h.info.Signo() // not seen yet, and so not lost
		}
		x.resumeLocked(sig)
		k.untraceLocked(x)
	}
}

// anyLocked is the thread that t knows by number tid, zombies included, or nil.
func (t *Task) anyLocked(tid int32) *Task {
	if p := t.PIDNamespace().ids[tid]; p != nil {
		return p.task
	}
	return nil
}

// traceeLocked is the thread tid, if t traces it (ptrace_check_attach); stopped says that
// it must be in a ptrace-stop.
func (t *Task) traceeLocked(tid int32, stopped bool) (*Task, error) {
	x := t.anyLocked(tid)
	if x == nil || x.tr == nil || x.tr.tracer != t {
		return nil, unix.ESRCH
	}
	if h := x.halt; stopped && (h == nil || !h.traced || h.listening || h.woken) {
		return nil, unix.ESRCH
	}
	return x, nil
}

// WithTracee calls f while the tracee tid is stopped and stays so: its registers
// may be changed. Nothing is locked.
func (t *Task) WithTracee(tid int32, f func(x *Task) error) error {
	k := t.k
	k.mu.Lock()
	x, err := t.traceeLocked(tid, true)
	if err != nil {
		k.mu.Unlock()
		return err
	}
	h := x.halt
	h.frozen = true
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		h.frozen = false
		if h.woken {
			x.wakeLocked(h)
		}
	}()
	return f(x)
}

// Resume says how PTRACE_CONT and its like go on.
type Resume struct {
	Signal  unix.Signal // to deliver
	Calls   bool        // stop at system calls
	Emulate bool        // and do not make them
	Step    bool        // one instruction
	Detach  bool
}

// ResumeTracee continues a stopped tracee, or lets it go.
func (t *Task) ResumeTracee(tid int32, r Resume) error {
	err := t.WithTracee(tid, func(x *Task) error {
		if x.halt.exiting {
			return nil // its thread is no more than this stop
		}
		x.ctx.SingleStep = r.Step
		return nil
	})
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		return err
	}
	x, err := t.traceeLocked(tid, true)
	if err != nil {
		return err
	}
	x.hooks.And(hookSeccomp)
	for _, b := range []struct {
		on  bool
		bit uint32
	}{{r.Calls, hookCall}, {r.Emulate, hookEmulate}, {r.Step, hookStep}} {
		if b.on {
			x.hooks.Or(b.bit)
		}
	}
	x.resumeLocked(r.Signal)
	if r.Detach {
		k.untraceLocked(x)
	}
	return nil
}

// resumeLocked ends a ptrace-stop with a signal to deliver.
func (x *Task) resumeLocked(sig unix.Signal) {
	if h := x.halt; h != nil && h.traced {
		h.sig = sig
		x.wakeLocked(h)
	}
}

// ListenTracee is PTRACE_LISTEN: the group-stop goes on, and its end is told.
func (t *Task) ListenTracee(tid int32) error {
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	x, err := t.traceeLocked(tid, true)
	if err != nil {
		return err
	}
	h := x.halt
	if !x.tr.seized || h.info == nil || h.info.Code()>>8 != EventStop {
		return unix.EIO
	}
	h.listening = true
	if x.trapNotify {
		x.wakeLocked(h)
	}
	return nil
}

// InterruptTracee is PTRACE_INTERRUPT.
func (t *Task) InterruptTracee(tid int32) error {
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	x, err := t.traceeLocked(tid, false)
	switch {
	case err != nil:
		return err
	case !x.tr.seized:
		return unix.EIO
	case x.state == taskDead:
		return unix.ESRCH
	}
	x.trapStop = true
	x.wakeListeningLocked()
	return nil
}

// KillTracee is PTRACE_KILL.
func (t *Task) KillTracee(tid int32) error {
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	x, err := t.traceeLocked(tid, false)
	if err == nil && x.state != taskDead {
		k.killGroupLocked(x.group, unix.SIGKILL)
	}
	return err
}

// wakeListeningLocked makes a tracee look at its traps, in a stop only if its
// tracer listens.
func (x *Task) wakeListeningLocked() {
	if h := x.halt; h != nil && h.traced {
		if h.listening {
			x.wakeLocked(h)
		}
		return
	}
	x.kick(workSignal)
}

// For the function of WithTracee: what a stopped tracee shows its tracer.

// SetTraceOptions is PTRACE_SETOPTIONS.
func (t *Task) SetTraceOptions(o uint32) {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	if t.tr != nil {
		t.tr.options = o
	}
}

// TraceMessage is PTRACE_GETEVENTMSG's.
func (t *Task) TraceMessage() uint64 {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	return t.message
}

// StopInfo is the siginfo of the present stop, nil in a group-stop.
func (t *Task) StopInfo() *SigInfo {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	if h := t.halt; h != nil && h.info != nil {
		i := *h.info
		return &i
	}
	return nil
}

// SetStopInfo replaces it.
func (t *Task) SetStopInfo(i *SigInfo) error {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	if h := t.halt; h != nil && h.info != nil {
		*h.info = *i
		return nil
	}
	return unix.EINVAL
}

// QueuedSignals are the pending signals of the thread, or of its process.
func (t *Task) QueuedSignals(shared bool) []SigInfo {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	q := &t.pending
	if shared {
		q = &t.group.pending
	}
	out := make([]SigInfo, 0, len(q.infos))
	for _, i := range q.infos {
		out = append(out, *i)
	}
	return out
}

// TracedMask is the mask that the thread will have in user mode.
func (t *Task) TracedMask() SigSet {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	return t.realMask()
}

// SetTracedMask changes it.
func (t *Task) SetTracedMask(m SigSet) {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	t.restoreMask = false
	t.setMaskLocked(m)
}

// SetRegisters gives a stopped tracee other general registers.
func (t *Task) SetRegisters(r platform.Registers) {
	t.ctx.Registers, t.ctx.Partial = r, false
	t.ctx.Dirty |= platform.DirtyGPR | platform.DirtyBase
}

// SetFPU gives it another FPU state, in the standard XSAVE format.
func (t *Task) SetFPU(area []byte) {
	const mxcsr, header, reserved, end = 24, 512, 520, 576
	have := xcr0Bytes(t.ctx.FPU)
	copy(area[fpReserved:], have)
	le := binary.LittleEndian
	le.PutUint32(area[mxcsr:], le.Uint32(area[mxcsr:])&0xffff)
	if len(area) >= end {
		le.PutUint64(area[header:], le.Uint64(area[header:])&le.Uint64(have))
		clear(area[reserved:end])
	}
	t.ctx.FPU = area
	t.ctx.Dirty |= platform.DirtyFPU
}

// Tracer is the thread that traces t, nil if there is none.
func (t *Task) Tracer() *PID {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	if t.tr == nil {
		return nil
	}
	return t.tr.tracer.ID()
}

// TracerMay reports whether t's tracer, if it has one, holds CAP_SYS_PTRACE:
// otherwise exec gives no privilege (security/commoncap.c, cap_bprm_creds_from_file).
func (t *Task) TracerMay() bool {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	return t.tr == nil || t.tr.tracer.Creds().Has(unix.CAP_SYS_PTRACE)
}

// event is ptrace_event: the tracer hears of e, if it has asked to.
func (t *Task) event(e int32, message uint64) {
	k := t.k
	k.mu.Lock()
	tr := t.tr
	switch {
	case tr == nil:
	case tr.options&(1<<e) != 0:
		k.mu.Unlock()
		t.traceStop(int32(unix.SIGTRAP)|e<<8, cldTrapped, message, nil)
		return
	case e == EventExec && !tr.seized:
		k.sendLocked(t.group, t, UserInfo(unix.SIGTRAP, SI_USER, t.PID(), t.Creds().UID), false)
	}
	k.mu.Unlock()
}

// EventWanted reports whether the tracer asked for e.
func (t *Task) EventWanted(e int32) bool {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	return t.tr != nil && t.tr.options&(1<<e) != 0
}

// SeccompEvent is the stop of SECCOMP_RET_TRACE. It reports false where nobody listens.
func (t *Task) SeccompEvent(data uint16) bool {
	if !t.EventWanted(EventSeccomp) {
		return false
	}
	t.event(EventSeccomp, uint64(data))
	return true
}

// eventPID is event with a task as the message, by the number that the tracer
// knows it by.
func (t *Task) eventPID(e int32, p *PID) {
	t.k.mu.Lock()
	n := int32(0)
	if t.tr != nil {
		n = t.tr.tracer.Number(p)
	}
	t.k.mu.Unlock()
	t.event(e, uint64(n))
}

// TellExec tells the tracer of an exec; old is what the thread was before it.
func (t *Task) TellExec(old *PID) { t.eventPID(EventExec, old) }

// inheritTraceLocked makes n a tracee of t's tracer, as clone(2) does: it starts
// with a stop (ptrace_init_task).
func (k *Kernel) inheritTraceLocked(t, n *Task, flags uint64) {
	tr := t.tr
	if tr == nil || flags&unix.CLONE_UNTRACED != 0 ||
		flags&unix.CLONE_PTRACE == 0 && tr.options&(1<<cloneEvent(flags, n.exitSignal)) == 0 {
		return
	}
	k.linkLocked(tr.tracer, n, &trace{tracer: tr.tracer, seized: tr.seized, options: tr.options})
	if tr.seized {
		n.trapStop = true
	} else {
		n.pending.add(UserInfo(unix.SIGSTOP, SI_USER, 0, 0), ^uint64(0), false)
	}
	n.work.Or(workSignal)
}

// cloneEvent is which event a clone is (kernel/fork.c, kernel_clone).
func cloneEvent(flags uint64, exitSignal unix.Signal) int32 {
	switch {
	case flags&unix.CLONE_VFORK != 0:
		return EventVfork
	case exitSignal != unix.SIGCHLD:
		return EventClone
	}
	return EventFork
}

// hookedCall serves a system call that a tracer or a filter sees.
func (t *Task) hookedCall() {
	c := t.Context()
	switch hooks := t.hooks.Load(); {
	case hooks == hookSeccomp:
		if t.filterCall(false) {
			t.k.Calls.Serve(t)
		}
	case t.enterHooked(hooks):
		t.k.Calls.Serve(t)
	}
	hooks := t.hooks.Load() // a filter's event may have changed how the tracer goes on
	if hooks&hookCall != 0 && !t.dying() {
		t.callStop(2)
	}
	if hooks&hookStep != 0 && c.SingleStep && hooks&hookEmulate == 0 {
		t.force(faultInfo(unix.SIGTRAP, 1 /* TRAP_BRKPT */, c.Rip))
	}
}

// enterHooked lets tracer and filters see a call before it is made, and reports
// whether it is to be made.
func (t *Task) enterHooked(hooks uint32) bool {
	c := t.Context()
	c.Rax = errnoReg(unix.ENOSYS)
	if hooks&(hookCall|hookEmulate) != 0 {
		t.callStop(1)
	}
	if hooks&hookEmulate != 0 || t.dying() {
		return false
	}
	return (t.hooks.Load()&hookSeccomp == 0 || t.filterCall(false)) && int32(c.Orig_rax) >= 0
}

// callStop is the stop at a call's entry (1) or exit (2): ptrace_report_syscall.
func (t *Task) callStop(which uint64) {
	k := t.k
	k.mu.Lock()
	code := int32(unix.SIGTRAP)
	if t.tr != nil && t.tr.options&TraceSysGood != 0 {
		code |= 0x80
	}
	k.mu.Unlock()
	if sig := t.traceStop(code, cldTrapped, which, nil); sig != 0 {
		k.mu.Lock()
		k.sendLocked(t.group, t, UserInfo(sig, SI_USER, t.PID(), t.Creds().UID), true)
		k.mu.Unlock()
	}
}

func (t *Task) dying() bool {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	return t.killed
}

// Xstate is the FPU state as PTRACE_GETREGSET shows it: the features that there are
// stand where FXSAVE leaves room for software.
func (t *Task) Xstate() []byte {
	b := append([]byte(nil), t.ctx.FPU...)
	if len(b) >= fpReserved+8 {
		copy(b[fpReserved:], xcr0Bytes(b))
	}
	return b
}
