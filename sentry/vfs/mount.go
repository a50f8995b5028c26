package vfs

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Super is a mounted file system, however many mounts show it.
type Super struct {
	fs       FileSystem
	root     *Dentry
	user     *UserNamespace // that it was mounted from; nil: the first
	readonly atomic.Bool
	// renames is held by a rename between two directories, so that which is an
	// ancestor of which stays as it was looked up.
	renames sync.Mutex

	handles handles

	transient bool // see Transient

	users    atomic.Int64 // mounts and open descriptions
	writes   atomic.Int64 // files open for writing
	released bool         // guarded by supers.mu
}

// supers finds the Super of a FileSystem that is mounted already.
var supers = struct {
	mu sync.Mutex
	of map[FileSystem]*Super
}{of: make(map[FileSystem]*Super)}

// takeSuper returns fs's Super with one more user.
func takeSuper(fs FileSystem) *Super {
	supers.mu.Lock()
	defer supers.mu.Unlock()
	s := supers.of[fs]
	if s == nil {
		s = &Super{fs: fs}
		_, s.transient = fs.(Transient)
		s.root = newDentry(s, nil, "/", fs.Root())
		supers.of[fs] = s
	}
	s.users.Add(1)
	return s
}

func (s *Super) take() { s.users.Add(1) }

// drop releases the file system with its last user. Somebody's working directory
// may still be in it; what is done there afterwards is the file system's EIO.
func (s *Super) drop() {
	if s.users.Add(-1) > 0 {
		return
	}
	supers.mu.Lock()
	last := s.users.Load() == 0 && !s.released
	if last {
		s.released = true
		delete(supers.of, s.fs)
	}
	supers.mu.Unlock()
	if last {
		cached.forget(s)
		s.fs.Release()
	}
}

// Sync is sync(2): every mounted file system writes what it has.
func Sync(ctx Context) {
	supers.mu.Lock()
	var all []FileSystem
	for fs := range supers.of {
		all = append(all, fs)
	}
	supers.mu.Unlock()
	for _, fs := range all {
		fs.Sync(ctx) // sync(2) has nobody to tell
	}
}

// ReadOnly says that nobody writes to it.
func (s *Super) ReadOnly() bool { return s.readonly.Load() }

// NoDevices says whether devices of s do not open, since its files were made up by
// a user who is none of the container's (SB_I_NODEV).
func (s *Super) NoDevices() bool {
	_, own := s.fs.(interface{ OwnDevices() })
	return s.user != nil && !own
}

// MountFlags are mount(2)'s MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC,
// MS_NOATIME, MS_NODIRATIME, MS_RELATIME; no others are kept.
type MountFlags uint32

const mountFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC |
	unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME | unix.MS_NOSYMFOLLOW

// Mount is a file system, or a part of it, seen at one place.
type Mount struct {
	id     int
	super  *Super
	root   *Dentry
	source string
	data   string
	flags  atomic.Uint32
	on     atomic.Pointer[Path]               // where it is mounted; nil at the root or detached
	over   atomic.Pointer[map[*Dentry]*Mount] // what is mounted on m; copied on write
	files  atomic.Int32                       // descriptions opened through it and directories of tasks, for EBUSY
	writes atomic.Int32                       // files open for writing through it
	marked atomic.Bool                        // by MNT_EXPIRE; unused since

	// Under tree.
	ns         *Namespace // nil: gone
	peers      *peers     // shared with these
	master     *peers     // whose slave it is
	unbindable bool
	locked     uint32 // flags that must stay as they are (MNT_LOCK_…)
	pinned     bool   // must stay where it is (MNT_LOCKED)
}

var mountID atomic.Int32

// tree guards where mounts hang and how they propagate, in all namespaces: a change in one may reach others
// (namespace_sem). Looking needs it only where more than one mount is looked at.
var tree sync.Mutex

// ID is the mount's number in /proc/self/mountinfo.
func (m *Mount) ID() int { return m.id }

// UniqueID is the number that is not used again (STATX_MNT_ID_UNIQUE).
func (m *Mount) UniqueID() uint64 { return uniqueBase + uint64(m.id) }

const uniqueBase = 1 << 31 // MNT_UNIQUE_ID_OFFSET

// Flags are those given to mount(2).
func (m *Mount) Flags() MountFlags { return MountFlags(m.flags.Load()) }

// FS is the file system that is mounted.
func (m *Mount) FS() FileSystem { return m.super.fs }

// Super is what all mounts of the file system have in common.
func (m *Mount) Super() *Super { return m.super }

// User is the user namespace that s was mounted from.
func (s *Super) User() *UserNamespace { return s.user }

// ReadOnly says whether writes through m are EROFS.
func (m *Mount) ReadOnly() bool {
	return m.flags.Load()&unix.MS_RDONLY != 0 || m.super.readonly.Load()
}

// NoDevices says whether devices do not open through m.
func (m *Mount) NoDevices() bool {
	return m.flags.Load()&unix.MS_NODEV != 0 || m.super.NoDevices()
}

// NoSetID says whether programs on m run with what c has, whatever their mode
// says (fs/namespace.c, mnt_may_suid).
func (m *Mount) NoSetID(c *Creds) bool {
	return m.flags.Load()&unix.MS_NOSUID != 0 || !c.User.Under(m.super.user)
}

// Root is the top of what m shows.
func (m *Mount) Root() Path { return Path{m, m.root} }

// at is what is mounted on d in m, nil if nothing.
func (m *Mount) at(d *Dentry) *Mount {
	if t := m.over.Load(); t != nil {
		return (*t)[d]
	}
	return nil
}

// put changes what is mounted on d in m; nil takes it away.
func (m *Mount) put(d *Dentry, child *Mount) {
	next := map[*Dentry]*Mount{}
	if old := m.over.Load(); old != nil {
		next = maps.Clone(*old)
	}
	if child != nil {
		next[d] = child
	} else {
		delete(next, d)
	}
	m.over.Store(&next)
}

// children are the mounts on m, in the order of their making.
func (m *Mount) children() []*Mount {
	t := m.over.Load()
	if t == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(*t), func(a, b *Mount) int { return a.id - b.id })
}

// all is m and all mounts below it, parents first.
func (m *Mount) all() []*Mount {
	t := []*Mount{m}
	for i := 0; i < len(t); i++ {
		t = append(t, t[i].children()...)
	}
	return t
}

// Path is a place in a namespace. The zero Path is none.
type Path struct {
	Mount  *Mount
	Dentry *Dentry
}

// Ok reports whether p is anything.
func (p Path) Ok() bool { return p.Dentry != nil }

// Inode is what p leads to.
func (p Path) Inode() Inode { return p.Dentry.inode }

// Hold and Let count a task's directory among what keeps a mount busy.
func (p Path) Hold() {
	if p.Ok() {
		p.Mount.files.Add(1)
	}
}

func (p Path) Let() {
	if p.Ok() {
		p.Mount.files.Add(-1)
	}
}

// up goes from the root of a mount to what it is mounted on, as often as needed;
// ok is false at the root of the tree.
func (p Path) up() (Path, bool) {
	for p.Dentry == p.Mount.root {
		on := p.Mount.on.Load()
		if on == nil {
			return p, false
		}
		p = *on
	}
	return p, true
}

// top is what is seen at p: the root of the topmost mount there.
func (p Path) top() Path {
	for p.Dentry.mounts.Load() != 0 {
		m := p.Mount.at(p.Dentry)
		if m == nil {
			break
		}
		p = Path{m, m.root}
	}
	return p
}

// Namespace is a tree of mounts.
type Namespace struct {
	owner  *UserNamespace
	number uint64
	refs   atomic.Int64
	anon   bool // of a tree that open_tree(2) or fsmount(2) made and that hangs nowhere
	root   atomic.Pointer[Mount]

	count  int           // of mounts, under tree
	events atomic.Uint64 // changes
	queue  Queue
}

// maxMounts is fs.mount-max.
const maxMounts = 100000

// NewNamespace makes a namespace with fs at its root.
func NewNamespace(fs FileSystem, o MountOptions) *Namespace {
	ns := &Namespace{number: firstMounts}
	ns.refs.Store(1) // the maker's
	m := newMount(takeSuper(fs), nil, o)
	m.ns, ns.count = ns, 1
	ns.root.Store(m)
	return ns
}

// firstMounts is the number of a container's first mount namespace.
const firstMounts = 0xEFFFFFF8

// Renumber makes ns, which nobody has seen yet, another than the sandbox's first.
func (ns *Namespace) Renumber() { ns.number = NewNamespaceNumber() }

// Number is the inode number in /proc/PID/ns, Owner the user namespace in which
// capabilities over it count.
func (ns *Namespace) Number() uint64        { return ns.number }
func (ns *Namespace) Owner() *UserNamespace { return ns.owner }

// Take and Drop count who refers to it; with the last reference all is unmounted.
func (ns *Namespace) Take() { ns.refs.Add(1) }

func (ns *Namespace) Drop() {
	if ns.refs.Add(-1) == 0 {
		ns.Release()
	}
}

// Events counts changes of the tree, of which Queue tells (EventPri).
func (ns *Namespace) Events() uint64 { return ns.events.Load() }
func (ns *Namespace) Queue() *Queue  { return &ns.queue }

func (ns *Namespace) changed() {
	ns.events.Add(1)
	ns.queue.Notify(EventPri | EventErr)
}

// Root is the top of the tree.
func (ns *Namespace) Root() Path {
	m := ns.root.Load()
	return Path{m, m.root}.top()
}

// newMount makes a Mount of s, whose reference it takes, that is nowhere yet.
func newMount(s *Super, root *Dentry, o MountOptions) *Mount {
	if root == nil {
		root = s.root
	}
	m := &Mount{id: int(mountID.Add(1)), super: s, root: root, source: o.Source, data: o.Data}
	m.flags.Store(uint32(o.Flags) & mountFlags)
	return m
}

// attach hangs m, with what is on it, at a place. What is there already comes to
// lie on m: it was put there later, where m is a copy by propagation.
func (m *Mount) attach(at Path) {
	if over := at.Mount.at(at.Dentry); over != nil {
		over.detach()
		over.attach(Path{m, m.root})
	}
	m.on.Store(&at)
	at.Dentry.mounts.Add(1)
	at.Mount.put(at.Dentry, m)
}

func (m *Mount) detach() {
	at := m.on.Swap(nil)
	if at == nil {
		return
	}
	at.Mount.put(at.Dentry, nil)
	at.Dentry.mounts.Add(-1)
}

// enter makes m and all on it mounts of ns.
func (m *Mount) enter(ns *Namespace) {
	for _, x := range m.all() {
		if x.ns != nil {
			x.ns.count--
		}
		x.ns = ns
		ns.count++
	}
}
