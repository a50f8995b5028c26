package overlay

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// Rename implements vfs.Directory. A directory that is merged takes a note along
// of where its lower parts are (redirect_dir), so that nothing in it need be copied.
func (d *dir) Rename(ctx vfs.Context, name string, newDir vfs.Directory, newName string, flags uint) error {
	to, ok := newDir.(*dir)
	if !ok || to.fs != d.fs {
		return unix.EXDEV
	}
	if flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return unix.EINVAL // fs/overlayfs/dir.c, ovl_rename_start
	}
	r := renaming{ctx: ctx, from: d, to: to, name: name, newName: newName, exchange: flags&unix.RENAME_EXCHANGE != 0}
	if err := r.look(); err != nil {
		return err
	}
	if d.fs.o.NoRedirect && (merged(r.source) || r.exchange && merged(r.target)) {
		return unix.EXDEV
	}
	if err := r.bringUp(); err != nil {
		return err
	}
	d.fs.tree.Lock()
	defer d.fs.tree.Unlock()
	return r.doLocked()
}

// merged: a directory that lower layers have a part in.
func merged(i vfs.Inode) bool {
	d, ok := i.(*dir)
	return ok && len(d.lowers) > 0
}

// renaming is one rename(2) under way.
type renaming struct {
	ctx            vfs.Context
	from, to       *dir
	name, newName  string
	exchange       bool
	source, target vfs.Inode // target is nil if there is none
	below, toBelow bool      // the lower layers show something at the names
}

func (r *renaming) look() (err error) {
	if r.source, err = r.from.Lookup(r.ctx, r.name); err != nil {
		return err
	}
	if r.target, err = r.to.Lookup(r.ctx, r.newName); err != nil && err != unix.ENOENT {
		return err
	}
	if t, ok := r.target.(*dir); ok && !r.exchange {
		if err := t.empty(r.ctx); err != nil {
			return err
		}
	}
	if r.below, err = r.from.below(r.ctx, r.name); err != nil {
		return err
	}
	r.toBelow, err = r.to.below(r.ctx, r.newName)
	return err
}

// bringUp copies up all that is changed.
func (r *renaming) bringUp() error {
	all := []*inode{&r.from.inode, &r.to.inode, r.source.(inner).base()}
	if r.exchange {
		all = append(all, r.target.(inner).base())
	}
	for _, i := range all {
		if err := i.copyUp(r.ctx, -1); err != nil {
			return err
		}
	}
	return nil
}

func (r *renaming) doLocked() error {
	if err := linkUpLocked(r.ctx, r.from, r.name, r.source); err != nil {
		return err
	}
	if r.exchange {
		return r.exchangeLocked()
	}
	if err := note(r.source, r.toBelow); err != nil {
		return err
	}
	cleared, err := r.clearLocked()
	if err != nil {
		return err
	}
	if err := r.from.upperDir().Rename(r.ctx, r.name, r.to.upperDir(), r.newName, 0); err != nil {
		if cleared {
			r.to.whiten(r.ctx, r.newName)
		}
		return err
	}
	if r.below {
		if err := r.from.whiten(r.ctx, r.name); err != nil {
			return err
		}
	}
	r.source.(inner).base().moved(r.to, r.newName)
	if r.target != nil {
		r.from.fs.lostLocked(r.ctx, r.target, r.to, r.newName)
	}
	return nil
}

// clearLocked makes the upper layer ready to take the source at the new name, and
// says whether it took a whiteout away.
func (r *renaming) clearLocked() (bool, error) {
	if t, ok := r.target.(*dir); ok {
		return false, t.sweepLocked(r.ctx)
	}
	if _, isDir := r.source.(*dir); isDir {
		return r.to.whiteLocked(r.ctx, r.newName)
	}
	return false, nil
}

func (r *renaming) exchangeLocked() error {
	if err := linkUpLocked(r.ctx, r.to, r.newName, r.target); err != nil {
		return err
	}
	if err := note(r.source, r.toBelow); err != nil {
		return err
	}
	if err := note(r.target, r.below); err != nil {
		return err
	}
	if err := r.from.upperDir().Rename(r.ctx, r.name, r.to.upperDir(), r.newName, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	r.source.(inner).base().moved(r.to, r.newName)
	r.target.(inner).base().moved(r.from, r.name)
	return nil
}

// note writes on a directory that is about to move what it is merged with there:
// what it was, or nothing.
func note(i vfs.Inode, below bool) error {
	d, ok := i.(*dir)
	if !ok {
		return nil
	}
	up, ctx := d.upperDir(), vfs.SentryContext()
	if len(d.lowers) > 0 {
		return setXattr(ctx, up, d.fs.attr.redirect, d.lowerPath)
	}
	if below {
		return setXattr(ctx, up, d.fs.attr.opaque, "y")
	}
	return nil
}

// linkUpLocked gives i the name that it has below above, too: another name of it
// was copied up.
func linkUpLocked(ctx vfs.Context, d *dir, name string, i vfs.Inode) error {
	f, ok := i.(*file)
	if !ok || !f.linked() {
		return nil
	}
	if _, err := d.upperDir().Lookup(ctx, name); err != unix.ENOENT {
		return err
	}
	return d.upperDir().Link(ctx, name, f.real())
}

// moved hears of i's new name.
func (i *inode) moved(parent *dir, name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.parent, i.name = parent, name
}
