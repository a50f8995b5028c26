package syscalls

import (
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// startAt is where the name of an *at call begins: dirfd, unless name is
// absolute. With empty, an empty name means dirfd itself, whatever its kind.
func startAt(t *kernel.Task, dirfd int, name string, empty bool) (vfs.Start, error) {
	s := t.FS().Start()
	if dirfd == unix.AT_FDCWD || len(name) > 0 && name[0] == '/' {
		return s, nil
	}
	if name == "" && !empty {
		return s, unix.ENOENT // getname(), before anybody looks at dirfd
	}
	d, err := t.FDs().Get(dirfd)
	if err != nil {
		return s, err
	}
	defer d.Unref()
	s.At = d.Path()
	if !s.At.Ok() {
		if name == "" && empty {
			return s, nil
		}
		return s, unix.ENOTDIR
	}
	return s, nil
}

// at reads a name and finds where it begins.
func at(t *kernel.Task, dirfd int, addr memory.Addr) (vfs.Start, string, error) {
	name, err := path(t, addr)
	if err != nil {
		return vfs.Start{}, "", err
	}
	s, err := startAt(t, dirfd, name, false)
	return s, name, err
}

// lookup resolves a name with AT_ flags; follow says what the call does without
// any.
func lookup(t *kernel.Task, dirfd int, addr memory.Addr, flags int, follow bool) (vfs.Path, error) {
	empty := flags&unix.AT_EMPTY_PATH != 0
	var name string
	var err error
	if addr != 0 || !empty {
		if name, err = path(t, addr); err != nil {
			return vfs.Path{}, err
		}
	}
	if name == "" && empty && dirfd != unix.AT_FDCWD {
		d, err := t.FDs().Get(dirfd)
		if err != nil {
			return vfs.Path{}, err
		}
		defer d.Unref()
		return d.Path(), nil
	}
	s, err := startAt(t, dirfd, name, empty)
	if err != nil {
		return vfs.Path{}, err
	}
	var r vfs.ResolveFlags
	if flags&unix.AT_SYMLINK_NOFOLLOW != 0 || !follow && flags&unix.AT_SYMLINK_FOLLOW == 0 {
		r |= vfs.ResolveNoFollow
	}
	if empty {
		r |= vfs.ResolveEmpty
	}
	return vfs.Resolve(t, s, name, r)
}

// valid reports whether ts is a time that calls take.
func valid(ts unix.Timespec) bool { return ts.Sec >= 0 && ts.Nsec >= 0 && ts.Nsec < 1e9 }

// maxWait keeps deadlines within a Duration; nobody will see its end.
const maxWait = time.Duration(1) << 61

// span is ts as a Duration, cut at maxWait.
func span(ts unix.Timespec) time.Duration {
	if ts.Sec >= int64(maxWait/time.Second) {
		return maxWait
	}
	return time.Duration(ts.Nano())
}

// after is the monotonic time at which ts from now is over; never 0.
func after(t *kernel.Task, ts unix.Timespec) time.Duration {
	return max(t.Kernel().Clock.Monotonic()+span(ts), 1)
}
