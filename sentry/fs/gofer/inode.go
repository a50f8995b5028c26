package gofer

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
	"bulkhead/sentry/vfs"
)

// inode is what all kinds have in common.
type inode struct {
	fs   *FS
	h    *handle
	kind uint32 // S_IFMT
	dev  uint64 // as the container sees it
	key  key    // on the host

	mu      sync.Mutex
	parent  *dir // where name leads to it, while it has no id; exclusive attachments alone
	name    string
	attr    wire.Attr
	asked   time.Time           // when attr was; zero: no longer true
	changes uint32              // counts those of attr, for a reply that comes after one
	xattrs  map[string]struct{} // the names that there are, nil if unknown; exclusive attachments alone
	users   int                 // open files and O_PATH descriptors
	dead    bool                // the last name has gone
}

// Identity implements vfs.Identified: what is not ours alone may be in another attachment, or
// in one of another container's.
func (i *inode) Identity() any {
	if i.fs.exclusive() {
		return nil
	}
	return i.key
}

// handle is what an inode holds of the gofer's and the host's. It outlives the
// inode by a moment: the garbage collector's cleanup gives it back.
type handle struct {
	conn *wire.Conn

	mu sync.Mutex
	id uint32
	fd *hostFD
}

// free gives back everything, at the latest when the inode is collected.
func (h *handle) free() {
	h.mu.Lock()
	id, fd := h.id, h.fd
	h.id, h.fd = wire.NoID, nil
	h.mu.Unlock()
	if fd != nil {
		fd.drop()
	}
	if id != wire.NoID {
		h.conn.Release(id)
	}
}

func (h *handle) get() uint32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.id
}

// set takes id over, or gives it back if there is one already.
func (h *handle) set(id uint32) {
	if id == wire.NoID {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.id == wire.NoID {
		h.id = id
	} else if h.id != id {
		h.conn.Release(id)
	}
}

func (i *inode) base() *inode { return i }

// inodeOf is the common part of one of our inodes.
func inodeOf(v vfs.Inode) *inode { return v.(interface{ base() *inode }).base() }

// meet hears that i was found again.
func (i *inode) meet(a *wire.Attr, id uint32, parent *dir, name string) {
	i.h.set(id)
	i.mu.Lock()
	defer i.mu.Unlock()
	if parent != nil {
		i.parent, i.name = parent, name
	}
	if i.asked.IsZero() || !i.fs.exclusive() {
		i.learnLocked(a)
	}
}

// need is i's id, asked for by its name if it has none yet.
func (i *inode) need() (uint32, error) {
	if id := i.h.get(); id != wire.NoID {
		return id, nil
	}
	i.mu.Lock()
	parent, name, dead := i.parent, i.name, i.dead
	i.mu.Unlock()
	if dead || parent == nil {
		return 0, unix.ESTALE
	}
	dir, err := parent.need()
	if err != nil {
		return 0, err
	}
	r, err := i.fs.conn.Call(&wire.Request{Op: wire.Walk, ID: dir, Names: []string{name}, Flags: wire.WalkIDs})
	if err != nil {
		return 0, err
	}
	if len(r.Nodes) != 1 {
		return 0, unix.ESTALE
	}
	i.h.set(r.Nodes[0].ID)
	return i.h.get(), nil
}

// where is what a request says of i: its id, or its directory's and its name.
func (i *inode) where() (id uint32, name string, err error) {
	if id := i.h.get(); id != wire.NoID {
		return id, "", nil
	}
	i.mu.Lock()
	parent, name, dead := i.parent, i.name, i.dead
	i.mu.Unlock()
	if dead || parent == nil {
		return 0, "", unix.ESTALE
	}
	id, err = parent.need()
	return id, name, err
}

// call sends q about i.
func (i *inode) call(q wire.Request) (wire.Reply, error) {
	var err error
	if q.ID, q.Name, err = i.where(); err != nil {
		return wire.Reply{FD: -1}, err
	}
	return i.fs.conn.Call(&q)
}

// learn takes what the gofer told of i just now.
func (i *inode) learn(a *wire.Attr) {
	i.mu.Lock()
	i.learnLocked(a)
	i.mu.Unlock()
}

// learnLocked leaves out a reply that another one has overtaken.
func (i *inode) learnLocked(a *wire.Attr) {
	c, now := a.Ctime, i.attr.Ctime
	if !i.asked.IsZero() && (c.Sec < now.Sec || c.Sec == now.Sec && c.Nsec < now.Nsec) && i.fs.exclusive() {
		return
	}
	i.attr, i.asked = *a, time.Now()
	i.changes++
}

// stale says that attributes have changed in a way that we do not know.
func (i *inode) stale() {
	i.mu.Lock()
	i.staleLocked()
	i.mu.Unlock()
}

func (i *inode) staleLocked() {
	i.asked = time.Time{}
	i.changes++
}

// cached gives the attributes if they can be taken for true.
func (i *inode) cached() (wire.Attr, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.dead && i.h.get() == wire.NoID:
		return i.attr, true // nobody knows better any more
	case i.asked.IsZero():
		return wire.Attr{}, false
	case i.fs.exclusive() || i.dead:
		return i.attr, true
	}
	return i.attr, time.Since(i.asked) < attrLife
}

// attributes are up to date.
func (i *inode) attributes() (wire.Attr, error) {
	if a, ok := i.cached(); ok {
		return a, nil
	}
	i.mu.Lock()
	before := i.changes
	i.mu.Unlock()
	r, err := i.call(wire.Request{Op: wire.GetAttr})
	if err != nil {
		return r.Attr, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.changes == before {
		i.learnLocked(&r.Attr)
	}
	return r.Attr, nil
}

// Attr implements vfs.Inode.
func (i *inode) Attr(vfs.Context) (vfs.Attr, error) {
	a, err := i.attributes()
	return i.show(&a), err
}

// show is a as vfs has it.
func (i *inode) show(a *wire.Attr) vfs.Attr {
	uid, gid := i.fs.shownIDs(a.UID, a.GID)
	return vfs.Attr{
		Dev: i.dev, Ino: a.Ino, Mode: a.Mode, Nlink: a.Nlink, UID: uid, GID: gid, Rdev: a.Rdev,
		Size: int64(a.Size), Blocks: int64(a.Blocks), BlockSize: int32(a.BlockSize),
		Atime: timespec(a.Atime), Mtime: timespec(a.Mtime), Ctime: timespec(a.Ctime), Btime: timespec(a.Btime),
	}
}

func timespec(t wire.Time) unix.Timespec { return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)} }
func wireTime(t unix.Timespec) wire.Time { return wire.Time{Sec: t.Sec, Nsec: uint32(t.Nsec)} }

// SetAttr implements vfs.Inode.
func (i *inode) SetAttr(_ vfs.Context, s vfs.SetAttr) error {
	set := wire.Set{Mask: uint32(s.Mask), Mode: s.Mode, UID: s.UID, GID: s.GID, Size: uint64(s.Size)} // TestMasks compares the bits
	if i.fs.ids != nil {
		var err error
		if s.Mask&vfs.SetUID != 0 {
			set.UID, err = i.fs.ids.UIDs.kept(s.UID)
		}
		if s.Mask&vfs.SetGID != 0 && err == nil {
			set.GID, err = i.fs.ids.GIDs.kept(s.GID)
		}
		if err != nil {
			return err
		}
	}
	if s.Mask&vfs.SetAtime != 0 {
		set.Atime = wireTime(s.Atime)
	}
	if s.Mask&vfs.SetMtime != 0 {
		set.Mtime = wireTime(s.Mtime)
	}
	r, err := i.call(wire.Request{Op: wire.SetAttr, Set: set})
	if err != nil {
		i.stale() // some of it may have been done
		return err
	}
	i.learn(&r.Attr)
	return nil
}

// hold and let go count who uses i without a name; Pinner for O_PATH.
func (i *inode) hold() {
	i.mu.Lock()
	i.users++
	i.mu.Unlock()
}

func (i *inode) letGo() {
	i.mu.Lock()
	i.users--
	last := i.users == 0 && i.dead
	i.mu.Unlock()
	if last {
		i.bury()
	}
}

// Pin and Unpin implement vfs.Pinner.
func (i *inode) Pin()   { i.hold() }
func (i *inode) Unpin() { i.letGo() }

// lost hears that a name of i went. With the last one, and the last who uses it, its
// disk space goes: the garbage collector would come too late.
func (i *inode) lost(dir bool) {
	i.mu.Lock()
	if i.attr.Nlink > 0 {
		i.attr.Nlink--
	}
	if !dir && i.attr.Nlink > 0 {
		i.staleLocked() // ctime, and on a shared attachment who knows
		i.mu.Unlock()
		return
	}
	if dir {
		i.attr.Nlink = 0
	}
	i.dead = true
	unused := i.users == 0
	k := keyOf(&i.attr)
	i.mu.Unlock()
	i.fs.mu.Lock()
	delete(i.fs.inodes, k) // the host may use the number again at once
	i.fs.mu.Unlock()
	if unused {
		i.bury()
	}
}

// bury gives back what is held of an object without names and users. Much disk
// space must not wait for the next request.
func (i *inode) bury() {
	big := i.h.size() > 1<<20
	i.h.free()
	if big {
		i.fs.conn.Flush()
	}
}
