package syscalls

import (
	"math"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/inet"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

func fcntlCalls() []row {
	return []row{
		{unix.SYS_FCNTL, fcntl, Partial, "no leases"},
		{unix.SYS_FLOCK, flock, Full, ""},
		{unix.SYS_IOCTL, ioctl, Full, "what each kind of file serves"},
		{unix.SYS_FSYNC, fsync, Full, ""},
		{unix.SYS_FDATASYNC, fdatasync, Full, ""},
		{unix.SYS_SYNCFS, syncfs, Full, ""},
		{unix.SYS_SYNC_FILE_RANGE, syncFileRange, Full, "writes the whole file"},
		{unix.SYS_FADVISE64, fadvise, Full, "advice that the host's cache does not need"},
		{unix.SYS_READAHEAD, readahead, Full, "as fadvise64"},
	}
}

// Numbers that x/sys lacks (include/uapi/asm-generic/{fcntl,ioctls}.h).
const (
	fionread, fionbio, fionclex, fioclex, fioasync = 0x541B, 0x5421, 0x5450, 0x5451, 0x5452
	fiosetown, siocspgrp, fiogetown, siocgpgrp     = 0x8901, 0x8902, 0x8903, 0x8904
)

// settable are the flags that F_SETFL changes.
const settable = unix.O_APPEND | unix.O_NONBLOCK | unix.O_ASYNC | unix.O_DIRECT | unix.O_NOATIME

func fcntl(t *kernel.Task, a *Args) (uintptr, error) {
	fd, cmd := a.Int(0), a.Int(1)
	d, err := t.FDs().Get(fd)
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	if d.Flags()&unix.O_PATH != 0 {
		switch cmd {
		case unix.F_DUPFD, unix.F_DUPFD_CLOEXEC, unix.F_GETFD, unix.F_SETFD, unix.F_GETFL:
		default:
			return 0, unix.EBADF
		}
	}
	switch cmd {
	case unix.F_DUPFD, unix.F_DUPFD_CLOEXEC:
		if n := a.Int(2); n < 0 || n >= fdLimit(t) {
			return 0, unix.EINVAL
		}
		return install(t, d, a.Int(2), cmd == unix.F_DUPFD_CLOEXEC)
	case unix.F_GETFD:
		on, err := t.FDs().Cloexec(fd)
		return truth(on), err
	case unix.F_SETFD:
		return 0, t.FDs().SetCloexec(fd, a[2]&unix.FD_CLOEXEC != 0)
	case unix.F_GETFL:
		return uintptr(d.Flags() &^ (unix.O_CLOEXEC | unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY | unix.O_TRUNC)), nil
	case unix.F_SETFL:
		return 0, setFlags(t, d, fd, d.Flags()&^settable|a.Int(2)&settable)
	case unix.F_GETLK, unix.F_SETLK, unix.F_SETLKW, unix.F_OFD_GETLK, unix.F_OFD_SETLK, unix.F_OFD_SETLKW:
		return 0, recordLock(t, d, cmd, a.Addr(2))
	case unix.F_GETOWN:
		return uintptr(int64(ownerOrJob(d))), nil
	case unix.F_SETOWN:
		return 0, setOwnerOrJob(t, d, int32(a.Int(2)))
	case unix.F_GETOWN_EX:
		o := d.Owner()
		return 0, outStruct(t, a.Addr(2), &[2]int32{int32(o.Type), o.PID})
	case unix.F_SETOWN_EX:
		v, err := inStruct[[2]int32](t, a.Addr(2))
		if err != nil {
			return 0, err
		}
		if v[0] < 0 || v[0] > kernel.OwnerJob {
			return 0, unix.EINVAL
		}
		return 0, setOwner(t, d, int(v[0]), v[1])
	case unix.F_GETSIG:
		return uintptr(d.Owner().Signal), nil
	case unix.F_SETSIG:
		if a.Int(2) < 0 || a.Int(2) > kernel.NSIG {
			return 0, unix.EINVAL
		}
		o := d.Owner()
		o.Signal = a.Int(2)
		d.SetOwner(o)
		return 0, nil
	case unix.F_NOTIFY:
		return 0, dirNotify(t, d, fd, uint32(a[2]))
	}
	if f, ok := d.File().(sealer); ok && cmd == unix.F_GET_SEALS {
		s, err := f.Seals()
		return uintptr(s), err
	} else if ok && cmd == unix.F_ADD_SEALS {
		return 0, f.AddSeals(a.Uint32(2))
	}
	if f, ok := d.File().(controller); ok {
		return f.Fcntl(t, cmd, a[2])
	}
	return 0, unix.EINVAL
}

// ownerOrJob and setOwnerOrJob have a process, or a process group below 0 (f_setown).
func ownerOrJob(d *vfs.Description) int32 {
	o := d.Owner()
	if o.Type == kernel.OwnerJob {
		return -o.PID
	}
	return o.PID
}

func setOwnerOrJob(t *kernel.Task, d *vfs.Description, pid int32) error {
	switch {
	case pid == math.MinInt32:
		return unix.EINVAL
	case pid < 0:
		return setOwner(t, d, kernel.OwnerJob, -pid)
	}
	return setOwner(t, d, kernel.OwnerProcess, pid)
}

// setFlags is F_SETFL. O_ASYNC stays as it is where the file cannot tell of itself
// (fs/fcntl.c, setfl and fasync_helper).
func setFlags(t *kernel.Task, d *vfs.Description, fd, flags int) error {
	if _, tells := d.File().(vfs.Signaller); !tells {
		flags = flags&^unix.O_ASYNC | d.Flags()&unix.O_ASYNC
	}
	changed := d.Flags() ^ flags
	if err := d.SetFlags(t, flags); err != nil {
		return err
	}
	if changed&unix.O_ASYNC != 0 {
		d.SetAsync(fd, flags&unix.O_ASYNC != 0)
	}
	return nil
}

func setOwner(t *kernel.Task, d *vfs.Description, kind int, pid int32) error {
	target, err := t.IOTarget(kind, pid)
	if err != nil {
		return err
	}
	o := d.Owner()
	o.Type, o.PID, o.Target = kind, pid, target
	d.SetOwner(o)
	return nil
}

// dirNotify is F_NOTIFY. Where nobody owns the descriptor the caller does from now on
// (fs/notify/dnotify/dnotify.c, fcntl_dirnotify).
func dirNotify(t *kernel.Task, d *vfs.Description, fd int, want uint32) error {
	if err := vfs.DirNotify(t.FDs(), d, fd, want); err != nil || !vfs.NotifiesOf(want) {
		return err
	}
	target, err := t.IOTarget(kernel.OwnerProcess, t.PID())
	if err == nil {
		d.OwnUnlessOwned(vfs.Owner{Type: kernel.OwnerProcess, PID: t.PID(), Target: target})
	}
	return err
}

// sealer is a memfd.
type sealer interface {
	Seals() (uint32, error)
	AddSeals(s uint32) error
}

// controller is a file with fcntl commands of its own, as the size of a pipe.
type controller interface {
	Fcntl(ctx vfs.Context, cmd int, arg uint64) (uintptr, error)
}

// recordLock serves struct flock commands: type, whence, start, len, pid.
func recordLock(t *kernel.Task, d *vfs.Description, cmd int, at memory.Addr) error {
	var b [32]byte
	if err := in(t, at, b[:]); err != nil {
		return err
	}
	ofd := cmd >= unix.F_OFD_GETLK
	l := vfs.Lock{Type: int16(le.Uint16(b[0:])), Owner: t.FDs(), PID: t.Group().PID()}
	if ofd {
		if le.Uint32(b[24:]) != 0 {
			return unix.EINVAL
		}
		l.Owner, l.PID = d, -1
	}
	base := int64(0)
	switch whence := le.Uint16(b[2:]); whence {
	case unix.SEEK_SET:
	case unix.SEEK_CUR:
		base = d.Pos()
	case unix.SEEK_END:
		attr, err := d.Stat(t)
		if err != nil {
			return err
		}
		base = attr.Size
	default:
		return unix.EINVAL
	}
	var err error
	if l.Start, l.End, err = lockRange(base, int64(le.Uint64(b[8:])), int64(le.Uint64(b[16:]))); err != nil {
		return err
	}
	if cmd == unix.F_GETLK || cmd == unix.F_OFD_GETLK {
		return getLock(t, d, l, at, b[:])
	}
	switch {
	case l.Type == unix.F_RDLCK && !d.Readable(), l.Type == unix.F_WRLCK && !d.Writable():
		return unix.EBADF
	case l.Type != unix.F_RDLCK && l.Type != unix.F_WRLCK && l.Type != unix.F_UNLCK:
		return unix.EINVAL
	}
	wait := cmd == unix.F_SETLKW || cmd == unix.F_OFD_SETLKW
	if !wait {
		return vfs.SetLock(d, l, false)
	}
	defer vfs.ForgetLock(l.Owner)
	return t.Wait(vfs.LockQueue(d), ^vfs.Events(0), false, 0, func() error { return vfs.SetLock(d, l, true) })
}

// lockRange turns start and length into the first and the last byte
// (math.MaxInt64 for the end of all files): both are part of it.
func lockRange(base, start, length int64) (from, to int64, err error) {
	const forever = 1<<63 - 1
	from = base + start
	if start > 0 && from < base {
		return 0, 0, unix.EOVERFLOW
	}
	switch {
	case length == 0:
		to = forever
	case length > 0:
		if to = from + length - 1; to < from {
			return 0, 0, unix.EOVERFLOW
		}
	default:
		from, to = from+length, from-1
	}
	if from < 0 {
		return 0, 0, unix.EINVAL
	}
	return from, to, nil
}

func getLock(t *kernel.Task, d *vfs.Description, l vfs.Lock, at memory.Addr, b []byte) error {
	if l.Type != unix.F_RDLCK && l.Type != unix.F_WRLCK {
		return unix.EINVAL
	}
	got, err := vfs.GetLock(d, l)
	if err != nil {
		return err
	}
	le.PutUint16(b[0:], uint16(got.Type))
	if got.Type != unix.F_UNLCK {
		n := got.End - got.Start + 1
		if got.End == 1<<63-1 {
			n = 0
		}
		le.PutUint16(b[2:], unix.SEEK_SET)
		le.PutUint64(b[8:], uint64(got.Start))
		le.PutUint64(b[16:], uint64(n))
		le.PutUint32(b[24:], uint32(shownPID(t, got.PID)))
	}
	return out(t, at, b)
}

// shownPID is a lock's holder as t knows it: 0 if it does not.
func shownPID(t *kernel.Task, global int32) int32 {
	if global < 0 {
		return global
	}
	if g := t.Kernel().Group(global); g != nil {
		return t.Number(g.ID())
	}
	return global
}

func flock(t *kernel.Task, a *Args) (uintptr, error) {
	op := a.Int(1)
	switch op &^ unix.LOCK_NB {
	case unix.LOCK_SH, unix.LOCK_EX, unix.LOCK_UN:
	default:
		return 0, unix.EINVAL
	}
	return onFD(t, a.Int(0), func(_ vfs.Path, d *vfs.Description) error {
		return t.Wait(vfs.LockQueue(d), ^vfs.Events(0), op&unix.LOCK_NB != 0, 0, func() error {
			return vfs.Flock(d, op&^unix.LOCK_NB, t.Group().PID())
		})
	})
}

func ioctl(t *kernel.Task, a *Args) (uintptr, error) {
	fd, cmd := a.Int(0), a.Uint32(1)
	d, err := t.FDs().Get(fd)
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	if d.Flags()&unix.O_PATH != 0 {
		return 0, unix.EBADF
	}
	switch cmd {
	case fioclex, fionclex:
		return 0, t.FDs().SetCloexec(fd, cmd == fioclex)
	case fionbio, fioasync:
		v, err := in32(t, a.Addr(2))
		if err != nil {
			return 0, err
		}
		bit := unix.O_NONBLOCK
		if cmd == fioasync {
			bit = unix.O_ASYNC
		}
		flags := d.Flags() &^ bit
		if v != 0 {
			flags |= bit
		}
		if _, tells := d.File().(vfs.Signaller); !tells && (d.Flags()^flags)&unix.O_ASYNC != 0 {
			return 0, unix.ENOTTY
		}
		return 0, setFlags(t, d, fd, flags)
	case fionread:
		if attr, err := d.Stat(t); err == nil && attr.Type() == unix.S_IFREG {
			return 0, out32(t, a.Addr(2), uint32(attr.Size-d.Pos()))
		}
	}
	if _, ok := d.File().(socket.Socket); ok {
		switch cmd { // net/socket.c, sock_ioctl
		case fiosetown, siocspgrp:
			v, err := in32(t, a.Addr(2))
			if err != nil {
				return 0, err
			}
			return 0, setOwnerOrJob(t, d, int32(v))
		case fiogetown, siocgpgrp:
			return 0, out32(t, a.Addr(2), uint32(ownerOrJob(d)))
		}
	}
	n, err := d.Ioctl(t, cmd, a[2])
	if _, ok := d.File().(socket.Socket); ok && err == unix.ENOTTY { // about devices any socket answers
		return 0, inet.DeviceIoctl(t, netOf(t), cmd, a.Addr(2))
	}
	return n, err
}

func fsync(t *kernel.Task, a *Args) (uintptr, error) {
	return onFD(t, a.Int(0), func(_ vfs.Path, d *vfs.Description) error { return d.Sync(t, false) })
}

func fdatasync(t *kernel.Task, a *Args) (uintptr, error) {
	return onFD(t, a.Int(0), func(_ vfs.Path, d *vfs.Description) error { return d.Sync(t, true) })
}

func syncfs(t *kernel.Task, a *Args) (uintptr, error) {
	return onFD(t, a.Int(0), func(p vfs.Path, d *vfs.Description) error {
		if !p.Ok() {
			return nil
		}
		return p.Mount.FS().Sync(t)
	})
}

func syncFileRange(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int64(1) < 0 || a.Int64(2) < 0 || a.Uint32(3)&^7 != 0 {
		return 0, unix.EINVAL
	}
	return onFD(t, a.Int(0), func(_ vfs.Path, d *vfs.Description) error {
		if a.Uint32(3) == 0 {
			return nil
		}
		return d.Sync(t, true)
	})
}

func fadvise(t *kernel.Task, a *Args) (uintptr, error) {
	return onFD(t, a.Int(0), func(_ vfs.Path, d *vfs.Description) error {
		if _, stream := d.File().(vfs.Stream); stream {
			return unix.ESPIPE
		}
		if a.Int64(2) < 0 || a.Int(3) < 0 || a.Int(3) > unix.FADV_NOREUSE {
			return unix.EINVAL
		}
		return nil
	})
}

func readahead(t *kernel.Task, a *Args) (uintptr, error) {
	return onFD(t, a.Int(0), func(_ vfs.Path, d *vfs.Description) error {
		if !d.Readable() {
			return unix.EBADF
		}
		if attr, err := d.Stat(t); err != nil || attr.Type() != unix.S_IFREG {
			return unix.EINVAL
		}
		return nil
	})
}
