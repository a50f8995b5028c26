package overlay

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/fstest"
	"bulkhead/sentry/fs/tmpfs"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// tree is an overlay of memory over memory, mounted.
type tree struct {
	t     *testing.T
	lower *vfs.Namespace // of the lower layer alone
	upper vfs.FileSystem
	low   vfs.FileSystem
	ns    *vfs.Namespace
}

var ctx = vfs.SentryContext()

func newTree(t *testing.T, fill func(low at)) *tree {
	arena := fstest.NewArena(t)
	w := &tree{t: t, low: tmpfs.New(arena, tmpfs.Options{Mode: 0o755}), upper: tmpfs.New(arena, tmpfs.Options{Mode: 0o755})}
	w.lower = vfs.NewNamespace(w.low, vfs.MountOptions{})
	fill(at{t, w.lower})
	w.mount()
	return w
}

// mount lays the layers over each other, as after a restart when it is not the first time.
func (w *tree) mount() {
	w.t.Helper()
	upper, work, err := Prepare(w.upper)
	if err != nil {
		w.t.Fatal(err)
	}
	fs, err := New(Options{Upper: upper, Work: work, Lowers: []vfs.Directory{w.low.Root().(vfs.Directory)}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.ns = vfs.NewNamespace(fs, vfs.MountOptions{})
}

func (w *tree) at() at { return at{w.t, w.ns} }

// at does things in a namespace, and ends the test if they fail.
type at struct {
	t  *testing.T
	ns *vfs.Namespace
}

func (a at) start() vfs.Start { return vfs.Start{Root: a.ns.Root(), At: a.ns.Root()} }

func (a at) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a at) open(name string, flags int) *vfs.Description {
	a.t.Helper()
	d, err := vfs.Open(ctx, a.start(), name, vfs.OpenHow{Flags: flags, Mode: 0o644})
	a.must(err)
	return d
}

func (a at) write(name, text string) {
	a.t.Helper()
	d := a.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
	defer d.Unref()
	_, err := d.Write(ctx, memory.Buffers{[]byte(text)})
	a.must(err)
}

func (a at) text(d *vfs.Description) string {
	a.t.Helper()
	b := make([]byte, 100)
	n, err := d.Pread(ctx, memory.Buffers{b}, 0)
	a.must(err)
	return string(b[:n])
}

func (a at) read(name string) string {
	a.t.Helper()
	d := a.open(name, unix.O_RDONLY)
	defer d.Unref()
	return a.text(d)
}

func (a at) stat(name string) vfs.Attr {
	a.t.Helper()
	p, err := vfs.Resolve(ctx, a.start(), name, vfs.ResolveNoFollow)
	a.must(err)
	s, err := vfs.Stat(ctx, p)
	a.must(err)
	return s
}

func (a at) link(old, new string) {
	a.t.Helper()
	p, err := vfs.Resolve(ctx, a.start(), old, vfs.ResolveNoFollow)
	a.must(err)
	a.must(vfs.Link(ctx, p, a.start(), new))
}

// TestReaderFollows: who had a file open before somebody wrote it sees what was written.
func TestReaderFollows(t *testing.T) {
	a := newTree(t, func(low at) { low.write("file", "image") }).at()
	ino := a.stat("file").Ino
	r := a.open("file", unix.O_RDONLY)
	defer r.Unref()
	if got := a.text(r); got != "image" {
		t.Errorf("got %q", got)
	}
	w := a.open("file", unix.O_WRONLY)
	defer w.Unref()
	w.Pwrite(ctx, memory.Buffers{[]byte("IM")}, 0)
	if got := a.text(r); got != "IMage" {
		t.Errorf("after a write: got %q", got)
	}
	if now := a.stat("file").Ino; now != ino {
		t.Errorf("inode number %d became %d", ino, now)
	}
}

// TestSharedMappingFollows is the same for mmap(2).
func TestSharedMappingFollows(t *testing.T) {
	a := newTree(t, func(low at) { low.write("file", "image") }).at()
	r := a.open("file", unix.O_RDONLY)
	m, err := r.Mappable(ctx, memory.MapRequest{Shared: true})
	a.must(err)
	m.Ref()
	defer m.Unref()
	r.Unref()
	see := func() string {
		run, err := m.Pages(0, memory.PageSize, false)
		a.must(err)
		defer run.Release()
		return string(run.Host[:5])
	}
	if got := see(); got != "image" {
		t.Errorf("got %q", got)
	}
	w := a.open("file", unix.O_RDWR)
	defer w.Unref()
	w.Pwrite(ctx, memory.Buffers{[]byte("IM")}, 0)
	if got := see(); got != "IMage" {
		t.Errorf("after a write: got %q", got)
	}
	again, err := w.Mappable(ctx, memory.MapRequest{Shared: true})
	a.must(err)
	if again != m {
		t.Error("two shared mappings of one file map different objects")
	}
}

// TestHardLinks: what is written by one name of the image is read by another.
func TestHardLinks(t *testing.T) {
	a := newTree(t, func(low at) {
		low.write("a", "image")
		low.link("a", "b")
		low.link("a", "c")
	}).at()
	a.write("b", "written")
	for _, name := range []string{"a", "b", "c"} {
		if got := a.read(name); got != "written" || a.stat(name).Nlink != 3 || a.stat(name).Ino != a.stat("a").Ino {
			t.Errorf("%s: %q, %+v", name, got, a.stat(name))
		}
	}
	a.must(vfs.Unlink(ctx, a.start(), "b"))
	a.must(vfs.Rename(ctx, a.start(), "c", a.start(), "d", 0))
	if got := a.read("d"); got != "written" || a.stat("a").Nlink != 2 {
		t.Errorf("d: %q; a: %+v", got, a.stat("a"))
	}
}

// TestRemovedAndWritten writes to a file of the image that is open and has no name.
func TestRemovedAndWritten(t *testing.T) {
	a := newTree(t, func(low at) { low.write("file", "image") }).at()
	d := a.open("file", unix.O_RDONLY)
	defer d.Unref()
	a.must(vfs.Unlink(ctx, a.start(), "file"))
	if s, err := d.Stat(ctx); err != nil || s.Nlink != 0 {
		t.Errorf("after unlink: %+v, %v", s, err)
	}
	w, err := vfs.OpenPath(ctx, d.Path(), unix.O_RDWR)
	a.must(err)
	defer w.Unref()
	w.Pwrite(ctx, memory.Buffers{[]byte("IM")}, 0)
	if got := a.text(d); got != "IMage" {
		t.Errorf("got %q", got)
	}
	if _, err := vfs.Resolve(ctx, a.start(), "file", 0); err != unix.ENOENT {
		t.Errorf("the name is back: %v", err)
	}
}

// TestRestart mounts the same upper layer again.
func TestRestart(t *testing.T) {
	w := newTree(t, func(low at) {
		low.must(vfs.Mkdir(ctx, low.start(), "dir", 0o755))
		low.must(vfs.Mkdir(ctx, low.start(), "dir/sub", 0o755))
		low.must(vfs.Mkdir(ctx, low.start(), "gone", 0o755))
		low.write("dir/sub/deep", "image")
		low.write("gone/file", "image")
		low.write("file", "image")
	})
	a := w.at()
	a.must(vfs.Rename(ctx, a.start(), "dir", a.start(), "moved", 0))
	a.must(vfs.Unlink(ctx, a.start(), "gone/file"))
	a.must(vfs.Rmdir(ctx, a.start(), "gone"))
	a.must(vfs.Mkdir(ctx, a.start(), "gone", 0o700))
	a.must(vfs.Unlink(ctx, a.start(), "file"))
	a.write("new", "new")
	w.mount()
	a = w.at()
	if got := a.read("moved/sub/deep"); got != "image" {
		t.Errorf("below a directory that was moved: got %q", got)
	}
	if got := a.read("new"); got != "new" {
		t.Errorf("new: got %q", got)
	}
	for _, name := range []string{"dir", "file", "gone/file"} {
		if _, err := vfs.Resolve(ctx, a.start(), name, 0); err != unix.ENOENT {
			t.Errorf("%s: %v", name, err)
		}
	}
	low := at{t, w.lower}
	if got := low.read("dir/sub/deep") + low.read("file") + low.read("gone/file"); got != "imageimageimage" {
		t.Errorf("the image was changed: %q", got)
	}
}

// TestHiddenAttributes: what the overlay writes for itself nobody sees or sets.
func TestHiddenAttributes(t *testing.T) {
	a := newTree(t, func(low at) { low.must(vfs.Mkdir(ctx, low.start(), "dir", 0o755)) }).at()
	a.must(vfs.Rename(ctx, a.start(), "dir", a.start(), "moved", 0))
	p, err := vfs.Resolve(ctx, a.start(), "moved", 0)
	a.must(err)
	if names, err := vfs.Listxattr(ctx, p); len(names) > 0 || err != nil {
		t.Errorf("listxattr: %q, %v", names, err)
	}
	if v, err := vfs.Getxattr(ctx, p, attributesIn("user").redirect); err != unix.ENODATA {
		t.Errorf("getxattr: %q, %v", v, err)
	}
	if err := vfs.Setxattr(ctx, p, attributesIn("user").opaque, []byte("y"), 0); err != nil {
		t.Errorf("setxattr: %v", err)
	}
	// It is another overlay's, and means nothing here.
	if names, err := vfs.Listxattr(ctx, p); !slices.Equal(names, []string{"user.overlay.opaque"}) || err != nil {
		t.Errorf("listxattr: %q, %v", names, err)
	}
}
