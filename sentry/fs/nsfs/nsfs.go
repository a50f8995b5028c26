// Package nsfs makes files of namespaces, as /proc/PID/ns leads to: they can be
// compared, held open, entered by setns(2), asked by ioctl_ns(2), and bind
// mounted. It follows fs/nsfs.c.
//
// A namespace lives as long as one of its files does: an inode holds a reference
// that goes when the collector finds it unused.
package nsfs

import (
	"encoding/binary"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// Kind is what /proc/PID/ns calls a namespace, with its clone flag.
type Kind struct {
	Name string
	Flag uint64
}

// Kinds are all there are.
var (
	Mounts = &Kind{"mnt", unix.CLONE_NEWNS}
	UTS    = &Kind{"uts", unix.CLONE_NEWUTS}
	IPC    = &Kind{"ipc", unix.CLONE_NEWIPC}
	Net    = &Kind{"net", unix.CLONE_NEWNET}
	PID    = &Kind{"pid", unix.CLONE_NEWPID}
	User   = &Kind{"user", unix.CLONE_NEWUSER}
	Cgroup = &Kind{"cgroup", unix.CLONE_NEWCGROUP}
	Time   = &Kind{"time", unix.CLONE_NEWTIME}
)

// Namespace is one namespace: Enter's field of its kind.
type Namespace struct {
	*Kind
	kernel.Enter
}

// Of is t's namespace of kind k, or with children what its children will be in.
// It is false once t has exited.
func Of(t *kernel.Task, k *Kind, children bool) (n Namespace, ok bool) {
	n.Kind = k
	set := t.Namespaces()
	fs, _, _ := t.Look()
	if k != User && (set == nil || fs == nil) {
		return n, false
	}
	switch k {
	case User:
		n.User, n.IsUser = t.Creds().User, true
	case Mounts:
		n.Mounts = fs.Namespace()
	case UTS:
		n.UTS = set.UTS
	case IPC:
		n.IPC = set.IPC
	case Net:
		n.Net = set.Net
	case Cgroup:
		n.Cgroup = set.Cgroup
	case PID:
		if n.PID = t.PIDNamespace(); children {
			n.PID = set.PIDForChildren
		}
	case Time:
		if n.Time = set.Time; children {
			n.Time = set.TimeForChildren
		}
	}
	return n, true
}

// held is what counts references to a namespace.
type held interface {
	Number() uint64
	Owner() *vfs.UserNamespace
	Take()
	Drop()
}

// user makes a user namespace, which nobody counts, one of them.
type user struct{ *vfs.UserNamespace }

func (u user) Owner() *vfs.UserNamespace { return u.Parent() }
func (user) Take()                       {}
func (user) Drop()                       {}

func (n *Namespace) held() held {
	switch n.Kind {
	case Mounts:
		return n.Mounts
	case UTS:
		return n.UTS
	case IPC:
		return n.IPC
	case Net:
		return n.Net
	case PID:
		return n.PID
	case Cgroup:
		return n.Cgroup
	case Time:
		return n.Time
	}
	return user{n.User}
}

// Text is what the link in /proc/PID/ns says.
func (n *Namespace) Text() string {
	return n.Name + ":[" + strconv.FormatUint(n.held().Number(), 10) + "]"
}

// Path is the namespace as a place that can be opened.
func (n *Namespace) Path() vfs.Path { return vfs.AnonymousPathIn(theFS(), n.Inode(), n.Text()) }

// fileSystem is what statfs(2) tells of.
type fileSystem struct{ dev uint64 }

var theFS = sync.OnceValue(func() *fileSystem { return &fileSystem{vfs.NewDev()} })

func (*fileSystem) Type() string           { return "nsfs" }
func (*fileSystem) Root() vfs.Inode        { return nil }
func (*fileSystem) Sync(vfs.Context) error { return nil }
func (*fileSystem) Release()               {}
func (*fileSystem) Statfs(vfs.Context) (unix.Statfs_t, error) {
	return unix.Statfs_t{Type: unix.NSFS_MAGIC, Bsize: 4096, Frsize: 4096, Namelen: 255}, nil
}

// Inode is a namespace as a file.
type Inode struct{ ns Namespace }

// Inode makes a file of n.
func (n *Namespace) Inode() *Inode {
	i := &Inode{*n}
	h := n.held()
	h.Take()
	runtime.AddCleanup(i, held.Drop, h)
	return i
}

func (i *Inode) Attr(vfs.Context) (vfs.Attr, error) {
	return vfs.Attr{Dev: theFS().dev, Ino: i.ns.held().Number(), Mode: unix.S_IFREG | 0o444, Nlink: 1, BlockSize: 4096}, nil
}

func (*Inode) SetAttr(vfs.Context, vfs.SetAttr) error { return unix.EPERM }

func (i *Inode) Open(_ vfs.Context, _ vfs.Path, flags int) (vfs.File, error) {
	if flags&unix.O_ACCMODE != unix.O_RDONLY {
		return nil, unix.EPERM
	}
	return &File{inode: i}, nil
}

// File is a namespace held open.
type File struct {
	vfs.NoFile
	inode *Inode
}

// Namespace is what f is of.
func (f *File) Namespace() Namespace { return f.inode.ns }

// install gives the task a descriptor of n.
func (n *Namespace) install(t *kernel.Task) (uintptr, error) {
	d, err := vfs.OpenPath(t, n.Path(), unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	fd, err := t.FDs().Install(d, 0, true, int(min(t.Limit(unix.RLIMIT_NOFILE), 1<<20)))
	return uintptr(fd), err
}

// The requests (include/uapi/linux/nsfs.h).
const (
	getUser     = 0xb701
	getParent   = 0xb702
	getType     = 0xb703
	getOwnerUID = 0xb704
	getMountsID = 0x8008b705
	getPIDFrom  = 0x8004b706
	getTGIDFrom = 0x8004b707
	getPIDIn    = 0x8004b708
	getTGIDIn   = 0x8004b709
)

// Ioctl is ioctl_ns(2).
func (f *File) Ioctl(ctx vfs.Context, cmd uint32, arg uint64) (uintptr, error) {
	t, ok := ctx.(*kernel.Task)
	if !ok {
		return 0, unix.ENOTTY
	}
	n := f.inode.ns
	mine := t.Creds().User
	switch cmd {
	case getUser:
		owner := n.held().Owner()
		if n.Kind == User && n.User == nil || !owner.Under(mine) {
			return 0, unix.EPERM
		}
		return (&Namespace{User, kernel.Enter{User: owner, IsUser: true}}).install(t)
	case getParent:
		return n.parent(t)
	case getType:
		return uintptr(n.Flag), nil
	case getOwnerUID:
		if n.Kind != User {
			return 0, unix.EINVAL
		}
		uid, _ := n.User.Maker()
		return 0, put(t, arg, binary.LittleEndian.AppendUint32(nil, mine.ShowUID(uid)))
	case getMountsID:
		if n.Kind != Mounts {
			return 0, unix.EINVAL
		}
		return 0, put(t, arg, binary.LittleEndian.AppendUint64(nil, n.Mounts.Number()))
	case getPIDFrom, getTGIDFrom, getPIDIn, getTGIDIn:
		return n.translate(t, cmd, int32(arg))
	}
	return 0, unix.ENOTTY
}

func (n *Namespace) parent(t *kernel.Task) (uintptr, error) {
	switch n.Kind {
	case User:
		if n.User == nil || !n.User.Parent().Under(t.Creds().User) {
			return 0, unix.EPERM
		}
		return (&Namespace{User, kernel.Enter{User: n.User.Parent(), IsUser: true}}).install(t)
	case PID:
		p := n.PID.Parent()
		if p == nil || !p.Under(t.PIDNamespace()) {
			return 0, unix.EPERM
		}
		return (&Namespace{PID, kernel.Enter{PID: p}}).install(t)
	}
	return 0, unix.EINVAL
}

// translate turns a number of n into the caller's, or the other way.
func (n *Namespace) translate(t *kernel.Task, cmd uint32, id int32) (uintptr, error) {
	if n.Kind != PID {
		return 0, unix.EINVAL
	}
	from, to := n.PID, t.PIDNamespace()
	if cmd == getPIDIn || cmd == getTGIDIn {
		from, to = to, from
	}
	x := t.Kernel().TaskIn(from, id)
	if x == nil {
		return 0, unix.ESRCH
	}
	p := x.ID()
	if cmd == getTGIDFrom || cmd == getTGIDIn {
		p = x.Group().ID()
	}
	if v := p.In(to); v != 0 {
		return uintptr(v), nil
	}
	return 0, unix.ESRCH
}

func put(t *kernel.Task, at uint64, b []byte) error {
	_, err := t.Memory().Write(memory.Addr(at), b)
	return err
}

// Put adds n to those that are to be entered.
func (n *Namespace) Put(e *kernel.Enter) {
	switch n.Kind {
	case User:
		e.User, e.IsUser = n.User, true
	case Mounts:
		e.Mounts = n.Mounts
	case UTS:
		e.UTS = n.UTS
	case IPC:
		e.IPC = n.IPC
	case Net:
		e.Net = n.Net
	case PID:
		e.PID = n.PID
	case Cgroup:
		e.Cgroup = n.Cgroup
	case Time:
		e.Time = n.Time
	}
}
