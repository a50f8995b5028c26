package kernfs

import (
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// Entry is one changing name of a directory.
type Entry struct {
	Name string
	Ino  uint64
	Type uint8 // unix.DT_…
	// Key orders entries and is where readdir goes on; it is 0 or more and unique.
	Key int64
}

// Dir is a directory: fixed names first, then changing ones.
type Dir struct {
	Node
	// Find looks up a changing name; it returns the same inode for the same object
	// as long as it can. List returns them sorted by Key. Both may be nil.
	Find func(ctx vfs.Context, name string) (vfs.Inode, error)
	List func(ctx vfs.Context) ([]Entry, error)
	// Links is what to add to the link count for subdirectories.
	Links func() uint32

	mu    sync.Mutex
	names []string // fixed, in order
	nodes map[string]vfs.Inode
	lazy  map[string]func() vfs.Inode
}

// NewDir makes an empty directory.
func (fs *FileSystem) NewDir(perm uint32) *Dir {
	return &Dir{Node: fs.NewNode(unix.S_IFDIR | perm), nodes: map[string]vfs.Inode{}}
}

// Add puts a fixed name into d. It returns d.
func (d *Dir) Add(name string, i vfs.Inode) *Dir {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names = append(d.names, name)
	d.nodes[name] = i
	return d
}

// AddLazy puts a name into d whose inode is made when somebody asks for it.
func (d *Dir) AddLazy(name string, mk func() vfs.Inode) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lazy == nil {
		d.lazy = map[string]func() vfs.Inode{}
	}
	d.names = append(d.names, name)
	d.lazy[name] = mk
}

// Sub makes a directory in d, or finds it.
func (d *Dir) Sub(name string) *Dir {
	if i, ok := d.fixed(name); ok {
		return i.(*Dir)
	}
	s := d.fs.NewDir(0o555)
	s.Owner = d.Owner
	d.Add(name, s)
	return s
}

// fixed finds a fixed name.
func (d *Dir) fixed(name string) (vfs.Inode, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i, ok := d.nodes[name]; ok {
		return i, true
	}
	mk, ok := d.lazy[name]
	if !ok {
		return nil, false
	}
	i := mk()
	d.nodes[name] = i
	delete(d.lazy, name)
	return i, true
}

// Volatile says that names come and go without the dentry cache's knowledge.
func (d *Dir) Volatile() bool { return d.Find != nil }

// Lookup finds a name.
func (d *Dir) Lookup(ctx vfs.Context, name string) (vfs.Inode, error) {
	if i, ok := d.fixed(name); ok {
		return i, nil
	}
	if d.Find != nil {
		return d.Find(ctx, name)
	}
	return nil, unix.ENOENT
}

// Attr counts subdirectories as links.
func (d *Dir) Attr(ctx vfs.Context) (vfs.Attr, error) {
	a, err := d.Node.Attr(ctx)
	a.Nlink = 2
	if d.Links != nil {
		a.Nlink += d.Links()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range maps.Values(d.nodes) {
		if _, ok := i.(*Dir); ok {
			a.Nlink++
		}
	}
	return a, err
}

// Make refuses. In /proc the lookup of a name that is not there fails before
// (fs/proc/base.c, proc_pident_lookup), elsewhere the directory has no such operation.
func (d *Dir) Make(vfs.Context, string, vfs.New) (vfs.Inode, error) {
	if d.fs.NoNew {
		return nil, unix.ENOENT
	}
	return nil, unix.EPERM
}

func (*Dir) Link(vfs.Context, string, vfs.Inode) error { return unix.EPERM }
func (*Dir) Unlink(vfs.Context, string) error          { return unix.EPERM }
func (*Dir) Rmdir(vfs.Context, string) error           { return unix.EPERM }
func (*Dir) Rename(vfs.Context, string, vfs.Directory, string, uint) error {
	return unix.EPERM
}

// Open lists the directory.
func (d *Dir) Open(_ vfs.Context, at vfs.Path, _ int) (vfs.File, error) {
	return &openDir{d: d, at: at}, nil
}

type openDir struct {
	vfs.NoFile
	d  *Dir
	at vfs.Path
}

func (o *openDir) Read(vfs.Context, buffers, int64) (int, error) { return 0, unix.EISDIR }

// ReadDir emits "." and "..", the fixed names at positions from 2 on, and the
// changing ones behind.
func (o *openDir) ReadDir(ctx vfs.Context, off int64, emit func(vfs.Dirent) bool) error {
	d := o.d
	d.mu.Lock()
	names := slices.Clone(d.names)
	d.mu.Unlock()
	for i := off; i < int64(len(names))+2; i++ {
		if !emit(o.fixed(ctx, i, names)) {
			return nil
		}
	}
	if d.List == nil {
		return nil
	}
	list, err := d.List(ctx)
	if err != nil {
		return err
	}
	base := int64(len(names)) + 3
	for _, e := range list {
		if at := base + e.Key; at > off && !emit(vfs.Dirent{Name: e.Name, Ino: e.Ino, Type: e.Type, Off: at}) {
			return nil
		}
	}
	return nil
}

func (o *openDir) fixed(ctx vfs.Context, i int64, names []string) vfs.Dirent {
	e := vfs.Dirent{Ino: o.d.ino, Type: unix.DT_DIR, Off: i + 1}
	switch i {
	case 0:
		e.Name = "."
		return e
	case 1:
		e.Name = ".."
		if o.at.Ok() && o.at.Dentry.Parent() != nil {
			if a, err := o.at.Dentry.Parent().Inode().Attr(ctx); err == nil {
				e.Ino = a.Ino
			}
		}
		return e
	}
	e.Name = names[i-2]
	if n, ok := o.d.fixed(e.Name); ok {
		if a, err := n.Attr(ctx); err == nil {
			e.Ino, e.Type = a.Ino, uint8(a.Mode>>12&15)
		}
	}
	return e
}
