package vfs

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// OpenHow is openat2(2)'s struct open_how, with the umask applied to Mode.
type OpenHow struct {
	Flags   int
	Mode    uint32
	Resolve uint64
}

// pathFlags are all that O_PATH leaves (fs/open.c, O_PATH_FLAGS).
const pathFlags = unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_PATH | unix.O_CLOEXEC

// tmpFile is O_TMPFILE without the O_DIRECTORY that it contains.
const tmpFile = unix.O_TMPFILE &^ unix.O_DIRECTORY

// tidy is build_open_flags (fs/open.c).
func (h *OpenHow) tidy() (ResolveFlags, error) {
	var f ResolveFlags
	for _, r := range resolveTable {
		if h.Resolve&r.bit != 0 {
			f |= r.flag
		}
	}
	const both = ResolveBeneath | ResolveInRoot
	if f&both == both {
		return 0, unix.EINVAL
	}
	if h.Flags&unix.O_PATH != 0 {
		h.Flags &= pathFlags
	}
	switch {
	case h.Flags&tmpFile != 0 && (h.Flags&unix.O_DIRECTORY == 0 || h.Flags&unix.O_CREAT != 0 || h.Flags&unix.O_ACCMODE == unix.O_RDONLY):
		return 0, unix.EINVAL
	case h.Flags&unix.O_CREAT != 0 && h.Flags&unix.O_DIRECTORY != 0:
		return 0, unix.EINVAL // since Linux 6.4
	case f&ResolveCached != 0 && h.Flags&(unix.O_TRUNC|unix.O_CREAT|tmpFile) != 0:
		return 0, unix.EAGAIN
	}
	if h.Flags&unix.O_NOFOLLOW != 0 || h.Flags&unix.O_EXCL != 0 && h.Flags&unix.O_CREAT != 0 {
		f |= ResolveNoFollow
	}
	if h.Flags&unix.O_DIRECTORY != 0 {
		f |= ResolveDirectory
	}
	return f, nil
}

// access is what opening with flags asks for.
func access(flags int) Access {
	a := [4]Access{MayRead, MayWrite, MayRead | MayWrite, MayRead | MayWrite}[flags&unix.O_ACCMODE]
	if flags&unix.O_TRUNC != 0 {
		a |= MayWrite
	}
	return a
}

// Open is openat2(2).
func Open(ctx Context, s Start, name string, how OpenHow) (*Description, error) {
	f, err := how.tidy()
	if err != nil {
		return nil, err
	}
	if how.Flags&unix.O_CREAT != 0 {
		return openCreate(ctx, s, name, how, f)
	}
	p, err := Resolve(ctx, s, name, f)
	if err != nil {
		return nil, err
	}
	if how.Flags&tmpFile != 0 {
		return openTemp(ctx, p, how)
	}
	return openPath(ctx, p, how.Flags, false)
}

// OpenPath opens what has been looked up already. O_CREAT and O_EXCL mean nothing.
func OpenPath(ctx Context, p Path, flags int) (*Description, error) {
	if flags&unix.O_PATH != 0 {
		flags &= pathFlags
	}
	return openPath(ctx, p, flags&^(unix.O_CREAT|unix.O_EXCL), false)
}

// openCreate is Open with O_CREAT: the walk ends in the directory, and a symlink
// found there starts another one.
func openCreate(ctx Context, s Start, name string, how OpenHow, f ResolveFlags) (*Description, error) {
	var w walker
	if err := w.start(ctx, s, name, f); err != nil {
		return nil, err
	}
	for {
		last, err := w.walk(name, true)
		if err != nil {
			return nil, err
		}
		if last == "" || last == "." || last == ".." {
			return openExisting(&w, last, how)
		}
		if w.slash {
			return nil, unix.EISDIR
		}
		if len(last) > maxName {
			return nil, unix.ENAMETOOLONG
		}
		c, created, err := createIn(ctx, w.at, last, how)
		if err != nil {
			return nil, err
		}
		p := Path{w.at.Mount, c}
		if created {
			return openPath(ctx, p, how.Flags, true)
		}
		if p, err = w.cross(p); err != nil {
			return nil, err
		}
		link := p.Dentry.link
		if link == nil || f&ResolveNoFollow != 0 {
			dir := w.at.Dentry
			w.at = p
			if how.Flags&unix.O_EXCL == 0 && p.Dentry.dir == nil {
				if err := mayCreateInSticky(ctx, dir, p.Dentry); err != nil {
					return nil, err
				}
			}
			return openExisting(&w, "", how)
		}
		if name, err = w.follow(p, link, "", true); err != nil {
			return nil, err
		}
	}
}

// mayCreateInSticky (fs/namei.c): O_CREAT does not open somebody else's device or
// socket in a sticky directory that all may write. For files and FIFOs that is
// fs.protected_regular and fs.protected_fifos, which are 0.
func mayCreateInSticky(ctx Context, dir, d *Dentry) error {
	a, err := dir.inode.Attr(ctx)
	if err != nil || a.Mode&(unix.S_ISVTX|0o002) != unix.S_ISVTX|0o002 {
		return err
	}
	i, err := d.inode.Attr(ctx)
	if err != nil || i.Type() == unix.S_IFREG || i.Type() == unix.S_IFIFO || i.UID == a.UID || i.UID == ctx.Creds().FSUID {
		return err
	}
	return unix.EACCES
}

// openExisting ends openCreate where there is something already.
func openExisting(w *walker, last string, how OpenHow) (*Description, error) {
	if last != "" {
		p, err := w.step(last)
		if err != nil {
			return nil, err
		}
		w.at = p
	}
	if how.Flags&unix.O_EXCL != 0 {
		return nil, unix.EEXIST
	}
	if w.at.Dentry.dir != nil {
		return nil, unix.EISDIR
	}
	return openPath(w.ctx, w.at, how.Flags, false)
}

// createIn finds name in dir or makes a regular file of that name.
func createIn(ctx Context, dir Path, name string, how OpenHow) (c *Dentry, created bool, err error) {
	d := dir.Dentry
	if c, err = d.child(ctx, name, false); err != unix.ENOENT {
		return c, false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c, err = d.childLocked(ctx, name); err != unix.ENOENT {
		return c, false, err
	}
	if dir.Mount.ReadOnly() {
		return nil, false, unix.EROFS
	}
	if err := mayCreate(ctx, d); err != nil {
		return nil, false, err
	}
	n := New{Mode: unix.S_IFREG | how.Mode&0o7777}
	if err := n.inherit(ctx, d); err != nil {
		return nil, false, err
	}
	i, err := d.dir.Make(ctx, name, n)
	if err != nil {
		return nil, false, err
	}
	c = newDentry(d.super, d, name, i)
	d.putLocked(name, c)
	tell(d.inode, unix.IN_CREATE, 0, name)
	return c, true, nil
}

// openTemp makes a file without a name in the directory p.
func openTemp(ctx Context, p Path, how OpenHow) (*Description, error) {
	if p.Mount.ReadOnly() {
		return nil, unix.EROFS
	}
	if err := p.Dentry.access(ctx, MayWrite|MayExec); err != nil {
		return nil, err
	}
	t, ok := p.Inode().(TempMaker)
	if !ok {
		return nil, unix.EOPNOTSUPP
	}
	n := New{Mode: unix.S_IFREG | how.Mode&0o7777, Linkable: how.Flags&unix.O_EXCL == 0}
	if err := n.inherit(ctx, p.Dentry); err != nil {
		return nil, err
	}
	i, err := t.MakeTemp(ctx, n)
	if err != nil {
		return nil, err
	}
	a, err := i.Attr(ctx)
	if err != nil {
		return nil, err
	}
	d := newDentry(p.Dentry.super, p.Dentry, "#"+strconv.FormatUint(a.Ino, 10), i)
	d.dead.Store(true)
	return openPath(ctx, Path{p.Mount, d}, how.Flags, true)
}

// openPath is do_open (fs/namei.c): permission, truncation, the File.
func openPath(ctx Context, p Path, flags int, created bool) (*Description, error) {
	if flags&unix.O_PATH != 0 {
		return newPathDescription(p, flags), nil
	}
	a, err := p.Inode().Attr(ctx)
	if err != nil {
		return nil, err
	}
	if flags&unix.O_DIRECTORY != 0 && p.Dentry.dir == nil && !created {
		return nil, unix.ENOTDIR
	}
	if !created {
		if err := mayOpen(ctx, p, &a, flags); err != nil {
			return nil, err
		}
	}
	want := access(flags)
	if a.Type() == unix.S_IFREG || a.Type() == unix.S_IFDIR {
		if want&MayWrite != 0 && p.Mount.ReadOnly() {
			return nil, unix.EROFS
		}
	}
	writes := a.Type() == unix.S_IFREG && want&MayWrite != 0 && !p.Dentry.anon
	if writes {
		if err := takeWrite(p.Inode()); err != nil {
			return nil, err
		}
	}
	d, err := openFile(ctx, p, &a, flags, created)
	if err != nil {
		if writes {
			dropWrite(p.Inode())
		}
		return nil, err
	}
	if d.writes = writes; writes {
		p.Mount.writes.Add(1)
		p.Mount.super.writes.Add(1)
	}
	return d, nil
}

func openFile(ctx Context, p Path, a *Attr, flags int, created bool) (*Description, error) {
	pass := flags &^ (unix.O_CREAT | unix.O_EXCL | tmpFile)
	if p.Mount.flags.Load()&unix.MS_NOATIME != 0 {
		pass |= unix.O_NOATIME
	}
	open := p.Inode().Open
	if o := opener(p, a); o != nil {
		open = o
	} else if a.Type() == unix.S_IFSOCK && !p.Dentry.anon {
		return nil, unix.ENXIO
	}
	f, err := open(ctx, p, pass)
	if err != nil {
		return nil, err
	}
	d := newDescription(f, p, flags, a.Type())
	tellAt(p, unix.IN_OPEN)
	if flags&unix.O_TRUNC != 0 && !created && a.Type() == unix.S_IFREG {
		if err := truncate(ctx, p.Inode(), a, 0, true); err != nil {
			d.Unref()
			return nil, err
		}
		tellAt(p, unix.IN_MODIFY)
	}
	return d, nil
}

// mayOpen is may_open (fs/namei.c).
func mayOpen(ctx Context, p Path, a *Attr, flags int) error {
	want := access(flags)
	switch a.Type() {
	case unix.S_IFLNK:
		return unix.ELOOP
	case unix.S_IFDIR:
		if want&MayWrite != 0 {
			return unix.EISDIR
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		if p.Mount.NoDevices() {
			return unix.EACCES
		}
	}
	if err := p.Dentry.allowed(ctx, a, want); err != nil {
		return err
	}
	if flags&unix.O_NOATIME != 0 && !owns(ctx.Creds(), a) {
		return unix.EPERM
	}
	return nil
}
