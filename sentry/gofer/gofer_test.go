package gofer_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer"
	"bulkhead/sentry/gofer/gofertest"
	"bulkhead/sentry/gofer/wire"
)

// tree makes a directory with a bit of everything in it.
func tree(t testing.TB) string {
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/a/b/c", 0o755))
	must(t, os.WriteFile(root+"/a/b/c/file", []byte("contents"), 0o640))
	must(t, os.Symlink("b/c", root+"/a/link"))
	must(t, os.Symlink("/etc/passwd", root+"/out"))
	must(t, os.Symlink("../../../../../../etc/passwd", root+"/a/up"))
	must(t, unix.Mkfifo(root+"/fifo", 0o600))
	must(t, unix.Mknod(root+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, os.Chmod(root, 0o755))
	return root
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func call(t testing.TB, c *wire.Conn, q wire.Request) wire.Reply {
	t.Helper()
	r, err := c.Call(&q)
	if err != nil {
		t.Fatalf("%v %q: %v", q.Op, q.Name+q.ToName, err)
	}
	return r
}

func TestWalk(t *testing.T) {
	c := gofertest.Dial(t, gofer.Config{Debug: true, Root: gofer.Mount{Source: tree(t)}})
	rows := []struct {
		path  string
		nodes int
		stop  unix.Errno
		last  string // target of the last node
	}{
		{"a/b/c/file", 4, 0, ""},
		{"a/b/none/file", 2, unix.ENOENT, ""},
		{"a/b/c/file/more", 4, unix.ENOTDIR, ""},
		{"a/link/file", 2, 0, "b/c"},
		{"out", 1, 0, "/etc/passwd"},
		{"a/up", 2, 0, "../../../../../../etc/passwd"},
		{"fifo", 1, 0, ""},
	}
	for _, row := range rows {
		r := call(t, c, wire.Request{Op: wire.Walk, Names: strings.Split(row.path, "/"), Flags: wire.WalkList})
		last := ""
		if n := len(r.Nodes); n > 0 {
			last = r.Nodes[n-1].Target
		}
		if len(r.Nodes) != row.nodes || r.Stop != row.stop || last != row.last {
			t.Errorf("%s: %d nodes, stop %v, target %q; want %+v", row.path, len(r.Nodes), r.Stop, last, row)
		}
		if !r.End {
			t.Errorf("%s: no entries of the last directory", row.path)
		}
	}
	var want unix.Stat_t
	r := call(t, c, wire.Request{Op: wire.Walk, Names: []string{"a", "b"}})
	ino := r.Nodes[1].Attr.Ino
	c.Release(r.Nodes[0].ID)
	r = call(t, c, wire.Request{Op: wire.GetAttr, ID: r.Nodes[1].ID})
	if r.Attr.Ino != ino || want.Ino == ino {
		t.Errorf("getattr of the id: inode %d, want %d", r.Attr.Ino, ino)
	}
}

// TestNoWayOut tries what would lead out of the tree or to a device.
func TestNoWayOut(t *testing.T) {
	c := gofertest.Dial(t, gofer.Config{Debug: true, Root: gofer.Mount{Source: tree(t)}})
	rows := []struct {
		q    wire.Request
		want unix.Errno
	}{
		{wire.Request{Op: wire.Open, Name: "out"}, unix.ELOOP},
		{wire.Request{Op: wire.Open, Name: "fifo"}, unix.ENXIO},
		{wire.Request{Op: wire.Open, Name: "fifo", Flags: unix.O_RDWR}, unix.ENXIO},
		{wire.Request{Op: wire.Open, Name: "null"}, unix.EACCES},
		{wire.Request{Op: wire.Open, Name: "a"}, unix.ENXIO},
		{wire.Request{Op: wire.Open}, unix.ENXIO},
		{wire.Request{Op: wire.Open, Name: "a", Flags: unix.O_PATH}, unix.EINVAL},
		{wire.Request{Op: wire.Open, Name: "a", Flags: unix.O_DIRECTORY}, unix.EINVAL},
		{wire.Request{Op: wire.Open, Name: "a", Flags: unix.O_CREAT}, unix.EINVAL},
		{wire.Request{Op: wire.Create, Name: "out"}, unix.EEXIST},
		{wire.Request{Op: wire.Mknod, Name: "disk", Mode: unix.S_IFBLK | 0o666, Rdev: unix.Mkdev(8, 0)}, unix.EPERM},
		{wire.Request{Op: wire.Mknod, Name: "kmsg", Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(1, 11)}, unix.EPERM},
		{wire.Request{Op: wire.Connect, Name: "fifo", Flags: unix.SOCK_STREAM}, unix.ECONNREFUSED},
		{wire.Request{Op: wire.SetXattr, Name: "a", Xattr: "trusted.x", Data: []byte("y")}, unix.EPERM},
		{wire.Request{Op: wire.GetAttr, ID: 4711}, unix.EBADF},
		{wire.Request{Op: wire.Rename, Name: "a", To: 4711, ToName: "b"}, unix.EBADF},
	}
	for _, row := range rows {
		if _, err := c.Call(&row.q); err != row.want {
			t.Errorf("%+v: got %v, want %v", row.q, err, row.want)
		}
	}
}

// TestReadOnly asks for every change on a read-only attachment.
func TestReadOnly(t *testing.T) {
	c := gofertest.Dial(t, gofer.Config{Debug: true, Root: gofer.Mount{Source: t.TempDir()}, Mounts: []gofer.Mount{{Source: tree(t), ReadOnly: true}}})
	call(t, c, wire.Request{Op: wire.Mkdir, Name: "d", Mode: 0o755})
	for op := wire.Hello; op < wire.Release; op++ {
		q := wire.Request{Op: op, ID: 1, Name: "new", To: 1, ToName: "newer", Target: "t", Xattr: "user.a", Mode: unix.S_IFIFO, Flags: unix.O_RDWR}
		_, err := c.Call(&q)
		writes := op == wire.SetAttr || op >= wire.Create && op <= wire.Rename || op == wire.SetXattr || op == wire.RemoveXattr || op == wire.Open
		if writes != (err == unix.EROFS) {
			t.Errorf("%v on a read-only attachment: %v", op, err)
		}
	}
}

// TestChanges makes everything, and looks at it from outside.
func TestChanges(t *testing.T) {
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	c := gofertest.Dial(t, gofer.Config{Debug: true, Root: gofer.Mount{Source: root}})
	r := call(t, c, wire.Request{Op: wire.Create, Name: "file", Mode: 0o4751, UID: 1000, GID: 1001})
	unix.Write(r.FD, []byte("twelve bytes"))
	unix.Close(r.FD)
	file := r.ID
	d := call(t, c, wire.Request{Op: wire.Mkdir, Name: "dir", Mode: 0o2775, UID: 7, GID: 8}).ID
	call(t, c, wire.Request{Op: wire.Mkdir, ID: d, Name: "sub", Mode: 0o700, UID: 9, GID: 8})
	call(t, c, wire.Request{Op: wire.Symlink, Name: "sym", Target: "nowhere", UID: 5, GID: 6})
	call(t, c, wire.Request{Op: wire.Mknod, Name: "fifo", Mode: unix.S_IFIFO | 0o622, UID: 3, GID: 4})
	call(t, c, wire.Request{Op: wire.Mknod, Name: "sock", Mode: unix.S_IFSOCK | 0o755})
	call(t, c, wire.Request{Op: wire.Mknod, Name: "white", Mode: unix.S_IFCHR})
	call(t, c, wire.Request{Op: wire.Link, ID: file, To: d, ToName: "hard"})
	call(t, c, wire.Request{Op: wire.Rename, Name: "fifo", To: d, ToName: "fifo2"})
	call(t, c, wire.Request{Op: wire.SetXattr, ID: file, Xattr: "user.colour", Data: []byte("blue")})
	call(t, c, wire.Request{Op: wire.SetAttr, Name: "sym", Set: wire.Set{Mask: wire.SetUID | wire.SetMtime, UID: 55, Mtime: wire.Time{Sec: 99, Nsec: 7}}})
	a := call(t, c, wire.Request{Op: wire.SetAttr, ID: file, Set: wire.Set{Mask: wire.SetSize | wire.SetGID | wire.SetMode | wire.SetAtime, Size: 6, GID: 77, Mode: 0o4711, Atime: wire.Time{Sec: 1}}}).Attr
	if a.Size != 6 || a.GID != 77 || a.Mode != unix.S_IFREG|0o4711 || a.Nlink != 2 || a.Atime.Sec != 1 {
		t.Errorf("after setattr: %+v", a)
	}
	tmp := call(t, c, wire.Request{Op: wire.Tmpfile, ID: d, Mode: 0o600, UID: 1, GID: 2})
	unix.Close(tmp.FD)
	call(t, c, wire.Request{Op: wire.Link, ID: tmp.ID, ToName: "was-tmp"})
	call(t, c, wire.Request{Op: wire.Mkdir, Name: "gone"})
	call(t, c, wire.Request{Op: wire.Unlink, Name: "gone", Flags: unix.AT_REMOVEDIR})
	call(t, c, wire.Request{Op: wire.Fsync, ID: d})
	got := listing(t, root)
	want := []string{
		"dir d 775 7:8 3 ", "dir/fifo2 p 622 3:4 1 ", "dir/hard - 4711 1000:77 2 twelve", "dir/sub d 700 9:8 2 ",
		"file - 4711 1000:77 2 twelve", "sock s 755 0:0 1 ", "sym l 777 55:6 1 nowhere", "was-tmp - 600 1:2 1 ", "white c 0 0:0 1 ",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if x := call(t, c, wire.Request{Op: wire.GetXattr, ID: file, Xattr: "user.colour"}).Data; string(x) != "blue" {
		t.Errorf("xattr: got %q", x)
	}
	if x := call(t, c, wire.Request{Op: wire.ListXattr, ID: file}).Data; string(x) != "user.colour\x00" {
		t.Errorf("xattrs: got %q", x)
	}
	if s := call(t, c, wire.Request{Op: wire.Statfs}).Statfs; s.Blocks == 0 || s.Namelen == 0 {
		t.Errorf("statfs: got %+v", s)
	}
	r = call(t, c, wire.Request{Op: wire.Open, ID: file})
	b := make([]byte, 99)
	if n, err := unix.Pread(r.FD, b, 0); string(b[:max(n, 0)]) != "twelve" {
		t.Errorf("read: %q, %v", b[:max(n, 0)], err)
	}
	unix.Close(r.FD)
}

// listing describes all that is beneath root, a line each.
func listing(t *testing.T, root string) (lines []string) {
	types := map[uint32]string{unix.S_IFREG: "-", unix.S_IFDIR: "d", unix.S_IFLNK: "l", unix.S_IFIFO: "p", unix.S_IFSOCK: "s", unix.S_IFCHR: "c"}
	must(t, filepath.Walk(root, func(p string, _ os.FileInfo, err error) error {
		if err != nil || p == root {
			return err
		}
		var s unix.Stat_t
		must(t, unix.Lstat(p, &s))
		text := ""
		switch s.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, _ := os.ReadFile(p)
			text = string(b)
		case unix.S_IFLNK:
			text, _ = os.Readlink(p)
		}
		lines = append(lines, fmt.Sprintf("%s %s %o %d:%d %d %s", p[len(root)+1:], types[s.Mode&unix.S_IFMT], s.Mode&0o7777, s.Uid, s.Gid, s.Nlink, text))
		return nil
	}))
	return lines
}

func TestReadDirInBatches(t *testing.T) {
	root := t.TempDir()
	want := map[string]bool{}
	for i := range 3000 {
		name := fmt.Sprintf("a-rather-long-name-of-a-file-%d", i)
		want[name] = true
		f, err := os.Create(filepath.Join(root, name))
		must(t, err)
		f.Close()
	}
	c := gofertest.Dial(t, gofer.Config{Debug: true, Root: gofer.Mount{Source: root}})
	q := wire.Request{Op: wire.ReadDir}
	for rounds := 0; ; rounds++ {
		r := call(t, c, q)
		for _, e := range r.Entries {
			if !want[e.Name] || e.Attr.Ino == 0 {
				t.Fatalf("entry %+v: twice, or never made", e)
			}
			delete(want, e.Name)
			q.Offset = e.Cookie
		}
		if r.End {
			if len(want) > 0 || rounds < 2 {
				t.Errorf("%d names missing after %d requests", len(want), rounds)
			}
			return
		}
	}
}

func TestFileAttachment(t *testing.T) {
	root := tree(t)
	c := gofertest.Dial(t, gofer.Config{Debug: true, Root: gofer.Mount{Source: root}, Mounts: []gofer.Mount{{Source: root + "/a/b/c/file"}}})
	roots := call(t, c, wire.Request{Op: wire.Hello}).Roots
	if len(roots) != 2 || roots[1].Flags != wire.IsFile || roots[1].Attr.Size != 8 {
		t.Errorf("hello: got %+v", roots)
	}
	r := call(t, c, wire.Request{Op: wire.Open, ID: 1, Flags: unix.O_RDWR})
	unix.Close(r.FD)
	if _, err := c.Call(&wire.Request{Op: wire.Walk, ID: 1, Names: []string{"x"}}); err != nil {
		t.Errorf("walk beneath a file: %v", err) // says so in Stop
	}
	if _, err := c.Call(&wire.Request{Op: wire.ReadDir, ID: 1}); err != unix.ENOTDIR {
		t.Errorf("readdir of a file: %v", err)
	}
}

// TestKernelViews: what is mounted beneath shows files, or nothing.
func TestKernelViews(t *testing.T) {
	c := gofertest.Dial(t, gofer.Config{
		Root:   gofer.Mount{Source: "/", Recursive: true, ReadOnly: true},
		Mounts: []gofer.Mount{{Source: "/proc", ReadOnly: true}},
	})
	for path, want := range map[string]unix.Errno{
		"proc": 0, "sys": 0, "proc/1": unix.ENOENT, "proc/sysrq-trigger": unix.ENOENT, "sys/kernel/mm": unix.ENOENT, "dev/pts/ptmx": unix.ENOENT, "etc/passwd": 0,
	} {
		r := call(t, c, wire.Request{Op: wire.Walk, Names: strings.Split(path, "/"), Flags: wire.WalkList})
		if r.Stop != want {
			t.Errorf("%s: got %v, want %v", path, r.Stop, want)
		}
	}
	id := call(t, c, wire.Request{Op: wire.Walk, Names: []string{"proc"}}).Nodes[0].ID
	if r := call(t, c, wire.Request{Op: wire.Names, ID: id}); len(r.Short) > 0 || !r.End {
		t.Errorf("names in /proc: %d, the end: %v", len(r.Short), r.End)
	}
	if r, err := c.Call(&wire.Request{Op: wire.Open, ID: id, Name: "cmdline"}); err != unix.EACCES {
		t.Errorf("open of a file in /proc: %+v, %v", r, err)
	}
	if a := call(t, c, wire.Request{Op: wire.GetAttr, ID: id}).Attr; a.Mode&unix.S_IFMT != unix.S_IFDIR || a.Ino == 0 {
		t.Errorf("attributes of /proc: %+v", a)
	}
	if r := call(t, c, wire.Request{Op: wire.Walk, ID: 1, Names: []string{"cpuinfo"}}); r.Stop != 0 {
		t.Errorf("/proc as a mount of its own: %v", r.Stop)
	}
}
