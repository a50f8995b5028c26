package kernel

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// A task's CPU time is counted by the clock, which costs nothing to read: from one
// entry into the application or the Sentry to the next. So counted, time that the
// host gave to others counts too: four threads that compute on two CPUs would use
// four, and one whose container may use a fifth of a CPU would use a whole one. So
// what was counted is weighed now and then against what the host's scheduler says, as
// Linux weighs ticks (kernel/sched/cputime.c, cputime_adjust): the sum is the host's,
// its parts are the clock's. How much it tells apart depends on the platform: where
// application code runs in processes of their own (platform.Metered), each address
// space is weighed by itself, and the Sentry's own part as a whole; otherwise all of it
// as a whole.

// spent is CPU time of one kind, the user's or the system's, of one task.
type spent struct {
	clock   atomic.Int64 // nanoseconds, counted by the clock; the task alone writes
	running *Task        // whose time in the application, now under way, belongs to it; or nil

	// Under cpuTimes.mu.
	m    *meter // nil: not weighed
	seen int64  // of clock, when m was read last
	used int64  // of seen, by the scheduler
	told int64  // the most that was said; it does not go back
}

// count is what the clock has counted up to now.
func (s *spent) count() int64 {
	t := s.running
	if t == nil {
		return s.clock.Load()
	}
	for {
		entered := t.entered.Load()
		n := s.clock.Load()
		inApp := t.inApp.Load() != 0
		if t.entered.Load() != entered {
			continue
		}
		if d := int64(t.k.Clock.forCPUTime()) - entered; inApp && d > 0 {
			n += d
		}
		return n
	}
}

// meter weighs what some tasks spent.
type meter struct {
	read   func() (time.Duration, error) // CPU time that the scheduler gave them, and maybe others
	last   time.Duration
	at     time.Duration // when, since the kernel's start
	share  float64       // of the time by the clock, that was used; at most 1
	of     map[*spent]struct{}
	broken bool // read failed: the clock has to do
}

// How old what the scheduler said may be for who asks, and for who goes on.
const (
	freshCPUTime = 10 * time.Millisecond
	staleCPUTime = 100 * time.Millisecond
)

// cpuTimes are a kernel's meters. Its lock is a leaf.
type cpuTimes struct {
	mu     sync.Mutex
	sentry *meter
	spaces map[platform.AddressSpace]*meter
}

// meterFor is the meter of the address space, or the Sentry's if it has none.
func (c *cpuTimes) meterForLocked(as platform.AddressSpace, now time.Duration) *meter {
	if c.sentry == nil {
		c.spaces = map[platform.AddressSpace]*meter{}
		c.sentry = newMeter(ownCPUTime, now)
	}
	x, ok := as.(platform.Metered)
	if !ok {
		return c.sentry
	}
	m := c.spaces[as]
	if m == nil {
		m = newMeter(x.CPUTime, now)
		c.spaces[as] = m
	}
	return m
}

func ownCPUTime() (time.Duration, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano()), err
}

func newMeter(read func() (time.Duration, error), now time.Duration) *meter {
	m := &meter{read: read, at: now, share: 1, of: map[*spent]struct{}{}}
	m.begin()
	return m
}

func (m *meter) begin() {
	var err error
	m.last, err = m.read()
	m.broken = err != nil
}

// weigh reads the scheduler's clock, and shares out what passed on it.
func (m *meter) weigh(now time.Duration) {
	m.at = now
	var passed time.Duration
	if !m.broken {
		t, err := m.read()
		m.broken = err != nil
		passed, m.last = t-m.last, t
	}
	counted := int64(0)
	for s := range m.of {
		counted += s.growth()
	}
	if m.share = 1; !m.broken && int64(passed) < counted {
		m.share = float64(max(passed, 0)) / float64(counted)
	}
	for s := range m.of {
		d := s.growth()
		s.used += int64(float64(d) * m.share)
		s.seen += d
	}
}

func (s *spent) growth() int64 { return max(s.count()-s.seen, 0) }

// tell is s as of now.
func (s *spent) tell() time.Duration {
	if s.m == nil {
		s.told = max(s.told, s.used+s.growth())
	} else {
		s.told = max(s.told, s.used+int64(float64(s.growth())*s.m.share))
	}
	return time.Duration(s.told)
}

func (s *spent) join(m *meter, now time.Duration) {
	if len(m.of) == 0 { // nothing of what passed was these tasks'
		m.begin()
		m.at = now
	} else {
		m.weigh(now)
	}
	s.m, s.seen = m, s.count()
	m.of[s] = struct{}{}
}

func (s *spent) leave(now time.Duration) {
	if s.m != nil {
		s.m.weigh(now)
		delete(s.m.of, s)
		s.m = nil
	}
}

// meterIn begins to weigh what t spends in the address space.
func (t *Task) meterIn(as platform.AddressSpace) {
	c, now := &t.k.cpu, t.k.Clock.forCPUTime()
	c.mu.Lock()
	defer c.mu.Unlock()
	t.user.running = t
	t.user.join(c.meterForLocked(as, now), now)
	if t.sys.m == nil {
		t.sys.join(c.sentry, now)
	}
}

// meterOut ends it; it comes before the address space goes. With all, t ends.
func (t *Task) meterOut(as platform.AddressSpace, all bool) {
	c, now := &t.k.cpu, t.k.Clock.forCPUTime()
	c.mu.Lock()
	defer c.mu.Unlock()
	m := t.user.m
	t.user.leave(now)
	if m != nil && m != c.sentry && len(m.of) == 0 {
		delete(c.spaces, as)
	}
	if all {
		t.sys.leave(now)
	}
}

// CPUTime is the user and system time of the thread so far. It does not go back.
func (t *Task) CPUTime() (user, sys time.Duration) {
	t.k.cpu.mu.Lock()
	defer t.k.cpu.mu.Unlock()
	t.weighLocked(t.k.Clock.forCPUTime(), freshCPUTime)
	return t.user.tell(), t.sys.tell()
}

// weighLocked brings t's meters up to date if they are older than that.
func (t *Task) weighLocked(now, age time.Duration) {
	for _, m := range [...]*meter{t.user.m, t.sys.m} {
		if m != nil && now-m.at >= age {
			m.weigh(now)
		}
	}
}

// account adds the time since the last call to what.
func (t *Task) account(what *spent) {
	now := t.k.Clock.forCPUTime()
	d := max(int64(now)-t.entered.Load(), 0) // the next line may begin a little earlier
	platform.Store64(&t.entered, int64(now)) // first, or who reads both in between has it twice
	platform.Store64(&what.clock, what.clock.Load()+d)
	if now >= t.weighed {
		t.weighed = now + staleCPUTime
		t.k.cpu.mu.Lock()
		t.weighLocked(now, staleCPUTime)
		t.k.cpu.mu.Unlock()
	}
}
