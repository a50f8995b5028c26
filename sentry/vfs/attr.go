package vfs

import "golang.org/x/sys/unix"

// Stat is what stat(2) tells.
func Stat(ctx Context, p Path) (Attr, error) { return p.Inode().Attr(ctx) }

// statFlags are statfs(2)'s names for mount flags (fs/statfs.c, flags_by_mnt).
var statFlags = []struct{ mount, stat int64 }{
	{unix.MS_RDONLY, unix.ST_RDONLY},
	{unix.MS_NOSUID, unix.ST_NOSUID},
	{unix.MS_NODEV, unix.ST_NODEV},
	{unix.MS_NOEXEC, unix.ST_NOEXEC},
	{unix.MS_NOATIME, unix.ST_NOATIME},
	{unix.MS_NODIRATIME, unix.ST_NODIRATIME},
	{unix.MS_RELATIME, unix.ST_RELATIME},
	{unix.MS_NOSYMFOLLOW, 0x2000},
}

// Statfs is statfs(2), with the mount's flags.
func Statfs(ctx Context, p Path) (unix.Statfs_t, error) {
	const valid = 0x20 // ST_VALID: Flags means something
	st, err := p.Dentry.super.fs.Statfs(ctx)
	st.Flags |= valid
	for _, f := range statFlags {
		if int64(p.Mount.Flags())&f.mount != 0 {
			st.Flags |= f.stat
		}
	}
	if p.Mount.ReadOnly() {
		st.Flags |= unix.ST_RDONLY
	}
	return st, err
}

// Readlink is readlink(2).
func Readlink(ctx Context, p Path) (string, error) {
	if p.Dentry.link == nil {
		return "", unix.EINVAL
	}
	return p.Dentry.link.Readlink(ctx)
}

// change is SetAttr for a name: read-only mounts first, rules by rule, events after.
func change(ctx Context, p Path, rule func(*Attr) (SetAttr, error)) error {
	if p.Mount.ReadOnly() {
		return unix.EROFS
	}
	i := p.Inode()
	a, err := i.Attr(ctx)
	if err != nil {
		return err
	}
	set, err := rule(&a)
	if err != nil {
		return err
	}
	if err := i.SetAttr(ctx, set); err != nil {
		return err
	}
	tellAt(p, unix.IN_ATTRIB)
	return nil
}

// Chmod is fchmodat(2).
func Chmod(ctx Context, p Path, mode uint32) error {
	return change(ctx, p, func(a *Attr) (SetAttr, error) {
		c := ctx.Creds()
		if a.Type() == unix.S_IFLNK {
			return SetAttr{}, unix.EOPNOTSUPP
		}
		if !owns(c, a) {
			return SetAttr{}, unix.EPERM
		}
		mode &= 0o7777
		if !c.In(a.GID) && !c.HasOver(a.UID, a.GID, unix.CAP_FSETID) {
			mode &^= unix.S_ISGID
		}
		return SetAttr{Mask: SetMode, Mode: mode}, nil
	})
}

// Chown is fchownat(2); ^0 leaves an id as it is.
func Chown(ctx Context, p Path, uid, gid uint32) error {
	const leave = ^uint32(0)
	return change(ctx, p, func(a *Attr) (SetAttr, error) {
		c := ctx.Creds()
		any, mine := c.HasOver(a.UID, a.GID, unix.CAP_CHOWN), c.FSUID == a.UID
		var set SetAttr
		if uid != leave {
			if !any && !(mine && uid == a.UID) {
				return set, unix.EPERM
			}
			set.Mask, set.UID = SetUID, uid
		}
		if gid != leave {
			if !any && !(mine && (gid == a.GID || c.In(gid))) {
				return set, unix.EPERM
			}
			set.Mask, set.GID = set.Mask|SetGID, gid
		}
		if a.Type() != unix.S_IFDIR {
			drop := a.Mode & unix.S_ISUID
			if a.Mode&unix.S_ISGID != 0 && (a.Mode&unix.S_IXGRP != 0 || !c.In(a.GID) && !c.HasOver(a.UID, a.GID, unix.CAP_FSETID)) {
				drop |= unix.S_ISGID
			}
			if drop != 0 {
				if !mine && !any && !c.HasOver(a.UID, a.GID, unix.CAP_FOWNER) {
					return set, unix.EPERM
				}
				set.Mask, set.Mode = set.Mask|SetMode, a.Mode&0o7777&^drop
			}
		}
		return set, nil
	})
}

// Utimens is utimensat(2); nil times are two UTIME_NOW.
func Utimens(ctx Context, p Path, times *[2]unix.Timespec) error {
	t := [2]unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if times != nil {
		t = *times
	}
	for _, x := range t {
		if x.Nsec != unix.UTIME_NOW && x.Nsec != unix.UTIME_OMIT && (x.Nsec < 0 || x.Nsec > 999_999_999) {
			return unix.EINVAL
		}
	}
	if t[0].Nsec == unix.UTIME_OMIT && t[1].Nsec == unix.UTIME_OMIT {
		return nil
	}
	return change(ctx, p, func(a *Attr) (SetAttr, error) {
		if !owns(ctx.Creds(), a) {
			if t[0].Nsec != unix.UTIME_NOW || t[1].Nsec != unix.UTIME_NOW {
				return SetAttr{}, unix.EPERM
			}
			if err := p.Dentry.allowed(ctx, a, MayWrite); err != nil {
				return SetAttr{}, err
			}
		}
		set := SetAttr{Mask: SetAtime | SetMtime}
		set.Atime, set.Mtime = t[0], t[1]
		for i, x := range []*unix.Timespec{&set.Atime, &set.Mtime} {
			switch x.Nsec {
			case unix.UTIME_NOW:
				*x = ctx.Now()
			case unix.UTIME_OMIT:
				set.Mask &^= []SetMask{SetAtime, SetMtime}[i]
			}
		}
		return set, nil
	})
}

// Truncate is truncate(2). The limit on file sizes is the caller's business.
func Truncate(ctx Context, p Path, size int64) error {
	if size < 0 {
		return unix.EINVAL
	}
	i := p.Inode()
	a, err := i.Attr(ctx)
	if err != nil {
		return err
	}
	switch a.Type() {
	case unix.S_IFDIR:
		return unix.EISDIR
	case unix.S_IFREG:
	default:
		return unix.EINVAL
	}
	if p.Mount.ReadOnly() {
		return unix.EROFS
	}
	if err := p.Dentry.allowed(ctx, &a, MayWrite); err != nil {
		return err
	}
	if err := takeWrite(i); err != nil {
		return err
	}
	defer dropWrite(i)
	if err := truncate(ctx, i, &a, size, false); err != nil {
		return err
	}
	tellAt(p, unix.IN_MODIFY)
	return nil
}

// truncate sets the size and, as any change of contents does, drops set-id bits.
// By descriptor it stamps the file even if the size stays (fs/open.c, do_truncate).
func truncate(ctx Context, i Inode, a *Attr, size int64, stamp bool) error {
	set := SetAttr{Mask: SetSize, Size: size}
	if stamp {
		set.Mask, set.Mtime = set.Mask|SetMtime, ctx.Now()
	}
	if drop := privileges(ctx.Creds(), a); drop != 0 {
		set.Mask, set.Mode = set.Mask|SetMode, a.Mode&0o7777&^drop
	}
	return i.SetAttr(ctx, set)
}

// privileges are the mode bits that a change of contents by c takes away
// (fs/attr.c, setattr_should_drop_suidgid).
func privileges(c *Creds, a *Attr) uint32 {
	if a.Mode&(unix.S_ISUID|unix.S_ISGID) == 0 || a.Type() != unix.S_IFREG || c.HasOver(a.UID, a.GID, unix.CAP_FSETID) {
		return 0
	}
	drop := a.Mode & unix.S_ISUID
	if a.Mode&unix.S_ISGID != 0 && (a.Mode&unix.S_IXGRP != 0 || !c.In(a.GID)) {
		drop |= unix.S_ISGID
	}
	return drop
}
