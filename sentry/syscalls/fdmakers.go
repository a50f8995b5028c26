package syscalls

import (
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/epoll"
	"bulkhead/sentry/fs/eventfd"
	"bulkhead/sentry/fs/pipe"
	"bulkhead/sentry/fs/signalfd"
	"bulkhead/sentry/fs/timerfd"
	"bulkhead/sentry/fs/userfaultfd"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func fdMakerCalls() []row {
	return []row{
		{unix.SYS_PIPE, pipeCall, Full, ""},
		{unix.SYS_PIPE2, pipe2, Full, "O_NOTIFICATION_PIPE is refused"},
		{unix.SYS_EVENTFD, eventfdCall, Full, ""},
		{unix.SYS_EVENTFD2, eventfd2, Full, ""},
		{unix.SYS_MEMFD_CREATE, memfdCreate, Full, "huge pages are ordinary ones"},
		{unix.SYS_EPOLL_CREATE, epollCreate, Full, ""},
		{unix.SYS_EPOLL_CREATE1, epollCreate1, Full, ""},
		{unix.SYS_EPOLL_CTL, epollCtl, Full, ""},
		{unix.SYS_EPOLL_WAIT, epollWait, Full, ""},
		{unix.SYS_EPOLL_PWAIT, epollPwait, Full, ""},
		{unix.SYS_EPOLL_PWAIT2, epollPwait2, Full, ""},
		{unix.SYS_TIMERFD_CREATE, timerfdCreate, Full, ""},
		{unix.SYS_TIMERFD_SETTIME, timerfdSettime, Partial, "TFD_TIMER_CANCEL_ON_SET is accepted, and does not cancel"},
		{unix.SYS_TIMERFD_GETTIME, timerfdGettime, Full, ""},
		{unix.SYS_SIGNALFD, signalfdCall, Full, ""},
		{unix.SYS_SIGNALFD4, signalfd4, Full, ""},
		{unix.SYS_USERFAULTFD, userfaultfdCall, Partial, "missing pages of anonymous and shared memory: no write-protection, minor faults or events"},
	}
}

func pipeCall(t *kernel.Task, a *Args) (uintptr, error) { return makePipe(t, a.Addr(0), 0) }

func pipe2(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int(1)&^(unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_DIRECT) != 0 {
		return 0, unix.EINVAL
	}
	return makePipe(t, a.Addr(0), a.Int(1))
}

func makePipe(t *kernel.Task, at memory.Addr, flags int) (uintptr, error) {
	r, w, err := pipe.New(t, flags&^unix.O_CLOEXEC)
	if err != nil {
		return 0, err
	}
	return installPair(t, at, r, w, flags&unix.O_CLOEXEC != 0)
}

// installPair gives two descriptions descriptors and writes them to at; it
// drops the caller's references.
func installPair(t *kernel.Task, at memory.Addr, x, y *vfs.Description, cloexec bool) (uintptr, error) {
	defer x.Unref()
	defer y.Unref()
	fd1, err := install(t, x, 0, cloexec)
	if err != nil {
		return 0, err
	}
	fd2, err := install(t, y, 0, cloexec)
	if err == nil {
		err = outStruct(t, at, &[2]int32{int32(fd1), int32(fd2)})
	}
	if err != nil {
		t.FDs().Close(int(fd1))
		if fd2 != 0 {
			t.FDs().Close(int(fd2))
		}
		return 0, err
	}
	return 0, nil
}

func eventfdCall(t *kernel.Task, a *Args) (uintptr, error) { return makeEventfd(t, a.Uint32(0), 0) }
func eventfd2(t *kernel.Task, a *Args) (uintptr, error) {
	return makeEventfd(t, a.Uint32(0), a.Int(1))
}

func makeEventfd(t *kernel.Task, initial uint32, flags int) (uintptr, error) {
	if flags&^(unix.EFD_CLOEXEC|unix.EFD_NONBLOCK|unix.EFD_SEMAPHORE) != 0 {
		return 0, unix.EINVAL
	}
	return installNew(t, eventfd.New(uint64(initial), flags&^unix.EFD_CLOEXEC), flags&unix.EFD_CLOEXEC != 0)
}

// installNew gives a new description a descriptor and drops the reference.
func installNew(t *kernel.Task, d *vfs.Description, cloexec bool) (uintptr, error) {
	defer d.Unref()
	return install(t, d, 0, cloexec)
}

func memfdCreate(t *kernel.Task, a *Args) (uintptr, error) {
	const known = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING | unix.MFD_HUGETLB | unix.MFD_NOEXEC_SEAL | unix.MFD_EXEC
	const hugeShift = 0x3f << 26
	flags := a.Int(1)
	name, err := t.MM().String(a.Addr(0), 250)
	if err == unix.ENAMETOOLONG || flags&^(known|hugeShift) != 0 {
		return 0, unix.EINVAL
	}
	if err != nil {
		return 0, err
	}
	d, err := local(t).Memfd.Memfd(t, name, flags)
	if err != nil {
		return 0, err
	}
	return installNew(t, d, flags&unix.MFD_CLOEXEC != 0)
}

func epollCreate(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int(0) <= 0 {
		return 0, unix.EINVAL
	}
	return installNew(t, epoll.New(), false)
}

func epollCreate1(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int(0)&^unix.EPOLL_CLOEXEC != 0 {
		return 0, unix.EINVAL
	}
	return installNew(t, epoll.New(), a.Int(0) != 0)
}

// epollOf is the epoll behind a descriptor, with the reference that keeps it.
func epollOf(t *kernel.Task, fd int) (*epoll.Epoll, *vfs.Description, error) {
	d, err := t.FDs().Get(fd)
	if err != nil {
		return nil, nil, err
	}
	ep, ok := d.File().(*epoll.Epoll)
	if !ok {
		d.Unref()
		return nil, nil, unix.EINVAL
	}
	return ep, d, nil
}

func epollCtl(t *kernel.Task, a *Args) (uintptr, error) {
	var ev unix.EpollEvent
	if a.Int(1) != unix.EPOLL_CTL_DEL {
		var b [12]byte
		if err := in(t, a.Addr(3), b[:]); err != nil {
			return 0, err
		}
		ev = unix.EpollEvent{Events: le.Uint32(b[:]), Fd: int32(le.Uint32(b[4:])), Pad: int32(le.Uint32(b[8:]))}
	}
	own, err := t.FDs().Get(a.Int(0))
	if err != nil {
		return 0, err
	}
	defer own.Unref()
	d, err := t.FDs().Get(a.Int(2))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	ep, ok := own.File().(*epoll.Epoll)
	if !ok {
		return 0, unix.EINVAL
	}
	return 0, ep.Ctl(a.Int(1), a.Int(2), d, ev)
}

func epollWait(t *kernel.Task, a *Args) (uintptr, error) {
	return waitMillis(t, a)
}

func epollPwait(t *kernel.Task, a *Args) (uintptr, error) {
	if a[4] != 0 {
		m, err := inMask(t, a.Addr(4), a.Size(5))
		if err != nil {
			return 0, err
		}
		t.WithMask(m)
	}
	return waitMillis(t, a)
}

func waitMillis(t *kernel.Task, a *Args) (uintptr, error) {
	ms := a.Int(3)
	var deadline time.Duration
	if ms > 0 {
		deadline = t.Kernel().Clock.Monotonic() + time.Duration(ms)*time.Millisecond
	}
	return waitEpoll(t, a, deadline, ms == 0)
}

func epollPwait2(t *kernel.Task, a *Args) (uintptr, error) {
	deadline, now, err := inTimeout(t, a.Addr(3))
	if err != nil {
		return 0, err
	}
	if a[4] != 0 {
		m, err := inMask(t, a.Addr(4), a.Size(5))
		if err != nil {
			return 0, err
		}
		t.WithMask(m)
	}
	return waitEpoll(t, a, deadline, now)
}

func waitEpoll(t *kernel.Task, a *Args, deadline time.Duration, now bool) (uintptr, error) {
	const most = (1<<31 - 1) / 12 // EP_MAX_EVENTS
	max := a.Int(2)
	if max <= 0 || max > most {
		return 0, unix.EINVAL
	}
	ep, d, err := epollOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	var got epoll.Collected
	err = t.Wait(ep.Queue(), vfs.EventIn, now, deadline, func() error {
		if got = ep.Collect(max); len(got.Events) == 0 {
			return unix.EAGAIN
		}
		return nil
	})
	switch err {
	case nil:
	case unix.EAGAIN, unix.ETIMEDOUT:
		return 0, nil
	case kernel.ERESTARTSYS:
		return 0, unix.EINTR
	default:
		return 0, err
	}
	const size = 12 // struct epoll_event, packed
	b := make([]byte, 0, size*len(got.Events))
	for _, e := range got.Events {
		b = le.AppendUint32(b, e.Events)
		b = le.AppendUint32(le.AppendUint32(b, uint32(e.Fd)), uint32(e.Pad))
	}
	n, err := t.MM().Write(a.Addr(1), b)
	if n /= size; n < len(got.Events) {
		got.PutBack(n)
	}
	if n > 0 {
		err = nil // those before the fault are told
	}
	return uintptr(n), err
}

func timerfdCreate(t *kernel.Task, a *Args) (uintptr, error) {
	id, flags := int32(a.Int(0)), a.Int(1)
	switch id {
	case unix.CLOCK_REALTIME, unix.CLOCK_MONOTONIC, unix.CLOCK_BOOTTIME:
	default:
		return 0, unix.EINVAL
	}
	if flags&^(unix.TFD_CLOEXEC|unix.TFD_NONBLOCK) != 0 {
		return 0, unix.EINVAL
	}
	c, err := findClock(t, id)
	if err != nil {
		return 0, err
	}
	return installNew(t, timerfd.New(c.now, int(id), flags&unix.TFD_NONBLOCK), flags&unix.TFD_CLOEXEC != 0)
}

func timerfdOf(t *kernel.Task, fd int) (*timerfd.File, *vfs.Description, error) {
	d, err := t.FDs().Get(fd)
	if err != nil {
		return nil, nil, err
	}
	f, ok := d.File().(*timerfd.File)
	if !ok {
		d.Unref()
		return nil, nil, unix.EINVAL
	}
	return f, d, nil
}

func timerfdSettime(t *kernel.Task, a *Args) (uintptr, error) {
	const cancelOnSet = 2
	if a.Int(1)&^(unix.TFD_TIMER_ABSTIME|cancelOnSet) != 0 {
		return 0, unix.EINVAL
	}
	interval, value, err := inItimerspec(t, a.Addr(2))
	if err != nil {
		return 0, err
	}
	f, d, err := timerfdOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	left, old := f.Set(span(value), span(interval), a.Int(1))
	return 0, outItimerspec(t, a.Addr(3), old, left)
}

func timerfdGettime(t *kernel.Task, a *Args) (uintptr, error) {
	f, d, err := timerfdOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	left, interval := f.Left()
	return 0, outItimerspec(t, a.Addr(1), interval, left)
}

func signalfdCall(t *kernel.Task, a *Args) (uintptr, error) {
	return makeSignalfd(t, a.Int(0), a.Addr(1), a.Size(2), 0)
}

func signalfd4(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int(3)&^(unix.SFD_CLOEXEC|unix.SFD_NONBLOCK) != 0 {
		return 0, unix.EINVAL
	}
	return makeSignalfd(t, a.Int(0), a.Addr(1), a.Size(2), a.Int(3))
}

func makeSignalfd(t *kernel.Task, fd int, at memory.Addr, size uint64, flags int) (uintptr, error) {
	mask, err := inMask(t, at, size)
	if err != nil {
		return 0, err
	}
	mask &^= 1<<(unix.SIGKILL-1) | 1<<(unix.SIGSTOP-1)
	if fd == -1 {
		return installNew(t, signalfd.New(t.Group(), mask, flags&unix.SFD_NONBLOCK), flags&unix.SFD_CLOEXEC != 0)
	}
	d, err := t.FDs().Get(fd)
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	f, ok := d.File().(*signalfd.File)
	if !ok {
		return 0, unix.EINVAL
	}
	f.SetMask(mask)
	return uintptr(fd), nil
}

func userfaultfdCall(t *kernel.Task, a *Args) (uintptr, error) {
	const userModeOnly = 1
	flags := a.Int(0)
	if flags&userModeOnly == 0 && !t.Creds().Has(unix.CAP_SYS_PTRACE) {
		return 0, unix.EPERM // vm.unprivileged_userfaultfd is 0
	}
	if flags&^(userModeOnly|unix.O_CLOEXEC|unix.O_NONBLOCK) != 0 {
		return 0, unix.EINVAL
	}
	d := userfaultfd.New(t.MM(), flags&userModeOnly != 0, flags&unix.O_NONBLOCK)
	return installNew(t, d, flags&unix.O_CLOEXEC != 0)
}
