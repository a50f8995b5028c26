package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func treeCalls() []row {
	return []row{
		{unix.SYS_MKDIR, mkdir, Full, ""},
		{unix.SYS_MKDIRAT, mkdirat, Full, ""},
		{unix.SYS_MKNOD, mknod, Full, ""},
		{unix.SYS_MKNODAT, mknodat, Full, ""},
		{unix.SYS_RMDIR, rmdir, Full, ""},
		{unix.SYS_UNLINK, unlink, Full, ""},
		{unix.SYS_UNLINKAT, unlinkat, Full, ""},
		{unix.SYS_SYMLINK, symlink, Full, ""},
		{unix.SYS_SYMLINKAT, symlinkat, Full, ""},
		{unix.SYS_LINK, link, Full, ""},
		{unix.SYS_LINKAT, linkat, Full, ""},
		{unix.SYS_RENAME, rename, Full, ""},
		{unix.SYS_RENAMEAT, renameat, Full, ""},
		{unix.SYS_RENAMEAT2, renameat2, Full, ""},
		{unix.SYS_CHMOD, chmod, Full, ""},
		{unix.SYS_FCHMOD, fchmod, Full, ""},
		{unix.SYS_FCHMODAT, fchmodat, Full, ""},
		{unix.SYS_FCHMODAT2, fchmodat2, Full, ""},
		{unix.SYS_CHOWN, chown, Full, ""},
		{unix.SYS_LCHOWN, lchown, Full, ""},
		{unix.SYS_FCHOWN, fchown, Full, ""},
		{unix.SYS_FCHOWNAT, fchownat, Full, ""},
		{unix.SYS_UTIME, utime, Full, ""},
		{unix.SYS_UTIMES, utimes, Full, ""},
		{unix.SYS_FUTIMESAT, futimesat, Full, ""},
		{unix.SYS_UTIMENSAT, utimensat, Full, ""},
		{unix.SYS_TRUNCATE, truncate, Full, ""},
		{unix.SYS_FTRUNCATE, ftruncate, Full, ""},
		{unix.SYS_FALLOCATE, fallocate, Full, ""},
		{unix.SYS_CHDIR, chdir, Full, ""},
		{unix.SYS_FCHDIR, fchdir, Full, ""},
		{unix.SYS_CHROOT, chroot, Full, ""},
		{unix.SYS_GETCWD, getcwd, Full, ""},
		{unix.SYS_UMASK, umask, Full, ""},
		{unix.SYS_GETDENTS, getdents, Full, ""},
		{unix.SYS_GETDENTS64, getdents64, Full, ""},
	}
}

const cwd = unix.AT_FDCWD

func mkdir(t *kernel.Task, a *Args) (uintptr, error) { return doMkdir(t, cwd, a.Addr(0), a.Uint32(1)) }
func mkdirat(t *kernel.Task, a *Args) (uintptr, error) {
	return doMkdir(t, a.Int(0), a.Addr(1), a.Uint32(2))
}

func doMkdir(t *kernel.Task, dirfd int, addr memory.Addr, mode uint32) (uintptr, error) {
	s, name, err := at(t, dirfd, addr)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Mkdir(t, s, name, mode&0o1777&^t.FS().Umask())
}

func mknod(t *kernel.Task, a *Args) (uintptr, error) {
	return doMknod(t, cwd, a.Addr(0), a.Uint32(1), uint64(a.Uint32(2)))
}

func mknodat(t *kernel.Task, a *Args) (uintptr, error) {
	return doMknod(t, a.Int(0), a.Addr(1), a.Uint32(2), uint64(a.Uint32(3)))
}

func doMknod(t *kernel.Task, dirfd int, addr memory.Addr, mode uint32, dev uint64) (uintptr, error) {
	s, name, err := at(t, dirfd, addr)
	if err != nil {
		return 0, err
	}
	switch mode & unix.S_IFMT {
	case 0:
		mode |= unix.S_IFREG
	case unix.S_IFREG, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
	case unix.S_IFDIR:
		return 0, unix.EPERM
	default:
		return 0, unix.EINVAL
	}
	_, err = vfs.Mknod(t, s, name, mode&^t.FS().Umask(), dev)
	return 0, err
}

func rmdir(t *kernel.Task, a *Args) (uintptr, error)  { return remove(t, cwd, a.Addr(0), true) }
func unlink(t *kernel.Task, a *Args) (uintptr, error) { return remove(t, cwd, a.Addr(0), false) }

func unlinkat(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int(2)&^unix.AT_REMOVEDIR != 0 {
		return 0, unix.EINVAL
	}
	return remove(t, a.Int(0), a.Addr(1), a.Int(2) != 0)
}

func remove(t *kernel.Task, dirfd int, addr memory.Addr, dir bool) (uintptr, error) {
	s, name, err := at(t, dirfd, addr)
	if err != nil {
		return 0, err
	}
	if dir {
		return 0, vfs.Rmdir(t, s, name)
	}
	return 0, vfs.Unlink(t, s, name)
}

func symlink(t *kernel.Task, a *Args) (uintptr, error) {
	return doSymlink(t, a.Addr(0), cwd, a.Addr(1))
}

func symlinkat(t *kernel.Task, a *Args) (uintptr, error) {
	return doSymlink(t, a.Addr(0), a.Int(1), a.Addr(2))
}

func doSymlink(t *kernel.Task, target memory.Addr, dirfd int, addr memory.Addr) (uintptr, error) {
	to, err := path(t, target)
	if err != nil {
		return 0, err
	}
	if to == "" {
		return 0, unix.ENOENT
	}
	s, name, err := at(t, dirfd, addr)
	if err != nil {
		return 0, err
	}
	return 0, vfs.MakeSymlink(t, to, s, name)
}

func link(t *kernel.Task, a *Args) (uintptr, error) {
	return doLink(t, cwd, a.Addr(0), cwd, a.Addr(1), 0)
}

func linkat(t *kernel.Task, a *Args) (uintptr, error) {
	return doLink(t, a.Int(0), a.Addr(1), a.Int(2), a.Addr(3), a.Int(4))
}

func doLink(t *kernel.Task, fd1 int, old memory.Addr, fd2 int, new memory.Addr, flags int) (uintptr, error) {
	if flags&^(unix.AT_SYMLINK_FOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return 0, unix.EINVAL
	}
	if flags&unix.AT_EMPTY_PATH != 0 && !t.Creds().Has(unix.CAP_DAC_READ_SEARCH) {
		return 0, unix.ENOENT
	}
	p, err := lookup(t, fd1, old, flags, false)
	if err != nil {
		return 0, err
	}
	s, name, err := at(t, fd2, new)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Link(t, p, s, name)
}

func rename(t *kernel.Task, a *Args) (uintptr, error) {
	return doRename(t, cwd, a.Addr(0), cwd, a.Addr(1), 0)
}

func renameat(t *kernel.Task, a *Args) (uintptr, error) {
	return doRename(t, a.Int(0), a.Addr(1), a.Int(2), a.Addr(3), 0)
}

func renameat2(t *kernel.Task, a *Args) (uintptr, error) {
	return doRename(t, a.Int(0), a.Addr(1), a.Int(2), a.Addr(3), uint(a.Uint32(4)))
}

func doRename(t *kernel.Task, fd1 int, old memory.Addr, fd2 int, new memory.Addr, flags uint) (uintptr, error) {
	const noReplace, exchange, whiteout = unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_WHITEOUT
	if flags&^(noReplace|exchange|whiteout) != 0 || flags&exchange != 0 && flags&(noReplace|whiteout) != 0 {
		return 0, unix.EINVAL
	}
	s1, n1, err := at(t, fd1, old)
	if err != nil {
		return 0, err
	}
	s2, n2, err := at(t, fd2, new)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Rename(t, s1, n1, s2, n2, flags)
}

func chmod(t *kernel.Task, a *Args) (uintptr, error) {
	return doChmod(t, cwd, a.Addr(0), a.Uint32(1), 0)
}

func fchmodat(t *kernel.Task, a *Args) (uintptr, error) {
	return doChmod(t, a.Int(0), a.Addr(1), a.Uint32(2), 0)
}

func fchmodat2(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int(3)&^(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return 0, unix.EINVAL
	}
	return doChmod(t, a.Int(0), a.Addr(1), a.Uint32(2), a.Int(3))
}

func doChmod(t *kernel.Task, dirfd int, addr memory.Addr, mode uint32, flags int) (uintptr, error) {
	p, err := lookup(t, dirfd, addr, flags, true)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Chmod(t, p, mode&0o7777)
}

// onFD calls f with the path of a descriptor that is not O_PATH.
func onFD(t *kernel.Task, fd int, f func(vfs.Path, *vfs.Description) error) (uintptr, error) {
	d, err := t.FDs().Get(fd)
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	if d.Flags()&unix.O_PATH != 0 {
		return 0, unix.EBADF
	}
	return 0, f(d.Path(), d)
}

func fchmod(t *kernel.Task, a *Args) (uintptr, error) {
	return onFD(t, a.Int(0), func(p vfs.Path, d *vfs.Description) error {
		if !p.Ok() {
			return nil // anonymous: nobody opens it by name
		}
		return vfs.Chmod(t, p, a.Uint32(1)&0o7777)
	})
}

func chown(t *kernel.Task, a *Args) (uintptr, error) {
	return doChown(t, cwd, a.Addr(0), a.Uint32(1), a.Uint32(2), 0)
}

func lchown(t *kernel.Task, a *Args) (uintptr, error) {
	return doChown(t, cwd, a.Addr(0), a.Uint32(1), a.Uint32(2), unix.AT_SYMLINK_NOFOLLOW)
}

func fchownat(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int(4)&^(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return 0, unix.EINVAL
	}
	return doChown(t, a.Int(0), a.Addr(1), a.Uint32(2), a.Uint32(3), a.Int(4))
}

func doChown(t *kernel.Task, dirfd int, addr memory.Addr, uid, gid uint32, flags int) (uintptr, error) {
	p, err := lookup(t, dirfd, addr, flags, true)
	if err != nil {
		return 0, err
	}
	return 0, changeOwner(t, p, uid, gid)
}

// changeOwner is vfs.Chown with ids as t has them.
func changeOwner(t *kernel.Task, p vfs.Path, uid, gid uint32) (err error) {
	if uid, err = meanUID(t, uid); err != nil {
		return err
	}
	if gid, err = meanGID(t, gid); err != nil {
		return err
	}
	return vfs.Chown(t, p, uid, gid)
}

func fchown(t *kernel.Task, a *Args) (uintptr, error) {
	return onFD(t, a.Int(0), func(p vfs.Path, d *vfs.Description) error {
		if !p.Ok() {
			return nil
		}
		return changeOwner(t, p, a.Uint32(1), a.Uint32(2))
	})
}

// Times of utimensat(2) that are not times.
const (
	utimeNow  = 1<<30 - 1
	utimeOmit = 1<<30 - 2
)

func utimensat(t *kernel.Task, a *Args) (uintptr, error) {
	flags := a.Int(3)
	if flags&^(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return 0, unix.EINVAL
	}
	var times *[2]unix.Timespec
	if a[2] != 0 {
		times = &[2]unix.Timespec{}
		for i := range times {
			ts, err := inTimespec(t, a.Addr(2)+memory.Addr(16*i))
			if err != nil {
				return 0, err
			}
			if ts.Nsec != utimeNow && ts.Nsec != utimeOmit && (ts.Nsec < 0 || ts.Nsec >= 1e9) {
				return 0, unix.EINVAL
			}
			times[i] = ts
		}
		if times[0].Nsec == utimeOmit && times[1].Nsec == utimeOmit {
			return 0, nil
		}
	}
	if a[1] == 0 && a.Int(0) != cwd {
		if flags != 0 {
			return 0, unix.EINVAL
		}
		return onFD(t, a.Int(0), func(p vfs.Path, d *vfs.Description) error {
			if !p.Ok() {
				return nil
			}
			return vfs.Utimens(t, p, times)
		})
	}
	p, err := lookup(t, a.Int(0), a.Addr(1), flags, true)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Utimens(t, p, times)
}

func utimes(t *kernel.Task, a *Args) (uintptr, error) {
	return microTimes(t, cwd, a.Addr(0), a.Addr(1))
}

func futimesat(t *kernel.Task, a *Args) (uintptr, error) {
	return microTimes(t, a.Int(0), a.Addr(1), a.Addr(2))
}

func microTimes(t *kernel.Task, dirfd int, name, addr memory.Addr) (uintptr, error) {
	var times *[2]unix.Timespec
	if addr != 0 {
		v, err := inStruct[[4]int64](t, addr)
		if err != nil {
			return 0, err
		}
		if v[1] < 0 || v[1] >= 1e6 || v[3] < 0 || v[3] >= 1e6 {
			return 0, unix.EINVAL
		}
		times = &[2]unix.Timespec{{Sec: v[0], Nsec: v[1] * 1000}, {Sec: v[2], Nsec: v[3] * 1000}}
	}
	p, err := lookup(t, dirfd, name, 0, true)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Utimens(t, p, times)
}

func utime(t *kernel.Task, a *Args) (uintptr, error) {
	var times *[2]unix.Timespec
	if a[1] != 0 {
		v, err := inStruct[[2]int64](t, a.Addr(1))
		if err != nil {
			return 0, err
		}
		times = &[2]unix.Timespec{{Sec: v[0]}, {Sec: v[1]}}
	}
	p, err := lookup(t, cwd, a.Addr(0), 0, true)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Utimens(t, p, times)
}

// growLimit is RLIMIT_FSIZE for truncation.
func growLimit(t *kernel.Task, size int64) error {
	if size < 0 {
		return unix.EINVAL
	}
	if uint64(size) > t.Limit(unix.RLIMIT_FSIZE) {
		t.SendTask(kernel.UserInfo(unix.SIGXFSZ, kernel.SI_USER, t.PID(), t.Creds().UID))
		return unix.EFBIG
	}
	return nil
}

func truncate(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int64(1) < 0 {
		return 0, unix.EINVAL
	}
	p, err := lookup(t, cwd, a.Addr(0), 0, true)
	if err != nil {
		return 0, err
	}
	if err := growLimit(t, a.Int64(1)); err != nil {
		return 0, err
	}
	return 0, vfs.Truncate(t, p, a.Int64(1))
}

func ftruncate(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int64(1) < 0 {
		return 0, unix.EINVAL
	}
	return onFD(t, a.Int(0), func(_ vfs.Path, d *vfs.Description) error {
		if !d.Writable() {
			return unix.EINVAL
		}
		if err := growLimit(t, a.Int64(1)); err != nil {
			return err
		}
		return d.Truncate(t, a.Int64(1))
	})
}

func fallocate(t *kernel.Task, a *Args) (uintptr, error) {
	off, n := a.Int64(2), a.Int64(3)
	if off < 0 || n <= 0 {
		return 0, unix.EINVAL
	}
	if off+n < 0 {
		return 0, unix.EFBIG
	}
	return onFD(t, a.Int(0), func(_ vfs.Path, d *vfs.Description) error {
		if !d.Writable() {
			return unix.EBADF
		}
		if a.Uint32(1)&unix.FALLOC_FL_KEEP_SIZE == 0 {
			if err := growLimit(t, off+n); err != nil {
				return err
			}
		}
		return d.Allocate(t, a.Uint32(1), off, n)
	})
}

func chdir(t *kernel.Task, a *Args) (uintptr, error) {
	p, err := directory(t, a.Addr(0))
	if err == nil {
		t.FS().SetCwd(p)
	}
	return 0, err
}

// directory resolves a name to a directory that the caller may enter.
func directory(t *kernel.Task, addr memory.Addr) (vfs.Path, error) {
	s, name, err := at(t, cwd, addr)
	if err != nil {
		return vfs.Path{}, err
	}
	p, err := vfs.Resolve(t, s, name, vfs.ResolveDirectory)
	if err != nil {
		return p, err
	}
	return p, vfs.CheckAccess(t, p, vfs.MayExec)
}

func fchdir(t *kernel.Task, a *Args) (uintptr, error) {
	d, err := t.FDs().Get(a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	if !d.Path().Ok() {
		return 0, unix.ENOTDIR
	}
	if _, dir := d.Path().Inode().(vfs.Directory); !dir {
		return 0, unix.ENOTDIR
	}
	if err := vfs.CheckAccess(t, d.Path(), vfs.MayExec); err != nil {
		return 0, err
	}
	t.FS().SetCwd(d.Path())
	return 0, nil
}

func chroot(t *kernel.Task, a *Args) (uintptr, error) {
	p, err := directory(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	if !t.Creds().HasHere(unix.CAP_SYS_CHROOT) {
		return 0, unix.EPERM
	}
	t.FS().SetRoot(p)
	return 0, nil
}

func getcwd(t *kernel.Task, a *Args) (uintptr, error) {
	s := t.FS().Start()
	name := vfs.Name(s.Root, s.At)
	if len(name) > 10 && name[len(name)-10:] == " (deleted)" {
		return 0, unix.ENOENT
	}
	if len(name) >= unix.PathMax {
		return 0, unix.ENAMETOOLONG
	}
	if uint64(len(name)+1) > a.Size(1) {
		return 0, unix.ERANGE
	}
	return uintptr(len(name) + 1), out(t, a.Addr(0), append([]byte(name), 0))
}

func umask(t *kernel.Task, a *Args) (uintptr, error) {
	return uintptr(t.FS().SetUmask(a.Uint32(0))), nil
}

func getdents64(t *kernel.Task, a *Args) (uintptr, error) {
	return readDir(t, a, func(b []byte, d vfs.Dirent) []byte {
		n := (19 + len(d.Name) + 1 + 7) &^ 7
		at := len(b)
		b = append(b, make([]byte, n)...)
		le.PutUint64(b[at:], d.Ino)
		le.PutUint64(b[at+8:], uint64(d.Off))
		le.PutUint16(b[at+16:], uint16(n))
		b[at+18] = d.Type
		copy(b[at+19:], d.Name)
		return b
	})
}

func getdents(t *kernel.Task, a *Args) (uintptr, error) {
	return readDir(t, a, func(b []byte, d vfs.Dirent) []byte {
		n := (18 + len(d.Name) + 2 + 7) &^ 7
		at := len(b)
		b = append(b, make([]byte, n)...)
		le.PutUint64(b[at:], d.Ino)
		le.PutUint64(b[at+8:], uint64(d.Off))
		le.PutUint16(b[at+16:], uint16(n))
		copy(b[at+18:], d.Name)
		b[at+n-1] = d.Type
		return b
	})
}

// readDir fills the caller's buffer with whole entries.
func readDir(t *kernel.Task, a *Args, add func([]byte, vfs.Dirent) []byte) (uintptr, error) {
	d, err := t.FDs().Get(a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	if d.Flags()&unix.O_PATH != 0 {
		return 0, unix.EBADF
	}
	size := int(min(a.Uint32(2), 1<<20))
	var b []byte
	full := false
	err = d.ReadDir(t, func(e vfs.Dirent) bool {
		next := add(b, e)
		if len(next) > size {
			full = true
			return false
		}
		b = next
		return true
	})
	if err != nil {
		return 0, err
	}
	if len(b) == 0 && full {
		return 0, unix.EINVAL
	}
	return uintptr(len(b)), out(t, a.Addr(1), b)
}
