package vfs

import "golang.org/x/sys/unix"

// Capabilities that stand for permission bits.
const (
	capOverride = 1 << unix.CAP_DAC_OVERRIDE
	capSearch   = 1 << unix.CAP_DAC_READ_SEARCH
)

// allowed is generic_permission (fs/namei.c) without ACLs.
func allowed(c *Creds, a *Attr, want Access) error {
	mode := Access(a.Mode)
	switch {
	case c.FSUID == a.UID:
		mode >>= 6
	case mode>>3&7 != mode&7 && c.In(a.GID):
		mode >>= 3
	}
	if mode&want == want {
		return nil
	}
	caps := c.over(a.UID, a.GID)
	if a.Type() == unix.S_IFDIR {
		if caps&capOverride != 0 || caps&capSearch != 0 && want&MayWrite == 0 {
			return nil
		}
		return unix.EACCES
	}
	if caps&capSearch != 0 && want == MayRead {
		return nil
	}
	if caps&capOverride != 0 && (want&MayExec == 0 || a.Mode&0o111 != 0) {
		return nil
	}
	return unix.EACCES
}

// Allowed is the check by permission bits, for an inode with an idea of its own that comes down to them.
func Allowed(c *Creds, a *Attr, want Access) error { return allowed(c, a, want) }

// access checks permission for d's inode, without its mount.
func (d *Dentry) access(ctx Context, want Access) error {
	if want == 0 {
		return nil
	}
	if d.checker != nil {
		if want&MayWrite != 0 && d.dir != nil && d.super.readonly.Load() {
			return unix.EROFS
		}
		return d.checker.CheckAccess(ctx, want)
	}
	a, err := d.inode.Attr(ctx)
	if err != nil {
		return err
	}
	return d.allowed(ctx, &a, want)
}

// allowed is access with the attributes at hand.
func (d *Dentry) allowed(ctx Context, a *Attr, want Access) error {
	if want&MayWrite != 0 && d.super.readonly.Load() && onDisk(a.Type()) {
		return unix.EROFS
	}
	if d.checker != nil {
		return d.checker.CheckAccess(ctx, want)
	}
	return allowed(ctx.Creds(), a, want)
}

// onDisk: writing to one changes the file system; a device or FIFO leads elsewhere.
func onDisk(typ uint32) bool {
	return typ == unix.S_IFREG || typ == unix.S_IFDIR || typ == unix.S_IFLNK
}

// search is access for going through a directory, which root always may.
func (d *Dentry) search(ctx Context, c *Creds) error {
	if c.Effective&(capOverride|capSearch) != 0 && d.checker == nil && c.User == nil && !unnamed.Load() {
		return nil
	}
	return d.access(ctx, MayExec)
}

// CheckAccess is access(2) with ctx's file-system ids, and the check of execve(2).
func CheckAccess(ctx Context, p Path, want Access) error {
	a, err := p.Inode().Attr(ctx)
	if err != nil {
		return err
	}
	if want&MayExec != 0 && a.Type() == unix.S_IFREG && p.Mount.Flags()&unix.MS_NOEXEC != 0 {
		return unix.EACCES
	}
	if want == 0 {
		return nil
	}
	if err := p.Dentry.allowed(ctx, &a, want); err != nil {
		return err
	}
	if want&MayWrite != 0 && p.Mount.ReadOnly() && onDisk(a.Type()) {
		return unix.EROFS
	}
	return nil
}

// owns reports whether the caller is the owner or may act as one.
func owns(c *Creds, a *Attr) bool {
	return c.FSUID == a.UID || c.HasOver(a.UID, a.GID, unix.CAP_FOWNER)
}

// mayCreate is the check for a new name in dir.
func mayCreate(ctx Context, dir *Dentry) error {
	if dir.Dead() {
		return unix.ENOENT
	}
	return dir.access(ctx, MayWrite|MayExec)
}

// mayDelete is the check for taking victim out of dir (fs/namei.c, may_delete).
func mayDelete(ctx Context, dir, victim *Dentry, isDir bool) error {
	if err := dir.access(ctx, MayWrite|MayExec); err != nil {
		return err
	}
	if err := sticky(ctx, dir, victim); err != nil {
		return err
	}
	switch {
	case isDir && victim.dir == nil:
		return unix.ENOTDIR
	case !isDir && victim.dir != nil:
		return unix.EISDIR
	case dir.Dead():
		return unix.ENOENT
	}
	return nil
}

// sticky is EPERM if dir is sticky and neither it nor victim is the caller's.
func sticky(ctx Context, dir, victim *Dentry) error {
	c := ctx.Creds()
	if c.User == nil && c.Has(unix.CAP_FOWNER) && !unnamed.Load() {
		return nil
	}
	d, err := dir.inode.Attr(ctx)
	if err != nil || d.Mode&unix.S_ISVTX == 0 || d.UID == c.FSUID {
		return err
	}
	v, err := victim.inode.Attr(ctx)
	if err == nil && v.UID != c.FSUID && !c.HasOver(v.UID, v.GID, unix.CAP_FOWNER) {
		err = unix.EPERM
	}
	return err
}
