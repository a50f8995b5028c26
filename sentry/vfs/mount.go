package vfs

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Super is a mounted file system, however many mounts show it.
type Super struct {
	fs       FileSystem
	root     *Dentry
	readonly atomic.Bool
	// renames is held by a rename between two directories, so that which is an
	// ancestor of which stays as it was looked up.
	renames sync.Mutex

	users    atomic.Int64 // mounts and open descriptions
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

// MountFlags are mount(2)'s MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC,
// MS_NOATIME, MS_NODIRATIME, MS_RELATIME; no others are kept.
type MountFlags uint32

const mountFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC |
	unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME | unix.MS_NOSYMFOLLOW

// Mount is a file system, or a part of it, seen at one place.
type Mount struct {
	id     int
	ns     *Namespace
	super  *Super
	root   *Dentry
	source string
	data   string
	flags  atomic.Uint32
	on     atomic.Pointer[Path] // where it is mounted; nil at the root or detached
	files  atomic.Int32         // descriptions opened through it, for EBUSY
}

var mountID atomic.Int32

// ID is the mount's number in /proc/self/mountinfo.
func (m *Mount) ID() int { return m.id }

// Flags are those given to mount(2).
func (m *Mount) Flags() MountFlags { return MountFlags(m.flags.Load()) }

// FS is the file system that is mounted.
func (m *Mount) FS() FileSystem { return m.super.fs }

// ReadOnly says whether writes through m are EROFS.
func (m *Mount) ReadOnly() bool {
	return m.flags.Load()&unix.MS_RDONLY != 0 || m.super.readonly.Load()
}

// Root is the top of what m shows.
func (m *Mount) Root() Path { return Path{m, m.root} }

// Path is a place in a namespace. The zero Path is none.
type Path struct {
	Mount  *Mount
	Dentry *Dentry
}

// Ok reports whether p is anything.
func (p Path) Ok() bool { return p.Dentry != nil }

// Inode is what p leads to.
func (p Path) Inode() Inode { return p.Dentry.inode }

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
	for p.Dentry.mounts.Load() != 0 && p.Mount.ns != nil {
		m := p.Mount.ns.find(p)
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

	mu     sync.Mutex
	byPath atomic.Pointer[map[Path]*Mount] // copied on write
	list   []*Mount                        // in the order of mounting
	root   atomic.Pointer[Mount]
}

// NewNamespace makes a namespace with fs at its root.
func NewNamespace(fs FileSystem, o MountOptions) *Namespace {
	ns := &Namespace{number: firstMounts}
	ns.refs.Store(1) // the maker's
	ns.byPath.Store(&map[Path]*Mount{})
	m := ns.newMount(takeSuper(fs), nil, o)
	ns.list = []*Mount{m}
	ns.root.Store(m)
	return ns
}

// firstMounts is the number of a container's first mount namespace.
const firstMounts = 0xEFFFFFF8

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

// Root is the top of the tree.
func (ns *Namespace) Root() Path {
	m := ns.root.Load()
	return Path{m, m.root}.top()
}

func (ns *Namespace) find(p Path) *Mount { return (*ns.byPath.Load())[p] }

// newMount makes a Mount of s, whose reference it takes, that is nowhere yet.
func (ns *Namespace) newMount(s *Super, root *Dentry, o MountOptions) *Mount {
	if root == nil {
		root = s.root
	}
	m := &Mount{id: int(mountID.Add(1)), ns: ns, super: s, root: root, source: o.Source, data: o.Data}
	m.flags.Store(uint32(o.Flags) & mountFlags)
	return m
}

// editLocked changes the table of mount points.
func (ns *Namespace) editLocked(change func(map[Path]*Mount)) {
	old := *ns.byPath.Load()
	next := make(map[Path]*Mount, len(old)+1)
	for p, m := range old {
		next[p] = m
	}
	change(next)
	ns.byPath.Store(&next)
}

func (ns *Namespace) attachLocked(m *Mount, at Path) {
	m.on.Store(&at)
	at.Dentry.mounts.Add(1)
	ns.editLocked(func(t map[Path]*Mount) { t[at] = m })
}

func (ns *Namespace) detachLocked(m *Mount) {
	at := m.on.Swap(nil)
	if at == nil {
		return
	}
	ns.editLocked(func(t map[Path]*Mount) { delete(t, *at) })
	at.Dentry.mounts.Add(-1)
}

// childrenLocked are the mounts on m.
func (ns *Namespace) childrenLocked(m *Mount) []*Mount {
	var c []*Mount
	for _, n := range ns.list {
		if on := n.on.Load(); on != nil && on.Mount == m {
			c = append(c, n)
		}
	}
	return c
}

// treeLocked is m and all mounts below it, parents first.
func (ns *Namespace) treeLocked(m *Mount) []*Mount {
	t := []*Mount{m}
	for i := 0; i < len(t); i++ {
		t = append(t, ns.childrenLocked(t[i])...)
	}
	return t
}
