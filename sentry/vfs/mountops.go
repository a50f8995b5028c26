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
	// ReadOnly says that nobody writes to the file system, by whatever mount.
	ReadOnly bool
}

// mayMount: capable over the mount namespace.
func (ns *Namespace) mayMount(ctx Context) error {
	if !ctx.Creds().HasIn(ns.owner, unix.CAP_SYS_ADMIN) {
		return unix.EPERM
	}
	return nil
}

// MayMount is the check of all calls about mounts (fs/namespace.c, may_mount).
func (ns *Namespace) MayMount(ctx Context) error { return ns.mayMount(ctx) }

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

// Mount puts fs at at.
func (ns *Namespace) Mount(ctx Context, at Path, fs FileSystem, o MountOptions) error {
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	m := newFSMount(ctx, fs, o)
	tree.Lock()
	defer tree.Unlock()
	at = at.top()
	err := ns.checkPoint(m.root, at)
	if err == nil && at.Dentry == at.Mount.root && at.Mount.super == m.super && m.root == at.Dentry {
		err = unix.EBUSY // the same file system may not be mounted on itself
	}
	if err == nil {
		err = m.graft(at)
	}
	if err != nil {
		m.scrap()
	}
	return err
}

// newFSMount makes a mount of fs that is nowhere.
func newFSMount(ctx Context, fs FileSystem, o MountOptions) *Mount {
	s := takeSuper(fs)
	if s.users.Load() == 1 {
		s.user = ctx.Creds().User
	}
	if o.ReadOnly {
		s.readonly.Store(true)
	}
	return newMount(s, nil, o)
}

// Detached makes a mount of fs that hangs nowhere, for fsmount(2). Close takes it
// apart unless it has been moved to a place.
func (ns *Namespace) Detached(ctx Context, fs FileSystem, o MountOptions) (Path, error) {
	if err := ns.mayMount(ctx); err != nil {
		return Path{}, err
	}
	m := newFSMount(ctx, fs, o)
	tree.Lock()
	defer tree.Unlock()
	return m.floating(ns.owner), nil
}

// floating gives m, which is nowhere, a namespace of its own.
func (m *Mount) floating(owner *UserNamespace) Path {
	anon := &Namespace{owner: owner, number: NewNamespaceNumber(), anon: true}
	anon.root.Store(m)
	m.enter(anon)
	return m.Root()
}

// Dissolve ends what Detached or OpenTree made, when the descriptor goes.
func (m *Mount) Dissolve() {
	tree.Lock()
	defer tree.Unlock()
	if m.ns != nil && m.ns.anon && m.ns.root.Load() == m && m.on.Load() == nil {
		m.scrap()
	}
}

// Bind shows from at at too; recursive takes the mounts below along. flags are
// added to those of from's mount.
func (ns *Namespace) Bind(ctx Context, from, at Path, recursive bool, flags MountFlags) error {
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	tree.Lock()
	defer tree.Unlock()
	at = at.top()
	if at.Mount == nil || at.Mount.ns != ns {
		return unix.EINVAL
	}
	m, err := ns.loopback(from, recursive)
	if err != nil {
		return err
	}
	m.flags.Or(uint32(flags) & mountFlags)
	if err = ns.checkPoint(m.root, at); err == nil {
		err = m.graft(at)
	}
	if err != nil {
		m.scrap()
	}
	return err
}

// loopback copies what is at from (fs/namespace.c, __do_loopback). Caller holds tree.
func (ns *Namespace) loopback(from Path, recursive bool) (*Mount, error) {
	old := from.Mount
	switch {
	case old == nil, old.unbindable:
		return nil, unix.EINVAL
	case old.ns != ns && !(old.ns != nil && old.ns.anon) && !bindable(from):
		return nil, unix.EINVAL
	}
	var m *Mount
	if recursive {
		m = old.copyTree(from.Dentry, alike, false, nil)
	} else {
		for _, c := range old.children() {
			if c.pinned && c.on.Load().Dentry.under(from.Dentry) {
				return nil, unix.EINVAL // it hides something
			}
		}
		m = old.copy(from.Dentry, alike)
	}
	m.pinned = false
	return m, nil
}

// bindable: a namespace's file, which is mounted nowhere.
func bindable(p Path) bool {
	return p.Dentry.anon && p.Mount.super.fs.Type() == "nsfs"
}

// OpenTree copies what is at from into a tree that hangs nowhere (OPEN_TREE_CLONE).
func (ns *Namespace) OpenTree(ctx Context, from Path, recursive bool) (Path, error) {
	if err := ns.mayMount(ctx); err != nil {
		return Path{}, err
	}
	tree.Lock()
	defer tree.Unlock()
	m, err := ns.loopback(from, recursive)
	if err != nil {
		return Path{}, err
	}
	return m.floating(ns.owner), nil
}

// SetPropagation changes how the mount whose root at is propagates, and with
// recursive those below it.
func (ns *Namespace) SetPropagation(ctx Context, at Path, p Propagation, recursive bool) error {
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	tree.Lock()
	defer tree.Unlock()
	m := at.Mount
	if m == nil || m.ns != ns || at.Dentry != m.root {
		return unix.EINVAL
	}
	all := []*Mount{m}
	if recursive {
		all = m.all()
	}
	for _, x := range all {
		x.setPropagation(p)
	}
	ns.changed()
	return nil
}

// Unmount takes away the topmost mount at at, which is its root. flags are
// MNT_DETACH, MNT_FORCE and MNT_EXPIRE. Open files and tasks' directories make it EBUSY.
func (ns *Namespace) Unmount(ctx Context, at Path, flags int) error {
	if flags&^(unix.MNT_DETACH|unix.MNT_FORCE|unix.MNT_EXPIRE|unix.UMOUNT_NOFOLLOW) != 0 {
		return unix.EINVAL
	}
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	tree.Lock()
	at = at.top() // after pivot_root(".", ".") "." is what lies below
	gone, err := ns.unmount(ctx, at, flags)
	tree.Unlock()
	for _, g := range gone {
		g.super.drop()
	}
	return err
}

func (ns *Namespace) unmount(ctx Context, at Path, flags int) ([]*Mount, error) {
	m := at.Mount
	switch {
	case m == nil || m.ns != ns || at.Dentry != m.root || m.pinned:
		return nil, unix.EINVAL
	case flags&unix.MNT_FORCE != 0 && !ctx.Creds().Has(unix.CAP_SYS_ADMIN):
		return nil, unix.EPERM
	}
	busy := m.files.Load() != 0 || len(m.children()) != 0
	if flags&unix.MNT_EXPIRE != 0 {
		switch {
		case m.on.Load() == nil, flags&(unix.MNT_FORCE|unix.MNT_DETACH) != 0:
			return nil, unix.EINVAL
		case busy:
			return nil, unix.EBUSY
		case !m.marked.Swap(true):
			return nil, unix.EAGAIN
		}
	}
	switch {
	case m.on.Load() == nil:
		return nil, unix.EBUSY // the root of the tree
	case flags&unix.MNT_DETACH == 0 && busy:
		return nil, unix.EBUSY
	}
	gone := gather(m.all())
	for _, g := range slices.Backward(gone) {
		g.remove()
	}
	return gone, nil
}

// Remounter is a FileSystem with options that a remount changes.
type Remounter interface {
	Remount(ctx Context, data string) error
}

// mayChange is can_change_locked_flags.
func (m *Mount) mayChange(flags uint32) bool {
	old := m.flags.Load()
	kept := m.locked &^ atimeFlags
	return old&kept&^flags == 0 && (m.locked&atimeFlags == 0 || old&atimeFlags == flags&atimeFlags)
}

// Remount changes flags of the mount whose root at is; without MS_BIND also the
// file system's read-only state and options.
func (ns *Namespace) Remount(ctx Context, at Path, flags MountFlags, data string) error {
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	tree.Lock()
	defer tree.Unlock()
	m := at.Mount
	if m == nil || m.ns != ns || at.Dentry != m.root {
		return unix.EINVAL
	}
	if !m.mayChange(uint32(flags)) {
		return unix.EPERM
	}
	if flags&unix.MS_BIND != 0 && m.written(flags) {
		return unix.EBUSY
	}
	if flags&unix.MS_BIND == 0 {
		if err := m.super.reconfigure(ctx, flags&unix.MS_RDONLY != 0, data); err != nil {
			return err
		}
	}
	m.flags.Store(uint32(flags) & mountFlags)
	ns.changed()
	return nil
}

// written: files are open for writing, which keeps flags from making m read-only.
func (m *Mount) written(flags MountFlags) bool {
	return flags&unix.MS_RDONLY != 0 && m.Flags()&unix.MS_RDONLY == 0 && m.writes.Load() > 0
}

// reconfigure changes a file system's own options.
func (s *Super) reconfigure(ctx Context, readonly bool, data string) error {
	if !ctx.Creds().HasIn(s.user, unix.CAP_SYS_ADMIN) {
		return unix.EPERM
	}
	if readonly && !s.readonly.Load() && s.writes.Load() > 0 {
		return unix.EBUSY
	}
	if r, ok := s.fs.(Remounter); ok && data != "" {
		if err := r.Remount(ctx, data); err != nil {
			return err
		}
	}
	s.readonly.Store(readonly)
	return nil
}

// Reconfigure is FSCONFIG_CMD_RECONFIGURE: Remount of the file system alone.
func (m *Mount) Reconfigure(ctx Context, readonly bool, data string) error {
	tree.Lock()
	defer tree.Unlock()
	return m.super.reconfigure(ctx, readonly, data)
}

// MountAttr is a change by mount_setattr(2).
type MountAttr struct {
	Set, Clear  MountFlags
	Propagation Propagation // 0: as it is
}

// SetAttr changes the mount whose root at is, with recursive all below it, or none.
func (ns *Namespace) SetAttr(ctx Context, at Path, a MountAttr, recursive bool) error {
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	tree.Lock()
	defer tree.Unlock()
	m := at.Mount
	if m == nil || at.Dentry != m.root || m.ns != ns && !(m.ns != nil && m.ns.anon) {
		return unix.EINVAL
	}
	all := []*Mount{m}
	if recursive {
		all = m.all()
	}
	change := func(x *Mount) uint32 { return x.flags.Load()&^uint32(a.Clear) | uint32(a.Set) }
	for _, x := range all {
		if !x.mayChange(change(x)) {
			return unix.EPERM
		}
		if x.written(MountFlags(change(x))) {
			return unix.EBUSY
		}
	}
	for _, x := range all {
		x.flags.Store(change(x))
		x.setPropagation(a.Propagation)
	}
	m.ns.changed()
	return nil
}

// Move puts the mount whose root from is at to. from may be the top of a tree that
// hangs nowhere.
func (ns *Namespace) Move(ctx Context, from, to Path) error {
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	tree.Lock()
	defer tree.Unlock()
	m := from.Mount
	to = to.top()
	switch {
	case m == nil || m.ns == nil || to.Mount == nil || to.Mount.ns != ns || from.Dentry != m.root:
		return unix.EINVAL
	case m.ns.anon && m.on.Load() == nil: // attached from nowhere
	case m.ns != ns || m.on.Load() == nil || m.pinned || m.on.Load().Mount.peers != nil:
		return unix.EINVAL
	}
	if err := ns.checkPoint(m.root, to); err != nil {
		return err
	}
	all := m.all()
	if slices.Contains(all, to.Mount) {
		return unix.ELOOP
	}
	if to.Mount.peers != nil && slices.ContainsFunc(all, func(x *Mount) bool { return x.unbindable }) {
		return unix.EINVAL
	}
	was := m.on.Load()
	m.detach()
	if err := m.graft(to); err != nil {
		if was != nil {
			m.attach(*was)
		}
		return err
	}
	return nil
}

// JoinGroup makes to's mount a member of from's peer group (MOVE_MOUNT_SET_GROUP).
func (ns *Namespace) JoinGroup(ctx Context, from, to Path) error {
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	tree.Lock()
	defer tree.Unlock()
	f, t := from.Mount, to.Mount
	switch {
	case f == nil || t == nil || f.ns != ns || t.ns != ns || from.Dentry != f.root || to.Dentry != t.root,
		t.peers != nil || t.master != nil, f.peers == nil && f.master == nil, f.super != t.super, !t.root.under(f.root):
		return unix.EINVAL
	}
	t.follow(f.master)
	if f.peers != nil {
		t.join(f.peers)
	}
	ns.changed()
	return nil
}

// PivotRoot makes newRoot, a mount, what root was and moves root to putOld.
// Changing the tasks' roots is the caller's business.
func (ns *Namespace) PivotRoot(ctx Context, root, newRoot, putOld Path) error {
	if err := ns.mayMount(ctx); err != nil {
		return err
	}
	tree.Lock()
	defer tree.Unlock()
	n, o := newRoot.Mount, root.Mount
	old := putOld.top()
	if putOld == newRoot {
		old = newRoot
	}
	shared := func(m *Mount) bool { return m.peers != nil }
	parentShared := func(m *Mount) bool { on := m.on.Load(); return on != nil && shared(on.Mount) }
	switch {
	case n == nil || o == nil || putOld.Mount == nil || n.ns != ns || o.ns != ns || putOld.Mount.ns != ns:
		return unix.EINVAL
	case newRoot.Dentry.dir == nil || putOld.Dentry.dir == nil:
		return unix.ENOTDIR
	case shared(old.Mount), parentShared(n), parentShared(o), n.pinned:
		return unix.EINVAL
	case newRoot.Dentry.Dead():
		return unix.ENOENT
	case n == o || putOld.Mount == o:
		return unix.EBUSY
	case root.Dentry != o.root || newRoot.Dentry != n.root || n.on.Load() == nil:
		return unix.EINVAL
	case !putOld.below(newRoot) || !newRoot.below(root):
		return unix.EINVAL
	}
	was := o.on.Load()
	n.detach()
	o.detach()
	o.pinned, n.pinned = false, o.pinned
	if was != nil {
		n.attach(*was)
	} else {
		ns.root.Store(n)
	}
	o.attach(old)
	ns.changed()
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

// Clone copies the namespace for owner. The function translates a place in the old
// one to the same place in the copy. A lesser owner gets slaves, and may not
// uncover what is hidden (fs/namespace.c, copy_mnt_ns).
func (ns *Namespace) Clone(owner *UserNamespace) (*Namespace, func(Path) Path) {
	tree.Lock()
	defer tree.Unlock()
	c := &Namespace{owner: owner, number: NewNamespaceNumber()}
	copies := map[*Mount]*Mount{}
	how := alike
	if owner != ns.owner {
		how = behind
	}
	m := ns.root.Load().copyTree(ns.root.Load().root, how, true, func(old, new *Mount) { copies[old] = new })
	if owner != ns.owner {
		m.lock(false)
	}
	c.root.Store(m)
	m.enter(c)
	return c, func(p Path) Path {
		if m := copies[p.Mount]; m != nil {
			p.Mount = m
		}
		return p
	}
}

// Release unmounts everything. Nobody resolves names in ns any more.
func (ns *Namespace) Release() {
	tree.Lock()
	gone := ns.root.Load().all()
	for _, m := range slices.Backward(gone) {
		m.remove()
	}
	tree.Unlock()
	for _, m := range gone {
		m.super.drop()
	}
}

// Covered reports whether a new mount of a file system of type typ would show what
// ns hides: there is none that is wholly visible (fs/namespace.c, mount_too_revealing).
func (ns *Namespace) Covered(typ string, flags MountFlags) bool {
	tree.Lock()
	defer tree.Unlock()
next:
	for _, m := range ns.root.Load().all() {
		if m.super.fs.Type() != typ || m.root != m.super.root {
			continue
		}
		f := m.locked
		if m.super.readonly.Load() {
			f |= unix.MS_RDONLY
		}
		if f&unix.MS_RDONLY != 0 && flags&unix.MS_RDONLY == 0 {
			continue
		}
		for _, c := range m.children() {
			if c.pinned && !emptyDir(c.on.Load().Dentry) {
				continue next
			}
		}
		return false
	}
	return true
}

// emptyDir: a directory that never has anything, made to be mounted on.
func emptyDir(d *Dentry) bool {
	e, ok := d.inode.(interface{ AlwaysEmpty() bool })
	return ok && e.AlwaysEmpty()
}

// MountInfo is a line of /proc/PID/mountinfo.
type MountInfo struct {
	ID, Parent       int
	Dev              uint64
	Root, Point      string // within the file system, within the process's root
	Flags            MountFlags
	SuperFlags       MountFlags
	Type, Source     string
	Data             string
	Peers, Master    int // groups; 0: none
	From             int // the nearest group above Master that the root sees
	Unbindable       bool
	Namespace        uint64
	Unique, ParentOf uint64 // unique ids
	Reachable        bool
}

// Propagation is mount(2)'s word for how it propagates, a set of MS_ flags.
func (i *MountInfo) Propagation() (p Propagation) {
	if i.Peers != 0 {
		p |= unix.MS_SHARED
	}
	if i.Master != 0 {
		p |= unix.MS_SLAVE
	}
	if i.Unbindable {
		p |= unix.MS_UNBINDABLE
	}
	if p == 0 {
		p = unix.MS_PRIVATE
	}
	return p
}

// OptionShower is a FileSystem that tells its options itself, since they change.
type OptionShower interface {
	ShowOptions(ctx Context) string
}

// Mounts lists what is mounted below root, in the order of making.
func (ns *Namespace) Mounts(root Path) []MountInfo {
	tree.Lock()
	defer tree.Unlock()
	mounts := ns.root.Load().all()
	slices.SortFunc(mounts, func(a, b *Mount) int { return a.id - b.id })
	var out []MountInfo
	for _, m := range mounts {
		if i := m.info(SentryContext(), root); i.Reachable {
			out = append(out, i)
		}
	}
	return out
}

// info describes m. Caller holds tree.
func (m *Mount) info(ctx Context, root Path) MountInfo {
	point, ok := name(root, m.Root())
	i := MountInfo{ID: m.id, Parent: m.id, Unique: m.UniqueID(), ParentOf: m.UniqueID(), Root: m.root.path(), Point: point, Reachable: ok,
		Flags: m.Flags(), Type: m.super.fs.Type(), Source: m.source, Data: m.data, Unbindable: m.unbindable}
	if m.root.anon {
		i.Root = m.root.Name()
	}
	if m.ns != nil {
		i.Namespace = m.ns.number
	}
	// A dead file system is listed all the same.
	if attr, err := m.super.root.inode.Attr(SentryContext()); err == nil {
		i.Dev = attr.Dev
	}
	if o, ok := m.super.fs.(OptionShower); ok {
		i.Data = o.ShowOptions(ctx)
	}
	if m.super.readonly.Load() {
		i.SuperFlags = unix.MS_RDONLY
	}
	if on := m.on.Load(); on != nil {
		i.Parent, i.ParentOf = on.Mount.id, on.Mount.UniqueID()
	}
	if m.peers != nil {
		i.Peers = m.peers.id
	}
	if m.master != nil {
		i.Master = m.master.id
		i.From = m.dominating(root)
	}
	return i
}

// dominating is the nearest group above m's that has a member below root
// (fs/pnode.c, get_dominating_id); 0 if that is the master's.
func (m *Mount) dominating(root Path) int {
	seen := map[*peers]bool{}
	for g := m.master; g != nil && !seen[g]; {
		seen[g] = true
		var above *peers
		for _, p := range g.members {
			if p.ns != nil && root.Mount != nil && p.ns == root.Mount.ns && p.Root().below(root) {
				if g == m.master {
					return 0
				}
				return g.id
			}
			above = p.master
		}
		g = above
	}
	return 0
}

// Find is the mount of ns with a unique id, or nil.
func (ns *Namespace) Find(unique uint64) *Mount {
	tree.Lock()
	defer tree.Unlock()
	for _, m := range ns.root.Load().all() {
		if m.UniqueID() == unique {
			return m
		}
	}
	return nil
}

// Info describes m to who has root.
func (m *Mount) Info(ctx Context, root Path) MountInfo {
	tree.Lock()
	defer tree.Unlock()
	return m.info(ctx, root)
}

// Below are the unique ids of the mounts under m, in order.
func (m *Mount) Below() (ids []uint64) {
	tree.Lock()
	defer tree.Unlock()
	for _, x := range m.all()[1:] {
		ids = append(ids, x.UniqueID())
	}
	slices.Sort(ids)
	return ids
}

// Sync writes every mounted file system to where it lasts. The first error is
// returned; the others are tried all the same.
func (ns *Namespace) Sync(ctx Context) error {
	seen := map[*Super]bool{}
	var first error
	tree.Lock()
	mounts := ns.root.Load().all()
	tree.Unlock()
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
