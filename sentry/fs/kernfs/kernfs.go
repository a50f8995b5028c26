// Package kernfs makes trees whose contents are computed: directories of fixed
// and of changing names, files that are written down when they are read, and
// symlinks. fs/proc and fs/sys are made of it. Nobody makes or removes names in
// such a tree from outside.
//
// Lock order: Dir.mu is a leaf; it is not held while functions given by the user
// of the package run, but for Dir.Lookup.
package kernfs

import (
	"hash/maphash"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// FileSystem is one tree.
type FileSystem struct {
	// NoNew says that making a name is ENOENT instead of EPERM.
	NoNew bool

	typ   string
	magic int64
	dev   uint64
	made  unix.Timespec
	root  *Dir
	ino   atomic.Uint64
	seed  maphash.Seed
}

// New makes a tree with an empty root. typ is its name in /proc/mounts, magic
// what statfs(2) says.
func New(typ string, magic int64) *FileSystem {
	fs := &FileSystem{typ: typ, magic: magic, dev: vfs.NewDev(), made: vfs.SentryContext().Now(), seed: maphash.MakeSeed()}
	fs.root = fs.NewDir(0o555)
	return fs
}

func (fs *FileSystem) Type() string           { return fs.typ }
func (fs *FileSystem) Root() vfs.Inode        { return fs.root }
func (fs *FileSystem) Dir() *Dir              { return fs.root }
func (fs *FileSystem) Dev() uint64            { return fs.dev }
func (fs *FileSystem) Sync(vfs.Context) error { return nil }
func (fs *FileSystem) Release()               {}

func (fs *FileSystem) Statfs(vfs.Context) (unix.Statfs_t, error) {
	return unix.Statfs_t{Type: fs.magic, Bsize: 4096, Frsize: 4096, Namelen: 255}, nil
}

// Hash makes an inode number of what identifies an object that is not kept.
func (fs *FileSystem) Hash(parts ...any) uint64 {
	var h maphash.Hash
	h.SetSeed(fs.seed)
	for _, p := range parts {
		maphash.WriteComparable(&h, p)
	}
	return h.Sum64()>>16 | 1<<40 // apart from those that are counted
}

// Owner says whose a node is, at the time of asking.
type Owner func() (uid, gid uint32)

// Node is what all inodes of a tree have.
type Node struct {
	fs    *FileSystem
	ino   uint64
	mode  uint32
	Owner Owner // nil: root
	// Subject is what the node tells of, for those who ask About it.
	Subject any
	// Size is what stat(2) says of it; nil: 0.
	Size func() int64
	// Check replaces the permission bits if it is set.
	Check func(ctx vfs.Context, want vfs.Access) error
}

// About is the node's Subject.
func (n *Node) About() any { return n.Subject }

// NewNode makes one; mode has the type.
func (fs *FileSystem) NewNode(mode uint32) Node {
	return Node{fs: fs, ino: fs.ino.Add(1), mode: mode}
}

// Ino is the inode number; SetIno replaces it before the node is used.
func (n *Node) Ino() uint64       { return n.ino }
func (n *Node) SetIno(ino uint64) { n.ino = ino }

// Attr is for stat(2). Most sizes are 0: the contents are not known yet.
func (n *Node) Attr(ctx vfs.Context) (vfs.Attr, error) {
	a := vfs.Attr{Dev: n.fs.dev, Ino: n.ino, Mode: n.mode, Nlink: 1, BlockSize: 4096,
		Atime: n.fs.made, Mtime: n.fs.made, Ctime: n.fs.made}
	if n.Owner != nil {
		a.UID, a.GID = n.Owner()
	}
	if n.Size != nil {
		a.Size = n.Size()
	}
	return a, nil
}

// SetAttr is refused, as proc does for what is no sysctl; utimes(2) too.
func (n *Node) SetAttr(vfs.Context, vfs.SetAttr) error { return unix.EPERM }

// CheckAccess asks Check, or goes by the permission bits.
func (n *Node) CheckAccess(ctx vfs.Context, want vfs.Access) error {
	if n.Check != nil {
		return n.Check(ctx, want)
	}
	uid, gid := uint32(0), uint32(0)
	if n.Owner != nil {
		uid, gid = n.Owner()
	}
	return Allowed(ctx.Creds(), n.mode, uid, gid, want)
}

// Allowed is generic_permission (fs/namei.c).
func Allowed(c *vfs.Creds, mode, uid, gid uint32, want vfs.Access) error {
	bits := vfs.Access(mode)
	switch {
	case c.FSUID == uid:
		bits >>= 6
	case c.In(gid):
		bits >>= 3
	}
	override, search := c.Has(unix.CAP_DAC_OVERRIDE), c.Has(unix.CAP_DAC_READ_SEARCH)
	dir := mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case bits&want == want:
	case override && (dir || want&vfs.MayExec == 0 || mode&0o111 != 0):
	case search && (want == vfs.MayRead || dir && want&vfs.MayWrite == 0):
	default:
		return unix.EACCES
	}
	return nil
}
