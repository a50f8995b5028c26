package gofer

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
)

// operation is how a request is served. The object q.ID is held while it runs.
type operation struct {
	writes bool // refused with EROFS on a read-only attachment
	serve  func(w *worker, o *object, q *wire.Request, r *wire.Reply) error
}

var operations = map[wire.Op]operation{
	wire.Walk:        {false, (*worker).walk},
	wire.GetAttr:     {false, (*worker).getAttr},
	wire.SetAttr:     {true, (*worker).setAttr},
	wire.Open:        {false, (*worker).open}, // looks at the access mode itself
	wire.Create:      {true, (*worker).create},
	wire.Tmpfile:     {true, (*worker).tmpfile},
	wire.Mkdir:       {true, (*worker).mkdir},
	wire.Mknod:       {true, (*worker).mknod},
	wire.Symlink:     {true, (*worker).symlink},
	wire.Link:        {true, (*worker).link},
	wire.Unlink:      {true, (*worker).unlink},
	wire.Rename:      {true, (*worker).rename},
	wire.ReadDir:     {false, (*worker).readDir},
	wire.Names:       {false, (*worker).names},
	wire.Readlink:    {false, (*worker).readlink},
	wire.GetXattr:    {false, (*worker).getXattr},
	wire.SetXattr:    {true, (*worker).setXattr},
	wire.ListXattr:   {false, (*worker).listXattr},
	wire.RemoveXattr: {true, (*worker).removeXattr},
	wire.Statfs:      {false, (*worker).statfs},
	wire.Fsync:       {false, (*worker).fsync},
	wire.Connect:     {false, (*worker).connect},
	wire.Watch:       {false, (*worker).watch},
	wire.Unwatch:     {false, (*worker).unwatch},
}

// handle serves q, whatever it is, into r.
func (w *worker) handle(q *wire.Request, r *wire.Reply) error {
	if q.Op == wire.Hello {
		for _, a := range w.trees {
			r.Roots = append(r.Roots, wire.Root{Flags: a.flags(), Attr: a.attr})
		}
		return nil
	}
	op, ok := operations[q.Op]
	if !ok {
		return unix.ENOSYS
	}
	o, err := w.handles.hold(q.ID)
	if err != nil {
		return err
	}
	defer w.handles.drop(o)
	if op.writes && o.tree.ReadOnly {
		return unix.EROFS
	}
	if o.shut {
		return shutAnswer(o, q, r)
	}
	return op.serve(w, o, q, r)
}

// beneath is how every name is opened.
func beneath(dir int, name string, flags int, mode uint32) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		if err != unix.EINTR && err != unix.EAGAIN { // EAGAIN: a rename on the way, openat2(2)
			return fd, err
		}
	}
}

const wanted = unix.STATX_BASIC_STATS | unix.STATX_BTIME

// stat is of the child name of fd, or of fd itself.
func stat(fd int, name string) (wire.Attr, error) {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var s unix.Statx_t
	if err := unix.Statx(fd, name, flags, wanted, &s); err != nil {
		return wire.Attr{}, err
	}
	return attrOf(&s), nil
}

func attrOf(s *unix.Statx_t) wire.Attr {
	return wire.Attr{
		Ino: s.Ino, Dev: unix.Mkdev(s.Dev_major, s.Dev_minor), Rdev: unix.Mkdev(s.Rdev_major, s.Rdev_minor),
		Size: s.Size, Blocks: s.Blocks,
		Mode: uint32(s.Mode), Nlink: s.Nlink, UID: s.Uid, GID: s.Gid, BlockSize: s.Blksize,
		Atime: timeOf(s.Atime), Mtime: timeOf(s.Mtime), Ctime: timeOf(s.Ctime), Btime: timeOf(s.Btime),
	}
}

func timeOf(t unix.StatxTimestamp) wire.Time { return wire.Time{Sec: t.Sec, Nsec: t.Nsec} }

// child is the object that q names: o itself, or the child of that name, which
// done closes.
func child(o *object, q *wire.Request) (c *object, done func(), err error) {
	if q.Name == "" {
		return o, func() {}, nil
	}
	fd, err := beneath(o.fd, q.Name, unix.O_PATH, 0)
	if err != nil {
		return nil, nil, err
	}
	a, err := stat(fd, "")
	if err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	return &object{fd: fd, mode: a.Mode, tree: o.tree}, func() { unix.Close(fd) }, nil
}

// show opens the child name, which was just made in o, gives it an id and tells
// the attributes of both.
func (w *worker) show(o *object, name string, r *wire.Reply) error {
	fd, err := beneath(o.fd, name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	if err := after(o, &r.Dir); err != nil {
		unix.Close(fd)
		return err
	}
	return w.adopt(o, fd, r)
}

// adopt gives fd an id and tells its attributes.
func (w *worker) adopt(o *object, fd int, r *wire.Reply) (err error) {
	if r.Attr, err = stat(fd, ""); err != nil {
		unix.Close(fd)
		return err
	}
	r.ID = w.handles.add(fd, &r.Attr, o.tree)
	return nil
}
