// Package vfs is the tree of files that a container sees: inodes served by file
// systems, names (dentries) and mounts above them, path walk, open file
// descriptions, descriptor tables and readiness queues.
//
// It knows neither tasks nor signals. A caller is a Context. No File waits:
// what cannot go on now returns unix.EAGAIN, and the caller sleeps on the
// file's Queue and tries again (see Wait in the kernel room).
//
// Lock order: Namespace.rename, then Dentry.mu of the parent before the child
// (of two directories the one that is nearer to the root first), then a file
// system's own locks, then Description.mu, then FDTable.mu, then Queue.mu.
package vfs

import (
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
)

// Creds are the identity that a permission check looks at. They are immutable:
// a change makes a copy.
type Creds struct {
	UID, EUID, SUID, FSUID uint32
	GID, EGID, SGID, FSGID uint32
	Groups                 []uint32

	Permitted, Inheritable, Effective, Bounding, Ambient uint64 // capability sets, bit n is CAP n
	SecureBits                                           uint32
	User                                                 *UserNamespace // in which the sets count
	NoNewPrivs                                           bool
}

// In reports whether gid is the file-system group or a supplementary group.
func (c *Creds) In(gid uint32) bool {
	if c.FSGID == gid {
		return true
	}
	for _, g := range c.Groups {
		if g == gid {
			return true
		}
	}
	return false
}

// Context is the caller of a file operation: a task, or the Sentry itself while
// it boots.
type Context interface {
	Creds() *Creds
	// Memory is the caller's address space, for ioctls that carry pointers; nil
	// for the Sentry itself.
	Memory() *memory.Space
	// Now is CLOCK_REALTIME, for time stamps.
	Now() unix.Timespec
	// Limit is a soft resource limit (unix.RLIMIT_…); RLIM_INFINITY if none.
	Limit(resource int) uint64
}

// Attr is what stat(2) tells of an inode.
type Attr struct {
	Dev, Ino            uint64
	Mode                uint32 // type and permission bits
	Nlink               uint32
	UID, GID            uint32
	Rdev                uint64 // unix.Mkdev
	Size                int64
	Blocks              int64 // of 512 bytes
	BlockSize           int32
	Atime, Mtime, Ctime unix.Timespec
	Btime               unix.Timespec // zero if unknown
}

// Type is the S_IFMT part of the mode.
func (a *Attr) Type() uint32 { return a.Mode & unix.S_IFMT }

// SetMask says which fields of a SetAttr count.
type SetMask uint8

const (
	SetMode SetMask = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
)

// SetAttr is a change of attributes. Checks of permission have been made.
type SetAttr struct {
	Mask         SetMask
	Mode         uint32 // permission bits, no type
	UID, GID     uint32
	Size         int64
	Atime, Mtime unix.Timespec
}

// Inode is one object of a file system, whatever names it has. An inode is a
// comparable pointer: looking the same object up twice gives the same one as
// long as somebody holds it.
type Inode interface {
	Attr(ctx Context) (Attr, error)
	SetAttr(ctx Context, set SetAttr) error

	// Open makes what an open file description does. at is the name it was
	// opened by; flags are open(2)'s, without O_CREAT and O_EXCL; O_TRUNC has been
	// done. It never waits, but for a FIFO it may return a File that does.
	Open(ctx Context, at Path, flags int) (File, error)
}

// New describes an inode to make: its mode's type tells a file, directory,
// symlink, FIFO, socket or device.
type New struct {
	Mode     uint32
	UID, GID uint32
	Rdev     uint64
	Target   string // symlink
	Linkable bool   // MakeTemp: Link may give it a name
}

// Directory is an Inode with names in it. Names are single components, neither
// empty nor "." or "..", at most 255 bytes; permission, sticky bits, read-only
// mounts and existence of what the dentry cache knows have been checked.
// Operations on one directory are serialized by the caller (Dentry.mu).
type Directory interface {
	Inode
	Lookup(ctx Context, name string) (Inode, error) // ENOENT
	Make(ctx Context, name string, n New) (Inode, error)
	Link(ctx Context, name string, target Inode) error
	Unlink(ctx Context, name string) error
	Rmdir(ctx Context, name string) error
	// Rename moves name to newName in newDir, which is of the same file system.
	// flags are RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT.
	Rename(ctx Context, name string, newDir Directory, newName string, flags uint) error
}

// Symlink is an inode that readlink(2) works on. A magic link (/proc/self/fd/3)
// also implements Jumper.
type Symlink interface {
	Inode
	Readlink(ctx Context) (string, error)
}

// Jumper is a symlink that leads to an object rather than to a name.
type Jumper interface {
	Jump(ctx Context) (Path, error)
}

// Volatile is a directory whose names change without us (a shared bind mount,
// /proc): a cached name is asked for again by Lookup on every walk.
type Volatile interface {
	Volatile() bool
}

// Transient is a file system of which the dentry cache keeps nothing that is not in
// use: what stands for a process (/proc) holds much, and nobody asks for it again
// when the process has gone (fs/proc/base.c, proc_flush_pid).
type Transient interface {
	Transient()
}

// Leaser is a Volatile directory whose answers, with or without a name, may be
// believed for a while, as NFS does with its attributes.
type Leaser interface {
	Volatile
	Lease() time.Duration
}

// Lister is a directory that can hand over all its names at once, so that the
// dentry cache knows which do not exist. ok is false where that does not pay.
type Lister interface {
	Names(ctx Context) (names map[string]struct{}, ok bool)
}

// TempMaker is a directory that O_TMPFILE works in. The inode has no name; Link
// may give it one.
type TempMaker interface {
	MakeTemp(ctx Context, n New) (Inode, error)
}

// Xattrs is an inode with extended attributes. Missing: ENODATA.
type Xattrs interface {
	GetXattr(ctx Context, name string) ([]byte, error)
	SetXattr(ctx Context, name string, value []byte, flags int) error
	RemoveXattr(ctx Context, name string) error
	ListXattr(ctx Context) ([]string, error)
}

// Checker is an inode with its own idea of access(2), instead of mode bits.
type Checker interface {
	CheckAccess(ctx Context, want Access) error
}

// Access is what a permission check asks for; the values of access(2).
type Access uint32

const (
	MayExec  Access = unix.X_OK
	MayWrite Access = unix.W_OK
	MayRead  Access = unix.R_OK
)

// FileSystem is one mounted file system (a superblock).
type FileSystem interface {
	// Type is its name in /proc/mounts: "tmpfs", "proc".
	Type() string
	Root() Inode
	Statfs(ctx Context) (unix.Statfs_t, error)
	// Sync writes everything to where it lasts.
	Sync(ctx Context) error
	// Release is called when the last mount of it has gone.
	Release()
}
