package devpts

import (
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// meta is what stat(2) tells of an inode of devpts.
type meta struct {
	fs   *FileSystem
	ino  uint64
	rdev uint64

	mu       sync.Mutex
	mode     uint32
	uid, gid uint32
	times    unix.Timespec // when it was made
	atime    unix.Timespec
	mtime    unix.Timespec
}

func (m *meta) Attr(vfs.Context) (vfs.Attr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := vfs.Attr{Dev: m.fs.dev, Ino: m.ino, Mode: m.mode, Nlink: 1, UID: m.uid, GID: m.gid, Rdev: m.rdev,
		BlockSize: 1024, Atime: later(m.atime, m.times), Mtime: later(m.mtime, m.times), Ctime: m.times}
	if a.Type() == unix.S_IFDIR {
		a.Nlink = 2
	}
	return a, nil
}

func later(t, or unix.Timespec) unix.Timespec {
	if t.Sec == 0 {
		return or
	}
	return t
}

func (m *meta) SetAttr(ctx vfs.Context, s vfs.SetAttr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.Mask&vfs.SetMode != 0 {
		m.mode = m.mode&unix.S_IFMT | s.Mode
	}
	if s.Mask&vfs.SetUID != 0 {
		m.uid = s.UID
	}
	if s.Mask&vfs.SetGID != 0 {
		m.gid = s.GID
	}
	if s.Mask&vfs.SetAtime != 0 {
		m.atime = s.Atime
	}
	if s.Mask&vfs.SetMtime != 0 {
		m.mtime = s.Mtime
	}
	m.times = ctx.Now()
	return nil
}

// touch updates a time of use. It goes in steps of eight seconds, so that nobody
// measures typing by it (drivers/tty/tty_io.c, tty_update_time).
func (m *meta) touch(t *unix.Timespec, now unix.Timespec) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sec>>3 != t.Sec>>3 {
		*t = unix.Timespec{Sec: now.Sec &^ 7}
	}
}

// ptmx makes a terminal each time it is opened.
type ptmx struct{ meta }

func (p *ptmx) Open(ctx vfs.Context, at vfs.Path, flags int) (vfs.File, error) {
	return p.fs.OpenMaster(ctx, flags, rootOf(at))
}

// rootOf is the root of the file system that at is in.
func rootOf(at vfs.Path) vfs.Path {
	if !at.Ok() {
		return at
	}
	for p := at.Dentry.Parent(); p != nil; p = at.Dentry.Parent() {
		at.Dentry = p
	}
	return at
}

// OpenPtmx opens the character device 5:2 that lies outside devpts: it belongs
// to the instance mounted on "pts" beside it (fs/devpts/inode.c,
// devpts_mntget).
func OpenPtmx(ctx vfs.Context, at vfs.Path, flags int) (vfs.File, error) {
	dir := at.Dentry.Parent()
	if dir == nil {
		return nil, unix.ENODEV
	}
	here := vfs.Path{Mount: at.Mount, Dentry: dir}
	pts, err := vfs.Resolve(vfs.SentryContext(), vfs.Start{Root: here, At: here}, "pts", 0)
	if err != nil {
		return nil, unix.ENODEV
	}
	fs, ok := pts.Mount.FS().(*FileSystem)
	if !ok {
		return nil, unix.ENODEV
	}
	return fs.OpenMaster(ctx, flags, pts)
}

// Open of a slave's inode.
func (t *Terminal) Open(ctx vfs.Context, at vfs.Path, flags int) (vfs.File, error) {
	return t.openSlave(ctx, flags)
}

// rootDir lists ptmx and the slaves. Nobody makes or removes names in it.
type rootDir struct{ meta }

func (d *rootDir) Volatile() bool { return true }

func (d *rootDir) Lookup(_ vfs.Context, name string) (vfs.Inode, error) {
	if name == "ptmx" {
		return d.fs.ptmx, nil
	}
	if t := d.fs.find(name); t != nil {
		return t, nil
	}
	return nil, unix.ENOENT
}

func (*rootDir) Make(vfs.Context, string, vfs.New) (vfs.Inode, error) { return nil, unix.EPERM }
func (*rootDir) Link(vfs.Context, string, vfs.Inode) error            { return unix.EPERM }
func (*rootDir) Unlink(vfs.Context, string) error                     { return unix.EPERM }
func (*rootDir) Rmdir(vfs.Context, string) error                      { return unix.EPERM }
func (*rootDir) Rename(vfs.Context, string, vfs.Directory, string, uint) error {
	return unix.EPERM
}

func (d *rootDir) Open(vfs.Context, vfs.Path, int) (vfs.File, error) {
	return &openDir{root: d}, nil
}

type openDir struct {
	vfs.NoFile
	root *rootDir
}

func (d *openDir) Read(vfs.Context, buffers, int64) (int, error) { return 0, unix.EISDIR }

func (d *openDir) ReadDir(_ vfs.Context, off int64, emit func(vfs.Dirent) bool) error {
	ts := d.root.fs.slaves()
	slices.SortFunc(ts, func(a, b *Terminal) int { return a.index - b.index })
	all := []vfs.Dirent{
		{Name: ".", Ino: 1, Type: unix.DT_DIR, Off: 1},
		{Name: "..", Ino: 1, Type: unix.DT_DIR, Off: 2},
		{Name: "ptmx", Ino: 2, Type: unix.DT_CHR, Off: 3},
	}
	for _, t := range ts {
		all = append(all, vfs.Dirent{Name: strconv.Itoa(t.index), Ino: t.ino, Type: unix.DT_CHR, Off: int64(t.index) + 4})
	}
	for _, e := range all {
		if e.Off > off && !emit(e) {
			break
		}
	}
	return nil
}

// HandleDevices makes /dev/ptmx (5:2) and /dev/tty (5:0) work wherever mknod(2)
// or a tmpfs puts them. sentry/boot calls it once.
func HandleDevices() {
	vfs.HandleDevice(unix.S_IFCHR, ptmxDev, OpenPtmx)
	vfs.HandleDevice(unix.S_IFCHR, unix.Mkdev(5, 0), func(ctx vfs.Context, _ vfs.Path, flags int) (vfs.File, error) {
		return OpenControlling(ctx, flags)
	})
}
