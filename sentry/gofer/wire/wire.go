// Package wire is the protocol between the Sentry and its gofer, and the
// Sentry's end of the connection.
//
// One SOCK_SEQPACKET socket carries requests one way and replies the other, a
// packet each; a reply may bring one descriptor (SCM_RIGHTS). A request is a
// tag, an operation, the ids that the Sentry has no more use for, and the
// fields that layouts lists for the operation; a reply is the tag, an errno,
// and the operation's reply fields if that is 0. Requests may overlap and be
// answered in any order. Numbers are little endian, a string is its length in
// 16 bits and its bytes, a list its length in 16 bits and its elements.
//
// An id names an object of the gofer's, an O_PATH descriptor, until it is
// released. Ids from 0 on are the attachments, in the order of Hello's reply; they
// are never released. Where a request has ID and Name, an empty Name means the
// object itself, and ID is a directory otherwise. Names are single components.
//
// Waking another CPU costs far more than any of these operations on user-only
// KVM hosts (45 µs against 1 to 5), so that the requests are made to need
// few: Walk takes a whole path and brings the names of where it ended, ReadDir
// brings attributes, Create opens, and what changes a directory brings the
// directory's new attributes.
package wire

import "golang.org/x/sys/unix"

// Bounds of what a packet may hold. Both ends refuse more.
const (
	MaxRequest  = 72 << 10  // bytes; the largest is an xattr of 64 KiB
	MaxReply    = 128 << 10 // bytes
	MaxWalk     = 64        // names in a Walk
	MaxName     = unix.NAME_MAX
	MaxTarget   = unix.PathMax - 1
	MaxXattr    = 64 << 10 // bytes; XATTR_SIZE_MAX
	MaxEntries  = MaxReply / 32
	MaxRoots    = 1024
	MaxReleased = 255 // ids riding on a request
)

// NoID is where a reply has no object.
const NoID = ^uint32(0)

// Op is what a request asks for.
type Op uint8

const (
	Hello Op = iota + 1
	Walk
	GetAttr
	SetAttr
	Open
	Create
	Tmpfile
	Mkdir
	Mknod
	Symlink
	Link
	Unlink
	Rename
	ReadDir
	Names
	Readlink
	GetXattr
	SetXattr
	ListXattr
	RemoveXattr
	Statfs
	Fsync
	Connect
	Watch
	Unwatch
	Release // has no reply
	opEnd
)

func (op Op) String() string {
	if op == 0 || op >= opEnd {
		return "unknown"
	}
	return layouts[op].name
}

// Flags of Walk.
const (
	WalkIDs  = 1 << iota // an id for every node, not for directories alone
	WalkList             // the entries of the last directory reached, if it is small
)

// Flags of an attachment, in Hello's reply.
const (
	ReadOnly  = 1 << iota // no request changes it
	Exclusive             // nobody but this Sentry changes it
	IsFile                // a bind mount of one file
	Sockets               // Connect is allowed
	Devices               // Mknod of devices is allowed
)

// SetAttr's mask.
const (
	SetMode = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
)

// Attr is what the gofer tells of an object.
type Attr struct {
	Ino, Dev, Rdev, Size, Blocks     uint64
	Mode, Nlink, UID, GID, BlockSize uint32
	Atime, Mtime, Ctime, Btime       Time
}

// Time is in seconds and nanoseconds since 1970.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Node is one component of a Walk.
type Node struct {
	ID     uint32 // NoID unless a directory or asked for
	Attr   Attr
	Target string // of a symlink, which ends the Walk
}

// Entry is one name of a directory.
type Entry struct {
	Name   string
	Cookie uint64 // where to go on behind it
	Attr   Attr
}

// Short is one name of a directory without the attributes, which cost a call each.
type Short struct {
	Name   string
	Cookie uint64
	Ino    uint64
	Type   uint8 // DT_…
}

// Root is one attachment.
type Root struct {
	Flags uint32
	Attr  Attr
}
