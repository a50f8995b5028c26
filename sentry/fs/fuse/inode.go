package fuse

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// inode is what all kinds have in common.
type inode struct {
	fs      *FS
	node    uint64
	kind    uint32 // S_IFMT
	lookups *atomic.Uint64

	mu    sync.Mutex
	attr  vfs.Attr
	until time.Time // attr is believed
}

func (i *inode) base() *inode { return i }

func (i *inode) learn(a vfs.Attr, valid time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.attr, i.until = a, time.Now().Add(valid)
}

// stale has the next look ask the server.
func (i *inode) stale() {
	i.mu.Lock()
	i.until = time.Time{}
	i.mu.Unlock()
}

func (i *inode) Attr(ctx vfs.Context) (vfs.Attr, error) {
	i.mu.Lock()
	a, fresh := i.attr, time.Now().Before(i.until)
	i.mu.Unlock()
	if fresh || ctx == vfs.SentryContext() {
		return a, nil
	}
	b, err := i.fs.conn.call(ctx, opGetattr, i.node, 16+attrSize, make([]byte, 16))
	if err == unix.EAGAIN {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	return i.take(b)
}

// take learns a fuse_attr_out.
func (i *inode) take(b []byte) (vfs.Attr, error) {
	a, ok := i.fs.parseAttr(b[16:])
	if !ok || a.Type() != i.kind {
		return a, unix.EIO
	}
	i.learn(a, duration(le.Uint64(b), le.Uint32(b[8:])))
	return a, nil
}

func (i *inode) SetAttr(ctx vfs.Context, set vfs.SetAttr) error {
	b := make([]byte, 88)
	valid := uint32(0)
	for n, bit := range []vfs.SetMask{vfs.SetMode, vfs.SetUID, vfs.SetGID, vfs.SetSize, vfs.SetAtime, vfs.SetMtime} {
		if set.Mask&bit != 0 {
			valid |= 1 << n // FATTR_MODE and so on, in the same order
		}
	}
	le.PutUint32(b, valid)
	le.PutUint64(b[16:], uint64(set.Size))
	le.PutUint64(b[32:], uint64(set.Atime.Sec))
	le.PutUint64(b[40:], uint64(set.Mtime.Sec))
	le.PutUint32(b[56:], uint32(set.Atime.Nsec))
	le.PutUint32(b[60:], uint32(set.Mtime.Nsec))
	le.PutUint32(b[68:], i.kind|set.Mode)
	le.PutUint32(b[76:], set.UID)
	le.PutUint32(b[80:], set.GID)
	r, err := i.fs.conn.call(ctx, opSetattr, i.node, 16+attrSize, b)
	if err != nil {
		i.stale()
		return err
	}
	_, err = i.take(r)
	return err
}

// CheckAccess: without default_permissions the server decides at each call.
func (i *inode) CheckAccess(ctx vfs.Context, want vfs.Access) error {
	if !i.fs.may(ctx) {
		return unix.EACCES
	}
	if !i.fs.o.check && !(want&vfs.MayExec != 0 && i.kind == unix.S_IFREG) {
		return nil
	}
	a, err := i.Attr(ctx)
	if err != nil {
		return err
	}
	if !i.fs.o.check {
		if a.Mode&0o111 == 0 {
			return unix.EACCES
		}
		return nil
	}
	return vfs.Allowed(ctx.Creds(), &a, want)
}

func cstring(s string) []byte { return append([]byte(s), 0) }

// noXattrs: a server without them.
func noXattrs(err error) error {
	if err == unix.ENOSYS {
		return unix.EOPNOTSUPP
	}
	return err
}

func (i *inode) GetXattr(ctx vfs.Context, name string) ([]byte, error) {
	const most = 64 << 10
	b, err := i.fs.conn.call(ctx, opGetxattr, i.node, 0, le.AppendUint64(nil, most), cstring(name))
	return b, noXattrs(err)
}

func (i *inode) SetXattr(ctx vfs.Context, name string, value []byte, flags int) error {
	head := le.AppendUint32(le.AppendUint32(nil, uint32(len(value))), uint32(flags))
	_, err := i.fs.conn.call(ctx, opSetxattr, i.node, 0, head, cstring(name), value)
	return noXattrs(err)
}

func (i *inode) RemoveXattr(ctx vfs.Context, name string) error {
	_, err := i.fs.conn.call(ctx, opRemovexattr, i.node, 0, cstring(name))
	return noXattrs(err)
}

func (i *inode) ListXattr(ctx vfs.Context) ([]string, error) {
	const most = 64 << 10
	b, err := i.fs.conn.call(ctx, opListxattr, i.node, 0, le.AppendUint64(nil, most))
	if err == unix.ENOSYS || err == unix.EAGAIN {
		return nil, nil
	}
	var names []string
	for n := range strings.SplitSeq(string(b), "\x00") {
		if n != "" {
			names = append(names, n)
		}
	}
	return names, err
}

// link is a symlink.
type link struct{ inode }

func (l *link) Readlink(ctx vfs.Context) (string, error) {
	b, err := l.fs.conn.call(ctx, opReadlink, l.node, 1)
	if len(b) > unix.PathMax-1 {
		return "", unix.ENAMETOOLONG
	}
	return string(b), err
}

func (*link) Open(vfs.Context, vfs.Path, int) (vfs.File, error) { return nil, unix.ELOOP }

// dir is a directory.
type dir struct{ inode }

// Volatile: the server changes it when it likes.
func (*dir) Volatile() bool { return true }

// Lease is for how long a name is believed: what one call looks at twice.
func (*dir) Lease() time.Duration { return time.Millisecond }

func (d *dir) make(ctx vfs.Context, op uint32, body ...[]byte) (vfs.Inode, error) {
	b, err := d.fs.conn.call(ctx, op, d.node, entrySize, body...)
	if op != opLookup {
		d.stale()
	}
	if err != nil {
		return nil, err
	}
	return d.fs.entry(b)
}

func (d *dir) Lookup(ctx vfs.Context, name string) (vfs.Inode, error) {
	return d.make(ctx, opLookup, cstring(name))
}

func (d *dir) Make(ctx vfs.Context, name string, n vfs.New) (vfs.Inode, error) {
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return d.make(ctx, opMkdir, le.AppendUint64(nil, uint64(n.Mode)), cstring(name))
	case unix.S_IFLNK:
		return d.make(ctx, opSymlink, cstring(name), cstring(n.Target))
	}
	rdev := unix.Minor(n.Rdev)&0xff | unix.Major(n.Rdev)<<8 | unix.Minor(n.Rdev)&^0xff<<12
	head := le.AppendUint32(le.AppendUint32(nil, n.Mode), rdev)
	i, err := d.make(ctx, opMknod, le.AppendUint64(head, 0), cstring(name))
	if err == unix.ENOSYS && n.Mode&unix.S_IFMT == unix.S_IFREG {
		return d.create(ctx, name, n)
	}
	return i, err
}

// create is for servers that have no MKNOD: the file that it opens is closed again.
func (d *dir) create(ctx vfs.Context, name string, n vfs.New) (vfs.Inode, error) {
	head := le.AppendUint32(le.AppendUint32(nil, unix.O_CREAT|unix.O_RDWR), n.Mode)
	b, err := d.fs.conn.call(ctx, opCreate, d.node, entrySize+16, le.AppendUint64(head, 0), cstring(name))
	d.stale()
	if err != nil {
		return nil, err
	}
	i, err := d.fs.entry(b)
	release := append(append([]byte(nil), b[entrySize:entrySize+8]...), make([]byte, 16)...)
	d.fs.conn.call(ctx, opRelease, le.Uint64(b), 0, release)
	return i, err
}

func (d *dir) Link(ctx vfs.Context, name string, target vfs.Inode) error {
	t, ok := target.(inner)
	if !ok || t.base().fs != d.fs {
		return unix.EXDEV
	}
	_, err := d.make(ctx, opLink, le.AppendUint64(nil, t.base().node), cstring(name))
	t.base().stale()
	return err
}

func (d *dir) Unlink(ctx vfs.Context, name string) error {
	_, err := d.fs.conn.call(ctx, opUnlink, d.node, 0, cstring(name))
	d.stale()
	return err
}

func (d *dir) Rmdir(ctx vfs.Context, name string) error {
	_, err := d.fs.conn.call(ctx, opRmdir, d.node, 0, cstring(name))
	d.stale()
	return err
}

func (d *dir) Rename(ctx vfs.Context, name string, newDir vfs.Directory, newName string, flags uint) error {
	to, ok := newDir.(*dir)
	if !ok || to.fs != d.fs {
		return unix.EXDEV
	}
	op, head := uint32(opRename), le.AppendUint64(nil, to.node)
	if flags != 0 {
		op, head = opRename2, le.AppendUint64(head, uint64(flags))
	}
	_, err := d.fs.conn.call(ctx, op, d.node, 0, head, cstring(name), cstring(newName))
	if err == unix.ENOSYS && flags != 0 {
		err = unix.EINVAL
	}
	d.stale()
	to.stale()
	return err
}
