package gofer

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
	"bulkhead/sentry/vfs"
)

// Open implements vfs.Inode.
func (d *dir) Open(_ vfs.Context, at vfs.Path, _ int) (vfs.File, error) {
	d.hold()
	return &openDir{dir: d, at: at}, nil
}

// openDir is an open directory. What it lists is as it was when its start was
// last read.
type openDir struct {
	vfs.NoFile
	dir  *dir
	at   vfs.Path
	list []vfs.Dirent
	read bool // list has been asked for
}

// ReadDir implements vfs.DirReader. Position 0 is ".", 1 is "..", the rest follows.
func (o *openDir) ReadDir(ctx vfs.Context, off int64, emit func(vfs.Dirent) bool) error {
	if off == 0 || !o.read {
		if err := o.fill(ctx); err != nil {
			return err
		}
	}
	for i := max(off, 0); i < int64(len(o.list)); i++ {
		if !emit(o.list[i]) {
			return nil
		}
	}
	return nil
}

func (o *openDir) fill(ctx vfs.Context) error {
	o.list, o.read = o.list[:0], true
	o.add(".", o.dir.ino(), unix.DT_DIR)
	up := o.dir.ino()
	if o.at.Dentry != nil && o.at.Dentry.Parent() != nil {
		if a, err := o.at.Dentry.Parent().Inode().Attr(ctx); err == nil {
			up = a.Ino
		}
	}
	o.add("..", up, unix.DT_DIR)
	complete, local := o.dir.local()
	switch {
	case local != nil:
		o.list = append(o.list, local...)
		return nil
	case complete, !o.dir.fs.exclusive():
		return o.fillNames()
	}
	return o.fillEntries()
}

// local says whether all names are known, and lists them if all that a list tells is.
func (d *dir) local() (complete bool, list []vfs.Dirent) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.complete {
		return false, nil
	}
	list = make([]vfs.Dirent, 0, len(d.names))
	for name, h := range d.names {
		e, ok := h.dirent()
		if !ok {
			return true, nil
		}
		e.Name = name
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b vfs.Dirent) int { return strings.Compare(a.Name, b.Name) })
	for i := range list {
		list[i].Off = int64(i) + 3 // behind "." and ".."
	}
	return true, list
}

// dirent is what a list tells of what h knows.
func (h *hint) dirent() (e vfs.Dirent, ok bool) {
	if h == nil {
		return e, false
	}
	if h.attr != nil {
		return vfs.Dirent{Ino: h.attr.Ino, Type: uint8(h.attr.Mode >> 12)}, true // IFTODT
	}
	i := h.ahead
	if h.child != nil {
		i = h.child.get()
	}
	if i == nil {
		return e, false
	}
	b := inodeOf(i)
	return vfs.Dirent{Ino: b.ino(), Type: uint8(b.kind >> 12)}, true
}

func (i *inode) ino() uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.attr.Ino
}

func (o *openDir) add(name string, ino uint64, kind uint8) {
	o.list = append(o.list, vfs.Dirent{Name: name, Ino: ino, Type: kind, Off: int64(len(o.list)) + 1})
}

// fillNames asks for names alone: attributes are known already, or would not be
// believed when they are wanted.
func (o *openDir) fillNames() error {
	q := wire.Request{Op: wire.Names}
	for {
		r, err := o.dir.child(q)
		if err != nil {
			return err
		}
		for _, e := range r.Short {
			o.add(e.Name, e.Ino, e.Type)
			q.Offset = e.Cookie
		}
		if r.End || len(r.Short) == 0 {
			return nil
		}
		if len(o.list) > maxList {
			return unix.EIO // it goes round in circles
		}
	}
}

// maxList is more than the names of any directory that fits in memory here.
const maxList = 8 << 20

// fillEntries asks for attributes as well: who lists a directory often wants
// them next, one by one. A big directory's are not worth their memory.
func (o *openDir) fillEntries() error {
	const many = 4096
	q := wire.Request{Op: wire.ReadDir}
	var all []wire.Entry
	for {
		r, err := o.dir.child(q)
		if err != nil {
			return err
		}
		for i := range r.Entries {
			e := &r.Entries[i]
			o.add(e.Name, e.Attr.Ino, uint8(e.Attr.Mode>>12)) // IFTODT
			q.Offset = e.Cookie
		}
		if len(all) <= many {
			all = append(all, r.Entries...)
		}
		if r.End || len(r.Entries) == 0 {
			o.dir.note(all, len(all) <= many)
			return nil
		}
		if len(o.list) > maxList {
			return unix.EIO
		}
	}
}

// Fsync implements vfs.Syncer.
func (o *openDir) Fsync(vfs.Context, bool) error {
	_, err := o.dir.callByID(wire.Request{Op: wire.Fsync})
	return err
}

// callByID sends q, which has no name, about i.
func (i *inode) callByID(q wire.Request) (r wire.Reply, err error) {
	if q.ID, err = i.need(); err != nil {
		return wire.Reply{FD: -1}, err
	}
	return i.fs.conn.Call(&q)
}

// Release implements vfs.File.
func (o *openDir) Release() { o.dir.letGo() }
