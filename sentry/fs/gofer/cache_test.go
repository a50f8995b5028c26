package gofer

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/fstest"
	gofers "bulkhead/sentry/gofer"
	"bulkhead/sentry/gofer/wire"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// mounted is an attachment as a container's root.
type mounted struct {
	t    *testing.T
	host string
	fs   *FS
	ns   *vfs.Namespace
}

func mount(t *testing.T, m gofers.Mount) *mounted {
	m.Source = tempDir(t)
	fs := attach(t, fstest.NewArena(t), m)
	return &mounted{t, m.Source, fs, vfs.NewNamespace(fs, vfs.MountOptions{})}
}

var ctx = vfs.SentryContext()

func (m *mounted) start() vfs.Start { return vfs.Start{Root: m.ns.Root(), At: m.ns.Root()} }

func (m *mounted) path(name string) string { return filepath.Join(m.host, name) }

func (m *mounted) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *mounted) stat(name string) (vfs.Attr, error) {
	p, err := vfs.Resolve(ctx, m.start(), name, vfs.ResolveNoFollow)
	if err != nil {
		return vfs.Attr{}, err
	}
	return vfs.Stat(ctx, p)
}

func (m *mounted) open(name string, flags int) *vfs.Description {
	m.t.Helper()
	d, err := vfs.Open(ctx, m.start(), name, vfs.OpenHow{Flags: flags, Mode: 0o644})
	m.must(err)
	return d
}

func (m *mounted) read(name string) string {
	m.t.Helper()
	d := m.open(name, unix.O_RDONLY)
	defer d.Unref()
	b := make([]byte, 100)
	n, err := d.Read(ctx, memory.Buffers{b})
	m.must(err)
	return string(b[:n])
}

func (m *mounted) write(name, text string) {
	m.t.Helper()
	d := m.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
	defer d.Unref()
	_, err := d.Write(ctx, memory.Buffers{[]byte(text)})
	m.must(err)
}

// TestRequests counts what is asked of the gofer, for each waits for another process.
func TestRequests(t *testing.T) {
	m := mount(t, gofers.Mount{Exclusive: true})
	m.must(os.MkdirAll(m.path("usr/lib/deep"), 0o755))
	for i := range 20 {
		m.must(os.WriteFile(m.path(fmt.Sprintf("usr/lib/lib%d.so", i)), []byte("text"), 0o644))
	}
	for _, row := range []struct {
		name string
		want uint64
		do   func()
	}{
		{"first walk: the second directory comes along", 1, func() { m.stat("usr/lib") }},
		{"stat of all in a small directory", 1, func() {
			for i := range 20 {
				m.stat(fmt.Sprintf("usr/lib/lib%d.so", i))
			}
		}},
		{"names that do not exist", 0, func() { m.stat("usr/lib/none"); m.stat("usr/lib/none2"); m.stat("usr/bin") }},
		{"read a file", 1, func() { m.read("usr/lib/lib1.so") }},
		{"read it again", 0, func() { m.read("usr/lib/lib1.so") }},
		{"make a file and write it", 1, func() { m.write("usr/new", "text") }},
		{"write it again", 0, func() { m.write("usr/new", "more text") }},
		{"stat it", 0, func() { m.stat("usr/new") }},
		{"remove it", 1, func() { m.must(vfs.Unlink(ctx, m.start(), "usr/new")) }},
		{"stat the directory that changed", 0, func() { m.stat("usr") }},
		{"make a directory, which was looked for, and a file in it", 3, func() {
			m.must(vfs.Mkdir(ctx, m.start(), "d", 0o755))
			m.write("d/f", "x")
		}},
		{"rename", 1, func() { m.must(vfs.Rename(ctx, m.start(), "d/f", m.start(), "d/g", 0)) }},
	} {
		before := m.fs.conn.Calls()
		row.do()
		if got := m.fs.conn.Calls() - before; got != row.want {
			t.Errorf("%s: %d requests, want %d", row.name, got, row.want)
		}
	}
}

// TestPrefetch walks far in one request.
func TestPrefetch(t *testing.T) {
	m := mount(t, gofers.Mount{Exclusive: true})
	m.must(os.MkdirAll(m.path("a/b/c/d"), 0o755))
	m.must(os.WriteFile(m.path("a/b/c/d/e"), []byte("text"), 0o644))
	before := m.fs.conn.Calls()
	m.fs.root.(*dir).Prefetch(strings.Split("a/b/c/d/e", "/"))
	if _, err := m.stat("a/b/c/d/e"); err != nil {
		t.Error(err)
	}
	if got := m.fs.conn.Calls() - before; got != 1 {
		t.Errorf("%d requests, want 1", got)
	}
}

// TestHostChanges changes a shared attachment from outside.
func TestHostChanges(t *testing.T) {
	m := mount(t, gofers.Mount{})
	write := func(name, text string) { m.must(os.WriteFile(m.path(name), []byte(text), 0o644)) }
	write("file", "one")
	if got := m.read("file"); got != "one" {
		t.Errorf("got %q", got)
	}
	open := m.open("file", unix.O_RDONLY)
	defer open.Unref()
	write("file", "number two")
	if a, err := open.Stat(ctx); err != nil || a.Size != 10 {
		t.Errorf("stat of the open file: size %d, %v", a.Size, err)
	}
	old, _ := m.stat("file")
	write("other", "replaced")
	m.must(os.Rename(m.path("other"), m.path("file")))
	if got := m.read("file"); got != "replaced" {
		t.Errorf("after a rename outside: got %q", got)
	}
	if a, _ := m.stat("file"); a.Ino == old.Ino {
		t.Error("the file is another one, with the same number")
	}
	m.must(os.Remove(m.path("file")))
	if _, err := m.stat("file"); err != unix.ENOENT {
		t.Errorf("after a removal outside: %v", err)
	}
	m.must(os.Mkdir(m.path("file"), 0o700))
	if a, err := m.stat("file"); err != nil || a.Type() != unix.S_IFDIR {
		t.Errorf("a directory of that name: mode %o, %v", a.Mode, err)
	}
	time.Sleep(2 * attrLife) // how old what is known may be is what is promised
	m.must(os.Rename(m.path("file"), m.path("moved")))
	if _, err := m.stat("file"); err != unix.ENOENT {
		t.Errorf("after a directory was renamed outside: %v", err)
	}
	m.must(os.Rename(m.path("moved"), m.path("file")))
	m.must(os.Chmod(m.path("file"), 0o711))
	time.Sleep(2 * attrLife)
	if a, err := m.stat("file"); err != nil || a.Mode&0o777 != 0o711 {
		t.Errorf("after chmod outside: mode %o, %v", a.Mode, err)
	}
}

// TestUnlinkedGoes looks whether the host gets the space of removed files back.
func TestUnlinkedGoes(t *testing.T) {
	for _, exclusive := range []bool{true, false} {
		m := mount(t, gofers.Mount{Exclusive: exclusive})
		var before, full, after unix.Statfs_t
		m.must(unix.Statfs(m.host, &before))
		d := m.open("big", unix.O_RDWR|unix.O_CREAT)
		m.must(d.Allocate(ctx, 0, 0, 64<<20))
		m.must(unix.Statfs(m.host, &full))
		m.must(vfs.Unlink(ctx, m.start(), "big"))
		if n, err := d.Pwrite(ctx, memory.Buffers{[]byte("still here")}, 5); n != 10 || err != nil {
			t.Errorf("write to a removed file: %d, %v", n, err)
		}
		if a, err := d.Stat(ctx); err != nil || a.Nlink != 0 || a.Size != 64<<20 {
			t.Errorf("stat of a removed file: %+v, %v", a, err)
		}
		d.Unref()
		used := int64(64 << 20)
		for end := time.Now().Add(10 * time.Second); used > 32<<20 && time.Now().Before(end); {
			m.fs.conn.Call(&wire.Request{Op: wire.Hello}) // the two workers may overtake each other
			m.must(unix.Statfs(m.host, &after))
			used = int64(before.Bfree-after.Bfree) * before.Bsize
		}
		if used > 32<<20 {
			t.Errorf("exclusive %v: %d bytes still used after the last close", exclusive, used)
		}
	}
}

// TestSpecials: what is not a file is the Sentry's, not the host's.
func TestSpecials(t *testing.T) {
	m := mount(t, gofers.Mount{Exclusive: true})
	m.must(unix.Mkfifo(m.path("fifo"), 0o666))
	m.must(unix.Mknod(m.path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	for _, name := range []string{"fifo", "null"} {
		if d, err := vfs.Open(ctx, m.start(), name, vfs.OpenHow{Flags: unix.O_RDWR}); err != unix.ENXIO {
			t.Errorf("%s without a handler: %v, %v", name, d, err)
		}
	}
	ours := new(int)
	vfs.HandleDevice(unix.S_IFCHR, unix.Mkdev(1, 3), func(vfs.Context, vfs.Path, int) (vfs.File, error) {
		*ours++
		return vfs.NoFile{}, nil
	})
	m.open("null", unix.O_RDWR).Unref()
	if *ours != 1 {
		t.Error("the device was not opened by the Sentry")
	}
}

// TestMappable has a mapping and write(2) agree.
func TestMappable(t *testing.T) {
	m := mount(t, gofers.Mount{Exclusive: true})
	m.write("file", "before")
	d := m.open("file", unix.O_RDWR)
	defer d.Unref()
	o, err := d.Mappable(ctx, memory.MapRequest{Shared: true})
	m.must(err)
	o.Ref()
	defer o.Unref()
	r, err := o.Pages(0, memory.PageSize, true)
	m.must(err)
	defer r.Release()
	if got := string(r.Host[:6]); got != "before" {
		t.Errorf("mapped: got %q", got)
	}
	d.Pwrite(ctx, memory.Buffers{[]byte("BE")}, 0)
	copy(r.Host[2:], "FORE")
	if got := m.read("file"); got != "BEFORE" || string(r.Host[:6]) != "BEFORE" {
		t.Errorf("read %q, mapped %q", got, r.Host[:6])
	}
}

// TestReadAgain reads a file so often that the host is not asked any more, and changes it
// in each way there is.
func TestReadAgain(t *testing.T) {
	m := mount(t, gofers.Mount{Exclusive: true})
	text := strings.Repeat("0123456789", 1000)
	for _, name := range []string{"file", "other"} {
		m.must(os.WriteFile(m.path(name), []byte(text), 0o644))
	}
	d := m.open("file", unix.O_RDONLY)
	defer func() { d.Unref() }()
	at := func(off int64, n int) string {
		t.Helper()
		b := make([]byte, n)
		got, err := d.Pread(ctx, memory.Buffers{b[:n/2], b[n/2:]}, off)
		m.must(err)
		return string(b[:got])
	}
	shown := func() bool {
		o := d.File().(*openFile)
		return o.readAgain(memory.Buffers{make([]byte, 1)}, 0) > 0
	}
	same := func(what string) {
		t.Helper()
		want, err := os.ReadFile(m.path("file"))
		m.must(err)
		for _, off := range []int64{0, 1, 4090, int64(len(want)) - 5, int64(len(want)), int64(len(want)) + 5000} {
			for _, n := range []int{1, 10, 4096, 20000} {
				from := min(int(off), len(want))
				if got, want := at(off, n), string(want[from:min(from+n, len(want))]); got != want {
					t.Errorf("%s: %d bytes from %d on: %d bytes, or others, want %d", what, n, off, len(got), len(want))
				}
			}
		}
	}
	same("asked of the host") // 24 reads
	if !shown() {
		t.Fatal("the host is still asked")
	}
	same("shown")
	w := m.open("file", unix.O_WRONLY|unix.O_APPEND)
	if shown() {
		t.Error("shown, though somebody may write")
	}
	w.Write(ctx, memory.Buffers{[]byte("more")})
	same("appended to")
	m.must(w.File().(*openFile).file.SetAttr(ctx, vfs.SetAttr{Mask: vfs.SetSize, Size: 5000}))
	same("cut")
	w.Unref()
	same("closed by the writer")

	// Cut behind the Sentry's back, which exclusive says that nobody does.
	d.Unref()
	d = m.open("other", unix.O_RDONLY)
	for range oftenRead {
		if got := at(5000, 100); got != text[5000:5100] {
			t.Fatalf("wrong: %q", got)
		}
	}
	if !shown() {
		t.Fatal("the host is still asked")
	}
	m.must(os.Truncate(m.path("other"), 10))
	if got := at(5000, 100); got != "" {
		t.Errorf("of a file that was cut to 10 bytes: %q", got)
	}
}
