package vfs

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// lastNamespace numbers namespaces; the first ones of a container have Linux's
// fixed numbers (include/uapi/linux/nsfs.h).
var lastNamespace atomic.Uint64

// NewNamespaceNumber is the inode number of a new namespace.
func NewNamespaceNumber() uint64 { return 0xF0000000 + lastNamespace.Add(1) - 1 }

// UserNamespace says what user and group ids and capabilities mean
// (user_namespaces(7)). Everywhere in the Sentry an id is the container's own,
// as it is in the container's first user namespace; only what crosses to an
// application is translated, by Shown and Meant. nil is the first namespace.
type UserNamespace struct {
	parent *UserNamespace
	level  int
	uid    uint32 // who made it: has all capabilities in it from its parent
	gid    uint32
	number uint64
	// setfcap: the maker had CAP_SETFCAP, without which user 0 is not to be mapped.
	setfcap bool

	mu     sync.Mutex // one writer of maps at a time
	uids   atomic.Pointer[IDMap]
	gids   atomic.Pointer[IDMap]
	denied bool // setgroups(2), under mu
}

// firstUserNamespace is its number in /proc/PID/ns.
const firstUserNamespace = 0xEFFFFFFD

// maxUserDepth is how deep namespaces nest (create_user_ns).
const maxUserDepth = 32

// NewUserNamespace is one below that of creds, made by their user.
func NewUserNamespace(c *Creds) (*UserNamespace, error) {
	n := &UserNamespace{parent: c.User, level: c.User.Level() + 1, uid: c.EUID, gid: c.EGID,
		number: NewNamespaceNumber(), setfcap: c.HasIn(c.User, unix.CAP_SETFCAP)}
	if n.level > maxUserDepth {
		return nil, unix.ENOSPC
	}
	if _, ok := c.User.UIDs().Out(c.EUID); !ok {
		return nil, unix.EPERM
	}
	if _, ok := c.User.GIDs().Out(c.EGID); !ok {
		return nil, unix.EPERM
	}
	if c.User != nil {
		c.User.mu.Lock()
		n.denied = c.User.denied
		c.User.mu.Unlock()
	}
	n.uids.Store(&IDMap{})
	n.gids.Store(&IDMap{})
	return n, nil
}

// Level is 0 for the first, Number the inode number, Parent the one above,
// Maker the user and group that made it.
func (n *UserNamespace) Level() int {
	if n == nil {
		return 0
	}
	return n.level
}

func (n *UserNamespace) Number() uint64 {
	if n == nil {
		return firstUserNamespace
	}
	return n.number
}

// Parent is the namespace that n is in; the first one, nil, is its own.
func (n *UserNamespace) Parent() *UserNamespace {
	if n == nil {
		return nil
	}
	return n.parent
}

func (n *UserNamespace) Maker() (uid, gid uint32) {
	if n == nil {
		return 0, 0
	}
	return n.uid, n.gid
}

// Under reports whether n is anc or below it.
func (n *UserNamespace) Under(anc *UserNamespace) bool {
	for ; n != nil; n = n.parent {
		if n == anc {
			return true
		}
	}
	return anc == nil
}

// Owns says whether id, as the first namespace has it, is root in n or in one that n
// is in (security/commoncap.c, rootid_owns_currentns).
func (n *UserNamespace) Owns(id uint32) bool {
	for ; n != nil; n = n.parent {
		if inside, ok := n.UIDs().Out(id); ok && inside == 0 {
			return true
		}
	}
	return id == 0
}

// UIDs and GIDs are its maps.
func (n *UserNamespace) UIDs() *IDMap {
	if n == nil {
		return &allIDs
	}
	return n.uids.Load()
}

func (n *UserNamespace) GIDs() *IDMap {
	if n == nil {
		return &allIDs
	}
	return n.gids.Load()
}

// IDRange is a line of uid_map, with Base in the container's own ids.
type IDRange struct{ First, Base, Count uint32 }

// IDMap translates ids. It does not change.
type IDMap struct {
	Ranges []IDRange
	all    bool
}

var allIDs = IDMap{Ranges: []IDRange{{0, 0, ^uint32(0)}}, all: true}

// In is the container's id that a namespace's id means.
func (m *IDMap) In(id uint32) (uint32, bool) {
	if m.all {
		return id, id != ^uint32(0)
	}
	for _, r := range m.Ranges {
		if id-r.First < r.Count && id >= r.First {
			return id - r.First + r.Base, true
		}
	}
	return ^uint32(0), false
}

// Out is how a namespace sees one of the container's ids.
func (m *IDMap) Out(id uint32) (uint32, bool) {
	if m.all {
		return id, id != ^uint32(0)
	}
	for _, r := range m.Ranges {
		if id-r.Base < r.Count && id >= r.Base {
			return id - r.Base + r.First, true
		}
	}
	return ^uint32(0), false
}

// overflow is what an id without a name looks like (kernel.overflowuid).
const overflow = 65534

// ShowUID and ShowGID are ids as programs of the namespace see them.
func (n *UserNamespace) ShowUID(id uint32) uint32 { return n.UIDs().show(id) }
func (n *UserNamespace) ShowGID(id uint32) uint32 { return n.GIDs().show(id) }

func (m *IDMap) show(id uint32) uint32 {
	if id, ok := m.Out(id); ok {
		return id
	}
	return overflow
}

// SetgroupsDenied is what /proc/PID/setgroups says.
func (n *UserNamespace) SetgroupsDenied() bool {
	if n == nil {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.denied
}

// MaySetgroups: not before there are groups (kernel/user_namespace.c, userns_may_setgroups).
func (n *UserNamespace) MaySetgroups() bool {
	return n == nil || len(n.GIDs().Ranges) > 0 && !n.SetgroupsDenied()
}

// SetSetgroups is a write to /proc/PID/setgroups.
func (n *UserNamespace) SetSetgroups(allow bool) error {
	if n == nil {
		if allow {
			return nil
		}
		return unix.EPERM
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case allow && n.denied, !allow && len(n.gids.Load().Ranges) > 0:
		return unix.EPERM
	case !allow:
		n.denied = true
	}
	return nil
}

// maxRanges is UID_GID_MAP_MAX_EXTENTS.
const maxRanges = 340

// SetMap is a write to uid_map, or with groups to gid_map, by ctx's user, of a
// file that opener opened (kernel/user_namespace.c, map_write). Base is in ids
// of n's parent.
func (n *UserNamespace) SetMap(ctx Context, opener *Creds, groups bool, lines []IDRange) error {
	if n == nil {
		return unix.EPERM
	}
	c := ctx.Creds()
	n.mu.Lock()
	defer n.mu.Unlock()
	at, above := &n.uids, n.parent.UIDs()
	setID := unix.CAP_SETUID
	if groups {
		at, above, setID = &n.gids, n.parent.GIDs(), unix.CAP_SETGID
	}
	switch {
	case opener.User != n && opener.User != n.parent, len(at.Load().Ranges) > 0, !opener.HasIn(n, unix.CAP_SYS_ADMIN):
		return unix.EPERM
	case len(lines) == 0 || len(lines) > maxRanges || clash(lines):
		return unix.EINVAL
	}
	if !n.mayMap(c, opener, groups, setID, lines) {
		return unix.EPERM
	}
	m := &IDMap{}
	for _, l := range lines {
		base, ok := above.In(l.Base)
		end, ok2 := above.In(l.Base + l.Count - 1)
		if !ok || !ok2 || end-base != l.Count-1 {
			return unix.EPERM
		}
		m.Ranges = append(m.Ranges, IDRange{l.First, base, l.Count})
	}
	at.Store(m)
	return nil
}

// mayMap is new_idmap_permitted.
func (n *UserNamespace) mayMap(c, opener *Creds, groups bool, setID int, lines []IDRange) bool {
	if !groups {
		for _, l := range lines { // verify_root_map
			if l.Base != 0 {
				continue
			}
			if opener.User == n && !n.setfcap || opener.User != n && !opener.HasIn(n.parent, unix.CAP_SETFCAP) {
				return false
			}
		}
	}
	if len(lines) == 1 && lines[0].Count == 1 && opener.EUID == n.uid {
		uid, okUID := n.parent.UIDs().In(lines[0].Base)
		gid, okGID := n.parent.GIDs().In(lines[0].Base)
		if !groups && okUID && uid == opener.EUID || groups && okGID && n.denied && gid == opener.EGID {
			return true
		}
	}
	return c.HasIn(n.parent, setID) && opener.HasIn(n.parent, setID)
}

// clash: a range that is empty, wraps, or covers an id twice.
func clash(lines []IDRange) bool {
	for i, l := range lines {
		if l.Count == 0 || l.First == ^uint32(0) || l.Base == ^uint32(0) || l.First+l.Count < l.First || l.Base+l.Count < l.Base {
			return true
		}
		for _, o := range lines[:i] {
			if l.First < o.First+o.Count && o.First < l.First+l.Count || l.Base < o.Base+o.Count && o.Base < l.Base+l.Count {
				return true
			}
		}
	}
	return false
}

// Has reports whether capability c (unix.CAP_…) is effective in the container's
// first user namespace (capable).
func (c *Creds) Has(cap int) bool { return c.HasIn(nil, cap) }

// HasHere is Has for the user namespace that the credentials are in.
func (c *Creds) HasHere(cap int) bool { return c.Effective&(1<<cap) != 0 }

// HasIn is Has for any namespace: capabilities count in one's own and those
// below, and its maker has all (security/commoncap.c, cap_capable).
func (c *Creds) HasIn(ns *UserNamespace, cap int) bool {
	for {
		if ns == c.User {
			return c.Effective&(1<<cap) != 0
		}
		if ns.Level() <= c.User.Level() {
			return false
		}
		if ns.parent == c.User && ns.uid == c.EUID {
			return true
		}
		ns = ns.parent
	}
}

// unnamed: some file's owner may have no id in the container.
var unnamed atomic.Bool

// ExpectUnnamed is said before a file system is mounted whose files may belong to nobody in
// the container (ids of ^0). No capability counts over these, so that root, who may do
// all with any other, has to be asked about, too.
func ExpectUnnamed() { unnamed.Store(true) }

// HasOver is Has for what belongs to uid and gid, both of which must have names
// in the credentials' namespace (capable_wrt_inode_uidgid).
func (c *Creds) HasOver(uid, gid uint32, cap int) bool {
	return c.HasHere(cap) && c.knows(uid, gid)
}

func (c *Creds) knows(uid, gid uint32) bool {
	if c.User == nil {
		return uid != ^uint32(0) && gid != ^uint32(0)
	}
	_, ok := c.User.UIDs().Out(uid)
	_, ok2 := c.User.GIDs().Out(gid)
	return ok && ok2
}

// over are the effective capabilities over what belongs to uid and gid.
func (c *Creds) over(uid, gid uint32) uint64 {
	if c.knows(uid, gid) {
		return c.Effective
	}
	return 0
}
