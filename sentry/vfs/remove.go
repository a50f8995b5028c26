package vfs

import "golang.org/x/sys/unix"

// Unlink is unlinkat(2) without AT_REMOVEDIR.
func Unlink(ctx Context, s Start, name string) error {
	p, err := parentOf(ctx, s, name)
	if err != nil {
		return err
	}
	if !p.normal() {
		return unix.EISDIR
	}
	if p.dir.Mount.ReadOnly() {
		return unix.EROFS
	}
	d := p.dir.Dentry
	d.mu.Lock()
	defer d.mu.Unlock()
	c, err := d.victimLocked(ctx, p.last)
	if err != nil {
		return err
	}
	if p.slash {
		if c.dir != nil {
			return unix.EISDIR
		}
		return unix.ENOTDIR
	}
	if err := mayDelete(ctx, d, c, false); err != nil {
		return err
	}
	if c.mounts.Load() != 0 {
		return unix.EBUSY
	}
	if err := d.dir.Unlink(ctx, p.last); err != nil {
		return err
	}
	d.killLocked(p.last, c)
	tellUnlinked(ctx, c.inode)
	tell(d.inode, unix.IN_DELETE, 0, p.last)
	return nil
}

// victimLocked finds what is to be removed or renamed.
func (d *Dentry) victimLocked(ctx Context, name string) (*Dentry, error) {
	if len(name) > maxName {
		return nil, unix.ENAMETOOLONG
	}
	return d.childLocked(ctx, name)
}

// Rmdir is rmdir(2).
func Rmdir(ctx Context, s Start, name string) error {
	p, err := parentOf(ctx, s, name)
	if err != nil {
		return err
	}
	switch p.last {
	case "..":
		return unix.ENOTEMPTY
	case ".":
		return unix.EINVAL
	case "":
		return unix.EBUSY
	}
	if p.dir.Mount.ReadOnly() {
		return unix.EROFS
	}
	d := p.dir.Dentry
	d.mu.Lock()
	defer d.mu.Unlock()
	c, err := d.victimLocked(ctx, p.last)
	if err != nil {
		return err
	}
	if err := mayDelete(ctx, d, c, true); err != nil {
		return err
	}
	if c.mounts.Load() != 0 {
		return unix.EBUSY
	}
	c.mu.Lock() // so that nothing is made in it meanwhile
	defer c.mu.Unlock()
	if err := d.dir.Rmdir(ctx, p.last); err != nil {
		return err
	}
	d.killLocked(p.last, c)
	tellGone(c.inode)
	tell(d.inode, unix.IN_DELETE|unix.IN_ISDIR, 0, p.last)
	return nil
}
