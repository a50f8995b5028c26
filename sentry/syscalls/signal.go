package syscalls

import (
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func signalCalls() []row {
	return []row{
		{unix.SYS_RT_SIGACTION, rtSigaction, Full, ""},
		{unix.SYS_RT_SIGPROCMASK, rtSigprocmask, Full, ""},
		{unix.SYS_RT_SIGRETURN, rtSigreturn, Full, ""},
		{unix.SYS_RT_SIGPENDING, rtSigpending, Full, ""},
		{unix.SYS_RT_SIGSUSPEND, rtSigsuspend, Full, ""},
		{unix.SYS_RT_SIGTIMEDWAIT, rtSigtimedwait, Full, ""},
		{unix.SYS_RT_SIGQUEUEINFO, rtSigqueueinfo, Full, ""},
		{unix.SYS_RT_TGSIGQUEUEINFO, rtTgsigqueueinfo, Full, ""},
		{unix.SYS_SIGALTSTACK, sigaltstack, Full, ""},
		{unix.SYS_KILL, kill, Full, ""},
		{unix.SYS_TKILL, tkill, Full, ""},
		{unix.SYS_TGKILL, tgkill, Full, ""},
		{unix.SYS_PAUSE, pause, Full, ""},
		{unix.SYS_RESTART_SYSCALL, restartSyscall, Full, ""},
	}
}

const sigsetSize = 8

func inMask(t *kernel.Task, at memory.Addr, size uint64) (kernel.SigSet, error) {
	if size != sigsetSize {
		return 0, unix.EINVAL
	}
	v, err := in64(t, at)
	return kernel.SigSet(v), err
}

func rtSigaction(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Size(3) != sigsetSize {
		return 0, unix.EINVAL
	}
	var act *kernel.SigAction
	if a[1] != 0 {
		v, err := inStruct[kernel.SigAction](t, a.Addr(1))
		if err != nil {
			return 0, err
		}
		act = &v
	}
	old, err := t.Action(unix.Signal(a.Int(0)), act)
	if err != nil || a[2] == 0 {
		return 0, err
	}
	return 0, outStruct(t, a.Addr(2), &old)
}

func rtSigprocmask(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Size(3) != sigsetSize {
		return 0, unix.EINVAL
	}
	old := t.SignalMask()
	if a[1] != 0 {
		m, err := inMask(t, a.Addr(1), sigsetSize)
		if err != nil {
			return 0, err
		}
		switch a.Int(0) {
		case unix.SIG_BLOCK:
			m = old | m
		case unix.SIG_UNBLOCK:
			m = old &^ m
		case unix.SIG_SETMASK:
		default:
			return 0, unix.EINVAL
		}
		t.SetSignalMask(m)
	}
	if a[2] != 0 {
		return 0, out64(t, a.Addr(2), uint64(old))
	}
	return 0, nil
}

func rtSigreturn(t *kernel.Task, _ *Args) (uintptr, error) {
	if err := t.SigReturn(); err != nil {
		t.ForceSignal(unix.SIGSEGV)
	}
	return 0, errKeep
}

func rtSigpending(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Size(1) > sigsetSize {
		return 0, unix.EINVAL
	}
	return 0, out(t, a.Addr(0), le.AppendUint64(nil, uint64(t.PendingSignals()))[:a.Size(1)])
}

func rtSigsuspend(t *kernel.Task, a *Args) (uintptr, error) {
	m, err := inMask(t, a.Addr(0), a.Size(1))
	if err != nil {
		return 0, err
	}
	t.WithMask(m)
	t.BlockOn(nil, 0)
	return 0, kernel.ERESTARTNOHAND
}

func pause(t *kernel.Task, _ *Args) (uintptr, error) {
	t.BlockOn(nil, 0)
	return 0, kernel.ERESTARTNOHAND
}

func rtSigtimedwait(t *kernel.Task, a *Args) (uintptr, error) {
	mask, err := inMask(t, a.Addr(0), a.Size(3))
	if err != nil {
		return 0, err
	}
	mask &^= 1<<(unix.SIGKILL-1) | 1<<(unix.SIGSTOP-1)
	var deadline time.Duration
	poll := false
	if a[2] != 0 {
		ts, err := inTimespec(t, a.Addr(2))
		if err != nil {
			return 0, err
		}
		if !valid(ts) {
			return 0, unix.EINVAL
		}
		poll = ts == unix.Timespec{}
		deadline = after(t, ts)
	}
	var info *kernel.SigInfo
	// Signals waited for must not run handlers meanwhile: they count as blocked,
	// and their arrival wakes through the queue.
	old := t.SignalMask()
	t.SetSignalMask(old | mask)
	err = t.Wait(t.Group().SignalQueue(), vfs.EventIn, poll, deadline, func() error {
		if info = t.TakeSignal(mask); info == nil {
			return unix.EAGAIN
		}
		return nil
	})
	t.SetSignalMask(old)
	switch err {
	case nil:
	case kernel.ERESTARTSYS:
		return 0, unix.EINTR
	default:
		return 0, unix.EAGAIN
	}
	if a[1] != 0 {
		if err := out(t, a.Addr(1), info[:]); err != nil {
			return 0, err
		}
	}
	return uintptr(info.Signo()), nil
}

// inInfo reads a siginfo that a program made: it may not claim to come from the
// kernel or from kill(2), unless it goes to the program itself.
func inInfo(t *kernel.Task, sig int, at memory.Addr, self bool) (*kernel.SigInfo, error) {
	var i kernel.SigInfo
	if err := in(t, at, i[:]); err != nil {
		return nil, err
	}
	if (i.Code() >= 0 || i.Code() == kernel.SI_TKILL) && !self {
		return nil, unix.EPERM
	}
	le.PutUint32(i[:], uint32(sig))
	return &i, nil
}

func rtSigqueueinfo(t *kernel.Task, a *Args) (uintptr, error) {
	pid, sig := int32(a.Int(0)), a.Int(1)
	info, err := inInfo(t, sig, a.Addr(2), pid == t.PID())
	if err != nil {
		return 0, err
	}
	if pid <= 0 {
		return 0, unix.ESRCH
	}
	return 0, t.KillInfo(pid, unix.Signal(sig), info)
}

func rtTgsigqueueinfo(t *kernel.Task, a *Args) (uintptr, error) {
	tgid, tid, sig := int32(a.Int(0)), int32(a.Int(1)), a.Int(2)
	if tgid <= 0 || tid <= 0 {
		return 0, unix.EINVAL
	}
	info, err := inInfo(t, sig, a.Addr(3), tid == t.TID())
	if err != nil {
		return 0, err
	}
	return 0, t.KillThread(tgid, tid, unix.Signal(sig), info)
}

func kill(t *kernel.Task, a *Args) (uintptr, error) {
	return 0, t.Kill(int32(a.Int(0)), unix.Signal(a.Int(1)))
}

func tgkill(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int(0) <= 0 || a.Int(1) <= 0 {
		return 0, unix.EINVAL
	}
	sig := unix.Signal(a.Int(2))
	return 0, t.KillThread(int32(a.Int(0)), int32(a.Int(1)), sig, kernel.UserInfo(sig, kernel.SI_TKILL, t.PID(), t.Creds().UID))
}

func tkill(t *kernel.Task, a *Args) (uintptr, error) {
	sig := unix.Signal(a.Int(1))
	return 0, t.KillThread(0, int32(a.Int(0)), sig, kernel.UserInfo(sig, kernel.SI_TKILL, t.PID(), t.Creds().UID))
}

func restartSyscall(t *kernel.Task, _ *Args) (uintptr, error) {
	r := t.Restart()
	if r == nil {
		return 0, unix.EINTR
	}
	a := r.Args
	switch r.Call {
	case unix.SYS_NANOSLEEP:
		return sleepUntil(t, r.Deadline, memory.Addr(a[0]))
	case unix.SYS_FUTEX:
		return futexWaitUntil(t, memory.Addr(a[0]), a[3] != 0, uint32(a[1]), uint32(a[2]), r.Deadline)
	case unix.SYS_POLL:
		return pollUntil(t, memory.Addr(a[0]), uint32(a[1]), r.Deadline, false)
	}
	return 0, unix.EINTR
}

func sigaltstack(t *kernel.Task, a *Args) (uintptr, error) {
	const minSize, disable, onStack, autodisarm = 2048, 2, 1, 1 << 31
	old := t.AltStack()
	sp := t.Context().Rsp
	on := t.OnAltStack(sp)
	if a[0] != 0 {
		var b [24]byte
		if err := in(t, a.Addr(0), b[:]); err != nil {
			return 0, err
		}
		s := kernel.AltStack{Base: memory.Addr(le.Uint64(b[:])), Flags: le.Uint32(b[8:]), Size: le.Uint64(b[16:])}
		if on {
			return 0, unix.EPERM
		}
		switch mode := s.Flags &^ autodisarm; {
		case mode&^onStack != 0 && mode != disable:
			return 0, unix.EINVAL
		case mode == disable:
			s = kernel.AltStack{}
		case s.Size < minSize:
			return 0, unix.ENOMEM
		default:
			s.Flags &^= onStack
		}
		t.SetAltStack(s)
	}
	if a[1] == 0 {
		return 0, nil
	}
	var b [24]byte
	le.PutUint64(b[:], uint64(old.Base))
	flags := old.Flags
	switch {
	case old.Size == 0:
		flags |= disable
	case on:
		flags |= onStack
	}
	le.PutUint32(b[8:], flags)
	le.PutUint64(b[16:], old.Size)
	return 0, out(t, a.Addr(1), b[:])
}
