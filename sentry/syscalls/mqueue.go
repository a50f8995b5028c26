package syscalls

import (
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/mqueue"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/netlink"
	"bulkhead/sentry/vfs"
)

func mqueueCalls() []row {
	return []row{
		{unix.SYS_MQ_OPEN, mqOpen, Full, ""},
		{unix.SYS_MQ_UNLINK, mqUnlink, Full, ""},
		{unix.SYS_MQ_TIMEDSEND, mqTimedsend, Full, ""},
		{unix.SYS_MQ_TIMEDRECEIVE, mqTimedreceive, Full, ""},
		{unix.SYS_MQ_NOTIFY, mqNotify, Full, "asked for until the last descriptor of the queue is closed, not the asker's"},
		{unix.SYS_MQ_GETSETATTR, mqGetsetattr, Full, ""},
	}
}

func queuesOf(t *kernel.Task) *mqueue.FileSystem { return mqueue.Of(t, t.IPC()) }

func mqOpen(t *kernel.Task, a *Args) (uintptr, error) {
	flags := a.Int(1)
	var size *mqueue.Size
	if a[3] != 0 {
		v, err := inStruct[[8]int64](t, a.Addr(3)) // struct mq_attr
		if err != nil {
			return 0, err
		}
		if flags&unix.O_CREAT != 0 {
			size = &mqueue.Size{Messages: v[1], Bytes: v[2]}
		}
	}
	name, err := path(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	d, err := queuesOf(t).Open(t, name, flags, a.Uint32(2)&0o7777&^t.FS().Umask(), size)
	if err != nil {
		return 0, err
	}
	return installNew(t, d, true)
}

func mqUnlink(t *kernel.Task, a *Args) (uintptr, error) {
	name, err := path(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	return 0, queuesOf(t).Unlink(t, name)
}

// mqueueOf is the queue behind a descriptor, with the reference that keeps it.
func mqueueOf(t *kernel.Task, fd int) (*mqueue.File, *vfs.Description, error) {
	d, err := t.FDs().Get(fd)
	if err != nil {
		return nil, nil, err
	}
	f, ok := d.File().(*mqueue.File)
	if !ok {
		d.Unref()
		return nil, nil, unix.EBADF
	}
	return f, d, nil
}

// mqDeadline is an absolute time on CLOCK_REALTIME.
func mqDeadline(t *kernel.Task, at memory.Addr) (time.Duration, error) {
	if at == 0 {
		return 0, nil
	}
	ts, err := inTimespec(t, at)
	if err != nil {
		return 0, err
	}
	if !valid(ts) {
		return 0, unix.EINVAL
	}
	return max(t.Kernel().Clock.MonotonicOf(int64(span(ts))), 1), nil
}

func mqTimedsend(t *kernel.Task, a *Args) (uintptr, error) {
	n, priority := a.Size(2), a.Uint32(3)
	deadline, err := mqDeadline(t, a.Addr(4))
	if err != nil {
		return 0, err
	}
	if priority >= mqueue.PrioMax {
		return 0, unix.EINVAL
	}
	f, d, err := mqueueOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	if !d.Writable() {
		return 0, unix.EBADF
	}
	if n > uint64(f.Size().Bytes) {
		return 0, unix.EMSGSIZE
	}
	m := mqueue.Message{Priority: priority, Text: make([]byte, n)}
	if err := in(t, a.Addr(1), m.Text); err != nil {
		return 0, err
	}
	return 0, t.Wait(d.Queue(), vfs.EventOut, d.NonBlocking(), deadline, func() error { return f.Send(t, m) })
}

func mqTimedreceive(t *kernel.Task, a *Args) (uintptr, error) {
	deadline, err := mqDeadline(t, a.Addr(4))
	if err != nil {
		return 0, err
	}
	f, d, err := mqueueOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	if !d.Readable() {
		return 0, unix.EBADF
	}
	if a.Size(2) < uint64(f.Size().Bytes) {
		return 0, unix.EMSGSIZE
	}
	m, err := f.Receive(t)
	if err == unix.EAGAIN && !d.NonBlocking() {
		f.Waits(1)
		defer f.Waits(-1)
		err = t.Wait(d.Queue(), vfs.EventIn, false, deadline, func() error {
			m, err = f.Receive(t)
			return err
		})
	}
	if err != nil {
		return 0, err
	}
	if a[3] != 0 {
		if err := out32(t, a.Addr(3), m.Priority); err != nil {
			return 0, err
		}
	}
	return uintptr(len(m.Text)), out(t, a.Addr(1), m.Text)
}

// What SIGEV_THREAD sends by a netlink socket (include/uapi/linux/mqueue.h): the
// caller's cookie, with one of these as its last byte. libc's thread waits for it.
const mqCookieSize, mqWoken, mqRemoved = 32, 1, 2

func mqNotify(t *kernel.Task, a *Args) (uintptr, error) {
	const signal, none, thread = 0, 1, 2
	g := t.Group()
	var cookieSocket *vfs.Description // given up if nobody is to be told
	n := &mqueue.Notify{Owner: g, PID: t.PID()}
	if a[1] == 0 {
		n = nil
	} else {
		var b [64]byte // struct sigevent
		if err := in(t, a.Addr(1), b[:]); err != nil {
			return 0, err
		}
		value, signo := le.Uint64(b[:]), int(int32(le.Uint32(b[8:])))
		n.How, n.Signo = int(int32(le.Uint32(b[12:]))), signo
		switch n.How {
		case none:
		case signal:
			if signo < 0 || signo > kernel.NSIG {
				return 0, unix.EINVAL
			}
			n.Tell = func(from vfs.Context) {
				if signo == 0 {
					return
				}
				pid := int32(0)
				if x, ok := from.(*kernel.Task); ok {
					pid = x.PID()
				}
				g.SendGroup(kernel.MessageInfo(unix.Signal(signo), pid, from.Creds().UID, value), false)
			}
		case thread:
			cookie := make([]byte, mqCookieSize)
			if err := in(t, memory.Addr(value), cookie); err != nil {
				return 0, err
			}
			s, err := t.FDs().Get(signo)
			if err != nil {
				return 0, err
			}
			nl, ok := s.File().(*netlink.Socket)
			if !ok {
				s.Unref()
				return 0, unix.ENOTSOCK
			}
			send := func(what byte) {
				cookie[mqCookieSize-1] = what
				nl.Deliver(cookie)
				s.Unref()
			}
			cookieSocket = s
			n.Tell = func(vfs.Context) { send(mqWoken) }
			n.Drop = func() { send(mqRemoved) }
		default:
			return 0, unix.EINVAL
		}
	}
	f, d, err := mqueueOf(t, a.Int(0))
	if err == nil {
		defer d.Unref()
		err = f.Ask(g, n)
	}
	if err != nil && cookieSocket != nil {
		cookieSocket.Unref()
	}
	return 0, err
}

func mqGetsetattr(t *kernel.Task, a *Args) (uintptr, error) {
	var set [8]int64
	if a[1] != 0 {
		v, err := inStruct[[8]int64](t, a.Addr(1))
		if err != nil {
			return 0, err
		}
		if v[0]&^unix.O_NONBLOCK != 0 {
			return 0, unix.EINVAL
		}
		set = v
	}
	f, d, err := mqueueOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	size := f.Size()
	old := [8]int64{int64(d.Flags() & unix.O_NONBLOCK), size.Messages, size.Bytes, f.Count()}
	if a[1] != 0 {
		if err := d.SetFlags(t, d.Flags()&^unix.O_NONBLOCK|int(set[0])); err != nil {
			return 0, err
		}
	}
	if a[2] != 0 {
		return 0, outStruct(t, a.Addr(2), &old)
	}
	return 0, nil
}
