package overlay

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// copyUp sees to it that i is in the upper layer (fs/overlayfs/copy_up.c). Of a
// regular file limit bytes are copied, or all if it is negative: what is about
// to be truncated away need not be.
func (i *inode) copyUp(ctx vfs.Context, limit int64) error {
	if i.above() {
		return nil
	}
	if i.fs.o.Upper == nil {
		return unix.EROFS
	}
	i.copying.Lock()
	defer i.copying.Unlock()
	if i.above() {
		return nil
	}
	c := copier{fs: i.fs, ctx: vfs.SentryContext(), from: i}
	if err := c.make(limit); err != nil {
		c.discard()
		return err
	}
	if err := c.place(); err != nil {
		c.discard()
		return err
	}
	return nil
}

// copier makes one copy in the work directory and moves it into place. It acts as the
// Sentry, whoever asked: making room for a change takes no permissions.
type copier struct {
	fs   *FS
	ctx  vfs.Context
	from *inode
	attr vfs.Attr
	tmp  string // its name in the work directory; "" when it has none
	copy vfs.Inode
}

func (c *copier) make(limit int64) (err error) {
	if c.attr, err = c.from.lower.Attr(c.ctx); err != nil {
		return err
	}
	n := vfs.New{Mode: c.attr.Mode, UID: c.attr.UID, GID: c.attr.GID, Rdev: c.attr.Rdev}
	if l, ok := c.from.lower.(vfs.Symlink); ok {
		if n.Target, err = l.Readlink(c.ctx); err != nil {
			return err
		}
	}
	if c.tmp, c.copy, err = c.fs.temporary(c.ctx, n); err != nil {
		return err
	}
	if c.attr.Type() == unix.S_IFREG && c.attr.Size > 0 && limit != 0 {
		if err := copyData(c.ctx, c.from.lower, c.copy, c.attr.Size, limit); err != nil {
			return err
		}
	}
	if err := copyXattrs(c.ctx, c.from.fs.attr, c.from.lower, c.copy); err != nil {
		return err
	}
	set := vfs.SetAttr{Mask: vfs.SetAtime | vfs.SetMtime, Atime: c.attr.Atime, Mtime: c.attr.Mtime}
	if c.attr.Type() != unix.S_IFLNK {
		set.Mask, set.Mode = set.Mask|vfs.SetMode, c.attr.Mode&0o7777
	}
	return c.copy.SetAttr(c.ctx, set)
}

// temporary makes an inode in the work directory.
func (f *FS) temporary(ctx vfs.Context, n vfs.New) (name string, i vfs.Inode, err error) {
	f.tree.Lock()
	defer f.tree.Unlock()
	f.lastTmp++
	name = "#" + strconv.FormatUint(f.lastTmp, 16)
	i, err = f.o.Work.Make(ctx, name, n)
	if err != nil {
		return "", nil, err
	}
	return name, i, nil
}

func (c *copier) discard() {
	if c.tmp == "" {
		return
	}
	c.fs.tree.Lock()
	defer c.fs.tree.Unlock()
	if c.attr.Type() == unix.S_IFDIR {
		c.fs.o.Work.Rmdir(c.ctx, c.tmp)
	} else {
		c.fs.o.Work.Unlink(c.ctx, c.tmp)
	}
}

// place gives the copy its name, once the directories above have theirs.
func (c *copier) place() error {
	i := c.from
	for {
		i.mu.Lock()
		parent, dead := i.parent, i.dead
		i.mu.Unlock()
		if parent != nil && !dead {
			if err := parent.copyUp(c.ctx, -1); err != nil {
				return err
			}
		}
		c.fs.tree.Lock()
		i.mu.Lock()
		now, name, gone := i.parent, i.name, i.dead
		i.mu.Unlock()
		if !gone && now != parent {
			c.fs.tree.Unlock()
			continue // it was moved meanwhile
		}
		defer c.fs.tree.Unlock()
		switch {
		case gone:
			return c.adoptNameless()
		case parent == nil: // its other names are below, and lead here
			c.hardlinksLocked()
			c.tmp = ""
			c.settle()
			return nil
		}
		return c.moveLocked(parent, name)
	}
}

// moveLocked puts the copy at name in parent, whose times stay.
func (c *copier) moveLocked(parent *dir, name string) error {
	up := parent.upperDir()
	a, err := up.Attr(c.ctx)
	if err != nil {
		return err
	}
	if c.attr.Nlink > 1 && c.attr.Type() == unix.S_IFREG {
		if err := up.Link(c.ctx, name, c.copy); err != nil {
			return err
		}
		c.hardlinksLocked()
	} else if err := c.fs.o.Work.Rename(c.ctx, c.tmp, up, name, 0); err != nil {
		return err
	}
	c.tmp = ""
	up.SetAttr(c.ctx, vfs.SetAttr{Mask: vfs.SetAtime | vfs.SetMtime, Atime: a.Atime, Mtime: a.Mtime})
	c.settle()
	return nil
}

// hardlinksLocked keeps the copy's name in the work directory: other names below
// lead to the same file, and when one of them is to be found above, it is linked
// from there. The inode stays in memory as long, which is how it is known.
func (c *copier) hardlinksLocked() {
	f, ok := c.from.self.get().(*file)
	if !ok {
		return
	}
	f.mu.Lock()
	f.links = c.attr.Nlink - min(c.attr.Nlink, uint32(f.gone))
	f.index = c.tmp
	f.mu.Unlock()
	c.fs.mu.Lock()
	c.fs.linked[f.lower] = f
	c.fs.mu.Unlock()
}

// adoptNameless leaves the copy of a file that was removed while somebody has it open.
func (c *copier) adoptNameless() error {
	if p, ok := c.copy.(vfs.Pinner); ok {
		p.Pin()
		defer p.Unpin() // settle pins for those who have it open
	}
	if err := c.fs.o.Work.Unlink(c.ctx, c.tmp); err != nil {
		return err
	}
	c.tmp = ""
	c.settle()
	return nil
}

// settle makes the copy what counts.
func (c *copier) settle() {
	i := c.from
	if a, err := c.copy.Attr(c.ctx); err == nil {
		c.fs.mu.Lock()
		c.fs.origins[object{a.Dev, a.Ino}] = i.ino
		c.fs.mu.Unlock()
	}
	c.fs.alias(i, c.copy)
	i.mu.Lock()
	i.upper.Store(&layer{c.copy})
	if p, ok := c.copy.(vfs.Pinner); ok {
		for range i.pins {
			p.Pin()
		}
	}
	i.mu.Unlock()
	if f, ok := i.self.get().(*file); ok {
		f.copied()
	}
}

// copyChunk is how much is copied at a time.
const copyChunk = 256 << 10 // bytes

// copyData copies contents, but not holes.
func copyData(ctx vfs.Context, from, to vfs.Inode, size, limit int64) error {
	src, err := from.Open(ctx, vfs.Path{}, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer src.Release()
	dst, err := to.Open(ctx, vfs.Path{}, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer dst.Release()
	end := size
	if limit >= 0 {
		end = min(size, limit)
	}
	buf := make([]byte, min(copyChunk, end))
	seeker, _ := src.(vfs.Seeker)
	for off := int64(0); off < end; {
		if seeker != nil {
			data, err := seeker.Seek(ctx, off, off, unix.SEEK_DATA)
			if err == unix.ENXIO {
				break
			}
			if err == nil && data > off {
				off = data
				continue
			}
		}
		n, err := copyPart(ctx, src, dst, buf[:min(int64(len(buf)), end-off)], off)
		if err != nil || n == 0 {
			return err
		}
		off += int64(n)
	}
	return to.SetAttr(ctx, vfs.SetAttr{Mask: vfs.SetSize, Size: end})
}

func copyPart(ctx vfs.Context, src, dst vfs.File, buf []byte, off int64) (int, error) {
	n, err := src.Read(ctx, memory.Buffers{buf}, off)
	if err != nil {
		return 0, err
	}
	for done := 0; done < n; {
		m, err := dst.Write(ctx, memory.Buffers{buf[done:n]}, off+int64(done))
		if err != nil {
			return 0, err
		}
		done += m
	}
	return n, nil
}

// copyXattrs copies attributes. Those that only a privileged host process may set
// stay behind where the upper layer says so.
func copyXattrs(ctx vfs.Context, own attributes, from, to vfs.Inode) error {
	src, ok := from.(vfs.Xattrs)
	if !ok {
		return nil
	}
	names, err := src.ListXattr(ctx)
	if err != nil || len(names) == 0 {
		return ignore(err, unix.EOPNOTSUPP)
	}
	dst, ok := to.(vfs.Xattrs)
	if !ok {
		return nil
	}
	for _, n := range names {
		if _, ok := own.outside(n); !ok {
			continue
		}
		v, err := src.GetXattr(ctx, n)
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return err
		}
		err = dst.SetXattr(ctx, n, v, 0)
		if !strings.HasPrefix(n, "user.") {
			err = ignore(err, unix.EPERM)
		}
		if err = ignore(err, unix.EOPNOTSUPP); err != nil {
			return err
		}
	}
	return nil
}

func ignore(err error, e unix.Errno) error {
	if err == e {
		return nil
	}
	return err
}
