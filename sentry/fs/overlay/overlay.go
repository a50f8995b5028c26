// Package overlay lays a writable tree over read-only ones: the container's root
// over its image. It works on inodes of other file systems, whatever they are:
// below a gofer's attachment, above memory (tmpfs) or a directory of the host's.
// Formats and behaviour are those of Linux with userxattr, redirect_dir and
// index (Documentation/filesystems/overlayfs.rst, fs/overlayfs): a whiteout is a
// character device 0/0, user.overlay.opaque and user.overlay.redirect say what a
// directory is merged with. Hard links keep together when one is copied up, for
// as long as the file system is mounted; Linux keeps an index of them on disk.
//
// A file that was open for reading when somebody copied it up goes on with the
// copy, also where it is mapped shared; on Linux it keeps the old contents.
//
// An upper layer must be able to hold whiteouts and, on directories, attributes
// of the user namespace: not overlayfs, not Linux's tmpfs before 6.6.
//
// Lock order: inode.copying, FS.tree, FS.mu, inode.mu, then the layers' own. The
// caller has vfs's directory locks around operations on names. Copies of
// contents are made in the work directory with copying alone held, and moved
// into place under tree.
package overlay

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"weak"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// The attributes that the overlay keeps on directories of the upper layer, which
// nobody sees through it.
type attributes struct {
	prefix   string
	opaque   string // "y": what is below is not merged
	redirect string // where below it is merged with, from the layers' roots
}

func attributesIn(space string) attributes {
	p := space + ".overlay."
	return attributes{p, p + "opaque", p + "redirect"}
}

// inside is the name that a layer has an attribute by: one that looks like the
// overlay's own, as of an overlay laid over this one, is kept with a mark
// (fs/overlayfs/xattrs.c). outside is the other way; it is false for the overlay's own.
func (a *attributes) inside(name string) string {
	if rest, own := strings.CutPrefix(name, a.prefix); own {
		return a.prefix + "overlay." + rest
	}
	return name
}

func (a *attributes) outside(name string) (string, bool) {
	rest, own := strings.CutPrefix(name, a.prefix)
	if !own {
		return name, true
	}
	rest, marked := strings.CutPrefix(rest, "overlay.")
	return a.prefix + rest, marked
}

// Options are the layers.
type Options struct {
	Upper, Work vfs.Directory   // of one file system; nil: nothing can be changed
	Lowers      []vfs.Directory // the uppermost first
	// Trusted: the attributes are trusted.overlay.*, as Linux has them without userxattr.
	Trusted bool
	// NoRedirect: a directory that is merged does not move (EXDEV).
	NoRedirect bool
	// Shown is what /proc/mounts says.
	Shown string
	// Statfs tells of the upper layer's space, or the first lower one's.
	Statfs func(vfs.Context) (unix.Statfs_t, error)
	// Sync writes the upper layer back.
	Sync func(vfs.Context) error
	// Release is called with the last mount.
	Release func()
}

// FS implements vfs.FileSystem.
type FS struct {
	o    Options
	dev  uint64
	root *dir
	attr attributes

	// tree is held by what changes the upper layer's names, and by looks at them.
	tree    sync.Mutex
	lastTmp uint64 // names in the work directory

	mu      sync.Mutex
	inodes  map[vfs.Inode]known // by an inode of a layer
	devs    map[uint64]uint64   // small numbers for the layers' devices
	origins map[object]uint64   // numbers of what was copied up
	linked  map[vfs.Inode]*file // copied up files with several names below, by the lower inode
}

// object is an inode of a layer, by number.
type object struct{ dev, ino uint64 }

type known interface{ get() vfs.Inode }

type weakly[T any, P interface {
	*T
	vfs.Inode
}] struct{ p weak.Pointer[T] }

func (w weakly[T, P]) get() vfs.Inode {
	if p := w.p.Value(); p != nil {
		return P(p)
	}
	return nil
}

// Prepare makes the directories "upper" and "work" in fs, as Linux wants them
// apart, and empties work.
func Prepare(fs vfs.FileSystem) (upper, work vfs.Directory, err error) {
	root, ok := fs.Root().(vfs.Directory)
	if !ok {
		return nil, nil, fmt.Errorf("overlay: the upper layer's root is no directory")
	}
	ctx := vfs.SentryContext()
	two := map[string]vfs.Directory{}
	for _, name := range []string{"upper", "work"} {
		i, err := root.Lookup(ctx, name)
		if err == unix.ENOENT {
			i, err = root.Make(ctx, name, vfs.New{Mode: unix.S_IFDIR | 0o755})
		}
		if err != nil {
			return nil, nil, fmt.Errorf("overlay: directory %s of the upper layer: %w", name, err)
		}
		d, ok := i.(vfs.Directory)
		if !ok {
			return nil, nil, fmt.Errorf("overlay: %s in the upper layer is no directory", name)
		}
		two[name] = d
	}
	if err := clean(two["work"]); err != nil {
		return nil, nil, fmt.Errorf("overlay: empty the work directory: %w", err)
	}
	return two["upper"], two["work"], nil
}

// Work makes ready what Linux makes in a work directory: "work", empty.
func Work(dir vfs.Directory) (vfs.Directory, error) {
	ctx := vfs.SentryContext()
	i, err := dir.Lookup(ctx, "work")
	if err == unix.ENOENT {
		i, err = dir.Make(ctx, "work", vfs.New{Mode: unix.S_IFDIR})
	}
	if err != nil {
		return nil, err
	}
	w, ok := i.(vfs.Directory)
	if !ok {
		return nil, unix.EINVAL
	}
	return w, clean(w)
}

// clean removes what a copy that was cut short left.
func clean(work vfs.Directory) error {
	ctx := vfs.SentryContext()
	names, err := list(ctx, work)
	if err != nil {
		return err
	}
	for _, e := range names {
		remove := work.Unlink
		if e.Type == unix.DT_DIR {
			remove = work.Rmdir
		}
		if err := remove(ctx, e.Name); err != nil {
			return err
		}
	}
	return nil
}

// New lays the layers over each other.
func New(o Options) (*FS, error) {
	if len(o.Lowers) == 0 && o.Upper == nil {
		return nil, fmt.Errorf("overlay: no layers")
	}
	f := &FS{o: o, dev: vfs.NewDev(), inodes: map[vfs.Inode]known{}, devs: map[uint64]uint64{}, origins: map[object]uint64{}, linked: map[vfs.Inode]*file{}}
	f.attr = attributesIn("user")
	if o.Trusted {
		f.attr = attributesIn("trusted")
	}
	for _, l := range o.Lowers { // the first has its numbers as they are
		if a, err := l.Attr(vfs.SentryContext()); err == nil {
			f.number(&a)
		}
	}
	r := found{lowers: o.Lowers}
	if o.Upper != nil {
		r.upper = o.Upper
	}
	i, err := f.adopt(&r, nil, "")
	if err != nil {
		return nil, fmt.Errorf("overlay: root: %w", err)
	}
	f.root = i.(*dir)
	return f, nil
}

// Type implements vfs.FileSystem.
func (*FS) Type() string { return "overlay" }

// ShowOptions implements vfs.OptionShower.
func (f *FS) ShowOptions(vfs.Context) string { return f.o.Shown }

// Root implements vfs.FileSystem.
func (f *FS) Root() vfs.Inode { return f.root }

// Statfs implements vfs.FileSystem.
func (f *FS) Statfs(ctx vfs.Context) (unix.Statfs_t, error) {
	if f.o.Statfs == nil {
		return unix.Statfs_t{Type: unix.OVERLAYFS_SUPER_MAGIC, Bsize: 4096, Frsize: 4096, Namelen: unix.NAME_MAX}, nil
	}
	s, err := f.o.Statfs(ctx)
	s.Type = unix.OVERLAYFS_SUPER_MAGIC
	return s, err
}

// Sync implements vfs.FileSystem.
func (f *FS) Sync(ctx vfs.Context) error {
	if f.o.Sync == nil {
		return nil
	}
	return f.o.Sync(ctx)
}

// Release implements vfs.FileSystem.
func (f *FS) Release() {
	if f.o.Release != nil {
		f.o.Release()
	}
}

// number is the inode number that the container sees: the layer's, with a number
// for the device in the upper bits (Linux's xino).
func (f *FS) number(a *vfs.Attr) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ino, ok := f.origins[object{a.Dev, a.Ino}]; ok {
		return ino
	}
	n, ok := f.devs[a.Dev]
	if !ok {
		n = uint64(len(f.devs))
		f.devs[a.Dev] = n
	}
	return n<<56 | a.Ino
}

// found is what the layers have of a name: an upper inode alone, or a lower one
// alone, or directories to be merged.
type found struct {
	upper, lower vfs.Inode
	lowers       []vfs.Directory
	lowerPath    string // of lowers, from their layers' roots
}

// key is what the table knows r by.
func (r *found) key() vfs.Inode {
	switch {
	case r.upper != nil:
		return r.upper
	case r.lower != nil:
		return r.lower
	}
	return r.lowers[0]
}

// adopt gives the inode of what was found at name in parent.
func (f *FS) adopt(r *found, parent *dir, name string) (vfs.Inode, error) {
	origin := r.key()
	if len(r.lowers) > 0 {
		origin = r.lowers[0]
	}
	a, err := origin.Attr(vfs.SentryContext())
	if err != nil {
		return nil, err
	}
	ino := f.number(&a)
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.inodes[r.key()]; old != nil {
		if i := old.get(); i != nil {
			b := i.(inner).base()
			b.mu.Lock()
			if !b.dead {
				b.parent, b.name = parent, name
			}
			b.mu.Unlock()
			return i, nil
		}
	}
	fill := func(i *inode) {
		i.fs, i.kind, i.ino, i.parent, i.name, i.lower = f, a.Type(), ino, parent, name, r.lower
		if len(r.lowers) > 0 {
			i.lower = r.lowers[0]
		}
		if r.upper != nil {
			i.upper.Store(&layer{r.upper})
		}
	}
	switch a.Type() {
	case unix.S_IFDIR:
		d := &dir{lowers: r.lowers, lowerPath: r.lowerPath}
		fill(&d.inode)
		return keep(f, r.key(), d), nil
	case unix.S_IFREG:
		x := &file{}
		fill(&x.inode)
		return keep(f, r.key(), x), nil
	case unix.S_IFLNK:
		x := &link{}
		fill(&x.inode)
		return keep(f, r.key(), x), nil
	}
	x := &special{}
	fill(&x.inode)
	return keep(f, r.key(), x), nil
}

type inner interface{ base() *inode }

// keep puts i in the table, for as long as somebody holds it.
func keep[T any, P interface {
	*T
	vfs.Inode
	base() *inode
}](f *FS, k vfs.Inode, i P) vfs.Inode {
	w := weakly[T, P]{weak.Make((*T)(i))}
	i.base().self = w
	i.base().keys = new(atomic.Pointer[[]vfs.Inode])
	i.base().keys.Store(&[]vfs.Inode{k})
	f.inodes[k] = w
	fs := weak.Make(f) // whose root would keep itself
	runtime.AddCleanup((*T)(i), func(keys *atomic.Pointer[[]vfs.Inode]) {
		f := fs.Value()
		if f == nil {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, k := range *keys.Load() {
			if f.inodes[k] == w {
				delete(f.inodes, k)
			}
		}
	}, i.base().keys)
	return i
}

// alias has the table know i by its copy, too.
func (f *FS) alias(i *inode, upper vfs.Inode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	keys := append([]vfs.Inode{upper}, *i.keys.Load()...)
	i.keys.Store(&keys)
	f.inodes[upper] = i.self
}
