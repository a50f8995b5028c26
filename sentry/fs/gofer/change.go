package gofer

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
	"bulkhead/sentry/vfs"
)

// makeOps are the requests that make each type.
var makeOps = map[uint32]wire.Op{
	unix.S_IFREG: wire.Create, unix.S_IFDIR: wire.Mkdir, unix.S_IFLNK: wire.Symlink,
	unix.S_IFIFO: wire.Mknod, unix.S_IFSOCK: wire.Mknod, unix.S_IFCHR: wire.Mknod, unix.S_IFBLK: wire.Mknod,
}

// Make implements vfs.Directory. A regular file comes open.
func (d *dir) Make(_ vfs.Context, name string, n vfs.New) (vfs.Inode, error) {
	op, ok := makeOps[n.Mode&unix.S_IFMT]
	if !ok {
		return nil, unix.EINVAL
	}
	uid, gid, err := d.fs.keptIDs(n.UID, n.GID)
	if err != nil {
		return nil, err
	}
	r, err := d.child(wire.Request{Op: op, Name: name, Mode: n.Mode, UID: uid, GID: gid, Rdev: n.Rdev, Target: n.Target})
	if err != nil {
		return nil, err
	}
	d.learn(&r.Dir)
	i := d.fs.adopt(&r.Attr, r.ID, n.Target, d.forName(), name)
	d.noteChild(name, i)
	switch i := i.(type) {
	case *file:
		i.provide(r.FD)
	case *dir:
		i.note(nil, true) // a new directory is empty
	}
	return i, nil
}

// forName is d where a child may be found by its name.
func (d *dir) forName() *dir {
	if d.fs.exclusive() {
		return d
	}
	return nil
}

// MakeTemp implements vfs.TempMaker.
func (d *dir) MakeTemp(_ vfs.Context, n vfs.New) (vfs.Inode, error) {
	id, err := d.need()
	if err != nil {
		return nil, err
	}
	uid, gid, err := d.fs.keptIDs(n.UID, n.GID)
	if err != nil {
		return nil, err
	}
	r, err := d.fs.conn.Call(&wire.Request{Op: wire.Tmpfile, ID: id, Mode: n.Mode, UID: uid, GID: gid})
	if err != nil {
		return nil, err
	}
	i := d.fs.adopt(&r.Attr, r.ID, "", nil, "").(*file)
	i.provide(r.FD)
	i.inode.mu.Lock()
	i.dead = true // until Link; its user's last descriptor is its end
	i.linkable = n.Linkable
	i.temp = true
	i.inode.mu.Unlock()
	return i, nil
}

// Link implements vfs.Directory.
func (d *dir) Link(_ vfs.Context, name string, target vfs.Inode) error {
	t := inodeOf(target)
	if f, ok := target.(*file); ok && f.temp && !f.linkable {
		return unix.ENOENT
	}
	to, err := d.need()
	if err != nil {
		return err
	}
	r, err := t.call(wire.Request{Op: wire.Link, To: to, ToName: name})
	if err != nil {
		return err
	}
	d.learn(&r.ToDir)
	t.linked(&r.Attr, d.forName(), name)
	d.noteChild(name, target)
	return nil
}

// linked hears that i has another name.
func (i *inode) linked(a *wire.Attr, parent *dir, name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.dead = false
	i.parent, i.name = parent, name
	i.attr = *a
}

// Unlink implements vfs.Directory.
func (d *dir) Unlink(ctx vfs.Context, name string) error { return d.remove(ctx, name, 0) }

// Rmdir implements vfs.Directory.
func (d *dir) Rmdir(ctx vfs.Context, name string) error {
	return d.remove(ctx, name, unix.AT_REMOVEDIR)
}

func (d *dir) remove(ctx vfs.Context, name string, flags uint32) error {
	victim, err := d.victim(ctx, name)
	if err != nil {
		return err
	}
	r, err := d.child(wire.Request{Op: wire.Unlink, Name: name, Flags: flags})
	if err != nil {
		return err
	}
	d.learn(&r.Dir)
	d.dropName(name)
	inodeOf(victim).lost(flags != 0)
	return nil
}

// victim is the inode that name leads to, which is about to lose this name. If
// it will live on it needs an id now.
func (d *dir) victim(ctx vfs.Context, name string) (vfs.Inode, error) {
	v, err := d.present(ctx, name)
	if err != nil {
		return nil, err
	}
	i := inodeOf(v)
	i.mu.Lock()
	lives := i.users > 0 || i.attr.Nlink > 1 && i.kind != unix.S_IFDIR
	i.mu.Unlock()
	if lives {
		if _, err := i.need(); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// present is the inode that name leads to; the caller has looked it up just now.
func (d *dir) present(ctx vfs.Context, name string) (vfs.Inode, error) {
	if i := d.lookedUp(name); i != nil {
		return i, nil
	}
	return d.Lookup(ctx, name)
}

// Rename implements vfs.Directory.
func (d *dir) Rename(ctx vfs.Context, name string, newDir vfs.Directory, newName string, flags uint) error {
	to, ok := newDir.(*dir)
	if !ok || to.fs != d.fs {
		return unix.EXDEV
	}
	source, err := d.present(ctx, name)
	if err != nil {
		return err
	}
	target, err := to.victim(ctx, newName)
	if err != nil && err != unix.ENOENT {
		return err
	}
	toID, err := to.need()
	if err != nil {
		return err
	}
	r, err := d.child(wire.Request{Op: wire.Rename, Name: name, To: toID, ToName: newName, Flags: uint32(flags)})
	if err != nil {
		d.stale() // ext4 leaves traces of a whiteout that it could not make
		return err
	}
	d.learn(&r.Dir)
	to.learn(&r.ToDir)
	inodeOf(source).moved(to.forName(), newName)
	to.noteChild(newName, source)
	switch {
	case flags&unix.RENAME_EXCHANGE != 0:
		inodeOf(target).moved(d.forName(), name)
		d.noteChild(name, target)
	default:
		if flags&unix.RENAME_WHITEOUT == 0 {
			d.dropName(name)
		} else {
			d.setName(name, nil)
		}
		if target != nil {
			_, isDir := target.(*dir)
			inodeOf(target).lost(isDir)
		}
	}
	return nil
}

// moved hears that a name of i is another one now. Its change time is too.
func (i *inode) moved(parent *dir, name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.parent, i.name = parent, name
	i.staleLocked()
}
