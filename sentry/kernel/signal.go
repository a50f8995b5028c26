package kernel

import (
	"math/bits"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

// NSIG is the number of signals.
const NSIG = 64

// SigSet is a set of signals; bit n-1 is signal n.
type SigSet uint64

func set(sigs ...unix.Signal) (s SigSet) {
	for _, sig := range sigs {
		s |= 1 << (sig - 1)
	}
	return
}

// Has reports whether sig is in s.
func (s SigSet) Has(sig unix.Signal) bool { return s&(1<<(sig-1)) != 0 }

var (
	unblockable  = set(unix.SIGKILL, unix.SIGSTOP)
	stopSignals  = set(unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	ignoredByDfl = set(unix.SIGCONT, unix.SIGCHLD, unix.SIGWINCH, unix.SIGURG)
	synchronous  = set(unix.SIGSEGV, unix.SIGBUS, unix.SIGILL, unix.SIGTRAP, unix.SIGFPE, unix.SIGSYS)
)

// SigAction is struct sigaction as rt_sigaction(2) carries it.
type SigAction struct {
	Handler  uint64
	Flags    uint64
	Restorer uint64
	Mask     SigSet
}

// ignores says that sig has no effect with this action.
func (a SigAction) ignores(sig unix.Signal) bool {
	return a.Handler == SigIgn || a.Handler == SigDfl && ignoredByDfl.Has(sig)
}

// Handler values and flags.
const (
	SigDfl = 0
	SigIgn = 1

	SA_NOCLDSTOP = 1
	SA_NOCLDWAIT = 2
	SA_SIGINFO   = 4
	SA_RESTORER  = 0x04000000
	SA_ONSTACK   = 0x08000000
	SA_RESTART   = 0x10000000
	SA_NODEFER   = 0x40000000
	SA_RESETHAND = 0x80000000
)

// SignalHandlers is what CLONE_SIGHAND shares.
type SignalHandlers struct {
	mu      sync.Mutex
	actions [NSIG + 1]SigAction
}

func (h *SignalHandlers) get(sig unix.Signal) SigAction {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.actions[sig]
}

// fork copies the handlers; exec drops those that were handlers.
func (h *SignalHandlers) fork(exec bool) *SignalHandlers {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := &SignalHandlers{actions: h.actions}
	for i := range n.actions {
		if exec && n.actions[i].Handler > SigIgn {
			n.actions[i] = SigAction{}
		} else if exec {
			n.actions[i] = SigAction{Handler: n.actions[i].Handler}
		}
	}
	return n
}

// pendingSignals holds standard signals once and real-time ones in order.
type pendingSignals struct {
	set   SigSet
	infos []*SigInfo
}

// add queues a signal, of which limit says how many there may be. A timer's is always
// queued: each timer has at most one.
func (p *pendingSignals) add(info *SigInfo, limit uint64, timer bool) error {
	sig := info.Signo()
	if sig < 32 && p.set.Has(sig) && !timer {
		return nil
	}
	if !timer && sig >= 32 && uint64(len(p.infos)) >= limit && info.Code() != SI_USER && info.Code() != SI_KERNEL {
		return unix.EAGAIN
	}
	p.set |= set(sig)
	p.infos = append(p.infos, info)
	return nil
}

// take removes the next signal of those in mask: synchronous ones first, then
// the lowest number; of one number the oldest.
func (p *pendingSignals) take(mask SigSet) *SigInfo {
	ready := p.set & mask
	if ready == 0 {
		return nil
	}
	if s := ready & synchronous; s != 0 {
		ready = s
	}
	sig := unix.Signal(bits.TrailingZeros64(uint64(ready)) + 1)
	var found *SigInfo
	more := false
	kept := p.infos[:0]
	for _, i := range p.infos {
		switch {
		case i.Signo() == sig && found == nil:
			found = i
			continue
		case i.Signo() == sig:
			more = true
		}
		kept = append(kept, i)
	}
	for n := len(kept); n < len(p.infos); n++ {
		p.infos[n] = nil
	}
	p.infos = kept
	if !more {
		p.set &^= set(sig)
	}
	return found
}

// remove takes out one signal.
func (p *pendingSignals) remove(info *SigInfo) {
	p.infos = slices.DeleteFunc(p.infos, func(i *SigInfo) bool { return i == info })
	sig := info.Signo()
	if !slices.ContainsFunc(p.infos, func(i *SigInfo) bool { return i.Signo() == sig }) {
		p.set &^= set(sig)
	}
}

func (p *pendingSignals) drop(mask SigSet) {
	for p.take(mask) != nil {
	}
}

// deliverableLocked is what t would take now.
func (t *Task) deliverableLocked() SigSet {
	return (t.pending.set | t.group.pending.set) &^ t.mask
}

// ignoredLocked reports whether sig would do nothing to g (kernel/signal.c,
// sig_ignored). A process with id 1 takes no signal from inside that it has no
// handler for (SIGNAL_UNKILLABLE); force is for those from outside.
func (g *ThreadGroup) ignoredLocked(sig unix.Signal, force bool) bool {
	a := g.Handlers.get(sig)
	switch {
	case a.Handler == SigIgn:
		return true
	case a.Handler != SigDfl:
		return false
	case g.unkillable() && !(force && unblockable.Has(sig)):
		return true
	}
	return ignoredByDfl.Has(sig)
}

// sendGroupLocked sends to a process.
func (k *Kernel) sendGroupLocked(g *ThreadGroup, info *SigInfo) error {
	return k.sendLocked(g, nil, info, false)
}

// sendLocked sends to t, or where it is nil to the process g.
func (k *Kernel) sendLocked(g *ThreadGroup, t *Task, info *SigInfo, force bool) error {
	var how sendHow
	if force {
		how = forced
	}
	return k.sendTakerLocked(g, t, info, how, g.leader)
}

// sendHow says what is special about a signal that is sent.
type sendHow uint8

const (
	forced  sendHow = 1 << iota // from outside of its pid namespace
	ofTimer                     // of a POSIX timer's own
)

// sendTakerLocked is sendLocked with the thread that had best take a signal to the process.
func (k *Kernel) sendTakerLocked(g *ThreadGroup, t *Task, info *SigInfo, how sendHow, taker *Task) error {
	sig := info.Signo()
	if g.dead || g.leader == nil {
		return nil
	}
	k.prepareLocked(g, sig)
	blocked := func(t *Task) bool { return t.mask.Has(sig) || t.realMask().Has(sig) }
	traced := t != nil && t.tr != nil || t == nil && g.leader.tr != nil // who may want to see what is ignored
	if (!traced || sig == unix.SIGKILL) && g.ignoredLocked(sig, how&forced != 0) {
		some := false
		for _, x := range g.tasks {
			some = some || blocked(x)
		}
		if !some {
			return nil
		}
	}
	if sig == unix.SIGKILL {
		k.killGroupLocked(g, unix.SIGKILL)
		return nil
	}
	queue := &g.pending
	if t != nil {
		queue = &t.pending
	}
	if err := queue.add(info, g.Limits.Get(11).Cur, how&ofTimer != 0); err != nil {
		return err
	}
	g.signals.Notify(vfs.EventIn)
	if t != nil {
		if !t.mask.Has(sig) {
			t.kick(workSignal)
		}
		return nil
	}
	// Any thread that does not block it will do; one that sleeps is as good as
	// any, the leader first if nothing speaks for another (complete_signal).
	if !taker.mask.Has(sig) && taker.state == taskRunning {
		taker.kick(workSignal)
		return nil
	}
	for _, x := range g.tasks {
		if !x.mask.Has(sig) {
			x.kick(workSignal)
			return nil
		}
	}
	return nil
}

// sendToRunner sends the signal of a timer that counts CPU time: Linux's tick sends it
// from the thread that runs. Of several each has its turn.
func (g *ThreadGroup) sendToRunner(info *SigInfo) {
	k := g.k
	k.mu.Lock()
	defer k.mu.Unlock()
	taker := g.leader
	g.turn++
	for i := range g.tasks {
		if x := g.tasks[(g.turn+i)%len(g.tasks)]; x.inApp.Load() != 0 && !x.mask.Has(info.Signo()) {
			taker = x
			break
		}
	}
	if taker != nil {
		k.sendTakerLocked(g, nil, info, 0, taker)
	}
}

// realMask is the mask that will be restored, while sigtimedwait has another.
func (t *Task) realMask() SigSet {
	if t.restoreMask {
		return t.savedMask
	}
	return t.mask
}

// prepareLocked does what stop and continue signals do when sent
// (kernel/signal.c, prepare_signal).
func (k *Kernel) prepareLocked(g *ThreadGroup, sig unix.Signal) {
	switch {
	case stopSignals.Has(sig):
		g.dropLocked(set(unix.SIGCONT))
	case sig == unix.SIGCONT:
		g.dropLocked(stopSignals)
		k.continueLocked(g)
	}
}

func (g *ThreadGroup) dropLocked(mask SigSet) {
	g.pending.drop(mask)
	for _, t := range g.tasks {
		t.pending.drop(mask)
	}
}

// killGroupLocked makes all threads of g exit with sig as the reason.
func (k *Kernel) killGroupLocked(g *ThreadGroup, sig unix.Signal) {
	k.exitGroupLocked(g, int32(sig))
}

// exitGroupLocked makes all threads exit; status is wait(2)'s.
func (k *Kernel) exitGroupLocked(g *ThreadGroup, status int32) {
	if !g.exiting {
		g.exiting, g.exitStatus = true, status
	}
	for _, t := range g.tasks {
		t.killed = true
		t.kick(workExit)
	}
	g.endStopsLocked(nil)
}

// forceFault sends a signal that the application's own instruction caused: if it
// is blocked or ignored it kills.
func (t *Task) forceFault(info *SigInfo, ev platform.Event) {
	t.faultTrap, t.faultErr, t.faultAddr = ev.Trap, ev.Err, uint64(ev.Addr)
	t.force(info)
}

// ForceSignal sends sig so that it cannot be blocked or ignored.
func (t *Task) ForceSignal(sig unix.Signal) { t.force(kernelInfo(sig)) }

// ForceInfo is ForceSignal with a siginfo.
func (t *Task) ForceInfo(info *SigInfo) { t.force(info) }

func (t *Task) force(info *SigInfo) {
	sig := info.Signo()
	k := t.k
	k.mu.Lock()
	h := t.group.Handlers
	h.mu.Lock()
	a := &h.actions[sig]
	if t.mask.Has(sig) || a.Handler == SigIgn {
		*a = SigAction{}
		t.mask &^= set(sig)
	}
	dfl := a.Handler == SigDfl
	h.mu.Unlock()
	if sig == unix.SIGKILL || dfl && t.group.id.ns.init == t.group && t.tr == nil {
		k.mu.Unlock()
		t.die(info)
		return
	}
	t.pending.add(info, ^uint64(0), false)
	t.kick(workSignal)
	k.mu.Unlock()
}

// Action is sigaction(2): it returns the old action and sets the new one.
func (t *Task) Action(sig unix.Signal, act *SigAction) (SigAction, error) {
	if sig < 1 || sig > NSIG || act != nil && unblockable.Has(sig) {
		return SigAction{}, unix.EINVAL
	}
	old := t.setAction(sig, act)
	if act != nil && old.ignores(sig) && !act.ignores(sig) {
		t.group.Timers.unignored(sig)
	}
	return old, nil
}

func (t *Task) setAction(sig unix.Signal, act *SigAction) (old SigAction) {
	k, h := t.k, t.group.Handlers
	k.mu.Lock()
	defer k.mu.Unlock()
	h.mu.Lock()
	old = h.actions[sig]
	if act != nil {
		a := *act
		a.Mask &^= unblockable
		h.actions[sig] = a
	}
	h.mu.Unlock()
	if act != nil && act.ignores(sig) {
		t.group.dropLocked(set(sig))
	}
	return old
}

// SignalMask is the set of blocked signals.
func (t *Task) SignalMask() SigSet { return t.mask }

// SetSignalMask changes it.
func (t *Task) SetSignalMask(m SigSet) {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	t.setMaskLocked(m)
}

func (t *Task) setMaskLocked(m SigSet) {
	m &^= unblockable
	newly := m &^ t.mask
	t.mask = m
	if t.deliverableLocked() != 0 {
		t.work.Or(workSignal)
	}
	// Shared signals that t was to take go to somebody else.
	if moved := t.group.pending.set & newly; moved != 0 {
		for _, x := range t.group.tasks {
			if x != t && moved&^x.mask != 0 {
				x.kick(workSignal)
			}
		}
	}
}

// WithMask sets a mask for the time of a call (sigsuspend, ppoll): the old one
// comes back when the call returns, after a handler if one runs.
func (t *Task) WithMask(m SigSet) {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	if !t.restoreMask {
		t.savedMask, t.restoreMask = t.mask, true
	}
	t.setMaskLocked(m)
	t.work.Or(workSignal)
}

// PendingSignals is sigpending(2).
func (t *Task) PendingSignals() SigSet {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	return (t.pending.set | t.group.pending.set) & t.mask
}

// SignalSets are the lines of /proc/PID/status.
func (t *Task) SignalSets() (pending, shared, blocked, ignored, caught SigSet, queued int) {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	h := t.group.Handlers
	h.mu.Lock()
	defer h.mu.Unlock()
	for sig := unix.Signal(1); sig <= NSIG; sig++ {
		switch h.actions[sig].Handler {
		case SigDfl:
		case SigIgn:
			ignored |= set(sig)
		default:
			caught |= set(sig)
		}
	}
	return t.pending.set, t.group.pending.set, t.mask, ignored, caught, len(t.pending.infos) + len(t.group.pending.infos)
}

// TakeSignal removes a pending signal of mask, for sigtimedwait and signalfd;
// nil if there is none.
func (t *Task) TakeSignal(mask SigSet) *SigInfo {
	t.k.mu.Lock()
	i := t.pending.take(mask)
	if i == nil {
		i = t.group.pending.take(mask)
	}
	t.k.mu.Unlock()
	if i != nil {
		t.group.Timers.taken(i)
	}
	return i
}

// HasSignal reports whether TakeSignal would find one.
func (t *Task) HasSignal(mask SigSet) bool {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	return (t.pending.set|t.group.pending.set)&mask != 0
}

// SignalQueue is told when a signal was queued for the process or one of its
// threads.
func (g *ThreadGroup) SignalQueue() *vfs.Queue { return &g.signals }

// AltStack is sigaltstack(2)'s.
type AltStack struct {
	Base  memory.Addr
	Size  uint64
	Flags uint32
}

// AltStack is the signal stack, SetAltStack changes it; both with flags as kept.
func (t *Task) AltStack() AltStack     { return t.altStack }
func (t *Task) SetAltStack(s AltStack) { t.altStack = s }

// OnAltStack reports whether sp lies on the signal stack.
func (t *Task) OnAltStack(sp uint64) bool {
	s := t.altStack
	return s.Size != 0 && s.Flags&ssAutodisarm == 0 && sp > uint64(s.Base) && sp-uint64(s.Base) <= s.Size
}

const (
	ssOnStack    = 1
	SSDisable    = 2
	ssAutodisarm = 1 << 31
)
