package tmpfs

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/fstest"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

var ctx = vfs.SentryContext()

// mounted is a file system with options, and where names in it begin.
func mounted(t *testing.T, o Options) (*FileSystem, vfs.Start) {
	fs := New(fstest.NewArena(t), o)
	return fs, start(fs)
}

func start(fs *FileSystem) vfs.Start {
	ns := vfs.NewNamespace(fs, vfs.MountOptions{Flags: unix.MS_RELATIME})
	return vfs.Start{Root: ns.Root(), At: ns.Root()}
}

func create(t *testing.T, s vfs.Start, name string) *vfs.Description {
	t.Helper()
	d, err := vfs.Open(ctx, s, name, vfs.OpenHow{Flags: unix.O_CREAT | unix.O_RDWR, Mode: 0o644})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d
}

func TestOptions(t *testing.T) {
	const total = 1000 << 20
	for data, want := range map[string]string{
		"":                           "0 0 1777 0 0",
		"size=65536k,mode=755":       "67108864 0 755 0 0",
		"size=1,nr_inodes=1k":        "4096 1024 1777 0 0",
		"size=50%":                   "524288000 0 1777 0 0",
		"nr_blocks=2,uid=5,gid=6":    "8192 0 1777 5 6",
		"size=1g,huge=never,inode64": "1073741824 0 1777 0 0",
		"size=x":                     "invalid argument",
		"size=":                      "invalid argument",
		"mode=9":                     "invalid argument",
		"nonsense":                   "invalid argument",
		"size=99999999999999t":       "invalid argument",
	} {
		o, err := ParseOptions(data, total)
		got := fmt.Sprintf("%d %d %o %d %d", o.Size, o.Inodes, o.Mode, o.UID, o.GID)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", data, got, want)
		}
	}
}

func TestSizeLimit(t *testing.T) {
	fs, s := mounted(t, Options{Size: 4 * pageSize, Mode: 0o755})
	f := create(t, s, "f")
	defer f.Unref()
	write := func(off int64, n, want int, wantErr error) {
		t.Helper()
		got, err := f.Pwrite(ctx, memory.Buffers{pattern[:n]}, off)
		if got != want || err != wantErr {
			t.Errorf("write of %d at %d: %d %v, want %d %v", n, off, got, err, want, wantErr)
		}
	}
	write(0, 10, 10, nil)
	write(100*pageSize, 3*pageSize, 3*pageSize, nil)
	write(50*pageSize, 1, 0, unix.ENOSPC)
	write(10, pageSize-10, pageSize-10, nil)         // a page that is there
	write(10, pageSize, pageSize-10, nil)            // the rest does not fit
	write(100*pageSize, 2*pageSize, 2*pageSize, nil) // pages that are there
	if err := f.Allocate(ctx, 0, 0, 2*pageSize); err != unix.ENOSPC {
		t.Errorf("fallocate: %v", err)
	}
	st, _ := fs.Statfs(ctx)
	if st.Blocks != 4 || st.Bfree != 0 {
		t.Errorf("statfs of a full file system: %+v", st)
	}
	if err := f.Allocate(ctx, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 100*pageSize, pageSize); err != nil {
		t.Errorf("punch: %v", err)
	}
	write(50*pageSize, 1, 1, nil)
	if err := f.Truncate(ctx, 0); err != nil {
		t.Error(err)
	}
	if st, _ := fs.Statfs(ctx); st.Bfree != 4 {
		t.Errorf("statfs after truncate: %+v", st)
	}
	if err := fs.Remount(ctx, "size=8192"); err != nil {
		t.Error(err)
	}
	write(0, 3*pageSize, 2*pageSize, nil)
	if err := fs.Remount(ctx, "size=4096"); err != unix.EINVAL {
		t.Errorf("remount with less than is used: %v", err)
	}
}

func TestInodeLimit(t *testing.T) {
	fs, s := mounted(t, Options{Inodes: 4, Mode: 0o755})
	a, b := create(t, s, "a"), create(t, s, "b")
	if err := vfs.Mkdir(ctx, s, "d", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := vfs.MakeSymlink(ctx, "x", s, "l"); err != unix.ENOSPC {
		t.Errorf("a fifth inode: %v", err)
	}
	if err := vfs.Link(ctx, a.Path(), s, "a2"); err != unix.ENOSPC {
		t.Errorf("a link costs as much: %v", err)
	}
	vfs.Unlink(ctx, s, "b")
	if err := vfs.MakeSymlink(ctx, "x", s, "l"); err != unix.ENOSPC {
		t.Errorf("with the removed file open: %v", err)
	}
	b.Unref()
	if err := vfs.MakeSymlink(ctx, "x", s, "l"); err != nil {
		t.Errorf("with the removed file closed: %v", err)
	}
	if st, _ := fs.Statfs(ctx); st.Files != 4 || st.Ffree != 0 {
		t.Errorf("statfs: %+v", st)
	}
	a.Unref()
}

// TestMemoryComesBack: contents live as long as a name, a descriptor of any kind,
// or a mapping.
func TestMemoryComesBack(t *testing.T) {
	fs, s := mounted(t, Options{Mode: 0o755})
	before := fs.arena.Usage()
	used := func() uint64 { return fs.arena.Usage() - before }
	f := create(t, s, "f")
	f.Write(ctx, memory.Buffers{pattern})
	if used() != uint64(len(pattern)) {
		t.Fatalf("%d bytes used", used())
	}
	opath, err := vfs.Open(ctx, s, "f", vfs.OpenHow{Flags: unix.O_PATH})
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.Mappable(ctx, memory.MapRequest{Shared: true, Prot: platform.Write, Length: pageSize})
	if err != nil {
		t.Fatal(err)
	}
	m.Ref()
	vfs.Unlink(ctx, s, "f")
	f.Unref()
	again, err := vfs.OpenPath(ctx, opath.Path(), unix.O_RDONLY) // /proc/self/fd/N
	if err != nil {
		t.Fatalf("open of a removed file through O_PATH: %v", err)
	}
	b := make([]byte, 10)
	if n, err := again.Read(ctx, memory.Buffers{b}); n != 10 || err != nil || b[9] != pattern[9] {
		t.Errorf("read %d %v", n, err)
	}
	again.Unref()
	opath.Unref()
	if used() == 0 {
		t.Error("the mapping lost its pages")
	}
	m.Unref()
	if used() != 0 {
		t.Errorf("%d bytes are left", used())
	}
	create(t, s, "g").Unref()
	d := create(t, s, "g")
	d.Write(ctx, memory.Buffers{pattern})
	d.Unref()
	fs.Release()
	if used() != 0 {
		t.Errorf("%d bytes are left of a released file system", used())
	}
}

// TestReadDirWhileChanging: a name that stays is read once, whatever happens to
// the others between two calls.
func TestReadDirWhileChanging(t *testing.T) {
	_, s := mounted(t, Options{Mode: 0o755})
	for i := range 100 {
		create(t, s, fmt.Sprintf("old%02d", i)).Unref()
	}
	d, err := vfs.Open(ctx, s, "/", vfs.OpenHow{Flags: unix.O_DIRECTORY})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Unref()
	seen := map[string]int{}
	for round := 0; ; round++ {
		n := 0
		if err := d.ReadDir(ctx, func(e vfs.Dirent) bool {
			if n == 7 {
				return false
			}
			n++
			seen[e.Name]++
			return true
		}); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		if round < 12 {
			vfs.Unlink(ctx, s, fmt.Sprintf("old%02d", round*8)) // some before, some behind the position
			vfs.Rename(ctx, s, fmt.Sprintf("old%02d", round*8+1), s, fmt.Sprintf("new%02d", round), 0)
			create(t, s, fmt.Sprintf("more%02d", round)).Unref()
		}
	}
	for i := range 100 {
		name := fmt.Sprintf("old%02d", i)
		if stays := i >= 96 || i%8 > 1; stays && seen[name] != 1 {
			t.Errorf("%s was read %d times", name, seen[name])
		}
	}
	if seen["."] != 1 || seen[".."] != 1 {
		t.Errorf("dots: %d %d", seen["."], seen[".."])
	}
	if pos, err := d.Seek(ctx, 0, unix.SEEK_SET); pos != 0 || err != nil {
		t.Errorf("rewind: %d %v", pos, err)
	}
}

func TestSeals(t *testing.T) {
	fs, _ := mounted(t, Options{})
	plain, err := fs.Memfd(ctx, "plain", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := plain.File().(Sealer).AddSeals(unix.F_SEAL_GROW); err != unix.EPERM {
		t.Errorf("seals of a memfd that has none: %v", err)
	}
	plain.Unref()

	d, err := fs.Memfd(ctx, "x", unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Unref()
	if got := vfs.Name(vfs.Path{}, d.Path()); got != "/memfd:x (deleted)" {
		t.Errorf("it is named %q", got)
	}
	f := d.File().(Sealer)
	d.Write(ctx, memory.Buffers{pattern[:100]})
	m, err := d.Mappable(ctx, memory.MapRequest{Shared: true, Prot: platform.Read | platform.Write})
	if err != nil {
		t.Fatal(err)
	}
	m.Ref()
	if err := f.AddSeals(unix.F_SEAL_WRITE); err != unix.EBUSY {
		t.Errorf("a write seal over a writable mapping: %v", err)
	}
	m.Unref()
	step := func(what string, err, want error) {
		t.Helper()
		if err != want {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	step("seal shrink and grow", f.AddSeals(unix.F_SEAL_SHRINK|unix.F_SEAL_GROW), nil)
	step("shrink", d.Truncate(ctx, 10), unix.EPERM)
	step("grow", d.Truncate(ctx, 1000), unix.EPERM)
	n, err := d.Pwrite(ctx, memory.Buffers{pattern[:20]}, 90)
	if n != 10 || err != nil {
		t.Errorf("a write over the end: %d %v", n, err)
	}
	step("seal writes and seals", f.AddSeals(unix.F_SEAL_WRITE|unix.F_SEAL_SEAL), nil)
	_, err = d.Pwrite(ctx, memory.Buffers{pattern[:1]}, 0)
	step("write", err, unix.EPERM)
	step("punch", d.Allocate(ctx, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 1), unix.EPERM)
	_, err = d.Mappable(ctx, memory.MapRequest{Shared: true, Prot: platform.Write})
	step("map for writing", err, unix.EPERM)
	_, err = d.Mappable(ctx, memory.MapRequest{Prot: platform.Write})
	step("map a private copy", err, nil)
	step("seal more", f.AddSeals(0), unix.EPERM)
	if s, err := f.Seals(); s != 0xf || err != nil {
		t.Errorf("seals are %#x %v", s, err)
	}
	step("open again", func() error {
		d2, err := vfs.OpenPath(ctx, d.Path(), unix.O_RDONLY)
		if err == nil {
			d2.Unref()
		}
		return err
	}(), nil)
}
