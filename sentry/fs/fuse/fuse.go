// Package fuse is the kernel's half of FUSE: a file system whose server is a
// process inside, which reads requests from /dev/fuse and writes the answers. It
// follows fs/fuse in behaviour, protocol 7.31 (include/uapi/linux/fuse.h).
//
// Whoever waits for the server can be killed, and is let go when the server closes
// its descriptor. What a server says is not trusted: lengths, names and types are
// checked, and an answer to nobody is refused.
//
// Names are asked for again after the time that the server gives them; contents
// are not cached. A file is mapped as it is at that time; a shared mapping that may
// write is refused. What the Sentry itself asks (for /proc) is answered from what was known last.
//
// Lock order: FS.mu, inode.mu, conn.mu; none is held while waiting for the server.
package fuse

import (
	"encoding/binary"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

var le = binary.LittleEndian

// The operations that are asked for.
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opSetattr     = 4
	opReadlink    = 5
	opSymlink     = 6
	opMknod       = 8
	opMkdir       = 9
	opUnlink      = 10
	opRmdir       = 11
	opLink        = 13
	opOpen        = 14
	opRead        = 15
	opWrite       = 16
	opStatfs      = 17
	opRelease     = 18
	opFsync       = 20
	opSetxattr    = 21
	opGetxattr    = 22
	opListxattr   = 23
	opRemovexattr = 24
	opFlush       = 25
	opInit        = 26
	opOpendir     = 27
	opReaddir     = 28
	opReleasedir  = 29
	opFsyncdir    = 30
	opCreate      = 35
	opRename2     = 45
	opRename      = 12
)

const (
	rootNode = 1
	// maxTransfer is how much one READ or WRITE carries at most.
	maxTransfer = 128 << 10
	attrSize    = 88
	entrySize   = 40 + attrSize
)

// options are mount(2)'s.
type options struct {
	fd                 int
	rootMode, uid, gid uint32
	check, others      bool // default_permissions, allow_other
	maxRead            uint32
	subtype            string
}

func parseOptions(data string) (o options, err error) {
	o.fd = -1
	seen := 0
	for f := range strings.SplitSeq(data, ",") {
		key, value, _ := strings.Cut(f, "=")
		base := 10
		if key == "rootmode" {
			base = 8
		}
		var n uint64
		switch key {
		case "fd", "rootmode", "user_id", "group_id", "max_read", "blksize":
			if n, err = strconv.ParseUint(value, base, 31); err != nil {
				return o, unix.EINVAL
			}
		}
		switch key {
		case "":
		case "fd":
			o.fd, seen = int(n), seen|1
		case "rootmode":
			o.rootMode, seen = uint32(n), seen|2
		case "user_id":
			o.uid, seen = uint32(n), seen|4
		case "group_id":
			o.gid, seen = uint32(n), seen|8
		case "max_read":
			o.maxRead = uint32(n)
		case "blksize":
		case "default_permissions":
			o.check = true
		case "allow_other":
			o.others = true
		case "subtype":
			o.subtype = value
		default:
			return o, unix.EINVAL
		}
	}
	if seen != 15 || o.rootMode&unix.S_IFMT == 0 {
		return o, unix.EINVAL
	}
	return o, nil
}

// Known says whether an option is one of fuse's.
func Known(option string) error {
	key, _, _ := strings.Cut(option, "=")
	switch key {
	case "fd", "rootmode", "user_id", "group_id", "max_read", "blksize", "default_permissions", "allow_other", "subtype":
		return nil
	}
	return unix.EINVAL
}

// FS is one mounted server. It implements vfs.FileSystem.
type FS struct {
	o     options
	conn  *conn
	dev   uint64
	arena *memory.Arena
	root  *dir

	mu    sync.Mutex
	nodes map[uint64]known
}

// known is an inode that somebody may still hold.
type known interface{ get() vfs.Inode }

type weakly[T any, P interface {
	*T
	vfs.Inode
}] struct{ p weak.Pointer[T] }

func (w weakly[T, P]) get() vfs.Inode {
	if p := w.p.Value(); p != nil {
		return P(p)
	}
	return nil
}

// New makes a file system for the server that has a descriptor of /dev/fuse open
// in ctx's process.
func New(ctx vfs.Context, arena *memory.Arena, data string) (*FS, error) {
	o, err := parseOptions(data)
	if err != nil {
		return nil, err
	}
	t, ok := ctx.(*kernel.Task)
	if !ok {
		return nil, unix.EINVAL
	}
	d, err := t.FDs().Get(o.fd)
	if err != nil {
		return nil, unix.EINVAL
	}
	defer d.Unref()
	c, ok := d.File().(*conn)
	if !ok {
		return nil, unix.EINVAL
	}
	user := ctx.Creds().User
	uid, okUID := user.UIDs().In(o.uid)
	gid, okGID := user.GIDs().In(o.gid)
	if !okUID || !okGID {
		return nil, unix.EINVAL
	}
	o.uid, o.gid = uid, gid
	f := &FS{o: o, conn: c, dev: vfs.NewDev(), arena: arena, nodes: map[uint64]known{}}
	f.root = &dir{inode: inode{fs: f, node: rootNode, kind: o.rootMode & unix.S_IFMT}}
	if f.root.kind != unix.S_IFDIR {
		return nil, unix.EINVAL
	}
	f.root.attr = vfs.Attr{Dev: f.dev, Ino: rootNode, Mode: o.rootMode, Nlink: 2, UID: uid, GID: gid, BlockSize: 4096}
	if err := c.begin(); err != nil {
		return nil, err
	}
	return f, nil
}

// Type is "fuse", with what the server calls itself.
func (f *FS) Type() string {
	if f.o.subtype != "" {
		return "fuse." + f.o.subtype
	}
	return "fuse"
}

func (f *FS) Root() vfs.Inode        { return f.root }
func (f *FS) Sync(vfs.Context) error { return nil }
func (f *FS) Release()               { f.conn.abort(true) }

// ShowOptions is fuse_show_options.
func (f *FS) ShowOptions(ctx vfs.Context) string {
	user := ctx.Creds().User
	s := "user_id=" + strconv.FormatUint(uint64(user.ShowUID(f.o.uid)), 10) + ",group_id=" + strconv.FormatUint(uint64(user.ShowGID(f.o.gid)), 10)
	if f.o.check {
		s += ",default_permissions"
	}
	if f.o.others {
		s += ",allow_other"
	}
	return s
}

// Statfs asks the server.
func (f *FS) Statfs(ctx vfs.Context) (unix.Statfs_t, error) {
	st := unix.Statfs_t{Type: unix.FUSE_SUPER_MAGIC, Bsize: 4096, Frsize: 4096, Namelen: 255}
	b, err := f.conn.call(ctx, opStatfs, rootNode, 80)
	if err != nil {
		return st, err
	}
	st.Blocks, st.Bfree, st.Bavail = le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:])
	st.Files, st.Ffree = le.Uint64(b[24:]), le.Uint64(b[32:])
	st.Bsize, st.Namelen, st.Frsize = int64(le.Uint32(b[40:])), int64(le.Uint32(b[44:])), int64(le.Uint32(b[48:]))
	return st, nil
}

// may says whether ctx's user may use the file system at all
// (fuse_allow_current_process).
func (f *FS) may(ctx vfs.Context) bool {
	c := ctx.Creds()
	return f.o.others || c.UID == f.o.uid && c.EUID == f.o.uid && c.SUID == f.o.uid &&
		c.GID == f.o.gid && c.EGID == f.o.gid && c.SGID == f.o.gid
}

// entry makes the inode of a fuse_entry_out.
func (f *FS) entry(b []byte) (vfs.Inode, error) {
	node := le.Uint64(b)
	if node == 0 {
		return nil, unix.ENOENT
	}
	a, ok := f.parseAttr(b[40:])
	if !ok {
		return nil, unix.EIO
	}
	valid := duration(le.Uint64(b[24:]), le.Uint32(b[36:]))
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.nodes[node]; old != nil {
		if i := old.get(); i != nil {
			n := i.(inner).base()
			if n.kind != a.Type() {
				return nil, unix.EIO
			}
			n.lookups.Add(1)
			n.learn(a, valid)
			return i, nil
		}
	}
	if node == rootNode {
		return nil, unix.EIO
	}
	switch a.Type() {
	case unix.S_IFDIR:
		return hold(f, &dir{}, node, a, valid), nil
	case unix.S_IFLNK:
		return hold(f, &link{}, node, a, valid), nil
	}
	return hold(f, &file{}, node, a, valid), nil
}

type inner interface{ base() *inode }

// hold makes i the inode of node and keeps it in the table as long as somebody has it; then the server may forget it.
func hold[T any, P interface {
	*T
	vfs.Inode
	base() *inode
}](f *FS, i P, node uint64, a vfs.Attr, valid time.Duration) vfs.Inode {
	w := weakly[T, P]{weak.Make((*T)(i))}
	n, lookups := i.base(), new(atomic.Uint64)
	n.fs, n.node, n.kind, n.lookups = f, node, a.Type(), lookups
	n.learn(a, valid)
	lookups.Store(1)
	f.nodes[node] = w
	fs := weak.Make(f) // whose root would keep itself
	runtime.AddCleanup((*T)(i), func(c *conn) {
		if f := fs.Value(); f != nil {
			f.mu.Lock()
			if f.nodes[node] == w {
				delete(f.nodes, node)
			}
			f.mu.Unlock()
		}
		c.post(opForget, node, le.AppendUint64(nil, lookups.Load()))
	}, f.conn)
	return i
}

func duration(sec uint64, nsec uint32) time.Duration {
	const most = uint64(time.Hour / time.Second)
	return time.Duration(min(sec, most))*time.Second + time.Duration(min(nsec, 999999999))
}

// parseAttr reads a fuse_attr.
func (f *FS) parseAttr(b []byte) (a vfs.Attr, ok bool) {
	u64, u32 := func(at int) uint64 { return le.Uint64(b[at:]) }, func(at int) uint32 { return le.Uint32(b[at:]) }
	stamp := func(sec, nsec int) unix.Timespec {
		return unix.Timespec{Sec: int64(u64(sec)), Nsec: int64(min(u32(nsec), 999999999))}
	}
	a = vfs.Attr{Dev: f.dev, Ino: u64(0), Size: int64(u64(8)), Blocks: int64(u64(16)), Mode: u32(60), Nlink: u32(64),
		UID: u32(68), GID: u32(72), Rdev: unix.Mkdev(u32(76)>>8&0xfff, u32(76)&0xff|u32(76)>>12&0xfff00), BlockSize: int32(max(u32(80), 4096)),
		Atime: stamp(24, 48), Mtime: stamp(32, 52), Ctime: stamp(40, 56)}
	switch a.Type() {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
		return a, a.Size >= 0
	}
	return a, false
}
