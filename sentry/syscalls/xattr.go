package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func xattrCalls() []row {
	get := func(f pathFinder) Handler {
		return func(t *kernel.Task, a *Args) (uintptr, error) { return getxattr(t, a, f) }
	}
	set := func(f pathFinder) Handler {
		return func(t *kernel.Task, a *Args) (uintptr, error) { return setxattr(t, a, f) }
	}
	list := func(f pathFinder) Handler {
		return func(t *kernel.Task, a *Args) (uintptr, error) { return listxattr(t, a, f) }
	}
	rm := func(f pathFinder) Handler {
		return func(t *kernel.Task, a *Args) (uintptr, error) { return removexattr(t, a, f) }
	}
	return []row{
		{unix.SYS_GETXATTR, get(byName), Full, ""},
		{unix.SYS_LGETXATTR, get(byLink), Full, ""},
		{unix.SYS_FGETXATTR, get(byFD), Full, ""},
		{unix.SYS_SETXATTR, set(byName), Full, ""},
		{unix.SYS_LSETXATTR, set(byLink), Full, ""},
		{unix.SYS_FSETXATTR, set(byFD), Full, ""},
		{unix.SYS_LISTXATTR, list(byName), Full, ""},
		{unix.SYS_LLISTXATTR, list(byLink), Full, ""},
		{unix.SYS_FLISTXATTR, list(byFD), Full, ""},
		{unix.SYS_REMOVEXATTR, rm(byName), Full, ""},
		{unix.SYS_LREMOVEXATTR, rm(byLink), Full, ""},
		{unix.SYS_FREMOVEXATTR, rm(byFD), Full, ""},
	}
}

// pathFinder finds the object that the first argument means.
type pathFinder func(t *kernel.Task, a *Args) (vfs.Path, error)

func byName(t *kernel.Task, a *Args) (vfs.Path, error) { return lookup(t, cwd, a.Addr(0), 0, true) }
func byLink(t *kernel.Task, a *Args) (vfs.Path, error) { return lookup(t, cwd, a.Addr(0), 0, false) }

func byFD(t *kernel.Task, a *Args) (p vfs.Path, err error) {
	_, err = onFD(t, a.Int(0), func(path vfs.Path, _ *vfs.Description) error {
		p = path
		return nil
	})
	if err == nil && !p.Ok() {
		err = unix.EOPNOTSUPP
	}
	return p, err
}

const (
	xattrNameMax = 255
	xattrSizeMax = 65536
)

func xattrName(t *kernel.Task, at memory.Addr) (string, error) {
	s, err := t.MM().String(at, xattrNameMax+1)
	if err == unix.ENAMETOOLONG || err == nil && s == "" {
		err = unix.ERANGE
	}
	return s, err
}

func getxattr(t *kernel.Task, a *Args, find pathFinder) (uintptr, error) {
	p, err := find(t, a)
	if err != nil {
		return 0, err
	}
	name, err := xattrName(t, a.Addr(1))
	if err != nil {
		return 0, err
	}
	v, err := vfs.Getxattr(t, p, name)
	if err != nil {
		return 0, err
	}
	return outSized(t, a.Addr(2), a.Size(3), v)
}

// outSized writes v if it fits; a size of 0 only asks for the length.
func outSized(t *kernel.Task, at memory.Addr, size uint64, v []byte) (uintptr, error) {
	if size == 0 {
		return uintptr(len(v)), nil
	}
	if uint64(len(v)) > size {
		return 0, unix.ERANGE
	}
	return uintptr(len(v)), out(t, at, v)
}

func setxattr(t *kernel.Task, a *Args, find pathFinder) (uintptr, error) {
	if a.Int(4)&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0 {
		return 0, unix.EINVAL
	}
	p, err := find(t, a)
	if err != nil {
		return 0, err
	}
	name, err := xattrName(t, a.Addr(1))
	if err != nil {
		return 0, err
	}
	if a.Size(3) > xattrSizeMax {
		return 0, unix.E2BIG
	}
	v := make([]byte, a.Size(3))
	if err := in(t, a.Addr(2), v); err != nil {
		return 0, err
	}
	return 0, vfs.Setxattr(t, p, name, v, a.Int(4))
}

func listxattr(t *kernel.Task, a *Args, find pathFinder) (uintptr, error) {
	p, err := find(t, a)
	if err != nil {
		return 0, err
	}
	names, err := vfs.Listxattr(t, p)
	if err != nil {
		return 0, err
	}
	var b []byte
	for _, n := range names {
		b = append(append(b, n...), 0)
	}
	return outSized(t, a.Addr(1), a.Size(2), b)
}

func removexattr(t *kernel.Task, a *Args, find pathFinder) (uintptr, error) {
	p, err := find(t, a)
	if err != nil {
		return 0, err
	}
	name, err := xattrName(t, a.Addr(1))
	if err != nil {
		return 0, err
	}
	return 0, vfs.Removexattr(t, p, name)
}
