package vfs

import "golang.org/x/sys/unix"

// inherit fills in whose a new inode in dir is (fs/inode.c, inode_init_owner).
func (n *New) inherit(ctx Context, dir *Dentry) error {
	c := ctx.Creds()
	n.UID, n.GID = c.FSUID, c.FSGID
	a, err := dir.inode.Attr(ctx)
	if err != nil || a.Mode&unix.S_ISGID == 0 {
		return err
	}
	n.GID = a.GID
	switch {
	case n.Mode&unix.S_IFMT == unix.S_IFDIR:
		n.Mode |= unix.S_ISGID
	case n.Mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID|unix.S_IXGRP && !c.In(a.GID) && !c.HasOver(a.UID, a.GID, unix.CAP_FSETID):
		n.Mode &^= unix.S_ISGID
	}
	return nil
}

// makeAt makes a new name (fs/namei.c, filename_create and what follows it).
func makeAt(ctx Context, s Start, name string, isDir bool, make func(dir Path, last string) (Inode, error)) (Path, error) {
	p, err := parentOf(ctx, s, name)
	if err != nil {
		return Path{}, err
	}
	if !p.normal() {
		return Path{}, unix.EEXIST
	}
	if len(p.last) > maxName {
		return Path{}, unix.ENAMETOOLONG
	}
	d := p.dir.Dentry
	d.mu.Lock()
	defer d.mu.Unlock()
	switch _, err := d.childLocked(ctx, p.last); {
	case err == nil:
		return Path{}, unix.EEXIST
	case err != unix.ENOENT:
		return Path{}, err
	case p.slash && !isDir:
		return Path{}, unix.ENOENT
	case p.dir.Mount.ReadOnly():
		return Path{}, unix.EROFS
	}
	i, err := make(p.dir, p.last)
	if err != nil {
		return Path{}, err
	}
	c := newDentry(d.super, d, p.last, i)
	d.putLocked(p.last, c)
	event := uint32(unix.IN_CREATE)
	if isDir {
		event |= unix.IN_ISDIR
	}
	tell(d.inode, event, 0, p.last)
	return Path{p.dir.Mount, c}, nil
}

func makeNew(ctx Context, s Start, name string, n New) (Path, error) {
	return makeAt(ctx, s, name, n.Mode&unix.S_IFMT == unix.S_IFDIR, func(dir Path, last string) (Inode, error) {
		d := dir.Dentry
		if err := mayCreate(ctx, d); err != nil {
			return nil, err
		}
		if err := n.inherit(ctx, d); err != nil {
			return nil, err
		}
		return d.dir.Make(ctx, last, n)
	})
}

// Mkdir is mkdirat(2). mode has the umask applied, here and below.
func Mkdir(ctx Context, s Start, name string, mode uint32) error {
	_, err := makeNew(ctx, s, name, New{Mode: unix.S_IFDIR | mode&0o1777})
	return err
}

// Mknod is mknodat(2), and what bind(2) does with S_IFSOCK.
func Mknod(ctx Context, s Start, name string, mode uint32, dev uint64) (Path, error) {
	n := New{Mode: mode & (unix.S_IFMT | 0o7777)}
	switch mode & unix.S_IFMT {
	case 0:
		n.Mode |= unix.S_IFREG
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
	case unix.S_IFCHR, unix.S_IFBLK:
		n.Rdev = dev
	case unix.S_IFDIR:
		return Path{}, unix.EPERM
	default:
		return Path{}, unix.EINVAL
	}
	return makeAt(ctx, s, name, false, func(dir Path, last string) (Inode, error) {
		d := dir.Dentry
		if err := mayCreate(ctx, d); err != nil {
			return nil, err
		}
		typ := n.Mode & unix.S_IFMT
		whiteout := typ == unix.S_IFCHR && dev == 0
		if (typ == unix.S_IFCHR || typ == unix.S_IFBLK) && !whiteout && !ctx.Creds().Has(unix.CAP_MKNOD) {
			return nil, unix.EPERM
		}
		if err := n.inherit(ctx, d); err != nil {
			return nil, err
		}
		return d.dir.Make(ctx, last, n)
	})
}

// MakeSymlink is symlinkat(2).
func MakeSymlink(ctx Context, target string, s Start, name string) error {
	switch {
	case target == "":
		return unix.ENOENT
	case len(target) >= maxPath:
		return unix.ENAMETOOLONG
	}
	_, err := makeNew(ctx, s, name, New{Mode: unix.S_IFLNK | 0o777, Target: target})
	return err
}

// Link is linkat(2) with old looked up. fs.protected_hardlinks is 1.
func Link(ctx Context, old Path, s Start, name string) error {
	_, err := makeAt(ctx, s, name, false, func(dir Path, last string) (Inode, error) {
		d := dir.Dentry
		if d.Dead() {
			return nil, unix.ENOENT
		}
		if old.Mount != dir.Mount {
			return nil, unix.EXDEV
		}
		if err := maySource(ctx, old.Dentry); err != nil {
			return nil, err
		}
		if err := mayCreate(ctx, d); err != nil {
			return nil, err
		}
		switch {
		case old.Dentry.super != d.super:
			return nil, unix.EXDEV
		case old.Dentry.dir != nil:
			return nil, unix.EPERM
		}
		err := d.dir.Link(ctx, last, old.Inode())
		if err == nil {
			tell(old.Inode(), unix.IN_ATTRIB, 0, "")
		}
		return old.Inode(), err
	})
	return err
}

// maySource is may_linkat (fs/namei.c): what is not one's own can only be linked
// if it could be copied, and is not set-id.
func maySource(ctx Context, d *Dentry) error {
	c := ctx.Creds()
	if c.Has(unix.CAP_FOWNER) {
		return nil
	}
	a, err := d.inode.Attr(ctx)
	if err != nil || owns(c, &a) {
		return err
	}
	const setgid = unix.S_ISGID | unix.S_IXGRP
	if a.Type() != unix.S_IFREG || a.Mode&unix.S_ISUID != 0 || a.Mode&setgid == setgid ||
		d.allowed(ctx, &a, MayRead|MayWrite) != nil {
		return unix.EPERM
	}
	return nil
}
