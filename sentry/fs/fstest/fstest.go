// Package fstest compares a file system of the Sentry's with Linux: random
// operations are done on both, and results, errnos and the whole tree must agree.
package fstest

import (
	"fmt"
	"hash/crc32"
	"math/rand"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// op is one operation, done on Linux and here.
type op struct {
	kind  string
	a, b  string
	flags int
	mode  uint32
	n, m  int64
	who   int // index of people
}

func (o op) String() string {
	return fmt.Sprintf("%s(%.30q, %.30q, flags=%#x, mode=%#o, n=%d, m=%d) as %d", o.kind, o.a, o.b, o.flags, o.mode, o.n, o.m, o.who)
}

// people are uids, whose gid is the same.
var people = []int{0, 0, 0, 1000, 1001}

// world does operations and tells of the result in a comparable way.
type world interface {
	do(o op) (string, error)
	lstat(path string) (vfs.Attr, error)
	list(path string) ([]string, error)
	stamp(path string)
	contents(path string) ([]byte, error)
}

// stampTime is what all times are set to after they have been looked at.
var stampTime = unix.Timespec{Sec: 1_000_000_000}

// state describes the whole tree below path, and sets the times back.
func (c *Config) state(w world, path string, out []string) []string {
	a, err := w.lstat(path)
	if err != nil {
		return append(out, fmt.Sprintf("%s: %v", path, err))
	}
	read, written := a.Atime != stampTime, a.Mtime != stampTime
	if c.Still {
		read, written = false, false
	}
	line := path + ": " + c.Tell(path, &a, read, written)
	if c.Still && a.Type() == unix.S_IFREG {
		b, err := w.contents(path)
		line += fmt.Sprintf(" contents %08x %v", crc32.ChecksumIEEE(b), err)
	}
	out = append(out, line)
	var names []string
	if a.Type() == unix.S_IFDIR {
		if names, err = w.list(path); err != nil {
			return append(out, fmt.Sprintf("%s: list: %v", path, err))
		}
	}
	for _, n := range names {
		out = c.state(w, strings.TrimSuffix(path, "/")+"/"+n, out)
	}
	if !c.Still {
		w.stamp(path)
	}
	return out
}

// Tell is the usual description.
func Tell(path string, a *vfs.Attr, read, written bool) string {
	moved := ""
	if written {
		moved = " written"
	}
	return fmt.Sprintf("mode %o nlink %d uid %d gid %d rdev %d size %d%s", a.Mode, a.Nlink, a.UID, a.GID, a.Rdev, a.Size, moved)
}

// Config says what is compared.
type Config struct {
	// Linux prepares dir, which is to be Linux's tree. The thread, in Sentry too, has a
	// mount namespace of its own.
	Linux func(t *testing.T, dir string) error
	// Sentry makes the file system to compare, which must start with the same tree.
	Sentry func(t *testing.T, arena *memory.Arena) vfs.FileSystem
	// Tell describes an inode, where the usual description would compare what may differ.
	Tell func(path string, a *vfs.Attr, read, written bool) string
	// Weights replaces how often each kind of operation comes, of which there is a usual table.
	Weights map[string]int
	// Xattrs replaces the names of attributes.
	Xattrs []string
	// Still leaves times alone, and compares contents instead: setting times is a
	// change, by which an overlay would have everything in its upper layer at once.
	Still        bool
	Seeds, Steps int
	First        int // seed
}

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

// sentry is the same on this package's file system.
type sentry struct {
	ns    *vfs.Namespace
	users []*user
	fds   [4]*vfs.Description
}

func newSentry(t *testing.T, c *Config) *sentry {
	fs := c.Sentry(t, NewArena(t))
	s := &sentry{ns: vfs.NewNamespace(fs, vfs.MountOptions{Flags: unix.MS_RELATIME})}
	var clock atomic.Int64
	for _, uid := range people {
		s.users = append(s.users, newUser(&clock, uint32(uid), uint32(uid)))
	}
	t.Cleanup(func() {
		for _, d := range s.fds {
			if d != nil {
				d.Unref()
			}
		}
	})
	return s
}

func (s *sentry) start() vfs.Start { return vfs.Start{Root: s.ns.Root(), At: s.ns.Root()} }

func (s *sentry) do(o op) (string, error) {
	ctx, at := s.users[o.who], s.start()
	on := func(flags vfs.ResolveFlags, f func(vfs.Path) error) (string, error) {
		p, err := vfs.Resolve(ctx, at, o.a, flags)
		if err != nil {
			return "", err
		}
		return "", f(p)
	}
	fd := s.fds[o.m&3]
	// What the system call layer says before it looks at names and descriptors.
	switch {
	case strings.HasSuffix(o.kind, "xattr") && o.b == "":
		return "", unix.ERANGE
	case o.kind == "ftruncate" && o.n < 0:
		return "", unix.EINVAL
	case o.kind == "pwrite" && o.n < 0:
		return "0", unix.EINVAL
	}
	switch o.kind {
	case "mkdir":
		return "", vfs.Mkdir(ctx, at, o.a, o.mode)
	case "mknod":
		_, err := vfs.Mknod(ctx, at, o.a, o.mode, 0)
		return "", err
	case "symlink":
		return "", vfs.MakeSymlink(ctx, o.b, at, o.a)
	case "link":
		flags := vfs.ResolveNoFollow
		if o.flags&unix.AT_SYMLINK_FOLLOW != 0 {
			flags = 0
		}
		return on(flags, func(p vfs.Path) error { return vfs.Link(ctx, p, at, o.b) })
	case "unlink":
		return "", vfs.Unlink(ctx, at, o.a)
	case "rmdir":
		return "", vfs.Rmdir(ctx, at, o.a)
	case "rename":
		return "", vfs.Rename(ctx, at, o.a, at, o.b, uint(o.flags))
	case "chmod":
		return on(0, func(p vfs.Path) error { return vfs.Chmod(ctx, p, o.mode) })
	case "chown":
		flags := vfs.ResolveFlags(0)
		if o.flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
			flags = vfs.ResolveNoFollow
		}
		return on(flags, func(p vfs.Path) error { return vfs.Chown(ctx, p, uint32(o.n), o.mode) })
	case "truncate":
		if o.n < 0 {
			return "", unix.EINVAL
		}
		return on(0, func(p vfs.Path) error { return vfs.Truncate(ctx, p, o.n) })
	case "touch":
		if o.n == 5 { // do_utimes looks at neither name nor times
			return "", nil
		}
		return on(vfs.ResolveNoFollow, func(p vfs.Path) error {
			if touches[o.n] == nil {
				return vfs.Utimens(ctx, p, nil)
			}
			return vfs.Utimens(ctx, p, (*[2]unix.Timespec)(touches[o.n]))
		})
	case "access":
		return on(0, func(p vfs.Path) error { return vfs.CheckAccess(ctx, p, vfs.Access(o.mode)) })
	case "readlink":
		p, err := vfs.Resolve(ctx, at, o.a, vfs.ResolveNoFollow)
		if err != nil {
			return "", err
		}
		return vfs.Readlink(ctx, p)
	case "setxattr":
		return on(0, func(p vfs.Path) error { return vfs.Setxattr(ctx, p, o.b, []byte("v"), o.flags) })
	case "getxattr":
		p, err := vfs.Resolve(ctx, at, o.a, 0)
		if err != nil {
			return "", err
		}
		v, err := vfs.Getxattr(ctx, p, o.b)
		return string(v), err
	case "rmxattr":
		return on(0, func(p vfs.Path) error { return vfs.Removexattr(ctx, p, o.b) })
	case "open":
		if fd != nil {
			fd.Unref()
		}
		s.fds[o.m&3] = nil
		d, err := vfs.Open(ctx, at, o.a, vfs.OpenHow{Flags: o.flags, Mode: uint32(openMode(o)), Resolve: uint64(o.n)})
		if err != nil {
			return "", err
		}
		s.fds[o.m&3] = d
		return fmt.Sprintf("%#x", d.Flags()), nil
	}
	if fd == nil {
		return badFD(o), unix.EBADF
	}
	switch o.kind {
	case "linkfd":
		if !ctx.Creds().Has(unix.CAP_DAC_READ_SEARCH) {
			return "", unix.ENOENT
		}
		return "", vfs.Link(ctx, fd.Path(), at, o.b)
	case "write":
		n, err := fd.Write(ctx, memory.Buffers{pattern[:o.n]})
		return fmt.Sprint(n), err
	case "pwrite":
		n, err := fd.Pwrite(ctx, memory.Buffers{pattern[:100]}, o.n)
		return fmt.Sprint(n), err
	case "read":
		b := make([]byte, o.n)
		n, err := fd.Read(ctx, memory.Buffers{b})
		return fmt.Sprintf("%d %x", n, b[:n]), err
	case "seek":
		n, err := fd.Seek(ctx, o.n, o.flags)
		if err != nil {
			n = -1
		}
		return fmt.Sprint(n), err
	case "ftruncate":
		return "", fd.Truncate(ctx, o.n)
	case "fallocate":
		return "", fd.Allocate(ctx, o.mode, o.n, 5000)
	case "fstat":
		a, err := fd.Stat(ctx)
		return fmt.Sprintf("%o %d %d", a.Mode, a.Nlink, a.Size), err
	}
	panic(o.kind)
}

// badFD is what a call that never came to a file tells of its result.
func badFD(o op) string {
	switch o.kind {
	case "write", "pwrite":
		return "0"
	case "read":
		return "0 "
	case "seek":
		return "-1"
	case "fstat":
		return "0 0 0"
	}
	return ""
}

func (s *sentry) lstat(path string) (vfs.Attr, error) {
	p, err := vfs.Resolve(s.users[0], s.start(), path, vfs.ResolveNoFollow)
	if err != nil {
		return vfs.Attr{}, err
	}
	return vfs.Stat(s.users[0], p)
}

func (s *sentry) list(path string) ([]string, error) {
	d, err := vfs.Open(s.users[0], s.start(), path, vfs.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY})
	if err != nil {
		return nil, err
	}
	defer d.Unref()
	var names []string
	err = d.ReadDir(s.users[0], func(e vfs.Dirent) bool {
		if e.Name != "." && e.Name != ".." {
			names = append(names, e.Name)
		}
		return true
	})
	slices.Sort(names)
	return names, err
}

func (s *sentry) stamp(path string) {
	if p, err := vfs.Resolve(s.users[0], s.start(), path, vfs.ResolveNoFollow); err == nil {
		vfs.Utimens(s.users[0], p, &[2]unix.Timespec{stampTime, stampTime})
	}
}

func (s *sentry) contents(path string) ([]byte, error) {
	d, err := vfs.Open(s.users[0], s.start(), path, vfs.OpenHow{Flags: unix.O_RDONLY})
	if err != nil {
		return nil, err
	}
	defer d.Unref()
	var all []byte
	for b := make([]byte, 1<<16); ; {
		n, err := d.Read(s.users[0], memory.Buffers{b})
		all = append(all, b[:n]...)
		if n == 0 || err != nil {
			return all, err
		}
	}
}

// pick chooses one of a list.
func pick[T any](r *rand.Rand, list ...T) T { return list[r.Intn(len(list))] }

func randomPath(r *rand.Rand) string {
	var b strings.Builder
	if r.Intn(8) == 0 {
		b.WriteByte('/')
	}
	for i, n := 0, 1+r.Intn(3); i < n; i++ {
		if i > 0 {
			b.WriteString(pick(r, "/", "/", "/", "//"))
		}
		b.WriteString(pick(r, "a", "a", "b", "b", "c", "d", "e", "l", "l", "s", "..", "."))
	}
	if r.Intn(8) == 0 {
		b.WriteString(pick(r, "/", "//", "/."))
	}
	if r.Intn(200) == 0 {
		return pick(r, "", "/", strings.Repeat("x", 256), strings.Repeat("y/", 2050))
	}
	return b.String()
}

// Weights says how often each kind comes.
var Weights = map[string]int{
	"mkdir": 8, "mknod": 2, "symlink": 5, "link": 5, "unlink": 5, "rmdir": 3, "rename": 10, "chmod": 5, "chown": 3,
	"truncate": 2, "touch": 3, "access": 4, "readlink": 2, "setxattr": 2, "getxattr": 2, "rmxattr": 1, "open": 14,
	"linkfd": 2, "write": 5, "pwrite": 2, "read": 4, "seek": 4, "ftruncate": 2, "fallocate": 3, "fstat": 1,
}

func randomOp(r *rand.Rand, kinds, xattrs []string) op {
	o := op{kind: pick(r, kinds...), a: randomPath(r), b: randomPath(r), who: r.Intn(len(people)), m: r.Int63n(4)}
	o.mode = pick[uint32](r, 0o777, 0o755, 0o700, 0o644, 0o666, 0o1777, 0o2775, 0o4755, 0o6711, 0o070, 0)
	switch o.kind {
	case "mknod":
		o.mode |= pick[uint32](r, unix.S_IFREG, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFDIR, 0, unix.S_IFLNK)
	case "symlink":
		o.b = pick(r, o.b, o.b, "a", "../a", "/b", "l", ".", "b/")
	case "link":
		o.flags = pick(r, 0, 0, unix.AT_SYMLINK_FOLLOW)
	case "rename":
		o.flags = pick(r, 0, 0, 0, 0, unix.RENAME_EXCHANGE, unix.RENAME_EXCHANGE, unix.RENAME_NOREPLACE, unix.RENAME_WHITEOUT, 7)
	case "chown":
		o.n, o.mode = pick[int64](r, -1, 0, 1000, 1001), pick[uint32](r, ^uint32(0), 0, 1000, 1001)
		o.flags = pick(r, 0, unix.AT_SYMLINK_NOFOLLOW)
	case "access":
		o.mode = uint32(r.Intn(8))
	case "touch":
		o.n = r.Int63n(int64(len(touches)))
	case "truncate", "ftruncate":
		o.n = pick[int64](r, 0, 1, 4095, 4096, 10000, 100000, -1)
	case "setxattr", "getxattr", "rmxattr":
		o.b = pick(r, xattrs...)
		o.flags = pick(r, 0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE)
	case "open":
		o.flags = pick(r, unix.O_RDONLY, unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDWR, 3)
		for _, f := range []int{unix.O_CREAT, unix.O_CREAT, unix.O_CREAT, unix.O_EXCL, unix.O_TRUNC, unix.O_APPEND, unix.O_NOFOLLOW,
			unix.O_DIRECTORY, unix.O_PATH, unix.O_TMPFILE, unix.O_NOATIME} {
			if r.Intn(6) == 0 {
				o.flags |= f
			}
		}
		if o.flags&unix.O_PATH != 0 { // openat2 refuses others; openat's silence is the syscall layer's
			o.flags &= unix.O_PATH | unix.O_NOFOLLOW | unix.O_DIRECTORY
		}
		o.n = pick[int64](r, 0, 0, 0, unix.RESOLVE_BENEATH, unix.RESOLVE_IN_ROOT, unix.RESOLVE_NO_SYMLINKS, unix.RESOLVE_NO_XDEV)
	case "write":
		o.n = pick[int64](r, 0, 1, 10, 4096, 6000, 30000)
	case "pwrite":
		o.n = pick[int64](r, 0, 3, 4090, 20000, 200000, -1)
	case "read":
		o.n = pick[int64](r, 0, 1, 100, 5000)
	case "seek":
		o.n, o.flags = pick[int64](r, 0, 0, 5, 4096, 10000, -3), r.Intn(6)
	case "fallocate":
		o.n = pick[int64](r, 0, 100, 4096, 9000)
		o.mode = pick[uint32](r, 0, 1, 3, 3, 2, 0x10, 8)
	}
	return o
}

func allKinds(weights map[string]int) (kinds []string) {
	for k, n := range weights {
		for range n {
			kinds = append(kinds, k)
		}
	}
	slices.Sort(kinds)
	return kinds
}

// Compare does random operations on both.
func Compare(t *testing.T, c Config) {
	if testing.Short() {
		c.Seeds = max(1, c.Seeds/5)
	}
	if c.Tell == nil {
		c.Tell = Tell
	}
	if c.Xattrs == nil {
		c.Xattrs = []string{"user.a", "user.b", "trusted.c", "security.d", "wrong.e", "user.", ""}
	}
	if c.Weights == nil {
		c.Weights = Weights
	}
	for seed := range c.Seeds {
		done := make(chan struct{})
		go func() {
			defer close(done)
			t.Run(fmt.Sprint(c.First+seed), func(t *testing.T) { c.compare(t, int64(c.First+seed)) })
		}()
		<-done
	}
}

func (c *Config) compare(t *testing.T, seed int64) {
	r := rand.New(rand.NewSource(seed))
	kinds := allKinds(c.Weights)
	Unshare(t)
	s := newSentry(t, c) // first: what it starts must have the host's root
	l := newLinux(t, c)
	c.state(l, "/", nil)
	c.state(s, "/", nil)
	var history []string
	for range c.Steps {
		o := randomOp(r, kinds, c.Xattrs)
		want, wantErr := l.do(o)
		got, gotErr := s.do(o)
		history = append(history, fmt.Sprintf("%v = %s %v", o, want[:min(len(want), 40)], wantErr))
		if wantErr != gotErr || want != got {
			t.Fatalf("%s\n\n%v\nLinux:  %.200s %v\nSentry: %.200s %v", strings.Join(tail(history, 20), "\n"), o, want, wantErr, got, gotErr)
		}
		ws, gs := c.state(l, "/", nil), c.state(s, "/", nil)
		if !slices.Equal(ws, gs) {
			t.Fatalf("%s\n\nafter %v = %v\n%s", strings.Join(tail(history, 20), "\n"), o, wantErr, difference(ws, gs))
		}
	}
	for _, fd := range l.fds {
		unix.Close(fd)
	}
}

func tail(s []string, n int) []string { return s[max(0, len(s)-n):] }

func difference(want, got []string) string {
	var b strings.Builder
	for _, x := range want {
		if !slices.Contains(got, x) {
			fmt.Fprintln(&b, "Linux: ", x)
		}
	}
	for _, x := range got {
		if !slices.Contains(want, x) {
			fmt.Fprintln(&b, "Sentry:", x)
		}
	}
	return b.String()
}
