// Package gofer is the file system of a gofer's attachments: inodes whose names
// and attributes the gofer process keeps (sentry/gofer/wire), and whose contents
// the Sentry reads, writes and maps itself by the host's descriptors.
//
// An exclusive attachment is changed by nobody else: what was learned of it stays
// true until we change it, so that names (also those that do not exist),
// attributes and descriptors are kept. Of a shared one (a bind mount) every
// name is asked for again on every walk, and attributes, and names of directories
// that are there, are as old as attrLife at most.
//
// FIFOs, sockets and devices are the Sentry's own, opened by vfs's handlers. No
// such thing is ever opened on the host.
//
// Lock order: file.opening, dir.mu, FS.mu, inode.mu, handle.mu, idleFDs.mu. Only
// opening is held across a request.
package gofer

import (
	"fmt"
	"runtime"
	"sync"
	"time"
	"weak"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// attrLife is how long attributes of a shared attachment are taken for fresh:
// the permission checks of one call need not ask three times.
const attrLife = time.Millisecond

// FS is one attachment. It implements vfs.FileSystem.
type FS struct {
	conn  *wire.Conn
	arena *memory.Arena
	flags uint32 // wire.ReadOnly …
	dev   uint64
	root  vfs.Inode

	ids    *IDs        // nil: the disk's are the container's
	events *hostEvents // nil: nobody watches
	guard  func()

	mu     sync.Mutex
	inodes map[key]known
	devs   map[uint64]uint64 // what the container sees of the host's devices
	idle   idleFDs
}

// key tells objects of the host's apart, also two that had the same number one after the other.
type key struct {
	dev, ino uint64
	btime    wire.Time
	kind     uint32 // S_IFMT
}

func keyOf(a *wire.Attr) key { return key{a.Dev, a.Ino, a.Btime, a.Mode & unix.S_IFMT} }

// known is an inode that somebody may still hold.
type known interface {
	get() vfs.Inode // nil if it has gone
}

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

// weaken refers to i without holding it.
func weaken(i vfs.Inode) known {
	switch i := i.(type) {
	case *dir:
		return weakly[dir, *dir]{weak.Make(i)}
	case *file:
		return weakly[file, *file]{weak.Make(i)}
	case *link:
		return weakly[link, *link]{weak.Make(i)}
	case *special:
		return weakly[special, *special]{weak.Make(i)}
	}
	panic("gofer: an inode of another file system")
}

// Attach says hello to the gofer and gives its attachments, in the order of its configuration.
func Attach(conn *wire.Conn, arena *memory.Arena) ([]*FS, error) {
	r, err := conn.Call(&wire.Request{Op: wire.Hello})
	if err != nil {
		return nil, fmt.Errorf("gofer: say hello: %w", err)
	}
	var all []*FS
	for i, root := range r.Roots {
		f := &FS{conn: conn, arena: arena, flags: root.Flags, dev: vfs.NewDev(), inodes: map[key]known{}, devs: map[uint64]uint64{}}
		f.devs[root.Attr.Dev] = f.dev
		f.root = f.adopt(&root.Attr, uint32(i), "", nil, "")
		all = append(all, f)
	}
	return all, nil
}

func (f *FS) exclusive() bool { return f.flags&wire.Exclusive != 0 }

// ReadOnly says that the gofer refuses changes: the mount should be read-only, too.
func (f *FS) ReadOnly() bool { return f.flags&wire.ReadOnly != 0 }

// IsFile says that the attachment is a file, to be mounted on one.
func (f *FS) IsFile() bool { return f.flags&wire.IsFile != 0 }

// Type is what runtimes' users see in /proc/mounts.
func (*FS) Type() string { return "gofer" }

// Handles implements vfs.Handled.
func (*FS) Handles() {}

// Root implements vfs.FileSystem.
func (f *FS) Root() vfs.Inode { return f.root }

// Statfs implements vfs.FileSystem.
func (f *FS) Statfs(vfs.Context) (unix.Statfs_t, error) {
	id, err := inodeOf(f.root).need()
	if err != nil {
		return unix.Statfs_t{}, err
	}
	r, err := f.conn.Call(&wire.Request{Op: wire.Statfs, ID: id})
	return r.Statfs, err
}

// Sync implements vfs.FileSystem for what is open or was lately. What was closed
// longer ago the host writes back by itself.
func (f *FS) Sync(vfs.Context) error {
	f.mu.Lock()
	var files []*file
	for _, k := range f.inodes {
		if i, ok := k.get().(*file); ok {
			files = append(files, i)
		}
	}
	f.mu.Unlock()
	var first error
	for _, i := range files {
		if err := i.sync(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Release implements vfs.FileSystem.
func (f *FS) Release() { f.idle.empty() }

// find is the inode of what a describes, if there is one.
func (f *FS) find(a *wire.Attr) vfs.Inode {
	f.mu.Lock()
	defer f.mu.Unlock()
	if k := f.inodes[keyOf(a)]; k != nil {
		return k.get()
	}
	return nil
}

// adopt gives the inode of what a describes, made if need be. id, or the name in
// parent, leads there; the inode takes id over.
func (f *FS) adopt(a *wire.Attr, id uint32, target string, parent *dir, name string) vfs.Inode {
	k := keyOf(a)
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.inodes[k]; old != nil {
		if i := old.get(); i != nil {
			inodeOf(i).meet(a, id, parent, name)
			return i
		}
	}
	fill := func(i *inode) {
		i.fs, i.h, i.kind, i.dev, i.key = f, &handle{conn: f.conn, id: id}, k.kind, f.devLocked(a.Dev), k
		i.parent, i.name, i.attr, i.asked = parent, name, *a, time.Now()
	}
	switch k.kind {
	case unix.S_IFDIR:
		i := &dir{}
		fill(&i.inode)
		return keep(f, k, i)
	case unix.S_IFREG:
		i := &file{}
		fill(&i.inode)
		return keep(f, k, i)
	case unix.S_IFLNK:
		i := &link{target: target}
		fill(&i.inode)
		return keep(f, k, i)
	}
	i := &special{}
	fill(&i.inode)
	return keep(f, k, i)
}

// keep puts i in the table for as long as somebody holds it.
func keep[T any, P interface {
	*T
	vfs.Inode
	base() *inode
}](f *FS, k key, i P) vfs.Inode {
	w := weakly[T, P]{weak.Make((*T)(i))}
	f.inodes[k] = w
	fs := weak.Make(f) // whose root would keep itself
	runtime.AddCleanup((*T)(i), func(h *handle) {
		h.free()
		if f := fs.Value(); f != nil {
			f.forget(k, w)
		}
	}, i.base().h)
	return i
}

// forget takes k out of the table if it still stands for w.
func (f *FS) forget(k key, w known) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inodes[k] == w {
		delete(f.inodes, k)
	}
}

// devLocked is what the container sees instead of the host's device number.
func (f *FS) devLocked(host uint64) uint64 {
	d, ok := f.devs[host]
	if !ok {
		d = vfs.NewDev()
		f.devs[host] = d
	}
	return d
}
