package fstest

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// Unshare gives the test's thread a mount namespace of its own.
func Unshare(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the comparison with Linux needs root, to mount and to act as others")
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Skipf("no mount namespace of our own: %v", err)
	}
	check(t, "make mounts private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}

func check(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// MountTmpfs mounts an empty tmpfs on dir, for this thread to see.
func MountTmpfs(dir string) error {
	return unix.Mount("none", dir, "tmpfs", 0, "mode=755,huge=never")
}

// linux is a tree of the kernel's, the root of this thread's.
type linux struct{ fds [4]int }

func newLinux(t *testing.T, c *Config) *linux {
	dir := t.TempDir()
	check(t, "prepare", c.Linux(t, dir))
	check(t, "chroot", unix.Chroot(dir))
	check(t, "chdir", unix.Chdir("/"))
	unix.Umask(0)
	return &linux{fds: [4]int{-1, -1, -1, -1}}
}

func become(uid int) {
	unix.Setfsgid(uid)
	unix.Setfsuid(uid)
}

func (l *linux) do(o op) (string, error) {
	become(people[o.who])
	defer become(0)
	fd := l.fds[o.m&3]
	switch o.kind {
	case "mkdir":
		return "", unix.Mkdir(o.a, o.mode)
	case "mknod":
		return "", unix.Mknod(o.a, o.mode, 0)
	case "symlink":
		return "", unix.Symlink(o.b, o.a)
	case "link":
		return "", unix.Linkat(unix.AT_FDCWD, o.a, unix.AT_FDCWD, o.b, o.flags)
	case "unlink":
		return "", unix.Unlinkat(unix.AT_FDCWD, o.a, 0)
	case "rmdir":
		return "", unix.Unlinkat(unix.AT_FDCWD, o.a, unix.AT_REMOVEDIR)
	case "rename":
		return "", unix.Renameat2(unix.AT_FDCWD, o.a, unix.AT_FDCWD, o.b, uint(o.flags))
	case "chmod":
		return "", unix.Chmod(o.a, o.mode)
	case "chown":
		return "", unix.Fchownat(unix.AT_FDCWD, o.a, int(int32(o.n)), int(int32(o.mode)), o.flags)
	case "truncate":
		return "", unix.Truncate(o.a, o.n)
	case "touch":
		return "", unix.UtimesNanoAt(unix.AT_FDCWD, o.a, touches[o.n], unix.AT_SYMLINK_NOFOLLOW)
	case "access":
		return "", unix.Faccessat2(unix.AT_FDCWD, o.a, o.mode, unix.AT_EACCESS)
	case "readlink":
		b := make([]byte, 4096)
		n, err := unix.Readlink(o.a, b)
		return string(b[:max(n, 0)]), err
	case "setxattr":
		return "", unix.Setxattr(o.a, o.b, []byte("v"), o.flags)
	case "getxattr":
		b := make([]byte, 64)
		n, err := unix.Getxattr(o.a, o.b, b)
		return string(b[:max(n, 0)]), err
	case "rmxattr":
		return "", unix.Removexattr(o.a, o.b)
	case "open":
		unix.Close(fd)
		l.fds[o.m&3] = -1
		n, err := unix.Openat2(unix.AT_FDCWD, o.a, &unix.OpenHow{Flags: uint64(o.flags), Mode: openMode(o), Resolve: uint64(o.n)})
		if err != nil {
			return "", err
		}
		l.fds[o.m&3] = n
		flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFL, 0)
		return fmt.Sprintf("%#x", flags), err
	case "linkfd":
		// AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH
		return "", unix.Linkat(fd, "", unix.AT_FDCWD, o.b, unix.AT_EMPTY_PATH)
	case "write":
		n, err := unix.Write(fd, pattern[:o.n])
		return fmt.Sprint(max(n, 0)), err
	case "pwrite":
		n, err := unix.Pwrite(fd, pattern[:100], o.n)
		return fmt.Sprint(max(n, 0)), err
	case "read":
		b := make([]byte, o.n)
		n, err := unix.Read(fd, b)
		return fmt.Sprintf("%d %x", max(n, 0), b[:max(n, 0)]), err
	case "seek":
		n, err := unix.Seek(fd, o.n, o.flags)
		return fmt.Sprint(max(n, -1)), err
	case "ftruncate":
		return "", unix.Ftruncate(fd, o.n)
	case "fallocate":
		return "", unix.Fallocate(fd, o.mode, o.n, 5000)
	case "fstat":
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		return fmt.Sprintf("%o %d %d", st.Mode, st.Nlink, st.Size), err
	}
	panic(o.kind)
}

func openMode(o op) uint64 {
	if o.flags&(unix.O_CREAT|tmpFile) != 0 {
		return uint64(o.mode & 0o7777)
	}
	return 0
}

const tmpFile = unix.O_TMPFILE &^ unix.O_DIRECTORY

func (l *linux) lstat(path string) (a vfs.Attr, err error) {
	var st unix.Stat_t
	err = unix.Lstat(path, &st)
	return vfs.Attr{Mode: st.Mode, Nlink: uint32(st.Nlink), UID: st.Uid, GID: st.Gid, Rdev: st.Rdev, Size: st.Size,
		Blocks: st.Blocks, Atime: st.Atim, Mtime: st.Mtim}, err
}

func (l *linux) list(path string) ([]string, error) {
	e, err := os.ReadDir(path)
	var names []string
	for _, e := range e {
		names = append(names, e.Name())
	}
	return names, err // sorted
}

func (l *linux) stamp(path string) {
	unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{stampTime, stampTime}, unix.AT_SYMLINK_NOFOLLOW)
}

func (l *linux) contents(path string) ([]byte, error) { return os.ReadFile(path) }

var touches = [][]unix.Timespec{
	nil,
	{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}},
	{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}},
	{{Sec: 5}, {Nsec: unix.UTIME_OMIT}},
	{{Sec: 5, Nsec: 1_000_000_000}, {}},
	{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}},
}

var pattern = func() []byte {
	b := make([]byte, 1<<16)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}()
