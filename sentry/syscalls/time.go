package syscalls

import (
	"math"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
)

func timeCalls() []row {
	return []row{
		{unix.SYS_CLOCK_GETTIME, clockGettime, Full, ""},
		{unix.SYS_CLOCK_GETRES, clockGetres, Full, ""},
		{unix.SYS_CLOCK_SETTIME, clockSettime, Full, "sets the container's clock only"},
		{unix.SYS_CLOCK_NANOSLEEP, clockNanosleep, Full, ""},
		{unix.SYS_NANOSLEEP, nanosleep, Full, ""},
		{unix.SYS_GETTIMEOFDAY, gettimeofday, Full, ""},
		{unix.SYS_SETTIMEOFDAY, settimeofday, Full, "sets the container's clock only"},
		{unix.SYS_TIME, timeCall, Full, ""},
		{unix.SYS_TIMES, times, Full, ""},
		{unix.SYS_GETITIMER, getitimer, Full, ""},
		{unix.SYS_SETITIMER, setitimer, Full, ""},
		{unix.SYS_ALARM, alarm, Full, ""},
		{unix.SYS_TIMER_CREATE, timerCreate, Full, ""},
		{unix.SYS_TIMER_SETTIME, timerSettime, Full, ""},
		{unix.SYS_TIMER_GETTIME, timerGettime, Full, ""},
		{unix.SYS_TIMER_GETOVERRUN, timerGetoverrun, Full, ""},
		{unix.SYS_TIMER_DELETE, timerDelete, Full, ""},
		{unix.SYS_ADJTIMEX, refuse(unix.EPERM), Partial, "the host's clock is not the container's to adjust"},
		{unix.SYS_CLOCK_ADJTIME, refuse(unix.EPERM), Partial, "as adjtimex"},
	}
}

// clock is a readable clock.
type clock struct {
	now  func() time.Duration
	cpu  bool
	wall bool // CLOCK_REALTIME: deadlines move when it is set
}

// findClock looks a clock id up (include/uapi/linux/time.h; for CPU clocks of
// other tasks include/linux/posix-timers.h).
func findClock(t *kernel.Task, id int32) (clock, error) {
	c := t.Kernel().Clock
	// The same line that the vDSO reads, so that both agree.
	shift, bootShift := t.Namespaces().Time.Offsets()
	mono := func() time.Duration { m, _ := t.Kernel().Refresh(false); return m + shift }
	real := func() time.Duration { _, r := t.Kernel().Refresh(false); return time.Duration(r) }
	switch id {
	case unix.CLOCK_REALTIME, unix.CLOCK_REALTIME_COARSE:
		return clock{real, false, true}, nil
	case unix.CLOCK_TAI:
		return clock{real, false, true}, nil
	case unix.CLOCK_MONOTONIC, unix.CLOCK_MONOTONIC_COARSE:
		return clock{mono, false, false}, nil
	case unix.CLOCK_MONOTONIC_RAW:
		return clock{func() time.Duration { return c.MonotonicRaw() + shift }, false, false}, nil
	case unix.CLOCK_BOOTTIME: // the _ALARM clocks are EINVAL where there is no clock chip
		return clock{func() time.Duration { return mono() - shift + bootShift + c.Boottime() - c.Monotonic() }, false, false}, nil
	case unix.CLOCK_PROCESS_CPUTIME_ID:
		return groupClock(t.Group(), 2), nil
	case unix.CLOCK_THREAD_CPUTIME_ID:
		return taskClock(t, 2), nil
	}
	if id >= 0 || id&7 == 3 || id&3 == 3 {
		return clock{}, unix.EINVAL
	}
	pid, which := int32(^(id >> 3)), int(id&3)
	if id&4 != 0 {
		x := t
		if pid != 0 {
			if x = t.Find(pid); x == nil || x.Group() != t.Group() {
				return clock{}, unix.EINVAL
			}
		}
		return taskClock(x, which), nil
	}
	g, err := other(t, pid)
	if err != nil {
		return clock{}, unix.EINVAL
	}
	return groupClock(g, which), nil
}

// which is CPUCLOCK_PROF 0, _VIRT 1 or _SCHED 2.
func groupClock(g *kernel.ThreadGroup, which int) clock {
	return clock{func() time.Duration {
		u, s := g.CPUTime()
		if which == 1 {
			return u
		}
		return u + s
	}, true, false}
}

func taskClock(t *kernel.Task, which int) clock {
	return clock{func() time.Duration {
		u, s := t.CPUTime()
		if which == 1 {
			return u
		}
		return u + s
	}, true, false}
}

func clockGettime(t *kernel.Task, a *Args) (uintptr, error) {
	c, err := findClock(t, int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	return 0, outTimespec(t, a.Addr(1), unix.NsecToTimespec(int64(c.now())))
}

func clockGetres(t *kernel.Task, a *Args) (uintptr, error) {
	if _, err := findClock(t, int32(a.Int(0))); err != nil {
		return 0, err
	}
	if a[1] == 0 {
		return 0, nil
	}
	res := unix.Timespec{Nsec: 1}
	if id := a.Int(0); id == unix.CLOCK_REALTIME_COARSE || id == unix.CLOCK_MONOTONIC_COARSE {
		res.Nsec = 4e6
	}
	return 0, outTimespec(t, a.Addr(1), res)
}

// latest is the first second that a clock cannot be set to: 30 years before the end of
// what 64 bits of nanoseconds hold (include/linux/time64.h, TIME_SETTOD_SEC_MAX).
const latest = math.MaxInt64/1_000_000_000 - 30*365*24*3600

func clockSettime(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int(0) != unix.CLOCK_REALTIME {
		if _, err := findClock(t, int32(a.Int(0))); err != nil {
			return 0, err
		}
		return 0, unix.EINVAL
	}
	ts, err := inTimespec(t, a.Addr(1))
	if err != nil {
		return 0, err
	}
	if !valid(ts) || ts.Sec >= latest {
		return 0, unix.EINVAL
	}
	if !t.Creds().Has(unix.CAP_SYS_TIME) {
		return 0, unix.EPERM
	}
	t.Kernel().Clock.SetRealtime(ts.Nano())
	t.Kernel().Refresh(true)
	return 0, nil
}

func nanosleep(t *kernel.Task, a *Args) (uintptr, error) {
	ts, err := inTimespec(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	if !valid(ts) {
		return 0, unix.EINVAL
	}
	return sleepUntil(t, after(t, ts), a.Addr(1))
}

// sleepUntil waits for a monotonic time, and writes what is left to rem if a
// signal comes.
func sleepUntil(t *kernel.Task, deadline time.Duration, rem memory.Addr) (uintptr, error) {
	err := t.BlockOn(nil, deadline)
	if err == unix.ETIMEDOUT {
		return 0, nil
	}
	if rem != 0 {
		left := max(deadline-t.Kernel().Clock.Monotonic(), 0)
		if err := outTimespec(t, rem, unix.NsecToTimespec(int64(left))); err != nil {
			return 0, err
		}
	}
	return 0, t.SetRestart(kernel.Restart{Call: unix.SYS_NANOSLEEP, Deadline: deadline, Args: [4]uint64{uint64(rem)}})
}

func clockNanosleep(t *kernel.Task, a *Args) (uintptr, error) {
	id := int32(a.Int(0))
	if id == unix.CLOCK_THREAD_CPUTIME_ID || id == unix.CLOCK_MONOTONIC_RAW ||
		id == unix.CLOCK_REALTIME_COARSE || id == unix.CLOCK_MONOTONIC_COARSE {
		return 0, unix.EOPNOTSUPP
	}
	c, err := findClock(t, id)
	if err != nil {
		return 0, err
	}
	ts, err := inTimespec(t, a.Addr(2))
	if err != nil {
		return 0, err
	}
	if !valid(ts) {
		return 0, unix.EINVAL
	}
	absolute := a.Int(1)&unix.TIMER_ABSTIME != 0
	if !absolute && !c.cpu {
		return sleepUntil(t, after(t, ts), a.Addr(3))
	}
	until := span(ts)
	if !absolute {
		until += c.now()
	}
	for {
		left := until - c.now()
		if left <= 0 {
			return 0, nil
		}
		if c.cpu {
			left = max(left, 4*time.Millisecond)
		}
		if err := t.BlockOn(nil, t.Kernel().Clock.Monotonic()+left); err != unix.ETIMEDOUT {
			return 0, kernel.ERESTARTNOHAND
		}
	}
}

func gettimeofday(t *kernel.Task, a *Args) (uintptr, error) {
	if a[0] != 0 {
		_, ns := t.Kernel().Refresh(false)
		if err := outStruct(t, a.Addr(0), &[2]int64{ns / 1e9, ns % 1e9 / 1e3}); err != nil {
			return 0, err
		}
	}
	if a[1] != 0 {
		return 0, out64(t, a.Addr(1), 0)
	}
	return 0, nil
}

func settimeofday(t *kernel.Task, a *Args) (uintptr, error) {
	var v [2]int64
	if a[0] != 0 {
		var err error
		if v, err = inStruct[[2]int64](t, a.Addr(0)); err != nil {
			return 0, err
		}
		if v[0] < 0 || v[0] >= latest || v[1] < 0 || v[1] >= 1e6 {
			return 0, unix.EINVAL
		}
	}
	if !t.Creds().Has(unix.CAP_SYS_TIME) {
		return 0, unix.EPERM
	}
	if a[0] != 0 {
		t.Kernel().Clock.SetRealtime(v[0]*1e9 + v[1]*1e3)
		t.Kernel().Refresh(true)
	}
	return 0, nil
}

func timeCall(t *kernel.Task, a *Args) (uintptr, error) {
	s := uint64(t.Kernel().Clock.Realtime() / 1e9)
	if a[0] != 0 {
		if err := out64(t, a.Addr(0), s); err != nil {
			return 0, err
		}
	}
	return uintptr(s), nil
}

const userHZ = 100

func clockTicks(d time.Duration) int64 { return int64(d / (time.Second / userHZ)) }

func times(t *kernel.Task, a *Args) (uintptr, error) {
	if a[0] != 0 {
		u, s := t.Group().CPUTime()
		cu, cs := t.Group().ChildCPUTime()
		v := [4]int64{clockTicks(u), clockTicks(s), clockTicks(cu), clockTicks(cs)}
		if err := outStruct(t, a.Addr(0), &v); err != nil {
			return 0, err
		}
	}
	return uintptr(clockTicks(t.Kernel().Clock.Boottime())), nil
}

func timeval(d time.Duration) [2]int64 {
	return [2]int64{int64(d / time.Second), int64(d % time.Second / 1000)}
}

func outItimer(t *kernel.Task, at memory.Addr, left, interval time.Duration) error {
	if at == 0 {
		return nil
	}
	i, v := timeval(interval), timeval(left)
	if left > 0 && v == [2]int64{} {
		v[1] = 1
	}
	return outStruct(t, at, &[4]int64{i[0], i[1], v[0], v[1]})
}

func getitimer(t *kernel.Task, a *Args) (uintptr, error) {
	tm, err := t.Group().Timers.Interval(a.Int(0))
	if err != nil {
		return 0, err
	}
	left, interval := tm.Left()
	return 0, outItimer(t, a.Addr(1), left, interval)
}

func setitimer(t *kernel.Task, a *Args) (uintptr, error) {
	tm, err := t.Group().Timers.Interval(a.Int(0))
	if err != nil {
		return 0, err
	}
	var v [4]int64
	if a[1] != 0 {
		if v, err = inStruct[[4]int64](t, a.Addr(1)); err != nil {
			return 0, err
		}
	}
	if v[0] < 0 || v[2] < 0 || v[1] < 0 || v[1] >= 1e6 || v[3] < 0 || v[3] >= 1e6 {
		return 0, unix.EINVAL
	}
	of := func(s, us int64) time.Duration { return span(unix.Timespec{Sec: s, Nsec: us * 1000}) }
	next := of(v[2], v[3])
	if next != 0 {
		next += itimerNow(t, a.Int(0))
	}
	left, interval := tm.Set(next, of(v[0], v[1]))
	return 0, outItimer(t, a.Addr(2), left, interval)
}

// itimerNow reads the clock of an interval timer.
func itimerNow(t *kernel.Task, which int) time.Duration {
	u, s := t.Group().CPUTime()
	switch which {
	case unix.ITIMER_VIRTUAL:
		return u
	case unix.ITIMER_PROF:
		return u + s
	}
	return t.Kernel().Clock.Monotonic()
}

func alarm(t *kernel.Task, a *Args) (uintptr, error) {
	tm, err := t.Group().Timers.Interval(unix.ITIMER_REAL)
	if err != nil {
		return 0, err
	}
	next := time.Duration(a.Uint32(0)) * time.Second
	if next != 0 {
		next += itimerNow(t, unix.ITIMER_REAL)
	}
	left, _ := tm.Set(next, 0)
	return uintptr((left + time.Second/2 - 1) / time.Second), nil
}

// Notification ways of struct sigevent.
const (
	sigevSignal, sigevNone, sigevThread, sigevThreadID = 0, 1, 2, 4
)

func timerCreate(t *kernel.Task, a *Args) (uintptr, error) {
	id := int32(a.Int(0))
	switch id {
	case unix.CLOCK_MONOTONIC_RAW, unix.CLOCK_REALTIME_COARSE, unix.CLOCK_MONOTONIC_COARSE:
		return 0, unix.EOPNOTSUPP // clocks without a timer_create of their own
	}
	c, err := findClock(t, id)
	if err != nil {
		return 0, err
	}
	ev := kernel.SigEvent{Signal: int32(unix.SIGALRM)}
	given := a[1] != 0
	if given {
		var b [64]byte
		if err := in(t, a.Addr(1), b[:]); err != nil {
			return 0, err
		}
		ev = kernel.SigEvent{Value: le.Uint64(b[:]), Signal: int32(le.Uint32(b[8:])), Notify: int32(le.Uint32(b[12:])), TID: int32(le.Uint32(b[16:]))}
		switch ev.Notify {
		case sigevNone:
		case sigevSignal, sigevThread:
		case sigevThreadID:
			x := t.Find(ev.TID)
			if x == nil || x.Group() != t.Group() {
				return 0, unix.EINVAL
			}
			ev.TID = x.ID().Global()
		default:
			return 0, unix.EINVAL
		}
		if ev.Notify != sigevNone && (ev.Signal < 1 || ev.Signal > kernel.NSIG) {
			return 0, unix.EINVAL
		}
	}
	tm, err := t.Group().Timers.Create(id, c.now, c.cpu, ev)
	if err != nil {
		return 0, err
	}
	if !given {
		tm.Sigev.Value = uint64(tm.ID)
	}
	if err := out32(t, a.Addr(2), uint32(tm.ID)); err != nil {
		t.Group().Timers.Delete(tm.ID)
		return 0, err
	}
	return 0, nil
}

func inItimerspec(t *kernel.Task, at memory.Addr) (interval, value unix.Timespec, err error) {
	if interval, err = inTimespec(t, at); err != nil {
		return
	}
	if value, err = inTimespec(t, at+16); err != nil {
		return
	}
	if !valid(interval) || !valid(value) {
		err = unix.EINVAL
	}
	return
}

func outItimerspec(t *kernel.Task, at memory.Addr, interval, value time.Duration) error {
	if at == 0 {
		return nil
	}
	return outStruct(t, at, &[4]int64{int64(interval / time.Second), int64(interval % time.Second),
		int64(value / time.Second), int64(value % time.Second)})
}

func timerSettime(t *kernel.Task, a *Args) (uintptr, error) {
	if a[2] == 0 {
		return 0, unix.EINVAL
	}
	tm, err := t.Group().Timers.Get(int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	interval, value, err := inItimerspec(t, a.Addr(2))
	if err != nil {
		return 0, err
	}
	c, err := findClock(t, tm.Clock)
	if err != nil {
		return 0, err
	}
	next := span(value)
	if next != 0 && a.Int(1)&unix.TIMER_ABSTIME == 0 {
		next += c.now()
	}
	left, old := t.Group().Timers.Settime(tm, next, span(interval))
	return 0, outItimerspec(t, a.Addr(3), old, left)
}

func timerGettime(t *kernel.Task, a *Args) (uintptr, error) {
	tm, err := t.Group().Timers.Get(int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	left, interval := tm.Left()
	return 0, outItimerspec(t, a.Addr(1), interval, left)
}

func timerGetoverrun(t *kernel.Task, a *Args) (uintptr, error) {
	tm, err := t.Group().Timers.Get(int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	return uintptr(min(tm.Overruns(), 1<<31-1)), nil
}

func timerDelete(t *kernel.Task, a *Args) (uintptr, error) {
	return 0, t.Group().Timers.Delete(int32(a.Int(0)))
}
