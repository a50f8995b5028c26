package tmpfs

import (
	"slices"
	"sort"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// dir is a directory. Names are also kept in the order of their cookies, which
// are the positions of readdir: one that was never given again survives any
// change meanwhile.
type dir struct {
	inode
	parent *dir // of the root: itself
	byName map[string]*entry
	order  []*entry // by cookie
	gone   int      // entries of order without a node
	last   int64    // cookie given last
}

// firstCookie comes after "." and "..".
const firstCookie = 2

type entry struct {
	name   string
	cookie int64
	node   node // nil: removed
}

func (d *dir) addLocked(name string, n node) {
	d.last = max(d.last+1, firstCookie)
	e := &entry{name, d.last, n}
	if d.byName == nil {
		d.byName = make(map[string]*entry)
	}
	d.byName[name] = e
	d.order = append(d.order, e)
	d.attr.Size += direntSize
}

func (d *dir) removeLocked(e *entry) {
	delete(d.byName, e.name)
	e.node = nil
	d.attr.Size -= direntSize
	if d.gone++; d.gone > 16 && d.gone > len(d.order)/2 {
		d.order = slices.DeleteFunc(d.order, func(e *entry) bool { return e.node == nil })
		d.gone = 0
	}
}

// Lookup implements vfs.Directory.
func (d *dir) Lookup(_ vfs.Context, name string) (vfs.Inode, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.byName[name]; e != nil {
		return e.node, nil
	}
	return nil, unix.ENOENT
}

// make makes an inode that has no name yet.
func (fs *FileSystem) make(ctx vfs.Context, n vfs.New) (node, error) {
	if err := fs.takeInode(); err != nil {
		return nil, err
	}
	var i node
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		i = &dir{}
	case unix.S_IFREG:
		i = newRegular(fs)
	case unix.S_IFLNK:
		i = &symlink{target: n.Target}
	default:
		i = &special{typ: n.Mode & unix.S_IFMT}
	}
	b := i.base()
	b.init(ctx, fs, n)
	switch b.attr.Type() {
	case unix.S_IFDIR:
		b.attr.Nlink, b.attr.Size = 2, 2*direntSize
	case unix.S_IFLNK:
		b.attr.Size = int64(len(n.Target))
		if len(n.Target) >= shortSymlink {
			b.attr.Blocks = pageSize / 512
		}
	}
	return i, nil
}

// Make implements vfs.Directory.
func (d *dir) Make(ctx vfs.Context, name string, n vfs.New) (vfs.Inode, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byName[name] != nil {
		return nil, unix.EEXIST
	}
	if d.attr.Nlink == 0 {
		return nil, unix.ENOENT
	}
	i, err := d.fs.make(ctx, n)
	if err != nil {
		return nil, err
	}
	if c, ok := i.(*dir); ok {
		c.parent = d
		d.attr.Nlink++
	}
	d.addLocked(name, i)
	d.modifiedLocked(ctx)
	return i, nil
}

// MakeTemp implements vfs.TempMaker.
func (d *dir) MakeTemp(ctx vfs.Context, n vfs.New) (vfs.Inode, error) {
	i, err := d.fs.make(ctx, n)
	if err != nil {
		return nil, err
	}
	i.base().attr.Nlink = 0
	if r, ok := i.(*regular); ok {
		r.linkable = n.Linkable
	}
	return i, nil
}

// Link implements vfs.Directory.
func (d *dir) Link(ctx vfs.Context, name string, target vfs.Inode) error {
	t, ok := target.(node)
	if !ok {
		return unix.EXDEV
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byName[name] != nil {
		return unix.EEXIST
	}
	b := t.base()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.attr.Nlink == 0 {
		r, ok := t.(*regular)
		if !ok || !r.linkable || r.object == nil {
			return unix.ENOENT
		}
		r.linkable = false
	}
	if b.attr.Nlink > 0 { // a further name costs as much as an inode (shmem_link)
		if err := d.fs.takeInode(); err != nil {
			return err
		}
	}
	b.attr.Nlink++
	b.attr.Ctime = ctx.Now()
	d.addLocked(name, t)
	d.modifiedLocked(ctx)
	return nil
}

// Unlink implements vfs.Directory.
func (d *dir) Unlink(ctx vfs.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.byName[name]
	if e == nil {
		return unix.ENOENT
	}
	if _, ok := e.node.(*dir); ok {
		return unix.EISDIR
	}
	n := e.node
	d.removeLocked(e)
	d.modifiedLocked(ctx)
	unlink(ctx, n)
	return nil
}

// unlink takes one link from n.
func unlink(ctx vfs.Context, n node) {
	b := n.base()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.attr.Nlink > 1 {
		b.fs.inodes.Add(-1)
	}
	b.attr.Nlink--
	b.attr.Ctime = ctx.Now()
	n.unlinkedLocked()
}

// Rmdir implements vfs.Directory.
func (d *dir) Rmdir(ctx vfs.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.byName[name]
	if e == nil {
		return unix.ENOENT
	}
	c, ok := e.node.(*dir)
	if !ok {
		return unix.ENOTDIR
	}
	if err := c.kill(ctx); err != nil {
		return err
	}
	d.attr.Nlink--
	d.removeLocked(e)
	d.modifiedLocked(ctx)
	return nil
}

// kill makes d, which must be empty, a removed directory.
func (d *dir) kill(ctx vfs.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.byName) != 0 {
		return unix.ENOTEMPTY
	}
	d.attr.Nlink = 0
	d.attr.Ctime = ctx.Now()
	d.fs.inodes.Add(-1)
	return nil
}

// Rename implements vfs.Directory.
func (d *dir) Rename(ctx vfs.Context, name string, newDir vfs.Directory, newName string, flags uint) error {
	to, ok := newDir.(*dir)
	if !ok || to.fs != d.fs {
		return unix.EXDEV
	}
	defer lockTwo(d, to)()
	src, dst := d.byName[name], to.byName[newName]
	switch {
	case src == nil, dst == nil && flags&unix.RENAME_EXCHANGE != 0:
		return unix.ENOENT
	case dst != nil && flags&unix.RENAME_NOREPLACE != 0:
		return unix.EEXIST
	}
	if flags&unix.RENAME_EXCHANGE != 0 {
		exchange(ctx, d, to, src, dst)
		return nil
	}
	var whiteout node
	if flags&unix.RENAME_WHITEOUT != 0 {
		n := vfs.New{Mode: unix.S_IFCHR, UID: ctx.Creds().FSUID, GID: ctx.Creds().FSGID}
		if d.attr.Mode&unix.S_ISGID != 0 {
			n.GID = d.attr.GID
		}
		w, err := d.fs.make(ctx, n)
		if err != nil {
			return err
		}
		whiteout = w
	}
	if dst != nil {
		if err := to.replaceLocked(ctx, src.node, dst); err != nil {
			return err
		}
	}
	n := src.node
	d.removeLocked(src)
	to.addLocked(newName, n)
	moved(ctx, n, d, to)
	if whiteout != nil {
		d.addLocked(name, whiteout)
	}
	d.modifiedLocked(ctx)
	to.modifiedLocked(ctx)
	return nil
}

// replaceLocked removes dst from d to make room for n.
func (d *dir) replaceLocked(ctx vfs.Context, n node, dst *entry) error {
	_, fromDir := n.(*dir)
	old, toDir := dst.node.(*dir)
	switch {
	case fromDir && !toDir:
		return unix.ENOTDIR
	case !fromDir && toDir:
		return unix.EISDIR
	case toDir:
		if err := old.kill(ctx); err != nil {
			return err
		}
		d.attr.Nlink--
		d.removeLocked(dst)
	default:
		victim := dst.node
		d.removeLocked(dst)
		unlink(ctx, victim)
	}
	return nil
}

// moved tells n that it went from one directory to another.
func moved(ctx vfs.Context, n node, from, to *dir) {
	b := n.base()
	b.mu.Lock()
	b.attr.Ctime = ctx.Now()
	if c, ok := n.(*dir); ok {
		c.parent = to
		from.attr.Nlink--
		to.attr.Nlink++
	}
	b.mu.Unlock()
}

func exchange(ctx vfs.Context, a, b *dir, x, y *entry) {
	x.node, y.node = y.node, x.node
	moved(ctx, y.node, a, b)
	moved(ctx, x.node, b, a)
	a.modifiedLocked(ctx)
	b.modifiedLocked(ctx)
}

func lockTwo(a, b *dir) (unlock func()) {
	if a == b {
		a.mu.Lock()
		return a.mu.Unlock
	}
	if a.attr.Ino > b.attr.Ino { // Ino never changes
		a, b = b, a
	}
	a.mu.Lock()
	b.mu.Lock()
	return func() {
		b.mu.Unlock()
		a.mu.Unlock()
	}
}

// releaseAll frees what is below d.
func (d *dir) releaseAll() {
	d.mu.Lock()
	all := d.byName
	d.byName, d.order = nil, nil
	d.mu.Unlock()
	for _, e := range all {
		switch n := e.node.(type) {
		case *dir:
			n.releaseAll()
		case *regular:
			unlink(vfs.SentryContext(), n)
		}
	}
}

// Open implements vfs.Inode.
func (d *dir) Open(_ vfs.Context, _ vfs.Path, flags int) (vfs.File, error) {
	return &dirFile{d: d, noAtime: flags&unix.O_NOATIME != 0}, nil
}

// dirFile is an open directory.
type dirFile struct {
	vfs.NoFile
	d       *dir
	noAtime bool
}

// ReadDir implements vfs.DirReader. "." and ".." are at positions 0 and 1, an
// entry at its cookie.
func (f *dirFile) ReadDir(ctx vfs.Context, off int64, emit func(vfs.Dirent) bool) error {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if !f.noAtime {
		d.accessedLocked(ctx)
	}
	if off == 0 {
		if !emit(vfs.Dirent{Name: ".", Ino: d.attr.Ino, Type: unix.DT_DIR, Off: 1}) {
			return nil
		}
		off = 1
	}
	if off == 1 {
		if !emit(vfs.Dirent{Name: "..", Ino: d.parent.attr.Ino, Type: unix.DT_DIR, Off: firstCookie}) {
			return nil
		}
		off = firstCookie
	}
	from := sort.Search(len(d.order), func(i int) bool { return d.order[i].cookie >= off })
	for _, e := range d.order[from:] {
		if e.node == nil {
			continue
		}
		a := &e.node.base().attr // Ino and the type never change
		if !emit(vfs.Dirent{Name: e.name, Ino: a.Ino, Type: direntType(e.node), Off: e.cookie + 1}) {
			return nil
		}
	}
	return nil
}

func direntType(n node) uint8 {
	switch n := n.(type) {
	case *dir:
		return unix.DT_DIR
	case *regular:
		return unix.DT_REG
	case *symlink:
		return unix.DT_LNK
	case *special:
		return uint8(n.typ >> 12)
	}
	return unix.DT_UNKNOWN
}
