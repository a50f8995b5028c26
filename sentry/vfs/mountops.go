package vfs

import (
	"slices"

	"golang.org/x/sys/unix"
)

// MountOptions are what mount(2) is given besides the file system.
type MountOptions struct {
	Flags  MountFlags
	Source string // first field of /proc/mounts
	Data   string // the file system's own options, to show
}

func (ns *Namespace) mayMount(ctx Context) error {
	if !ctx.Creds().HasIn(ns.owner, unix.CAP_SYS_ADMIN) {
		return unix.EPERM
	}
	return nil
}

// checkPoint says whether something whose root is root may be mounted at at.
func (ns *Namespace) checkPoint(root *Dentry, at Path) error {
	switch {
	case at.Mount == nil || at.Mount.ns != ns:
		return unix.EINVAL
	case at.Dentry.Dead():
		return unix.ENOENT
	case (root.dir != nil) != (at.Dentry.dir != nil):
		return unix.ENOTDIR
	}
	return nil
}

// Mount puts fs at at. Propagation is always private.
func (ns *Namespace) Mount(ctx Context, at Path, fs FileSystem, o MountOptions) error {
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	at = at.top()
	s := takeSuper(fs)
	if err := ns.checkPoint(s.root, at); err != nil {
		s.drop()
		return err
	}
	m := ns.newMount(s, nil, o)
	ns.list = append(ns.list, m)
	ns.attachLocked(m, at)
	return nil
}

// Bind shows from at at too; recursive takes the mounts below along. flags are
// added to those of from's mount.
func (ns *Namespace) Bind(ctx Context, from, at Path, recursive bool, flags MountFlags) error {
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if from.Mount == nil || from.Mount.ns != ns {
		return unix.EINVAL
	}
	at = at.top()
	if err := ns.checkPoint(from.Dentry, at); err != nil {
		return err
	}
	m := ns.copyLocked(from.Mount, from.Dentry)
	m.flags.Or(uint32(flags) & mountFlags)
	if recursive {
		ns.copyTreeLocked(from, m)
	}
	ns.attachLocked(m, at)
	return nil
}

// copyLocked makes another mount of what m shows, with its top at root.
func (ns *Namespace) copyLocked(m *Mount, root *Dentry) *Mount {
	m.super.take()
	n := ns.newMount(m.super, root, MountOptions{m.Flags(), m.source, m.data})
	ns.list = append(ns.list, n)
	return n
}

// copyTreeLocked repeats on to the mounts that are below from.
func (ns *Namespace) copyTreeLocked(from Path, to *Mount) {
	copies := map[*Mount]*Mount{from.Mount: to}
	for _, old := range from.Mount.ns.treeLocked(from.Mount)[1:] {
		on := old.on.Load()
		parent := copies[on.Mount]
		if parent == nil || on.Mount == from.Mount && !on.Dentry.under(from.Dentry) {
			continue
		}
		c := ns.copyLocked(old, old.root)
		copies[old] = c
		ns.attachLocked(c, Path{parent, on.Dentry})
	}
}

// Unmount takes away the topmost mount at at, which is its root. flags are MNT_DETACH and
// MNT_FORCE. Open files make it EBUSY, working directories do not.
func (ns *Namespace) Unmount(ctx Context, at Path, flags int) error {
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	if flags&^(unix.MNT_DETACH|unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW) != 0 {
		return unix.EINVAL // MNT_EXPIRE is not served
	}
	ns.mu.Lock()
	at = at.top() // after pivot_root(".", ".") "." is what lies below
	m := at.Mount
	switch {
	case m == nil || m.ns != ns || at.Dentry != m.root:
		ns.mu.Unlock()
		return unix.EINVAL
	case m.on.Load() == nil:
		ns.mu.Unlock()
		return unix.EBUSY // the root of the tree
	case flags&unix.MNT_DETACH == 0 && (m.files.Load() != 0 || len(ns.childrenLocked(m)) != 0):
		ns.mu.Unlock()
		return unix.EBUSY
	}
	gone := ns.treeLocked(m)
	for _, g := range slices.Backward(gone) {
		ns.detachLocked(g)
	}
	ns.list = slices.DeleteFunc(ns.list, func(m *Mount) bool { return slices.Contains(gone, m) })
	ns.mu.Unlock()
	for _, g := range gone {
		g.super.drop()
	}
	return nil
}

// Remounter is a FileSystem with options that a remount changes.
type Remounter interface {
	Remount(ctx Context, data string) error
}

// Remount changes flags of the mount whose root at is; without MS_BIND also the
// file system's read-only state and options.
func (ns *Namespace) Remount(ctx Context, at Path, flags MountFlags, data string) error {
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	m := at.Mount
	if m == nil || m.ns != ns || at.Dentry != m.root {
		return unix.EINVAL
	}
	if flags&unix.MS_BIND == 0 {
		if r, ok := m.super.fs.(Remounter); ok && data != "" {
			if err := r.Remount(ctx, data); err != nil {
				return err
			}
		}
		m.super.readonly.Store(flags&unix.MS_RDONLY != 0)
	}
	m.flags.Store(uint32(flags) & mountFlags)
	return nil
}

// Move puts the mount whose root from is at to.
func (ns *Namespace) Move(ctx Context, from, to Path) error {
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	m := from.Mount
	if m == nil || m.ns != ns || from.Dentry != m.root || m.on.Load() == nil {
		return unix.EINVAL
	}
	to = to.top()
	if err := ns.checkPoint(m.root, to); err != nil {
		return err
	}
	if slices.Contains(ns.treeLocked(m), to.Mount) {
		return unix.ELOOP
	}
	ns.detachLocked(m)
	ns.attachLocked(m, to)
	return nil
}

// PivotRoot makes newRoot, a mount, what root was and moves root to putOld.
// Changing the tasks' roots is the caller's business.
func (ns *Namespace) PivotRoot(ctx Context, root, newRoot, putOld Path) error {
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n, o := newRoot.Mount, root.Mount
	switch {
	case n == nil || o == nil || putOld.Mount == nil || n.ns != ns || o.ns != ns || putOld.Mount.ns != ns:
		return unix.EINVAL
	case newRoot.Dentry.dir == nil || putOld.Dentry.dir == nil:
		return unix.ENOTDIR
	case n == o || putOld.Mount == o:
		return unix.EBUSY
	case root.Dentry != o.root || newRoot.Dentry != n.root || n.on.Load() == nil:
		return unix.EINVAL
	case !putOld.below(newRoot) || !newRoot.below(root):
		return unix.EINVAL
	}
	was := o.on.Load()
	ns.detachLocked(n)
	ns.detachLocked(o)
	if was != nil {
		ns.attachLocked(n, *was)
	} else {
		ns.root.Store(n)
	}
	ns.attachLocked(o, putOld)
	return nil
}

// below reports whether p is top or reached from it.
func (p Path) below(top Path) bool {
	for {
		if p.Mount == top.Mount {
			return p.Dentry.under(top.Dentry)
		}
		on := p.Mount.on.Load()
		if on == nil {
			return false
		}
		p = *on
	}
}

// Clone copies the namespace for owner. The function translates a place in the old one to
// the same place in the copy.
func (ns *Namespace) Clone(owner *UserNamespace) (*Namespace, func(Path) Path) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	c := &Namespace{owner: owner, number: NewNamespaceNumber()}
	c.byPath.Store(&map[Path]*Mount{})
	copies := make(map[*Mount]*Mount, len(ns.list))
	for _, m := range ns.treeLocked(ns.root.Load()) {
		n := c.copyLocked(m, m.root)
		copies[m] = n
		if on := m.on.Load(); on != nil {
			c.attachLocked(n, Path{copies[on.Mount], on.Dentry})
		}
	}
	c.root.Store(copies[ns.root.Load()])
	return c, func(p Path) Path {
		if m := copies[p.Mount]; m != nil {
			p.Mount = m
		}
		return p
	}
}

// Release unmounts everything. Nobody resolves names in ns any more.
func (ns *Namespace) Release() {
	ns.mu.Lock()
	gone := ns.list
	ns.list = nil
	for _, m := range slices.Backward(gone) {
		ns.detachLocked(m)
	}
	ns.mu.Unlock()
	for _, m := range gone {
		m.super.drop()
	}
}

// MountInfo is a line of /proc/PID/mountinfo.
type MountInfo struct {
	ID, Parent   int
	Dev          uint64
	Root, Point  string // within the file system, within the process's root
	Flags        MountFlags
	SuperFlags   MountFlags
	Type, Source string
	Data         string
}

// Mounts lists what is mounted below root, parents first.
func (ns *Namespace) Mounts(root Path) []MountInfo {
	ns.mu.Lock()
	mounts := ns.treeLocked(ns.root.Load())
	ns.mu.Unlock()
	var out []MountInfo
	for _, m := range mounts {
		point, ok := name(root, m.Root())
		if !ok {
			continue
		}
		attr, err := m.super.root.inode.Attr(SentryContext())
		if err != nil {
			attr.Dev = 0 // a dead file system is listed all the same
		}
		info := MountInfo{ID: m.id, Parent: m.id, Dev: attr.Dev, Root: m.root.path(), Point: point,
			Flags: m.Flags(), Type: m.super.fs.Type(), Source: m.source, Data: m.data}
		if m.super.readonly.Load() {
			info.SuperFlags = unix.MS_RDONLY
		}
		if on := m.on.Load(); on != nil {
			info.Parent = on.Mount.id
		}
		out = append(out, info)
	}
	return out
}

// Sync writes every mounted file system to where it lasts. The first error is
// returned; the others are tried all the same.
func (ns *Namespace) Sync(ctx Context) error {
	seen := map[*Super]bool{}
	var first error
	ns.mu.Lock()
	mounts := slices.Clone(ns.list)
	ns.mu.Unlock()
	for _, m := range mounts {
		if seen[m.super] {
			continue
		}
		seen[m.super] = true
		if err := m.super.fs.Sync(ctx); err != nil && first == nil {
			first = err
		}
	}
	return first
}
