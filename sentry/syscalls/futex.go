package syscalls

import (
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
)

func futexCalls() []row {
	return []row{
		{unix.SYS_FUTEX, futex, Partial, "priority-inheriting locks lend no priority"},
		{unix.SYS_FUTEX_WAITV, futexWaitv, Full, ""},
		{454, futexWake2, Full, ""},
		{455, futexWait2, Full, ""},
		{456, futexRequeue2, Full, ""},
	}
}

// Futex operations (include/uapi/linux/futex.h).
const (
	futexWait, futexWake, futexRequeue, futexCmpRequeue, futexWakeOp = 0, 1, 3, 4, 5
	futexWaitBitset, futexWakeBitset                                 = 9, 10
	futexLockPI, futexUnlockPI, futexTrylockPI, futexLockPI2         = 6, 7, 8, 13
	futexWaitRequeuePI, futexCmpRequeuePI                            = 11, 12
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
	case futexLockPI, futexLockPI2:
		if cmd == futexLockPI && op&futexRealtime != 0 {
			return 0, unix.ENOSYS
		}
		deadline, err := futexDeadline(t, a.Addr(3), true, cmd == futexLockPI || op&futexRealtime != 0)
		if err != nil {
			return 0, err
		}
		return 0, t.FutexLockPI(a.Addr(0), shared, false, deadline)
	case futexWaitRequeuePI:
		deadline, err := futexDeadline(t, a.Addr(3), true, op&futexRealtime != 0)
		if err != nil {
			return 0, err
		}
		return 0, t.FutexWaitRequeuePI(a.Addr(0), a.Addr(4), shared, val, deadline)
	case futexCmpRequeuePI:
		n, err := t.FutexCmpRequeuePI(a.Addr(0), a.Addr(4), shared, int(int32(val)), a.Int(3), a.Uint32(5))
		return uintptr(n), err
	case futexTrylockPI:
		return 0, t.FutexLockPI(a.Addr(0), shared, true, 0)
	case futexUnlockPI:
		return 0, t.FutexUnlockPI(a.Addr(0), shared)
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
	shift, _ := t.Namespaces().Time.Offsets()
	return max(span(ts)-shift, 1), nil
}

func futexWaitUntil(t *kernel.Task, at memory.Addr, shared bool, val, bits uint32, deadline time.Duration) (uintptr, error) {
	err := t.FutexWait(at, shared, val, bits, deadline)
	if err == kernel.ERESTARTSYS && deadline != 0 {
		r := kernel.Restart{Call: unix.SYS_FUTEX, Deadline: deadline, Args: [4]uint64{uint64(at), uint64(val), uint64(bits)}}
		if shared {
			r.Args[3] = 1
		}
		err = t.SetRestart(r)
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

// Flags of futex2 (include/uapi/linux/futex.h): words of 32 bits alone, as on
// Linux so far.
const futex2Private, futex2Size, futex2Size32 = 128, 3, 2

// inFutex2Flags says whether a word is shared.
func inFutex2Flags(flags uint32) (shared bool, err error) {
	if flags&^(futex2Private|futex2Size) != 0 || flags&futex2Size != futex2Size32 {
		return false, unix.EINVAL
	}
	return flags&futex2Private == 0, nil
}

func futexWake2(t *kernel.Task, a *Args) (uintptr, error) {
	shared, err := inFutex2Flags(a.Uint32(3))
	if err != nil {
		return 0, err
	}
	if a[1] == 0 || a[1]>>32 != 0 {
		return 0, unix.EINVAL
	}
	n, err := t.FutexWake(a.Addr(0), shared, a.Int(2), uint32(a[1]))
	return uintptr(n), err
}

func futexWait2(t *kernel.Task, a *Args) (uintptr, error) {
	shared, err := inFutex2Flags(a.Uint32(3))
	if err != nil {
		return 0, err
	}
	if a[1]>>32 != 0 || a[2]>>32 != 0 || a[2] == 0 {
		return 0, unix.EINVAL
	}
	clock := a.Int(5)
	if a[4] != 0 && clock != unix.CLOCK_MONOTONIC && clock != unix.CLOCK_REALTIME {
		return 0, unix.EINVAL
	}
	deadline, err := futexDeadline(t, a.Addr(4), true, clock == unix.CLOCK_REALTIME)
	if err != nil {
		return 0, err
	}
	return futexWaitUntil(t, a.Addr(0), shared, uint32(a[1]), uint32(a[2]), deadline)
}

// futexRequeue2 takes two struct futex_waitv: from, with the value expected, and to.
func futexRequeue2(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Uint32(1) != 0 || a[0] == 0 {
		return 0, unix.EINVAL
	}
	v, err := inStruct[[6]uint64](t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	var shared [2]bool
	for i := range shared {
		flags := v[3*i+2]
		if flags>>32 != 0 || v[3*i]>>32 != 0 {
			return 0, unix.EINVAL
		}
		if shared[i], err = inFutex2Flags(uint32(flags)); err != nil {
			return 0, err
		}
	}
	if shared[0] != shared[1] {
		return 0, unix.EINVAL
	}
	cmp := uint32(v[0])
	n, err := t.FutexRequeue(memory.Addr(v[1]), memory.Addr(v[4]), shared[0], a.Int(2), a.Int(3), &cmp)
	return uintptr(n), err
}
