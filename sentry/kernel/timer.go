package kernel

import (
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Timers are a process's interval and POSIX timers.
type Timers struct {
	g  *ThreadGroup
	mu sync.Mutex

	itimers [3]*Timer
	posix   map[int32]*Timer
	next    int32
	cpu     *Timer // RLIMIT_CPU
}

// Timer goes off once or again and again. What its time is measured by is a
// function, so that CPU clocks serve too: those are looked at in real time
// steps of what is left at least (a clock cannot run faster than its threads).
type Timer struct {
	mu       sync.Mutex
	now      func() time.Duration
	cpu      bool // now is a CPU clock
	fire     func(gen uint64, missed int64)
	next     time.Duration // on the clock; 0 if disarmed
	interval time.Duration
	gen      atomic.Uint64 // counts settings; written with mu held
	patient  bool          // see NewPatientTimer
	held     bool          // it went off and waits for Take
	timer    *time.Timer
	told     atomic.Int64 // overruns that the last signal told of

	ID    int32
	Clock int32
	Sigev SigEvent
}

// SigEvent says how a POSIX timer tells of itself.
type SigEvent struct {
	Value  uint64
	Signal int32
	Notify int32 // SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD, SIGEV_THREAD_ID
	TID    int32 // in the first namespace
}

// NewTimer makes a timer on a clock; fire is called without locks held, and is
// told how many expirations beyond one it stands for. now may take Kernel.mu, so
// that a Timer must not be set while that is held.
func NewTimer(now func() time.Duration, cpu bool, fire func(missed int64)) *Timer {
	return &Timer{now: now, cpu: cpu, fire: func(_ uint64, missed int64) { fire(missed) }}
}

// NewPatientTimer is NewTimer for one that goes off once and then, if it has an
// interval, waits for Take. A thousand of a microsecond each, that nobody reads or
// whose signals nobody takes, would otherwise keep every CPU busy (fs/timerfd.c,
// timerfd_read, does the same, as does whoever takes a timer's signal in
// kernel/signal.c, dequeue_signal).
func NewPatientTimer(now func() time.Duration, cpu bool, fire func(missed int64)) *Timer {
	t := NewTimer(now, cpu, fire)
	t.patient = true
	return t
}

// NewCountedTimer is NewPatientTimer on a clock of real time for who counts the expirations of a setting and
// begins anew with the next (Reset): fire is told which setting it is of, and compares
// it with Setting under the lock that forget takes.
func NewCountedTimer(now func() time.Duration, fire func(setting uint64, missed int64)) *Timer {
	return &Timer{now: now, fire: fire, patient: true}
}

// Setting is the number of the present setting.
func (t *Timer) Setting() uint64 { return t.gen.Load() }

// Take lets a patient timer that went off go on, and says how often it would have
// gone off meanwhile.
func (t *Timer) Take() (missed int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.held {
		return 0
	}
	t.held = false
	if late := t.now() - t.next; late >= 0 {
		missed = int64(late/t.interval) + 1
		t.next += time.Duration(missed) * t.interval
	}
	t.armLocked()
	return missed
}

// Set arms the timer for next on its clock (0 disarms), then every interval. It
// returns what was left and the old interval.
func (t *Timer) Set(next, interval time.Duration) (left, old time.Duration) {
	return t.Reset(next, interval, func() {})
}

// Reset is Set; forget is called when the old setting no longer fires, and the new one not yet.
// It must not call the timer.
func (t *Timer) Reset(next, interval time.Duration, forget func()) (left, old time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	left, old = t.leftLocked(), t.interval
	t.next, t.interval, t.held = next, interval, false
	t.gen.Add(1)
	if t.timer != nil {
		t.timer.Stop()
	}
	forget()
	if next != 0 {
		t.armLocked()
	}
	return
}

// Left is the time to the next expiry, and the interval; 0 if disarmed.
func (t *Timer) Left() (left, interval time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.leftLocked(), t.interval
}

func (t *Timer) leftLocked() time.Duration {
	if t.next == 0 {
		return 0
	}
	left := t.next - t.now()
	if t.held && left <= 0 {
		left = t.interval - -left%t.interval
	}
	return max(left, 1)
}

// cpuStep is how often a CPU-time timer is looked at, at the least.
const cpuStep = 4 * time.Millisecond // CONFIG_HZ=250's tick

func (t *Timer) armLocked() {
	wait := t.next - t.now()
	if t.cpu {
		wait = max(wait, cpuStep)
	}
	gen := t.gen.Load()
	t.timer = time.AfterFunc(max(wait, 0), func() { t.expire(gen) })
}

func (t *Timer) expire(gen uint64) {
	t.mu.Lock()
	if gen != t.gen.Load() || t.next == 0 {
		t.mu.Unlock()
		return
	}
	now := t.now()
	if now < t.next {
		t.armLocked()
		t.mu.Unlock()
		return
	}
	missed := int64(0)
	if t.interval == 0 {
		t.next = 0
	} else {
		missed = int64((now - t.next) / t.interval)
		t.next += time.Duration(missed+1) * t.interval
		if t.held = t.patient; !t.held {
			t.armLocked()
		}
	}
	t.mu.Unlock()
	t.fire(gen, missed)
}

func (ts *Timers) init(g *ThreadGroup) { ts.g, ts.posix = g, map[int32]*Timer{} }

// Interval is the itimer ITIMER_REAL, _VIRTUAL or _PROF.
func (ts *Timers) Interval(which int) (*Timer, error) {
	if which < 0 || which > 2 {
		return nil, unix.EINVAL
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.itimers[which] == nil {
		g := ts.g
		clocks := []func() time.Duration{g.k.Clock.Monotonic, g.userTime, g.allTime}
		sig := []unix.Signal{unix.SIGALRM, unix.SIGVTALRM, unix.SIGPROF}[which]
		if which == unix.ITIMER_REAL {
			ts.itimers[which] = NewPatientTimer(clocks[which], false, func(int64) { g.SendGroup(kernelInfo(sig), false) })
		} else {
			ts.itimers[which] = NewTimer(clocks[which], true, func(int64) { g.sendToRunner(kernelInfo(sig)) })
		}
	}
	return ts.itimers[which], nil
}

func (g *ThreadGroup) userTime() time.Duration { u, _ := g.CPUTime(); return u }
func (g *ThreadGroup) allTime() time.Duration  { u, s := g.CPUTime(); return u + s }

// LimitCPU watches RLIMIT_CPU: SIGXCPU at the soft limit and each second from
// there, SIGKILL at the hard one (kernel/time/posix-cpu-timers.c,
// check_process_timers).
func (ts *Timers) LimitCPU() {
	g := ts.g
	l := g.Limits.Get(unix.RLIMIT_CPU)
	ts.mu.Lock()
	defer ts.mu.Unlock()
	const forever = 1 << 32 // seconds
	if l.Cur >= forever {
		if ts.cpu != nil {
			ts.cpu.Set(0, 0)
		}
		return
	}
	if ts.cpu == nil {
		ts.cpu = NewTimer(g.allTime, true, func(int64) {
			if max := g.Limits.Get(unix.RLIMIT_CPU).Max; max < forever && g.allTime() >= time.Duration(max)*time.Second {
				g.SendGroup(kernelInfo(unix.SIGKILL), true)
				return
			}
			g.SendGroup(kernelInfo(unix.SIGXCPU), false)
		})
	}
	ts.cpu.Set(max(time.Duration(l.Cur)*time.Second, 1), time.Second)
}

// maxTimers bounds what one process may have, beside RLIMIT_SIGPENDING: each
// timer has room for its signal (kernel/time/posix-timers.c, alloc_posix_timer).
// On Linux the limit is a user's, here a process's.
const maxTimers = 4096

// Create is timer_create(2) on a clock that now reads.
func (ts *Timers) Create(clock int32, now func() time.Duration, cpu bool, ev SigEvent) (*Timer, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if uint64(len(ts.posix)) >= min(maxTimers, ts.g.Limits.Get(unix.RLIMIT_SIGPENDING).Cur) {
		return nil, unix.EAGAIN
	}
	for ts.posix[ts.next] != nil {
		ts.next = (ts.next + 1) & 0x7fffffff
	}
	g := ts.g
	t := &Timer{now: now, cpu: cpu, patient: true}
	t.fire = func(gen uint64, missed int64) { g.timerFired(t, gen, missed) }
	t.ID, t.Clock, t.Sigev = ts.next, clock, ev
	if ev.Notify == 0 && ev.Signal == 0 {
		t.Sigev.Signal = int32(unix.SIGALRM)
	}
	ts.posix[t.ID] = t
	ts.next = (ts.next + 1) & 0x7fffffff
	return t, nil
}

// timerFired sends t's signal, unless t was set anew since it went off: what it told before is
// forgotten (Settime), and what it has yet to tell must not come after.
func (g *ThreadGroup) timerFired(t *Timer, gen uint64, missed int64) {
	const none, threadID = 1, 4
	if t.Sigev.Notify == none {
		return
	}
	info := TimerInfo(unix.Signal(t.Sigev.Signal), t.ID, int32(min(missed, math.MaxInt32)), t.Sigev.Value)
	k := g.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if t.gen.Load() != gen {
		return
	}
	g.forgetLocked(t)
	if t.Sigev.Notify != threadID {
		k.sendTakerLocked(g, nil, info, ofTimer, g.leader)
	} else if x := k.taskLocked(k.root, t.Sigev.TID); x != nil && x.group == g {
		k.sendTakerLocked(g, x, info, ofTimer, x)
	}
}

// forgetLocked takes t's signal out of the queue, if it is pending: it tells of a setting
// that is no more (it_signal_seq in kernel/time/posix-timers.c).
func (g *ThreadGroup) forgetLocked(t *Timer) {
	forget(&g.pending, t)
	for _, x := range g.tasks {
		forget(&x.pending, t)
	}
}

func forget(p *pendingSignals, t *Timer) {
	if i := p.of(t); i != nil {
		p.remove(i)
	}
}

// of is the signal of t's that is pending, or nil.
func (p *pendingSignals) of(t *Timer) *SigInfo {
	for _, i := range p.infos {
		if i.Code() == SI_TIMER && int32(i.Uint32(16)) == t.ID && int32(i.Signo()) == t.Sigev.Signal {
			return i
		}
	}
	return nil
}

// Settime is timer_settime(2): Timer.Set, and what the old setting has told is forgotten.
func (ts *Timers) Settime(t *Timer, next, interval time.Duration) (left, old time.Duration) {
	return t.Reset(next, interval, func() {
		k := ts.g.k
		k.mu.Lock()
		defer k.mu.Unlock()
		ts.g.forgetLocked(t)
	})
}

// taken is told that a signal leaves the queue: the timer that sent it goes on, and what
// it missed meanwhile is in the signal (kernel/time/posix-timers.c,
// posixtimer_deliver_signal). Any SIGALRM makes the interval timer go on, which has
// none of its own. Kernel.mu is not held.
func (ts *Timers) taken(i *SigInfo) {
	ts.mu.Lock()
	alarm, posix := ts.itimers[unix.ITIMER_REAL], (*Timer)(nil)
	if i.Code() == SI_TIMER {
		posix = ts.posix[int32(i.Uint32(16))]
	}
	ts.mu.Unlock()
	if i.Signo() == unix.SIGALRM && alarm != nil {
		alarm.Take()
	}
	if posix != nil && posix.Sigev.Signal == int32(i.Signo()) {
		overruns := min(int64(int32(i.Uint32(20)))+posix.Take(), math.MaxInt32)
		i.put32(20, uint32(overruns))
		posix.told.Store(overruns)
	}
}

// unignored sends the signals of timers that went off while their signal was ignored, and
// wait: it no longer is (posixtimer_sig_unignore).
func (ts *Timers) unignored(sig unix.Signal) {
	for _, t := range ts.All() {
		if t.Sigev.Signal == int32(sig) && t.waits() {
			ts.g.timerFired(t, t.gen.Load(), 0)
		}
	}
}

// waits says that the timer went off and was not taken.
func (t *Timer) waits() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held
}

// Get finds a POSIX timer, Delete removes it, IDs lists them.
func (ts *Timers) Get(id int32) (*Timer, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t := ts.posix[id]; t != nil {
		return t, nil
	}
	return nil, unix.EINVAL
}

// All are the POSIX timers, the youngest first.
func (ts *Timers) All() []*Timer {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	out := slices.Collect(maps.Values(ts.posix))
	slices.SortFunc(out, func(a, b *Timer) int { return int(b.ID - a.ID) })
	return out
}

func (ts *Timers) Delete(id int32) error {
	ts.mu.Lock()
	t := ts.posix[id]
	delete(ts.posix, id)
	ts.mu.Unlock()
	if t == nil {
		return unix.EINVAL
	}
	ts.Settime(t, 0, 0)
	return nil
}

// exec drops POSIX timers; interval timers go on.
func (ts *Timers) exec() {
	ts.mu.Lock()
	old := ts.posix
	ts.posix = map[int32]*Timer{}
	ts.mu.Unlock()
	for _, t := range old {
		t.Set(0, 0)
	}
}

// stop ends all; it is called with Kernel.mu held and so only starts the end.
func (ts *Timers) stop() {
	go func() {
		defer ts.g.k.Guard()
		ts.exec()
		ts.mu.Lock()
		all := append(ts.itimers[:], ts.cpu)
		ts.mu.Unlock()
		for _, t := range all {
			if t != nil {
				t.Set(0, 0)
			}
		}
	}()
}

// Overruns is how many expirations the signal that was delivered last stood for
// beyond one (timer_getoverrun(2)).
func (t *Timer) Overruns() int64 { return t.told.Load() }
