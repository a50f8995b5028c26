package vfs_test

import (
	"fmt"
	"math/rand"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"golang.org/x/sys/unix"

	. "bulkhead/sentry/vfs"
)

// listFS has one directory, whose names change behind the vfs's back or not.
type listFS struct {
	dir *listDir
}

func (f listFS) Type() string                          { return "list" }
func (f listFS) Root() Inode                           { return f.dir }
func (f listFS) Statfs(Context) (unix.Statfs_t, error) { return unix.Statfs_t{}, nil }
func (f listFS) Sync(Context) error                    { return nil }
func (f listFS) Release()                              {}

type listFile struct{ ino uint64 }

func (f *listFile) Attr(Context) (Attr, error) {
	return Attr{Ino: f.ino, Mode: unix.S_IFREG | 0o644, Nlink: 1}, nil
}
func (f *listFile) SetAttr(Context, SetAttr) error        { return nil }
func (f *listFile) Open(Context, Path, int) (File, error) { return NoFile{}, nil }

type listDir struct {
	Directory // what is not written here is not called
	files     map[string]*listFile
	lookups   int
	lists     int
	volatile  bool
	lister    bool
	lease     time.Duration
}

func (d *listDir) Attr(Context) (Attr, error) {
	return Attr{Ino: 1, Mode: unix.S_IFDIR | 0o755, Nlink: 2}, nil
}

func (d *listDir) Lookup(_ Context, name string) (Inode, error) {
	d.lookups++
	if f := d.files[name]; f != nil {
		return f, nil
	}
	return nil, unix.ENOENT
}

func (d *listDir) Make(_ Context, name string, n New) (Inode, error) {
	d.files[name] = &listFile{ino: uint64(len(d.files) + 100)}
	return d.files[name], nil
}

func (d *listDir) Unlink(_ Context, name string) error {
	delete(d.files, name)
	return nil
}

func (d *listDir) Volatile() bool { return d.volatile }

func (d *listDir) Lease() time.Duration { return d.lease }

func (d *listDir) Names(Context) (map[string]struct{}, bool) {
	if !d.lister {
		return nil, false
	}
	d.lists++
	m := map[string]struct{}{}
	for n := range d.files {
		m[n] = struct{}{}
	}
	return m, true
}

func TestDentryCache(t *testing.T) {
	setup := func(volatile, lister bool) (*listDir, func(string) error) {
		d := &listDir{files: map[string]*listFile{"a": {2}, "b": {3}}, volatile: volatile, lister: lister}
		ns := NewNamespace(listFS{d}, MountOptions{})
		return d, func(name string) error {
			s := Start{Root: ns.Root(), At: ns.Root()}
			switch {
			case strings.HasPrefix(name, "+"):
				_, err := Mknod(ctx, s, name[1:], unix.S_IFREG|0o600, 0)
				return err
			case strings.HasPrefix(name, "-"):
				return Unlink(ctx, s, name[1:])
			}
			_, err := Resolve(ctx, s, name, 0)
			return err
		}
	}
	for name, row := range map[string]struct {
		volatile, lister bool
		steps            string // names to look up, "+a" to make, "-a" to unlink; ! where ENOENT
		lookups, lists   int
	}{
		"positive": {false, false, "a a a b b", 2, 0},
		"negative": {false, false, "x! x! x! +x x -x x!", 1, 0},
		"listed":   {false, true, "x! y! z! w! a b a", 3, 1}, // the second miss lists
		"grown":    {false, true, "x! y! +y y z! -a a! +a a", 2, 1},
		"volatile": {true, false, "a a x! x!", 4, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d, do := setup(row.volatile, row.lister)
			for _, s := range strings.Fields(row.steps) {
				name, absent := strings.CutSuffix(s, "!")
				if err := do(name); (err == unix.ENOENT) != absent {
					t.Errorf("%s: %v", s, err)
				}
			}
			if d.lookups != row.lookups || d.lists != row.lists {
				t.Errorf("%d lookups and %d lists, want %d and %d", d.lookups, d.lists, row.lookups, row.lists)
			}
		})
	}
}

// transientFS is a listFS of which nothing is kept that nobody uses.
type transientFS struct{ listFS }

func (transientFS) Transient() {}

// TestTransient: what was looked up and let go is kept nowhere, and what is in use
// stays the same place.
func TestTransient(t *testing.T) {
	d := &listDir{files: map[string]*listFile{"a": {2}}, volatile: true}
	ns := NewNamespace(transientFS{listFS{d}}, MountOptions{})
	w := &world{t: t, ns: ns, root: ns.Root(), at: ns.Root()}
	held := w.path("/a")
	gone := map[string]weak.Pointer[Dentry]{}
	for i := range 300 {
		name := fmt.Sprint(i)
		d.files[name] = &listFile{uint64(i) + 3}
		gone[name] = weak.Make(w.path("/" + name).Dentry)
		if i%2 == 0 { // and nobody asks for it again
			delete(d.files, name)
		}
		if i%64 == 63 {
			runtime.GC()
		}
	}
	runtime.GC()
	for name, p := range gone {
		if p.Value() != nil {
			t.Errorf("the dentry of %s is kept", name)
		}
	}
	if w.path("/a") != held {
		t.Error("a file in use is another place")
	}
	if n := ns.Root().Dentry.Remembered(); n > 150 {
		t.Errorf("%d names are remembered", n)
	}
}

func TestVolatileChange(t *testing.T) {
	d := &listDir{files: map[string]*listFile{"a": {2}}, volatile: true}
	ns := NewNamespace(listFS{d}, MountOptions{})
	w := &world{t: t, ns: ns, root: ns.Root(), at: ns.Root()}
	first := w.path("/a")
	if w.path("/a") != first {
		t.Error("the same file is another place")
	}
	d.files["a"] = &listFile{3}
	second := w.path("/a")
	if second == first || !first.Dentry.Dead() {
		t.Error("another file is the same place")
	}
	delete(d.files, "a")
	if got := w.do("name /a"); got != "ENOENT" || !second.Dentry.Dead() {
		t.Errorf("a removed file: %s", got)
	}
}

// TestLease: answers of a volatile directory are believed until their end.
func TestLease(t *testing.T) {
	d := &listDir{files: map[string]*listFile{"a": {2}}, volatile: true, lease: time.Hour}
	ns := NewNamespace(listFS{d}, MountOptions{})
	w := &world{t: t, ns: ns, root: ns.Root(), at: ns.Root()}
	a := w.path("/a")
	if got := w.do("name /x"); got != "ENOENT" {
		t.Error(got)
	}
	d.files["x"] = &listFile{3}
	delete(d.files, "a")
	if got := w.do("name /x"); got != "ENOENT" || w.path("/a") != a || d.lookups != 2 {
		t.Errorf("within the lease: %s, %d lookups", got, d.lookups)
	}
	d = &listDir{files: map[string]*listFile{"a": {2}}, volatile: true, lease: time.Nanosecond}
	ns = NewNamespace(listFS{d}, MountOptions{})
	w = &world{t: t, ns: ns, root: ns.Root(), at: ns.Root()}
	w.path("/a")
	d.files["a"] = &listFile{3}
	if w.path("/a").Inode() != d.files["a"] {
		t.Error("after the lease: the old file")
	}
	if got := w.do("touch /n") + w.do("rm /n"); got != "" {
		t.Error(got)
	}
}

// TestEviction: with more names than the cache holds, what somebody uses keeps
// its identity, and the rest can be collected.
func TestEviction(t *testing.T) {
	w := newWorld(t)
	w.do("mkdir /d")
	w.do("touch /d/held")
	w.do("mkdir /d/mounted")
	w.do("mount one /d/mounted")
	w.do("touch /d/mounted/f")
	held := w.path("/d/held")
	for i := range 40000 {
		if _, err := Mknod(ctx, w.start(), fmt.Sprintf("/d/%d", i), unix.S_IFREG|0o600, 0); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	if got := w.path("/d/held"); got != held {
		t.Error("a place that is held changed its identity")
	}
	if got := w.do("ls /d/mounted"); got != "f" {
		t.Errorf("below the mount point: %q", got)
	}
	if got := w.do("name /d/5"); got != "/d/5" {
		t.Errorf("an evicted name: %q", got)
	}
	if got := w.do("mv /d/6 /d/held") + w.do("rm /d/5"); got != "" || !held.Dentry.Dead() {
		t.Errorf("changes of evicted names: %s", got)
	}
}

// TestManyAtOnce does random changes from several goroutines, for the race
// detector and for deadlocks; then the tree must be whole.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	names := []string{"a", "b", "c", "a/a", "a/b", "b/a", "b/c", "a/a/a", "b/a/b", "c/a/c"}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewSource(int64(g)))
			name := func() string { return names[r.Intn(len(names))] }
			s := w.start()
			for range 3000 {
				switch r.Intn(7) {
				case 0:
					Mkdir(ctx, s, name(), 0o755)
				case 1:
					Rmdir(ctx, s, name())
				case 2:
					Rename(ctx, s, name(), s, name(), uint([]int{0, unix.RENAME_EXCHANGE, unix.RENAME_NOREPLACE}[r.Intn(3)]))
				case 3:
					if d, err := Open(ctx, s, name(), OpenHow{Flags: unix.O_CREAT | unix.O_RDWR}); err == nil {
						Name(w.root, d.Path())
						d.Unref()
					}
				case 4:
					Unlink(ctx, s, name())
				case 5:
					if p, err := Resolve(ctx, s, name(), 0); err == nil {
						Link(ctx, p, s, name())
						Stat(ctx, p)
					}
				case 6:
					Resolve(ctx, s, name()+"/../../"+name(), 0)
				}
			}
		})
	}
	wg.Wait()
	var whole func(p Path, depth int)
	whole = func(p Path, depth int) {
		name := Name(w.root, p)
		if again := w.path(name); again != p || p.Dentry.Dead() {
			t.Errorf("%s is not where it says", name)
		}
		a, err := Stat(ctx, p)
		if err != nil || a.Type() != unix.S_IFDIR || depth > 10 {
			return
		}
		links := uint32(2)
		for _, n := range strings.Fields(w.do("ls " + name)) {
			c := w.path(strings.TrimSuffix(name, "/") + "/" + n)
			if _, ok := c.Inode().(Directory); ok {
				links++
			}
			whole(c, depth+1)
		}
		if a.Nlink != links {
			t.Errorf("%s has %d links, want %d", name, a.Nlink, links)
		}
	}
	whole(w.root, 0)
}

// FuzzResolve walks arbitrary names: what is found must be found again by its
// name, and no walk panics or leaves the root.
func FuzzResolve(f *testing.F) {
	for _, s := range []string{"/a/b/../c", "//a//./f/", "l", "loop/x", "m/../..", "abs/../rel/f", "\x00", strings.Repeat("l/", 50)} {
		f.Add(s, uint32(0))
	}
	w := newWorld(f)
	for _, c := range []string{"mkdir /a", "mkdir /a/b", "touch /a/f", "mkdir /m", "mount one /m", "mkdir /m/c", "symlink a/b l",
		"symlink loop loop", "symlink /a abs", "symlink ../../m/c /a/rel", "symlink l/../f dots", "symlink l l2"} {
		if got := w.do(c); got != "" {
			f.Fatalf("%s: %s", c, got)
		}
	}
	f.Fuzz(func(t *testing.T, name string, flags uint32) {
		p, err := Resolve(ctx, w.start(), name, ResolveFlags(flags))
		if dir, last, perr := ResolveParent(ctx, w.start(), name); perr == nil && last != "" && dir.Inode() == nil {
			t.Errorf("%q has no parent", name)
		}
		if err != nil {
			return
		}
		n := Name(w.root, p)
		again, err := Resolve(ctx, w.start(), n, ResolveNoFollow)
		if err != nil || again != p {
			t.Errorf("%q is %q, which is %v %v", name, n, again, err)
		}
	})
}
