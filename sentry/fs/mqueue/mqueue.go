// Package mqueue is POSIX message queues and the file system that shows them
// (ipc/mqueue.c). An IPC namespace has one FileSystem, which /dev/mqueue is a mount
// of; mq_open(2) goes to it without a mount.
//
// Lock order: FileSystem.mu, queue.mu; nothing is told with one held but wake-ups
// of who waits.
package mqueue

import (
	"sort"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel/ipc"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

const (
	PrioMax    = 32768    // MQ_PRIO_MAX
	hardMax    = 65536    // HARD_MSGMAX
	hardSize   = 16 << 20 // HARD_MSGSIZEMAX
	messageKB  = 48       // struct msg_msg, and struct posix_msg_tree_node
	nameMax    = 255
	direntSize = 20
	magic      = 0x19800202 // MQUEUE_MAGIC

	// most bounds what all queues of a namespace may hold, whatever users' limits
	// say: messages lie in the Sentry's memory.
	most = 64 << 20 // bytes
)

// FileSystem has the queues of one IPC namespace.
type FileSystem struct {
	ns  *ipc.Namespace
	dev uint64

	mu     sync.Mutex
	root   *dir
	byName map[string]*queue
	ino    uint64
	bytes  map[uint32]uint64 // RLIMIT_MSGQUEUE, by user
	total  uint64
}

// Of is the namespace's file system, made with the first call.
func Of(ctx vfs.Context, ns *ipc.Namespace) *FileSystem {
	return ns.Queues(func() any {
		fs := &FileSystem{ns: ns, dev: vfs.NewDev(), byName: map[string]*queue{}, bytes: map[uint32]uint64{}, ino: 1}
		now := ctx.Now()
		fs.root = &dir{fs: fs}
		fs.root.attr = vfs.Attr{Dev: fs.dev, Ino: 1, Mode: unix.S_IFDIR | 0o1777, Nlink: 2, BlockSize: memory.PageSize, Atime: now, Mtime: now, Ctime: now}
		return fs
	}).(*FileSystem)
}

func (*FileSystem) Type() string           { return "mqueue" }
func (fs *FileSystem) Root() vfs.Inode     { return fs.root }
func (*FileSystem) Sync(vfs.Context) error { return nil }
func (*FileSystem) Release()               {} // it is the namespace's

func (*FileSystem) Statfs(vfs.Context) (unix.Statfs_t, error) {
	return unix.Statfs_t{Type: magic, Bsize: memory.PageSize, Frsize: memory.PageSize, Namelen: nameMax}, nil
}

// node is what directory and queue have in common.
type node struct {
	mu   sync.Mutex
	attr vfs.Attr
}

func (n *node) SetAttr(ctx vfs.Context, set vfs.SetAttr) error {
	if set.Mask&vfs.SetSize != 0 {
		return unix.EINVAL
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attr.Set(set)
	n.attr.Ctime = ctx.Now()
	return nil
}

func (n *node) Attr(vfs.Context) (vfs.Attr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.attr, nil
}

// dir is the root, the only directory.
type dir struct {
	node
	fs *FileSystem
}

// Volatile implements vfs.Volatile: mq_open(2) and mq_unlink(2) change names too.
func (*dir) Volatile() bool { return true }

func (d *dir) Lookup(_ vfs.Context, name string) (vfs.Inode, error) {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	if q := d.fs.byName[name]; q != nil {
		return q, nil
	}
	return nil, unix.ENOENT
}

// Make makes a queue as open(2) with O_CREAT asks for one, with the defaults.
func (d *dir) Make(ctx vfs.Context, name string, n vfs.New) (vfs.Inode, error) {
	if n.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, unix.EPERM
	}
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	q, err := d.fs.makeLocked(ctx, name, n.Mode, nil)
	if err != nil {
		return nil, err
	}
	return q, nil
}

func (*dir) Link(vfs.Context, string, vfs.Inode) error { return unix.EPERM }
func (*dir) Rmdir(vfs.Context, string) error           { return unix.EPERM }
func (*dir) Rename(vfs.Context, string, vfs.Directory, string, uint) error {
	return unix.EPERM
}

func (d *dir) Unlink(ctx vfs.Context, name string) error {
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	q := d.fs.byName[name]
	if q == nil {
		return unix.ENOENT
	}
	d.fs.unlinkLocked(ctx, name, q)
	return nil
}

func (d *dir) Open(vfs.Context, vfs.Path, int) (vfs.File, error) { return &openDir{d: d}, nil }

type openDir struct {
	vfs.NoFile
	d *dir
}

func (*openDir) Read(vfs.Context, memory.Buffers, int64) (int, error) { return 0, unix.EISDIR }

func (o *openDir) ReadDir(_ vfs.Context, off int64, emit func(vfs.Dirent) bool) error {
	fs := o.d.fs
	fs.mu.Lock()
	var names []string
	for n := range fs.byName {
		names = append(names, n)
	}
	sort.Strings(names)
	list := []vfs.Dirent{{Name: ".", Ino: 1, Type: unix.DT_DIR}, {Name: "..", Ino: 1, Type: unix.DT_DIR}}
	for _, n := range names {
		list = append(list, vfs.Dirent{Name: n, Ino: fs.byName[n].attr.Ino, Type: unix.DT_REG})
	}
	fs.mu.Unlock()
	for i := max(off, 0); i < int64(len(list)); i++ {
		list[i].Off = i + 1
		if !emit(list[i]) {
			break
		}
	}
	return nil
}

// Size is how much a queue holds.
type Size struct {
	Messages, Bytes int64 // and of each
}

// sizeOf is what a new queue holds (ipc/mqueue.c, mqueue_get_inode).
func (fs *FileSystem) sizeOf(ctx vfs.Context, want *Size) (Size, error) {
	l := fs.ns.Limits()
	if want == nil {
		return Size{int64(min(l.MQMsgMax, l.MQMsgDefault)), int64(min(l.MQMsgSizeMax, l.MQSizeDefault))}, nil
	}
	s := *want
	count, size := int64(l.MQMsgMax), int64(l.MQMsgSizeMax)
	if ctx.Creds().Has(unix.CAP_SYS_RESOURCE) {
		count, size = hardMax, hardSize
	}
	if s.Messages <= 0 || s.Bytes <= 0 || s.Messages > count || s.Bytes > size {
		return s, unix.EINVAL
	}
	return s, nil
}

// makeLocked makes a queue of that name.
func (fs *FileSystem) makeLocked(ctx vfs.Context, name string, mode uint32, want *Size) (*queue, error) {
	if len(fs.byName) >= fs.ns.Limits().MQueues && !ctx.Creds().Has(unix.CAP_SYS_RESOURCE) {
		return nil, unix.ENOSPC
	}
	size, err := fs.sizeOf(ctx, want)
	if err != nil {
		return nil, err
	}
	c, now := ctx.Creds(), ctx.Now()
	charge := uint64(size.Messages*messageKB + min(size.Messages, PrioMax)*messageKB + size.Messages*size.Bytes)
	if limit := ctx.Limit(12 /* RLIMIT_MSGQUEUE */); fs.bytes[c.UID]+charge > limit {
		return nil, unix.EMFILE
	}
	if fs.total+charge > most {
		return nil, unix.ENOMEM
	}
	fs.total += charge
	fs.bytes[c.UID] += charge
	fs.ino++
	q := &queue{fs: fs, size: size, user: c.UID, charge: charge}
	q.attr = vfs.Attr{Dev: fs.dev, Ino: fs.ino, Mode: unix.S_IFREG | mode&0o7777, Nlink: 1, UID: c.FSUID, GID: c.FSGID, Size: fileSize,
		BlockSize: memory.PageSize, Atime: now, Mtime: now, Ctime: now}
	fs.byName[name] = q
	fs.touchLocked(ctx, direntSize)
	return q, nil
}

func (fs *FileSystem) touchLocked(ctx vfs.Context, grow int64) {
	d := fs.root
	d.mu.Lock()
	defer d.mu.Unlock()
	now := ctx.Now()
	d.attr.Size += grow
	d.attr.Mtime, d.attr.Ctime, d.attr.Atime = now, now, now
}

func (fs *FileSystem) unlinkLocked(ctx vfs.Context, name string, q *queue) {
	delete(fs.byName, name)
	q.mu.Lock()
	q.attr.Nlink = 0
	q.attr.Ctime = ctx.Now()
	gone := q.open == 0
	q.mu.Unlock()
	if gone {
		fs.giveBackLocked(q)
	}
	fs.touchLocked(ctx, -direntSize)
}

func (fs *FileSystem) giveBackLocked(q *queue) {
	fs.bytes[q.user] -= q.charge
	fs.total -= q.charge
}

// Open is mq_open(2): flags are open(2)'s, size may be nil.
func (fs *FileSystem) Open(ctx vfs.Context, name string, flags int, mode uint32, size *Size) (*vfs.Description, error) {
	if err := validName(name); err != nil {
		return nil, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	q := fs.byName[name]
	var err error
	switch {
	case q == nil && flags&unix.O_CREAT == 0:
		return nil, unix.ENOENT
	case q == nil:
		if q, err = fs.makeLocked(ctx, name, mode, size); err != nil {
			return nil, err
		}
	case flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL:
		return nil, unix.EEXIST
	default:
		if err := q.mayOpen(ctx, name, flags); err != nil {
			return nil, err
		}
	}
	f, err := q.Open(ctx, vfs.Path{}, flags)
	if err != nil {
		return nil, err
	}
	return vfs.NewAnonymousOn(q, f, "/"+name, flags&(unix.O_ACCMODE|unix.O_NONBLOCK)), nil
}

func validName(name string) error {
	switch {
	case name == "":
		return unix.ENOENT
	case len(name) > nameMax:
		return unix.ENAMETOOLONG
	case name == "." || name == "..":
		return unix.EACCES
	}
	for i := range len(name) {
		if name[i] == '/' {
			return unix.EACCES
		}
	}
	return nil
}

// Unlink is mq_unlink(2).
func (fs *FileSystem) Unlink(ctx vfs.Context, name string) error {
	if err := validName(name); err != nil {
		return err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	q := fs.byName[name]
	if q == nil {
		return unix.ENOENT
	}
	a, _ := q.Attr(ctx)
	root, _ := fs.root.Attr(ctx)
	if c := ctx.Creds(); c.FSUID != a.UID && c.FSUID != root.UID && !c.Has(unix.CAP_FOWNER) {
		return unix.EPERM // the directory is sticky
	}
	fs.unlinkLocked(ctx, name, q)
	return nil
}
