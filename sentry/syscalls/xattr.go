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
		{unix.SYS_SETXATTRAT, setxattrat, Full, ""},
		{unix.SYS_GETXATTRAT, getxattrat, Full, ""},
		{unix.SYS_LISTXATTRAT, listxattrat, Full, ""},
		{unix.SYS_REMOVEXATTRAT, removexattrat, Full, ""},
		{468, fileAttr, Partial, "EOPNOTSUPP: no file system here has such attributes"},
		{469, fileAttr, Partial, "as file_getattr"},
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

// byAt finds what the first three arguments of the …at calls mean.
func byAt(t *kernel.Task, a *Args) (vfs.Path, error) {
	flags := a.Int(2)
	if flags&^(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return vfs.Path{}, unix.EINVAL
	}
	return lookup(t, a.Int(0), a.Addr(1), flags, true)
}

// inXattrArgs reads a struct xattr_args and makes of the …at call's arguments
// those of the older call.
func inXattrArgs(t *kernel.Task, a *Args) (older Args, err error) {
	const known = 16
	size := a.Size(5)
	if size < known {
		return older, unix.EINVAL
	}
	if size > pageSize {
		return older, unix.E2BIG
	}
	b := make([]byte, size)
	if err := in(t, a.Addr(4), b); err != nil {
		return older, err
	}
	for _, x := range b[known:] {
		if x != 0 {
			return older, unix.E2BIG
		}
	}
	return Args{0, a[3], le.Uint64(b), uint64(le.Uint32(b[8:])), uint64(le.Uint32(b[12:]))}, nil
}

func setxattrat(t *kernel.Task, a *Args) (uintptr, error) {
	older, err := inXattrArgs(t, a)
	if err != nil {
		return 0, err
	}
	return setxattr(t, &older, func(t *kernel.Task, _ *Args) (vfs.Path, error) { return byAt(t, a) })
}

func getxattrat(t *kernel.Task, a *Args) (uintptr, error) {
	older, err := inXattrArgs(t, a)
	if err != nil {
		return 0, err
	}
	if older[4] != 0 {
		return 0, unix.EINVAL
	}
	return getxattr(t, &older, func(t *kernel.Task, _ *Args) (vfs.Path, error) { return byAt(t, a) })
}

func listxattrat(t *kernel.Task, a *Args) (uintptr, error) {
	return listxattr(t, &Args{0, a[3], a[4]}, func(t *kernel.Task, _ *Args) (vfs.Path, error) { return byAt(t, a) })
}

func removexattrat(t *kernel.Task, a *Args) (uintptr, error) {
	return removexattr(t, &Args{0, a[3]}, func(t *kernel.Task, _ *Args) (vfs.Path, error) { return byAt(t, a) })
}

// fileAttr is file_getattr(2) and file_setattr(2).
func fileAttr(t *kernel.Task, a *Args) (uintptr, error) {
	const known = 24
	if a.Size(3) > pageSize {
		return 0, unix.E2BIG
	}
	if a.Size(3) < known {
		return 0, unix.EINVAL
	}
	if _, err := byAt(t, &Args{a[0], a[1], a[4]}); err != nil {
		return 0, err
	}
	return 0, unix.EOPNOTSUPP
}
