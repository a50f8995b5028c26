package overlay

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// prepare brings d up and locks the tree for a change at name in it.
func (d *dir) prepare(ctx vfs.Context) (unlock func(), err error) {
	if err := d.copyUp(ctx, -1); err != nil {
		return nil, err
	}
	d.fs.tree.Lock()
	return d.fs.tree.Unlock, nil
}

// whiteLocked takes a whiteout at name away and says whether there was one.
func (d *dir) whiteLocked(ctx vfs.Context, name string) (bool, error) {
	i, err := d.upperDir().Lookup(ctx, name)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	white, _, err := look(ctx, i)
	if err != nil || !white {
		return false, err
	}
	return true, d.upperDir().Unlink(ctx, name)
}

// whiten hides what the lower layers have at name.
func (d *dir) whiten(ctx vfs.Context, name string) error {
	_, err := d.upperDir().Make(ctx, name, vfs.New{Mode: unix.S_IFCHR})
	return err
}

// Make implements vfs.Directory.
func (d *dir) Make(ctx vfs.Context, name string, n vfs.New) (vfs.Inode, error) {
	if n.Mode&unix.S_IFMT == unix.S_IFCHR && n.Rdev == 0 {
		return nil, unix.EPERM // fs/overlayfs/dir.c, ovl_mknod
	}
	i, err := d.make(ctx, name, func(up vfs.Directory) (vfs.Inode, error) { return up.Make(ctx, name, n) })
	if err != nil {
		return nil, err
	}
	return d.fs.adopt(&found{upper: i}, d, name)
}

// make makes something at name, where there may be a whiteout.
func (d *dir) make(ctx vfs.Context, name string, how func(up vfs.Directory) (vfs.Inode, error)) (vfs.Inode, error) {
	unlock, err := d.prepare(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	white, err := d.whiteLocked(ctx, name)
	if err != nil {
		return nil, err
	}
	i, err := how(d.upperDir())
	if err != nil {
		if white {
			d.whiten(vfs.SentryContext(), name)
		}
		return nil, err
	}
	if _, isDir := i.(vfs.Directory); isDir && white {
		if err := setXattr(vfs.SentryContext(), i, d.fs.attr.opaque, "y"); err != nil {
			d.upperDir().Rmdir(ctx, name)
			d.whiten(vfs.SentryContext(), name)
			return nil, err
		}
	}
	return i, nil
}

// MakeTemp implements vfs.TempMaker.
func (d *dir) MakeTemp(ctx vfs.Context, n vfs.New) (vfs.Inode, error) {
	if err := d.copyUp(ctx, -1); err != nil {
		return nil, err
	}
	t, ok := d.upperDir().(vfs.TempMaker)
	if !ok {
		return nil, unix.EOPNOTSUPP
	}
	i, err := t.MakeTemp(ctx, n)
	if err != nil {
		return nil, err
	}
	return d.fs.adopt(&found{upper: i}, nil, "")
}

// Link implements vfs.Directory.
func (d *dir) Link(ctx vfs.Context, name string, target vfs.Inode) error {
	t := target.(inner).base()
	if err := t.copyUp(ctx, -1); err != nil {
		return err
	}
	_, err := d.make(ctx, name, func(up vfs.Directory) (vfs.Inode, error) {
		return target, up.Link(ctx, name, t.real())
	})
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.links > 0 {
		t.links++
	}
	t.parent, t.name, t.dead = d, name, false
	return nil
}

// Unlink implements vfs.Directory.
func (d *dir) Unlink(ctx vfs.Context, name string) error {
	victim, err := d.Lookup(ctx, name)
	if err != nil {
		return err
	}
	unlock, err := d.prepare(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.removeLocked(ctx, name, d.upperDir().Unlink); err != nil {
		return err
	}
	d.fs.lostLocked(ctx, victim, d, name)
	return nil
}

// removeLocked takes name out of the upper layer, if it is there, and hides it in
// the lower ones, if it is there.
func (d *dir) removeLocked(ctx vfs.Context, name string, remove func(vfs.Context, string) error) error {
	below, err := d.below(ctx, name)
	if err != nil {
		return err
	}
	if err := remove(ctx, name); err != nil && err != unix.ENOENT {
		return err
	}
	if below {
		return d.whiten(ctx, name)
	}
	return nil
}

// lostLocked hears that v's name in d went.
func (f *FS) lostLocked(ctx vfs.Context, v vfs.Inode, d *dir, name string) {
	i := v.(inner).base()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.parent == d && i.name == name {
		i.parent, i.name = nil, "" // another name may be left, but we do not know which
	}
	switch {
	case i.links > 1:
		i.links--
		return
	case i.links == 1:
		i.links, i.dead = 0, true
		f.forgetLinks(ctx, v.(*file))
	case i.above():
		a, err := i.real().Attr(ctx)
		if err == nil && a.Nlink > 0 && i.kind != unix.S_IFDIR {
			return
		}
		i.dead = true
		f.mu.Lock()
		delete(f.origins, object{a.Dev, a.Ino})
		f.mu.Unlock()
	default:
		i.gone++
		if a, err := i.lower.Attr(ctx); err != nil || uint32(i.gone) >= a.Nlink || i.kind == unix.S_IFDIR {
			i.dead = true
		}
	}
}

// forgetLinks ends what hardlinksLocked began. The caller holds tree and v.mu.
func (f *FS) forgetLinks(ctx vfs.Context, v *file) {
	a, err := v.real().Attr(ctx)
	f.o.Work.Unlink(ctx, v.index)
	v.index = ""
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.linked, v.lower)
	if err == nil {
		delete(f.origins, object{a.Dev, a.Ino})
	}
}

// Rmdir implements vfs.Directory.
func (d *dir) Rmdir(ctx vfs.Context, name string) error {
	i, err := d.Lookup(ctx, name)
	if err != nil {
		return err
	}
	victim, ok := i.(*dir)
	if !ok {
		return unix.ENOTDIR
	}
	if err := victim.empty(ctx); err != nil {
		return err
	}
	unlock, err := d.prepare(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := victim.sweepLocked(ctx); err != nil {
		return err
	}
	if err := d.removeLocked(ctx, name, d.upperDir().Rmdir); err != nil {
		return err
	}
	d.fs.lostLocked(ctx, victim, d, name)
	return nil
}

// empty is ENOTEMPTY if there are names in d.
func (d *dir) empty(ctx vfs.Context) error {
	names, err := d.merge(ctx)
	if err == nil && len(names) > 0 {
		err = unix.ENOTEMPTY
	}
	return err
}

// sweepLocked takes the whiteouts out of a directory that is empty to look at.
func (d *dir) sweepLocked(ctx vfs.Context) error {
	up := d.upperDir()
	if up == nil {
		return nil
	}
	names, err := list(ctx, up)
	if err != nil {
		return err
	}
	for _, e := range names {
		if _, err := d.whiteLocked(ctx, e.Name); err != nil {
			return err
		}
	}
	return nil
}
