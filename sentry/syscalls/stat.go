package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func statCalls() []row {
	return []row{
		{unix.SYS_STAT, stat, Full, ""},
		{unix.SYS_LSTAT, lstat, Full, ""},
		{unix.SYS_FSTAT, fstat, Full, ""},
		{unix.SYS_NEWFSTATAT, newfstatat, Full, ""},
		{unix.SYS_STATX, statx, Full, ""},
		{unix.SYS_STATFS, statfs, Full, ""},
		{unix.SYS_FSTATFS, fstatfs, Full, ""},
		{unix.SYS_USTAT, ustat, Full, ""},
		{unix.SYS_ACCESS, accessCall, Full, ""},
		{unix.SYS_FACCESSAT, faccessat, Full, ""},
		{unix.SYS_FACCESSAT2, faccessat2, Full, ""},
		{unix.SYS_READLINK, readlink, Full, ""},
		{unix.SYS_READLINKAT, readlinkat, Full, ""},
	}
}

func outStat(t *kernel.Task, at memory.Addr, a vfs.Attr) error {
	var b [144]byte // struct stat, arch/x86/include/uapi/asm/stat.h
	le.PutUint64(b[0:], a.Dev)
	le.PutUint64(b[8:], a.Ino)
	le.PutUint64(b[16:], uint64(a.Nlink))
	le.PutUint32(b[24:], a.Mode)
	le.PutUint32(b[28:], showUID(t, a.UID))
	le.PutUint32(b[32:], showGID(t, a.GID))
	le.PutUint64(b[40:], a.Rdev)
	le.PutUint64(b[48:], uint64(a.Size))
	le.PutUint64(b[56:], uint64(a.BlockSize))
	le.PutUint64(b[64:], uint64(a.Blocks))
	for i, ts := range []unix.Timespec{a.Atime, a.Mtime, a.Ctime} {
		le.PutUint64(b[72+16*i:], uint64(ts.Sec))
		le.PutUint64(b[80+16*i:], uint64(ts.Nsec))
	}
	return out(t, at, b[:])
}

func statPath(t *kernel.Task, dirfd int, name memory.Addr, flags int, to memory.Addr) (uintptr, error) {
	p, err := lookup(t, dirfd, name, flags, true)
	if err != nil {
		return 0, err
	}
	attr, err := vfs.Stat(t, p)
	if err != nil {
		return 0, err
	}
	return 0, outStat(t, to, attr)
}

func stat(t *kernel.Task, a *Args) (uintptr, error) {
	return statPath(t, unix.AT_FDCWD, a.Addr(0), 0, a.Addr(1))
}

func lstat(t *kernel.Task, a *Args) (uintptr, error) {
	return statPath(t, unix.AT_FDCWD, a.Addr(0), unix.AT_SYMLINK_NOFOLLOW, a.Addr(1))
}

func fstat(t *kernel.Task, a *Args) (uintptr, error) {
	attr, err := fdAttr(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	return 0, outStat(t, a.Addr(1), attr)
}

func fdAttr(t *kernel.Task, fd int) (vfs.Attr, error) {
	d, err := t.FDs().Get(fd)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer d.Unref()
	return d.Stat(t)
}

const statFlags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH | unix.AT_NO_AUTOMOUNT

func newfstatat(t *kernel.Task, a *Args) (uintptr, error) {
	const syncType = 0x6000 // AT_STATX_SYNC_TYPE, which fstatat ignores
	flags := a.Int(3) &^ syncType
	if flags&^statFlags != 0 {
		return 0, unix.EINVAL
	}
	if attr, ok, err := emptyAttr(t, a.Int(0), a.Addr(1), flags); ok {
		if err != nil {
			return 0, err
		}
		return 0, outStat(t, a.Addr(2), attr)
	}
	return statPath(t, a.Int(0), a.Addr(1), flags, a.Addr(2))
}

// emptyAttr serves AT_EMPTY_PATH on a descriptor, which need not have a path
// (glibc's fstat asks so).
func emptyAttr(t *kernel.Task, fd int, name memory.Addr, flags int) (attr vfs.Attr, ok bool, err error) {
	if flags&unix.AT_EMPTY_PATH == 0 || fd < 0 {
		return attr, false, nil
	}
	if name != 0 {
		if s, err := path(t, name); err != nil || s != "" {
			return attr, err != nil, err
		}
	}
	attr, err = fdAttr(t, fd)
	return attr, true, err
}

func statx(t *kernel.Task, a *Args) (uintptr, error) {
	const syncType = 0x6000 // AT_STATX_SYNC_TYPE
	flags, mask := a.Int(2), a.Uint32(3)
	if flags&^(statFlags|syncType) != 0 || flags&syncType == syncType || mask&unix.STATX__RESERVED != 0 {
		return 0, unix.EINVAL
	}
	mountID, uniqueID := 0, uint64(0)
	attr, ok, err := emptyAttr(t, a.Int(0), a.Addr(1), flags)
	if !ok {
		var p vfs.Path
		if p, err = lookup(t, a.Int(0), a.Addr(1), flags&^syncType, true); err == nil {
			attr, err = vfs.Stat(t, p)
			mountID, uniqueID = p.Mount.ID(), p.Mount.UniqueID()
		}
	}
	if err != nil {
		return 0, err
	}
	var b [256]byte
	known := uint32(unix.STATX_BASIC_STATS)
	le.PutUint32(b[4:], uint32(attr.BlockSize))
	le.PutUint32(b[16:], attr.Nlink)
	le.PutUint32(b[20:], showUID(t, attr.UID))
	le.PutUint32(b[24:], showGID(t, attr.GID))
	le.PutUint16(b[28:], uint16(attr.Mode))
	le.PutUint64(b[32:], attr.Ino)
	le.PutUint64(b[40:], uint64(attr.Size))
	le.PutUint64(b[48:], uint64(attr.Blocks))
	times := []unix.Timespec{attr.Atime, attr.Btime, attr.Ctime, attr.Mtime}
	for i, ts := range times {
		le.PutUint64(b[64+16*i:], uint64(ts.Sec))
		le.PutUint32(b[72+16*i:], uint32(ts.Nsec))
	}
	if attr.Btime != (unix.Timespec{}) {
		known |= unix.STATX_BTIME
	}
	le.PutUint32(b[128:], unix.Major(attr.Rdev))
	le.PutUint32(b[132:], unix.Minor(attr.Rdev))
	le.PutUint32(b[136:], unix.Major(attr.Dev))
	le.PutUint32(b[140:], unix.Minor(attr.Dev))
	if mountID != 0 {
		le.PutUint64(b[144:], uint64(mountID))
		known |= unix.STATX_MNT_ID
		if mask&unix.STATX_MNT_ID_UNIQUE != 0 {
			le.PutUint64(b[144:], uniqueID)
			known = known&^unix.STATX_MNT_ID | unix.STATX_MNT_ID_UNIQUE
		}
	}
	le.PutUint32(b[0:], known)
	return 0, out(t, a.Addr(4), b[:])
}

func outStatfs(t *kernel.Task, at memory.Addr, s unix.Statfs_t) error {
	return outStruct(t, at, &s)
}

func statfs(t *kernel.Task, a *Args) (uintptr, error) {
	p, err := lookup(t, unix.AT_FDCWD, a.Addr(0), 0, true)
	if err != nil {
		return 0, err
	}
	s, err := vfs.Statfs(t, p)
	if err != nil {
		return 0, err
	}
	return 0, outStatfs(t, a.Addr(1), s)
}

func fstatfs(t *kernel.Task, a *Args) (uintptr, error) {
	d, err := t.FDs().Get(a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	s := unix.Statfs_t{Type: unix.ANON_INODE_FS_MAGIC, Bsize: pageSize, Namelen: 255, Frsize: pageSize}
	if d.Path().Ok() {
		if s, err = vfs.Statfs(t, d.Path()); err != nil {
			return 0, err
		}
	}
	return 0, outStatfs(t, a.Addr(1), s)
}

func accessCall(t *kernel.Task, a *Args) (uintptr, error) {
	return checkAccess(t, unix.AT_FDCWD, a.Addr(0), a.Uint32(1), 0)
}

func faccessat(t *kernel.Task, a *Args) (uintptr, error) {
	return checkAccess(t, a.Int(0), a.Addr(1), a.Uint32(2), 0)
}

func faccessat2(t *kernel.Task, a *Args) (uintptr, error) {
	return checkAccess(t, a.Int(0), a.Addr(1), a.Uint32(2), a.Int(3))
}

// realCreds is a Context whose file-system identity is the real one.
type realCreds struct {
	*kernel.Task
	c *vfs.Creds
}

func (r realCreds) Creds() *vfs.Creds { return r.c }

func checkAccess(t *kernel.Task, dirfd int, name memory.Addr, mode uint32, flags int) (uintptr, error) {
	if mode&^7 != 0 || flags&^(unix.AT_EACCESS|unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return 0, unix.EINVAL
	}
	ctx := vfs.Context(t)
	if flags&unix.AT_EACCESS == 0 {
		c := *t.Creds()
		c.FSUID, c.FSGID = c.UID, c.GID
		const noroot = 1
		if c.SecureBits&noroot == 0 {
			if c.Effective = 0; c.UID == 0 {
				c.Effective = c.Permitted
			}
		}
		ctx = realCreds{t, &c}
	}
	p, err := lookup(t, dirfd, name, flags&^unix.AT_EACCESS, true)
	if err != nil {
		return 0, err
	}
	if mode == 0 {
		return 0, nil
	}
	if mode&unix.W_OK != 0 && p.Mount != nil && p.Mount.ReadOnly() {
		if attr, err := vfs.Stat(ctx, p); err == nil {
			if k := attr.Type(); k == unix.S_IFREG || k == unix.S_IFDIR || k == unix.S_IFLNK {
				return 0, unix.EROFS
			}
		}
	}
	return 0, vfs.CheckAccess(ctx, p, vfs.Access(mode))
}

func readlink(t *kernel.Task, a *Args) (uintptr, error) {
	return doReadlink(t, unix.AT_FDCWD, a.Addr(0), a.Addr(1), a.Int(2))
}

func readlinkat(t *kernel.Task, a *Args) (uintptr, error) {
	return doReadlink(t, a.Int(0), a.Addr(1), a.Addr(2), a.Int(3))
}

func doReadlink(t *kernel.Task, dirfd int, name, to memory.Addr, size int) (uintptr, error) {
	if size <= 0 {
		return 0, unix.EINVAL
	}
	s, err := path(t, name)
	if err != nil {
		return 0, err
	}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if s == "" {
		flags |= unix.AT_EMPTY_PATH // of an O_PATH descriptor
	}
	p, err := lookup(t, dirfd, name, flags, false)
	if err != nil {
		return 0, err
	}
	target, err := vfs.Readlink(t, p)
	if err != nil {
		if s == "" && err == unix.EINVAL {
			err = unix.ENOENT
		}
		return 0, err
	}
	n := min(len(target), size)
	return uintptr(n), out(t, to, []byte(target[:n]))
}

// ustat(2) is statfs by device number, of the file systems that are mounted.
func ustat(t *kernel.Task, a *Args) (uintptr, error) {
	ns := t.FS().Namespace()
	for _, info := range ns.Mounts(t.FS().Root()) {
		m := ns.Find(info.Unique)
		if m == nil || info.Dev != uint64(a.Uint32(0)) {
			continue
		}
		s, err := m.FS().Statfs(t)
		if err != nil {
			return 0, err
		}
		b := make([]byte, 32) // struct ustat
		le.PutUint32(b, uint32(s.Bfree))
		le.PutUint64(b[8:], s.Ffree)
		return 0, out(t, a.Addr(1), b)
	}
	return 0, unix.EINVAL
}
