package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func openCalls() []row {
	return []row{
		{unix.SYS_OPEN, open, Full, ""},
		{unix.SYS_OPENAT, openat, Full, ""},
		{unix.SYS_OPENAT2, openat2, Full, ""},
		{unix.SYS_CREAT, creat, Full, ""},
		{unix.SYS_CLOSE, closeFD, Full, ""},
		{unix.SYS_CLOSE_RANGE, closeRange, Full, ""},
		{unix.SYS_DUP, dup, Full, ""},
		{unix.SYS_DUP2, dup2, Full, ""},
		{unix.SYS_DUP3, dup3, Full, ""},
	}
}

func open(t *kernel.Task, a *Args) (uintptr, error) {
	return doOpen(t, unix.AT_FDCWD, a.Addr(0), vfs.OpenHow{Flags: a.Int(1), Mode: a.Uint32(2)})
}

func openat(t *kernel.Task, a *Args) (uintptr, error) {
	return doOpen(t, a.Int(0), a.Addr(1), vfs.OpenHow{Flags: a.Int(2), Mode: a.Uint32(3)})
}

func creat(t *kernel.Task, a *Args) (uintptr, error) {
	return doOpen(t, unix.AT_FDCWD, a.Addr(0), vfs.OpenHow{Flags: unix.O_CREAT | unix.O_WRONLY | unix.O_TRUNC, Mode: a.Uint32(1)})
}

// largeFile is O_LARGEFILE, which 64-bit programs always have.
const largeFile = 0x8000

// knownOpenFlags are those that open(2) does not ignore.
const knownOpenFlags = unix.O_ACCMODE | unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY | unix.O_TRUNC | unix.O_APPEND |
	unix.O_NONBLOCK | unix.O_SYNC | unix.O_DSYNC | unix.O_ASYNC | unix.O_DIRECT | 0x8000 | unix.O_DIRECTORY |
	unix.O_NOFOLLOW | unix.O_NOATIME | unix.O_CLOEXEC | unix.O_PATH | unix.O_TMPFILE

func openat2(t *kernel.Task, a *Args) (uintptr, error) {
	size := a.Size(3)
	if size < 24 {
		return 0, unix.EINVAL
	}
	if size > pageSize {
		return 0, unix.E2BIG
	}
	b := make([]byte, size)
	if err := in(t, a.Addr(2), b); err != nil {
		return 0, err
	}
	for _, x := range b[24:] {
		if x != 0 {
			return 0, unix.E2BIG
		}
	}
	flags, mode, resolve := le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:])
	const allResolve, resolveCached = 0x3f, 0x20
	creates := flags&unix.O_CREAT != 0 || flags&unix.O_TMPFILE == unix.O_TMPFILE
	switch {
	case flags&^knownOpenFlags != 0, resolve&^allResolve != 0,
		mode&^0o7777 != 0, mode != 0 && !creates,
		resolve&unix.RESOLVE_BENEATH != 0 && resolve&unix.RESOLVE_IN_ROOT != 0,
		flags&unix.O_PATH != 0 && flags&^(unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC) != 0:
		return 0, unix.EINVAL
	case resolve&resolveCached != 0 && flags&(unix.O_TRUNC|unix.O_CREAT|unix.O_TMPFILE&^unix.O_DIRECTORY) != 0:
		return 0, unix.EAGAIN
	}
	return doOpen(t, a.Int(0), a.Addr(1), vfs.OpenHow{Flags: int(flags), Mode: uint32(mode), Resolve: resolve})
}

func doOpen(t *kernel.Task, dirfd int, addr memory.Addr, how vfs.OpenHow) (uintptr, error) {
	s, name, err := at(t, dirfd, addr)
	if err != nil {
		return 0, err
	}
	how.Flags &= knownOpenFlags
	if how.Flags&unix.O_PATH == 0 {
		how.Flags |= largeFile
	}
	how.Mode = how.Mode & 0o7777 &^ t.FS().Umask()
	if err := t.FDs().Full(fdLimit(t)); err != nil {
		return 0, err
	}
	d, err := vfs.Open(t, s, name, how)
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	if err := waitOpened(t, d); err != nil {
		return 0, err
	}
	return install(t, d, 0, how.Flags&unix.O_CLOEXEC != 0)
}

// waitOpened sleeps until a FIFO has its other end.
func waitOpened(t *kernel.Task, d *vfs.Description) error {
	s, ok := d.File().(vfs.SlowOpen)
	if !ok || d.Flags()&(unix.O_NONBLOCK|unix.O_PATH) != 0 {
		return nil
	}
	return t.Wait(s.Queue(), vfs.EventIn|vfs.EventOut, false, 0, func() error {
		if s.Opened() {
			return nil
		}
		return unix.EAGAIN
	})
}

// install gives d a descriptor, min or above.
func install(t *kernel.Task, d *vfs.Description, min int, cloexec bool) (uintptr, error) {
	fd, err := t.FDs().Install(d, min, cloexec, fdLimit(t))
	return uintptr(fd), err
}

func fdLimit(t *kernel.Task) int {
	return int(min(t.Limit(unix.RLIMIT_NOFILE), 1<<20))
}

func closeFD(t *kernel.Task, a *Args) (uintptr, error) { return 0, t.FDs().Close(a.Int(0)) }

func closeRange(t *kernel.Task, a *Args) (uintptr, error) {
	const unshare, cloexec = 2, 4
	first, last, flags := a.Uint32(0), a.Uint32(1), a.Uint32(2)
	if flags&^(unshare|cloexec) != 0 || first > last {
		return 0, unix.EINVAL
	}
	if flags&unshare != 0 {
		t.UnshareFDs()
	}
	lo, hi := int(min(first, 1<<30)), int(min(last, 1<<30))
	if flags&cloexec != 0 {
		t.FDs().CloexecRange(lo, hi)
	} else {
		t.FDs().CloseRange(lo, hi)
	}
	return 0, nil
}

func dup(t *kernel.Task, a *Args) (uintptr, error) {
	d, err := t.FDs().Get(a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	return install(t, d, 0, false)
}

func dup2(t *kernel.Task, a *Args) (uintptr, error) {
	old, new := a.Int(0), a.Int(1)
	if old == new {
		d, err := t.FDs().Get(old)
		if err != nil {
			return 0, err
		}
		d.Unref()
		return uintptr(new), nil
	}
	return uintptr(new), t.FDs().Dup3(old, new, false, fdLimit(t))
}

func dup3(t *kernel.Task, a *Args) (uintptr, error) {
	old, new, flags := a.Int(0), a.Int(1), a.Int(2)
	if flags&^unix.O_CLOEXEC != 0 || old == new {
		return 0, unix.EINVAL
	}
	return uintptr(new), t.FDs().Dup3(old, new, flags&unix.O_CLOEXEC != 0, fdLimit(t))
}
