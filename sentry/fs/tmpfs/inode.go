package tmpfs

import (
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// inode is what all kinds have.
type inode struct {
	fs *FileSystem

	mu     sync.Mutex
	attr   vfs.Attr // without Size and Blocks of a regular file
	xattrs map[string][]byte
}

// node is any kind of inode here.
type node interface {
	vfs.Inode
	base() *inode
	// unlinked is called, with the inode locked, after a link of it went.
	unlinkedLocked()
}

func (i *inode) base() *inode { return i }

func (i *inode) init(ctx vfs.Context, fs *FileSystem, n vfs.New) {
	now := ctx.Now()
	i.fs = fs
	i.attr = vfs.Attr{Dev: fs.dev, Ino: fs.lastIno.Add(1), Mode: n.Mode, Nlink: 1, UID: n.UID, GID: n.GID,
		Rdev: n.Rdev, BlockSize: pageSize, Atime: now, Mtime: now, Ctime: now, Btime: now}
}

// Attr is for stat(2).
func (i *inode) Attr(vfs.Context) (vfs.Attr, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.attr, nil
}

// SetAttr changes anything but the size.
func (i *inode) SetAttr(ctx vfs.Context, set vfs.SetAttr) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if set.Mask&(vfs.SetUID|vfs.SetGID) != 0 && i.attr.Type() != unix.S_IFDIR {
		i.loseCapsLocked()
	}
	i.attr.Set(set)
	i.attr.Ctime = ctx.Now()
	return nil
}

// Open is for what has no contents here; the vfs opens devices and FIFOs.
func (i *inode) Open(vfs.Context, vfs.Path, int) (vfs.File, error) { return nil, unix.ENXIO }

// unlinkedLocked: most kinds are garbage then.
func (i *inode) unlinkedLocked() {
	if i.attr.Nlink == 0 {
		i.fs.inodes.Add(-1)
	}
}

// accessed is relatime (fs/inode.c, relatime_need_update), with mu held.
func (i *inode) accessedLocked(ctx vfs.Context) {
	now := ctx.Now()
	a := &i.attr
	if !after(a.Atime, a.Mtime) || !after(a.Atime, a.Ctime) || now.Sec-a.Atime.Sec > 24*60*60 {
		a.Atime = now
	}
}

func after(a, b unix.Timespec) bool { return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec }

// modifiedLocked stamps a change of contents.
func (i *inode) modifiedLocked(ctx vfs.Context) {
	now := ctx.Now()
	i.attr.Mtime, i.attr.Ctime = now, now
}

// GetXattr implements vfs.Xattrs.
func (i *inode) GetXattr(_ vfs.Context, name string) ([]byte, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	v, ok := i.xattrs[name]
	if !ok {
		return nil, unix.ENODATA
	}
	return slices.Clone(v), nil
}

// SetXattr implements vfs.Xattrs.
func (i *inode) SetXattr(ctx vfs.Context, name string, value []byte, flags int) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, ok := i.xattrs[name]
	switch {
	case ok && flags&unix.XATTR_CREATE != 0:
		return unix.EEXIST
	case !ok && flags&unix.XATTR_REPLACE != 0:
		return unix.ENODATA
	}
	total := len(name) + len(value)
	for n, v := range i.xattrs {
		total += len(n) + len(v)
	}
	if total > maxXattrs {
		return unix.ENOSPC
	}
	if i.xattrs == nil {
		i.xattrs = make(map[string][]byte)
	}
	i.xattrs[name] = slices.Clone(value)
	i.attr.Ctime = ctx.Now()
	return nil
}

// RemoveXattr implements vfs.Xattrs.
func (i *inode) RemoveXattr(ctx vfs.Context, name string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.xattrs[name]; !ok {
		return unix.ENODATA
	}
	delete(i.xattrs, name)
	i.attr.Ctime = ctx.Now()
	return nil
}

// loseCapsLocked takes a file's capabilities away, as any change of its contents or
// owner does (security/commoncap.c, cap_inode_killpriv).
func (i *inode) loseCapsLocked() { delete(i.xattrs, "security.capability") }

// ListXattr implements vfs.Xattrs.
func (i *inode) ListXattr(vfs.Context) ([]string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	names := make([]string, 0, len(i.xattrs))
	for n := range i.xattrs {
		names = append(names, n)
	}
	slices.Sort(names)
	return names, nil
}

// symlink is a symbolic link.
type symlink struct {
	inode
	target string
}

// Readlink implements vfs.Symlink.
func (l *symlink) Readlink(ctx vfs.Context) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accessedLocked(ctx)
	return l.target, nil
}

// special is a device, FIFO or socket: a name for something elsewhere.
type special struct {
	inode
	typ uint32
}
