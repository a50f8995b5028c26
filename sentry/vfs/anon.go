package vfs

import (
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// anonFS is the file system of what has no name: pipes, sockets, eventfds.
type anonFS struct{}

func (anonFS) Type() string       { return "anon_inodefs" }
func (anonFS) Root() Inode        { return anonRoot }
func (anonFS) Sync(Context) error { return nil }
func (anonFS) Release()           {}
func (anonFS) Statfs(Context) (unix.Statfs_t, error) {
	return unix.Statfs_t{Type: unix.ANON_INODE_FS_MAGIC, Bsize: 4096, Frsize: 4096, Namelen: maxName}, nil
}

var (
	anonRoot  = &AnonInode{}
	anonMount = sync.OnceValue(func() *Mount {
		return &Mount{super: takeSuper(anonFS{}), root: nil}
	})
	anonDev = sync.OnceValue(NewDev)
	anonIno atomic.Uint64
)

// AnonInode is an inode without a file system.
type AnonInode struct {
	ino  uint64
	open Opener

	mu   sync.Mutex
	attr Attr
}

// firstAnon is below the first number. netstat takes "socket:[1]" for too short to name a socket
// (net-tools, extract_type_1_socket_inode); on Linux such numbers are gone before there is a program.
const firstAnon = 1000

// NewAnonInode makes an inode with the given type and permissions, owned by
// ctx's user. open serves /proc/PID/fd/N being opened; nil: ENXIO.
func NewAnonInode(ctx Context, mode uint32, open Opener) *AnonInode {
	i := &AnonInode{ino: firstAnon + anonIno.Add(1), open: open}
	c, now := ctx.Creds(), ctx.Now()
	i.attr = Attr{Dev: anonDev(), Ino: i.ino, Mode: mode, Nlink: 1, UID: c.FSUID, GID: c.FSGID,
		BlockSize: 4096, Atime: now, Mtime: now, Ctime: now}
	return i
}

// Ino is the inode's number.
func (i *AnonInode) Ino() uint64 { return i.ino }

// Attr is for stat(2).
func (i *AnonInode) Attr(Context) (Attr, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.attr, nil
}

// SetAttr serves fchmod(2) and fchown(2).
func (i *AnonInode) SetAttr(ctx Context, set SetAttr) error {
	if set.Mask&SetSize != 0 {
		return unix.EINVAL
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.attr.Set(set)
	i.attr.Ctime = ctx.Now()
	return nil
}

// Set does what set says with everything but the size.
func (a *Attr) Set(set SetAttr) {
	if set.Mask&SetMode != 0 {
		a.Mode = a.Mode&unix.S_IFMT | set.Mode&0o7777
	}
	if set.Mask&SetUID != 0 {
		a.UID = set.UID
	}
	if set.Mask&SetGID != 0 {
		a.GID = set.GID
	}
	if set.Mask&SetAtime != 0 {
		a.Atime = set.Atime
	}
	if set.Mask&SetMtime != 0 {
		a.Mtime = set.Mtime
	}
}

// Open opens it again.
func (i *AnonInode) Open(ctx Context, at Path, flags int) (File, error) {
	if i.open == nil {
		return nil, unix.ENXIO
	}
	return i.open(ctx, at, flags)
}

// NewAnonymous makes a description of f that has an inode of its own, which fstat
// tells of as Linux does of eventfds and their like. name is what
// /proc/PID/fd shows: "anon_inode:[eventfd]".
func NewAnonymous(f File, name string, flags int) *Description {
	return NewAnonymousOn(NewAnonInode(SentryContext(), 0o600, nil), f, name, flags)
}

// NewAnonymousOn makes a description of f, open on i, which has no name in any
// tree.
func NewAnonymousOn(i Inode, f File, name string, flags int) *Description {
	return NewDescription(f, AnonymousPath(i, name), flags)
}

// AnonymousPath is a place for an inode that is in no tree.
func AnonymousPath(i Inode, name string) Path {
	m := anonMount()
	d := newDentry(m.super, nil, name, i)
	d.anon = true
	return Path{m, d}
}

// AnonymousPathIn is AnonymousPath for an inode of fs, which is mounted nowhere
// but may be bound: what statfs(2) and a mount of it show.
func AnonymousPathIn(fs FileSystem, i Inode, name string) Path {
	s := &Super{fs: fs}
	s.users.Store(1) // nobody's: what has no tree is never released
	d := newDentry(s, nil, name, i)
	d.anon, s.root = true, d
	return Path{&Mount{super: s, root: d}, d}
}

// AnonName is the name of numbered anonymous objects: "pipe:[5]".
func AnonName(kind string, ino uint64) string {
	return kind + ":[" + strconv.FormatUint(ino, 10) + "]"
}
