package syscalls

import (
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
)

func futexCalls() []row {
	return []row{
		{unix.SYS_FUTEX, futex, Partial, "no priority inheritance: FUTEX_LOCK_PI and its kin are ENOSYS"},
		{unix.SYS_FUTEX_WAITV, futexWaitv, Full, ""},
	}
}

// Futex operations (include/uapi/linux/futex.h).
const (
	futexWait, futexWake, futexRequeue, futexCmpRequeue, futexWakeOp = 0, 1, 3, 4, 5
	futexWaitBitset, futexWakeBitset                                 = 9, 10
	futexPrivate, futexRealtime                                      = 128, 256
)

func futex(t *kernel.Task, a *Args) (uintptr, error) {
	op := a.Uint32(1)
	shared := op&futexPrivate == 0
	val := a.Uint32(2)
	switch cmd := op &^ (futexPrivate | futexRealtime); cmd {
	case futexWait, futexWaitBitset:
		bits := ^uint32(0)
		if cmd == futexWaitBitset {
			bits = a.Uint32(5)
		}
		deadline, err := futexDeadline(t, a.Addr(3), cmd == futexWaitBitset, op&futexRealtime != 0)
		if err != nil {
			return 0, err
		}
		return futexWaitUntil(t, a.Addr(0), shared, val, bits, deadline)
	case futexWake, futexWakeBitset:
		bits := ^uint32(0)
		if cmd == futexWakeBitset {
			bits = a.Uint32(5)
		}
		n, err := t.FutexWake(a.Addr(0), shared, max(int(int32(val)), 1), bits)
		return uintptr(n), err
	case futexRequeue:
		n, err := t.FutexRequeue(a.Addr(0), a.Addr(4), shared, int(int32(val)), a.Int(3), nil)
		return uintptr(n), err
	case futexCmpRequeue:
		cmp := a.Uint32(5)
		n, err := t.FutexRequeue(a.Addr(0), a.Addr(4), shared, int(int32(val)), a.Int(3), &cmp)
		return uintptr(n), err
	case futexWakeOp:
		n, err := t.FutexWakeOp(a.Addr(0), a.Addr(4), shared, int(int32(val)), a.Int(3), a.Uint32(5))
		return uintptr(n), err
	}
	return 0, unix.ENOSYS
}

// futexDeadline reads a timeout: relative for FUTEX_WAIT, else absolute on the
// monotonic or the real-time clock.
func futexDeadline(t *kernel.Task, at memory.Addr, absolute, realtime bool) (time.Duration, error) {
	if at == 0 {
		return 0, nil
	}
	ts, err := inTimespec(t, at)
	if err != nil {
		return 0, err
	}
	switch {
	case !valid(ts):
		return 0, unix.EINVAL
	case !absolute:
		return after(t, ts), nil
	case realtime:
		return max(t.Kernel().Clock.MonotonicOf(int64(span(ts))), 1), nil
	}
	return max(span(ts), 1), nil
}

func futexWaitUntil(t *kernel.Task, at memory.Addr, shared bool, val, bits uint32, deadline time.Duration) (uintptr, error) {
	err := t.FutexWait(at, shared, val, bits, deadline)
	if err == kernel.ERESTARTSYS && deadline != 0 {
		err = t.SetRestart(func(t *kernel.Task) (uintptr, error) {
			return futexWaitUntil(t, at, shared, val, bits, deadline)
		})
	}
	return 0, err
}

func futexWaitv(t *kernel.Task, a *Args) (uintptr, error) {
	const maxWords, size32, private = 128, 2, 128
	n := a.Uint32(1)
	if a.Uint32(2) != 0 || n == 0 || n > maxWords {
		return 0, unix.EINVAL
	}
	b := make([]byte, 24*n)
	if err := in(t, a.Addr(0), b); err != nil {
		return 0, err
	}
	var words []kernel.FutexWord
	for ; len(b) > 0; b = b[24:] {
		flags := le.Uint32(b[16:])
		if flags&^(3|private) != 0 || flags&3 != size32 || le.Uint32(b[20:]) != 0 || le.Uint64(b)>>32 != 0 {
			return 0, unix.EINVAL
		}
		words = append(words, kernel.FutexWord{At: memory.Addr(le.Uint64(b[8:])), Val: le.Uint32(b), Shared: flags&private == 0})
	}
	deadline, err := futexDeadline(t, a.Addr(3), true, a.Int(4) == unix.CLOCK_REALTIME)
	if err != nil {
		return 0, err
	}
	i, err := t.FutexWaitv(words, deadline)
	return uintptr(i), err
}
