package fs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Linux's own FUSE client is the strictest test there is. These tests mount a
// share through /dev/fuse: a server process, which is this test binary again,
// carries messages between it and session. (One process could not be both:
// a page fault on the mount stops a thread that the garbage collector waits for,
// while the server waits for the garbage collector.) All of it happens in a mount
// namespace that ends with the test.

const (
	serveEnv = "BULKHEAD_FS_TEST_SERVE" // Options in JSON: be the server, /dev/fuse is descriptor 3
	innerEnv = "BULKHEAD_FS_TEST_INNER" // we are in the namespace
	// guestEnv is a directory of a share that is mounted already: these tests run in
	// a guest then, and both of their sides are the guest's. See TestMain.
	guestEnv = "BULKHEAD_FS_TEST_GUEST"
)

// In a guest, of which the share named root is the root of a Linux with git:
//
//	BULKHEAD_FS_TEST_GUEST=/tmp/share fs.test -test.run 'TestKernel(Files|Git)' -test.v
func TestMain(m *testing.M) {
	if options := os.Getenv(serveEnv); options != "" {
		if err := serveFuse(options); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func serveFuse(options string) error {
	var o Options
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		return err
	}
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	d, err := New(o)
	if err != nil {
		return err
	}
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			in, out := make([]byte, writeSize+maxIO), make([]byte, replySize+maxIO)
			for {
				n, err := unix.Read(3, in)
				if err == unix.ENODEV {
					return
				}
				if err != nil {
					continue // ENOENT: the request was called off
				}
				// In two parts, for the data may be anywhere.
				request := [][]byte{in[:n/2], in[n/2 : n]}
				if n, err = d.session.handle(request, [][]byte{out[:20], out[20:]}); err != nil {
					fmt.Fprintf(os.Stderr, "handle: %v\n", err)
					os.Exit(1)
				}
				if n > 0 {
					_, _ = unix.Write(3, out[:n]) // ENOENT likewise
				}
			}
		})
	}
	readers.Wait()
	return d.Close()
}

// inNamespace runs the test once more in a mount namespace of its own, and
// says whether this is that run.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(innerEnv) == t.Name() || os.Getenv(guestEnv) != "" {
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount: run the tests as root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("needs the host's FUSE (modprobe fuse): %v", err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v=true")
	cmd.Env = append(os.Environ(), innerEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s", err, said.String())
	}
	return false
}

// share mounts a directory through a server, and returns the host's side and
// the guest's.
func share(t *testing.T, o Options) (host, guest string) {
	t.Helper()
	if dir := os.Getenv(guestEnv); dir != "" {
		guest, err := os.MkdirTemp(dir, "")
		must(t, err)
		must(t, os.Chmod(guest, 0o755))
		return guest, guest
	}
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o.Tag = "test"
	guest = t.TempDir()
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(dev), "/dev/fuse")
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", dev)
	if err := unix.Mount("bulkhead", guest, "fuse", 0, options); err != nil {
		t.Fatalf("mount: %v", err)
	}
	encoded, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	server := exec.Command(os.Args[0])
	server.Env = append(os.Environ(), serveEnv+"="+string(encoded))
	server.ExtraFiles = []*os.File{file}
	server.Stderr = os.Stderr
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	file.Close()
	t.Cleanup(func() {
		if err := unix.Unmount(guest, 0); err != nil {
			t.Errorf("unmount: %v", err)
			_ = unix.Unmount(guest, unix.MNT_DETACH)
			_ = server.Process.Kill()
		}
		if err := server.Wait(); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return o.Dir, guest
}

func TestKernelGit(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git (apt-get install git)")
	}
	options := []Options{{}, {Descriptors: 128}}
	if os.Getenv(guestEnv) != "" {
		options = options[:1] // the share is there already: the second would be the first again
	}
	for _, o := range options {
		host, guest := share(t, o)
		useGit(t, host, guest)
	}
}

func useGit(t *testing.T, host, guest string) {
	run := func(dir string, command ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a",
			"GIT_COMMITTER_EMAIL=a@b", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
		begun := time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
		}
		t.Logf("%s: %v", strings.Join(command, " "), time.Since(begun).Round(time.Millisecond))
		return string(out)
	}
	run(guest, "git", "init", "-q", "-b", "main", "one")
	for i := range 200 {
		name := filepath.Join(guest, "one", fmt.Sprintf("d%d", i%7), fmt.Sprintf("f%d", i))
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		must(t, os.WriteFile(name, bytes.Repeat([]byte(name), i), 0o644))
	}
	run(guest+"/one", "git", "add", ".")
	run(guest+"/one", "git", "commit", "-q", "-m", "first")
	run(guest, "git", "clone", "-q", "one", "two")
	run(guest+"/two", "git", "gc", "-q")
	run(guest+"/two", "git", "fsck", "--full", "--strict")
	if changed := run(guest+"/two", "git", "status", "--porcelain"); changed != "" {
		t.Errorf("a fresh clone differs: %s", changed)
	}
	if changed := run(host+"/two", "git", "status", "--porcelain"); changed != "" {
		t.Errorf("the host sees a clone that differs: %s", changed)
	}
	run(guest, "diff", "-r", "--exclude=.git", guest+"/one", host+"/two")
}

func TestKernelReadOnly(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/d", 0o755))
	program, err := os.ReadFile("/bin/true")
	must(t, err)
	must(t, os.WriteFile(dir+"/d/true", program, 0o755))
	_, guest := share(t, Options{Dir: dir, ReadOnly: true})
	for range 2 { // from the page cache the second time
		if out, err := exec.CommandContext(t.Context(), guest+"/d/true").CombinedOutput(); err != nil {
			t.Errorf("run: %v %s", err, out)
		}
	}
	for what, err := range map[string]error{
		"create": os.WriteFile(guest+"/new", nil, 0o644),
		"open":   os.WriteFile(guest+"/d/true", nil, 0o644),
		"mkdir":  os.Mkdir(guest+"/new", 0o755),
		"rename": os.Rename(guest+"/d", guest+"/e"),
		"remove": os.Remove(guest + "/d/true"),
		"chmod":  os.Chmod(guest+"/d", 0o700),
		"utimes": os.Chtimes(guest+"/d", time.Now(), time.Now()),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v; want EROFS", what, err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestKernelFiles(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	host, guest := share(t, Options{Cache: -1})
	for _, test := range []struct {
		name string
		run  func(t *testing.T, host, guest string)
	}{
		{"unlinked but open", unlinkedOpen},
		{"mmap", mapped},
		{"append", appended},
		{"rename flags", renameFlags},
		{"links", linked},
		{"attributes", extended},
		{"holes", holes},
		{"tmpfile", temporary},
		{"locks", locked},
		{"large directory", largeDirectory},
		{"host changes", hostChanges},
		{"owner", owners},
		{"nodes", nodes},
		{"times", times},
	} {
		t.Run(test.name, func(t *testing.T) {
			sub := strings.ReplaceAll(test.name, " ", "-")
			must(t, os.Mkdir(filepath.Join(host, sub), 0o755))
			test.run(t, filepath.Join(host, sub), filepath.Join(guest, sub))
		})
	}
}

func unlinkedOpen(t *testing.T, host, guest string) {
	f, err := os.Create(guest + "/a")
	must(t, err)
	defer f.Close()
	_, err = f.WriteString("hello")
	must(t, err)
	must(t, os.WriteFile(guest+"/b", []byte("over"), 0o644))
	must(t, os.Rename(guest+"/b", guest+"/a")) // takes a's name
	must(t, f.Truncate(3))
	info, err := f.Stat()
	must(t, err)
	if info.Size() != 3 || info.Sys().(*syscall.Stat_t).Nlink != 0 {
		t.Errorf("size %d, links %d", info.Size(), info.Sys().(*syscall.Stat_t).Nlink)
	}
	must(t, f.Chmod(0o600))
	b := make([]byte, 10)
	if n, _ := f.ReadAt(b, 0); string(b[:n]) != "hel" {
		t.Errorf("read %q", b[:n])
	}
	if got, _ := os.ReadFile(host + "/a"); string(got) != "over" {
		t.Errorf("host has %q", got)
	}
}

func mapped(t *testing.T, host, guest string) {
	const size = 3 << 20
	must(t, os.WriteFile(host+"/m", bytes.Repeat([]byte("x"), size), 0o644))
	f, err := os.OpenFile(guest+"/m", os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(m)
	if m[size-1] != 'x' {
		t.Errorf("mapped %q", m[size-1])
	}
	// A descriptor that appends must not be what the dirty pages go through.
	a, err := os.OpenFile(guest+"/m", os.O_RDWR|os.O_APPEND, 0)
	must(t, err)
	defer a.Close()
	f.Close()
	for i := 0; i < size; i += 4096 {
		m[i] = 'y'
	}
	must(t, unix.Msync(m, unix.MS_SYNC))
	want := bytes.Repeat([]byte("x"), size)
	for i := 0; i < size; i += 4096 {
		want[i] = 'y'
	}
	if got, _ := os.ReadFile(host + "/m"); !bytes.Equal(got, want) {
		t.Errorf("the host has %d bytes that differ from what was mapped", len(got))
	}
	b := make([]byte, 1)
	_, err = a.ReadAt(b, 4096)
	if err != nil || b[0] != 'y' {
		t.Errorf("read %q, %v", b, err)
	}
	_, err = a.WriteString("end") // read(2) and mmap see one another
	must(t, err)
	if got, _ := os.ReadFile(host + "/m"); len(got) != size+3 {
		t.Errorf("%d bytes after an append", len(got))
	}
}

func appended(t *testing.T, host, guest string) {
	open := func(name string) *os.File {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	a, b := open(guest+"/log"), open(host+"/log")
	for i := range 50 {
		_, err := fmt.Fprintf(a, "guest %d\n", i)
		must(t, err)
		_, err = fmt.Fprintf(b, "host %d\n", i)
		must(t, err)
	}
	got, err := os.ReadFile(host + "/log")
	must(t, err)
	if n := strings.Count(string(got), "\n"); n != 100 {
		t.Errorf("%d lines of 100: appends overwrote one another", n)
	}
	// fcntl may take O_APPEND away.
	if _, err := unix.FcntlInt(a.Fd(), unix.F_SETFL, 0); err != nil {
		t.Fatal(err)
	}
	_, err = unix.Pwrite(int(a.Fd()), []byte("GUEST"), 0)
	must(t, err)
	if got, _ := os.ReadFile(host + "/log"); !bytes.HasPrefix(got, []byte("GUEST 0")) {
		t.Errorf("a file that no more appends has %.10q", got)
	}
}

func renameFlags(t *testing.T, host, guest string) {
	must(t, os.WriteFile(guest+"/a", []byte("a"), 0o644))
	must(t, os.WriteFile(guest+"/b", []byte("b"), 0o644))
	rename := func(flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, guest+"/a", unix.AT_FDCWD, guest+"/b", flags)
	}
	if err := rename(unix.RENAME_NOREPLACE); err != unix.EEXIST {
		t.Errorf("NOREPLACE: %v", err)
	}
	must(t, rename(unix.RENAME_EXCHANGE))
	if got, _ := os.ReadFile(host + "/a"); string(got) != "b" {
		t.Errorf("after EXCHANGE a is %q", got)
	}
	must(t, rename(0))
	if _, err := os.Stat(host + "/a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a is still there: %v", err)
	}
	must(t, os.MkdirAll(guest+"/d/e", 0o755))
	if err := os.Rename(guest+"/d", guest+"/d/e/f"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a directory into itself: %v", err)
	}
	must(t, os.Rename(guest+"/d", guest+"/g"))
	must(t, os.WriteFile(guest+"/g/e/x", nil, 0o644))
}

func linked(t *testing.T, host, guest string) {
	must(t, os.WriteFile(guest+"/a", []byte("a"), 0o644))
	must(t, os.Link(guest+"/a", guest+"/b"))
	var a, b unix.Stat_t
	must(t, unix.Lstat(guest+"/a", &a))
	must(t, unix.Lstat(guest+"/b", &b))
	if a.Ino != b.Ino || a.Nlink != 2 {
		t.Errorf("inodes %d %d, links %d", a.Ino, b.Ino, a.Nlink)
	}
	must(t, os.Symlink("/etc/passwd", guest+"/s"))
	if got, err := os.Readlink(guest + "/s"); got != "/etc/passwd" {
		t.Errorf("readlink %q, %v", got, err)
	}
	if got, err := os.Readlink(host + "/s"); got != "/etc/passwd" {
		t.Errorf("on the host %q, %v", got, err)
	}
	must(t, os.Link(guest+"/s", guest+"/s2")) // of the symlink itself
	if err := unix.Fchownat(unix.AT_FDCWD, guest+"/s", 7, 8, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Errorf("lchown: %v", err)
	}
	must(t, unix.Lstat(host+"/s2", &a))
	if a.Uid != 7 || a.Gid != 8 || a.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Errorf("hard link to symlink: %+v", a)
	}
	long := strings.Repeat("x", 4095)
	must(t, os.Symlink(long, guest+"/long"))
	if got, _ := os.Readlink(guest + "/long"); got != long {
		t.Errorf("a long target has %d bytes", len(got))
	}
}

func extended(t *testing.T, host, guest string) {
	must(t, os.WriteFile(guest+"/a", nil, 0o644))
	big := bytes.Repeat([]byte("v"), 3000)
	for _, name := range []string{"user.one", "user.two"} {
		if err := unix.Setxattr(guest+"/a", name, big, 0); err != nil {
			if err == unix.EOPNOTSUPP {
				t.Skipf("the host's file system has no extended attributes: %s: set TMPDIR to one that has", host)
			}
			t.Fatal(err)
		}
		big = []byte("small")
	}
	got := make([]byte, 4000)
	n, err := unix.Getxattr(guest+"/a", "user.one", got)
	if n != 3000 || err != nil {
		t.Errorf("getxattr: %d, %v", n, err)
	}
	if _, err := unix.Getxattr(guest+"/a", "user.one", got[:10]); err != unix.ERANGE {
		t.Errorf("into too little: %v", err)
	}
	if n, err := unix.Getxattr(guest+"/a", "user.two", nil); n != 5 || err != nil {
		t.Errorf("size: %d, %v", n, err)
	}
	n, err = unix.Listxattr(guest+"/a", got)
	if names := string(got[:max(n, 0)]); err != nil || !strings.Contains(names, "user.one\x00") || !strings.Contains(names, "user.two\x00") {
		t.Errorf("list %q, %v", names, err)
	}
	if err := unix.Setxattr(guest+"/a", "user.one", nil, unix.XATTR_CREATE); err != unix.EEXIST {
		t.Errorf("XATTR_CREATE: %v", err)
	}
	must(t, unix.Removexattr(guest+"/a", "user.one"))
	if _, err := unix.Getxattr(host+"/a", "user.one", nil); err != unix.ENODATA {
		t.Errorf("removed, the host says %v", err)
	}
	if err := unix.Setxattr(guest+"/a", "security.evil", []byte("x"), 0); err != unix.EOPNOTSUPP {
		t.Errorf("a label of the host's: %v", err)
	}
}

func holes(t *testing.T, host, guest string) {
	f, err := os.Create(guest + "/a")
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(bytes.Repeat([]byte("d"), 64<<10), 1<<20)
	must(t, err)
	fd := int(f.Fd())
	if at, err := unix.Seek(fd, 0, unix.SEEK_DATA); at != 1<<20 || err != nil {
		t.Errorf("SEEK_DATA: %d, %v", at, err)
	}
	if at, err := unix.Seek(fd, 1<<20, unix.SEEK_HOLE); at != 1<<20+64<<10 || err != nil {
		t.Errorf("SEEK_HOLE: %d, %v", at, err)
	}
	if _, err := unix.Seek(fd, 4<<20, unix.SEEK_DATA); err != unix.ENXIO {
		t.Errorf("SEEK_DATA past the end: %v", err)
	}
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<20, 4096))
	must(t, unix.Fallocate(fd, 0, 2<<20, 4096))
	got, err := os.ReadFile(host + "/a")
	must(t, err)
	if len(got) != 2<<20+4096 || got[1<<20] != 0 || got[1<<20+4096] != 'd' {
		t.Errorf("%d bytes, %d %q", len(got), got[1<<20], got[1<<20+4096])
	}
	to, err := os.Create(guest + "/b")
	must(t, err)
	defer to.Close()
	from, into := int64(1<<20+4096), int64(10)
	n, err := unix.CopyFileRange(fd, &from, int(to.Fd()), &into, 8192, 0)
	if n != 8192 || err != nil {
		t.Errorf("copy_file_range: %d, %v", n, err)
	}
	if got, _ := os.ReadFile(host + "/b"); len(got) != 8202 || got[8201] != 'd' {
		t.Errorf("copied %d bytes", len(got))
	}
}

func temporary(t *testing.T, host, guest string) {
	fd, err := unix.Open(guest, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err == unix.EOPNOTSUPP {
		t.Skip("the host's file system or this kernel's FUSE has no O_TMPFILE: Linux 6.1, and TMPDIR on ext4, xfs or tmpfs")
	}
	must(t, err)
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("tmp"))
	must(t, err)
	must(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, guest+"/named", unix.AT_SYMLINK_FOLLOW))
	if got, _ := os.ReadFile(host + "/named"); string(got) != "tmp" {
		t.Errorf("host has %q", got)
	}
}

func locked(t *testing.T, _, guest string) {
	open := func() int {
		fd, err := unix.Open(guest+"/l", unix.O_RDWR|unix.O_CREAT, 0o644)
		must(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	a, b := open(), open()
	must(t, unix.Flock(a, unix.LOCK_EX))
	if err := unix.Flock(b, unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		t.Errorf("a second flock: %v", err)
	}
	record := unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 10}
	must(t, unix.FcntlFlock(uintptr(a), unix.F_OFD_SETLK, &record))
	record = unix.Flock_t{Type: unix.F_WRLCK, Start: 15, Len: 10}
	if err := unix.FcntlFlock(uintptr(b), unix.F_OFD_SETLK, &record); err != unix.EAGAIN {
		t.Errorf("an overlapping record lock: %v", err)
	}
}

func largeDirectory(t *testing.T, host, guest string) {
	files := 1500
	if os.Getenv(guestEnv) != "" { // which may be slow
		files = 300
	}
	for i := range files {
		must(t, os.WriteFile(fmt.Sprintf("%s/a-file-with-a-longer-name-%d", host, i), nil, 0o644))
	}
	entries, err := os.ReadDir(guest)
	if err != nil || len(entries) != files {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for _, e := range entries {
		must(t, os.Remove(filepath.Join(guest, e.Name())))
	}
	if entries, _ := os.ReadDir(host); len(entries) != 0 {
		t.Errorf("%d are left", len(entries))
	}
}

func hostChanges(t *testing.T, host, guest string) {
	read := func(want string) {
		t.Helper()
		if got, err := os.ReadFile(guest + "/a"); string(got) != want {
			t.Errorf("read %q, %v; want %q", got, err, want)
		}
	}
	must(t, os.WriteFile(host+"/a", []byte("one"), 0o644))
	read("one")
	must(t, os.WriteFile(host+"/a", []byte("two"), 0o644)) // the same size, at once
	read("two")
	read("two")
	must(t, os.WriteFile(host+"/b", []byte("new file"), 0o644))
	must(t, os.Rename(host+"/b", host+"/a"))
	read("new file")
	must(t, os.Remove(host+"/a"))
	if _, err := os.Stat(guest + "/a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed on the host: %v", err)
	}
}

func owners(t *testing.T, host, guest string) {
	must(t, os.Chown(host, 0, 55))
	must(t, unix.Chmod(host, 0o2777))
	as := func(command string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", command)
		cmd.Dir = guest
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1001, Groups: []uint32{1002}}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
	if err := os.Chmod(filepath.Dir(filepath.Dir(guest)), 0o755); err != nil {
		t.Fatal(err)
	}
	as("umask 002; echo hi >f; mkdir d; ln -s f s; mkfifo p; chmod 4755 f")
	for _, want := range []struct {
		name     string
		uid, gid uint32
		mode     uint32
	}{
		{"f", 1000, 55, unix.S_IFREG | 0o4755},
		{"d", 1000, 55, unix.S_IFDIR | 0o2775},
		{"s", 1000, 55, unix.S_IFLNK | 0o777},
		{"p", 1000, 55, unix.S_IFIFO | 0o664},
	} {
		var s unix.Stat_t
		must(t, unix.Lstat(filepath.Join(host, want.name), &s))
		if s.Uid != want.uid || s.Gid != want.gid || s.Mode != want.mode {
			t.Errorf("%s: %d:%d mode %o; want %d:%d mode %o", want.name, s.Uid, s.Gid, s.Mode, want.uid, want.gid, want.mode)
		}
	}
	as("echo more >>f") // takes set-user-ID away
	var s unix.Stat_t
	must(t, unix.Lstat(host+"/f", &s))
	if s.Mode&unix.S_ISUID != 0 {
		t.Errorf("a write by a user left set-user-ID: mode %o", s.Mode)
	}
	must(t, os.Mkdir(guest+"/ours", 0o700))
	must(t, os.Chown(guest+"/ours", 0, 1002))
	must(t, unix.Chmod(guest+"/ours", 0o770)) // for a supplementary group
	as("touch ours/x")
}

func nodes(t *testing.T, host, guest string) {
	if err := unix.Mknod(guest+"/disk", unix.S_IFBLK|0o600, int(unix.Mkdev(8, 0))); err != unix.EPERM {
		t.Errorf("a device node: %v", err)
	}
	must(t, unix.Mknod(guest+"/whiteout", unix.S_IFCHR, 0))
	must(t, unix.Mknod(guest+"/pipe", unix.S_IFIFO|0o600, 0))
	must(t, unix.Mknod(guest+"/sock", unix.S_IFSOCK|0o600, 0))
	must(t, unix.Mknod(guest+"/file", unix.S_IFREG|0o600, 0))
	// A FIFO is the guest's kernel's: it never waits on the host.
	fd, err := unix.Open(guest+"/pipe", unix.O_RDWR, 0)
	must(t, err)
	unix.Close(fd)
	var s unix.Statfs_t
	must(t, unix.Statfs(guest, &s))
	if s.Blocks == 0 || s.Namelen != 255 {
		t.Errorf("statfs %+v", s)
	}
	if err := os.WriteFile(guest+"/"+strings.Repeat("n", 256), nil, 0o644); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("a long name: %v", err)
	}
	_ = host
}

func times(t *testing.T, host, guest string) {
	must(t, os.WriteFile(guest+"/a", nil, 0o644))
	when := []unix.Timespec{{Sec: 1000, Nsec: 1}, {Sec: 2000, Nsec: 999_999_999}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, guest+"/a", when, 0))
	var s unix.Stat_t
	must(t, unix.Stat(host+"/a", &s))
	if s.Atim != when[0] || s.Mtim != when[1] {
		t.Errorf("times %+v %+v", s.Atim, s.Mtim)
	}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, guest+"/a", []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}, 0))
	must(t, unix.Stat(host+"/a", &s))
	if s.Atim != when[0] || s.Mtim.Sec < 1e9 {
		t.Errorf("times %+v %+v", s.Atim, s.Mtim)
	}
}
