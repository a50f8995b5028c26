package overlay

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// layer holds an inode in an atomic pointer.
type layer struct{ vfs.Inode }

// inode is what all kinds have in common.
type inode struct {
	fs    *FS
	self  known
	keys  *atomic.Pointer[[]vfs.Inode] // what the table knows it by; shared with the cleanup
	kind  uint32
	ino   uint64
	lower vfs.Inode             // of a directory the uppermost; nil if it began above
	upper atomic.Pointer[layer] // set once, by copyUp

	copying sync.Mutex

	mu     sync.Mutex
	parent *dir // where it is, to copy it up; nil for the root and files without a name
	name   string
	dead   bool // the last name has gone
	gone   int  // names that went while it was below
	pins   int
	links  uint32 // names of a copy whose original has several; see hardlinks in copyup.go
}

func (i *inode) base() *inode { return i }

// real is the inode that counts.
func (i *inode) real() vfs.Inode {
	if u := i.upper.Load(); u != nil {
		return u.Inode
	}
	return i.lower
}

func (i *inode) above() bool { return i.upper.Load() != nil }

// Attr implements vfs.Inode.
func (i *inode) Attr(ctx vfs.Context) (vfs.Attr, error) {
	a, err := i.real().Attr(ctx)
	if err != nil {
		return a, err
	}
	a.Dev, a.Ino = i.fs.dev, i.ino
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.links > 0 || i.dead && i.kind != unix.S_IFDIR {
		a.Nlink = i.links
	} else {
		a.Nlink -= min(a.Nlink, uint32(i.gone))
	}
	return a, nil
}

// SetAttr implements vfs.Inode.
func (i *inode) SetAttr(ctx vfs.Context, s vfs.SetAttr) error {
	if err := i.copyUp(ctx, -1); err != nil {
		return err
	}
	return i.real().SetAttr(ctx, s)
}

// Pin and Unpin implement vfs.Pinner for the layer.
func (i *inode) Pin() { i.pin(1) }

func (i *inode) Unpin() { i.pin(-1) }

func (i *inode) pin(n int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pins += n
	if p, ok := i.real().(vfs.Pinner); ok {
		if n > 0 {
			p.Pin()
		} else {
			p.Unpin()
		}
	}
}

// xattrs is the layer's view.
func (i *inode) xattrs() (vfs.Xattrs, error) {
	x, ok := i.real().(vfs.Xattrs)
	if !ok {
		return nil, unix.EOPNOTSUPP
	}
	return x, nil
}

// GetXattr implements vfs.Xattrs.
func (i *inode) GetXattr(ctx vfs.Context, name string) ([]byte, error) {
	x, err := i.xattrs()
	if err != nil {
		return nil, err
	}
	return x.GetXattr(ctx, i.fs.attr.inside(name))
}

// ListXattr implements vfs.Xattrs.
func (i *inode) ListXattr(ctx vfs.Context) ([]string, error) {
	x, err := i.xattrs()
	if err != nil {
		return nil, err
	}
	all, err := x.ListXattr(ctx)
	var names []string
	for _, n := range all {
		if n, ok := i.fs.attr.outside(n); ok {
			names = append(names, n)
		}
	}
	return names, err
}

// SetXattr implements vfs.Xattrs.
func (i *inode) SetXattr(ctx vfs.Context, name string, value []byte, flags int) error {
	name = i.fs.attr.inside(name)
	return i.changeXattr(ctx, func(x vfs.Xattrs) error { return x.SetXattr(ctx, name, value, flags) })
}

// RemoveXattr implements vfs.Xattrs. What is not there need not be copied up to
// find that out.
func (i *inode) RemoveXattr(ctx vfs.Context, name string) error {
	x, err := i.xattrs()
	if err != nil {
		return err
	}
	name = i.fs.attr.inside(name)
	if _, err := x.GetXattr(ctx, name); err != nil {
		return err
	}
	return i.changeXattr(ctx, func(x vfs.Xattrs) error { return x.RemoveXattr(ctx, name) })
}

func (i *inode) changeXattr(ctx vfs.Context, change func(vfs.Xattrs) error) error {
	if _, err := i.xattrs(); err != nil {
		return err
	}
	if err := i.copyUp(ctx, -1); err != nil {
		return err
	}
	x, err := i.xattrs()
	if err != nil {
		return err
	}
	return change(x)
}

// link is a symlink.
type link struct{ inode }

// Readlink implements vfs.Symlink.
func (l *link) Readlink(ctx vfs.Context) (string, error) {
	s, ok := l.real().(vfs.Symlink)
	if !ok {
		return "", unix.EIO
	}
	return s.Readlink(ctx)
}

// Open implements vfs.Inode; vfs does not open symlinks.
func (*link) Open(vfs.Context, vfs.Path, int) (vfs.File, error) { return nil, unix.ELOOP }

// special is a FIFO, a socket or a device, which vfs opens.
type special struct{ inode }

// Open implements vfs.Inode for what vfs has no handler for.
func (s *special) Open(ctx vfs.Context, at vfs.Path, flags int) (vfs.File, error) {
	return s.real().Open(ctx, at, flags)
}
