package gofer

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
)

// openFlags are what the Sentry may ask for. O_TRUNC is SetAttr's business.
const openFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_DIRECT | unix.O_DSYNC | unix.O_SYNC | unix.O_NOATIME | unix.O_LARGEFILE

// open hands out a regular file. O_NONBLOCK is for the moment in which somebody
// on the host has put a FIFO in its place; a device can not be opened on these mounts.
func (w *worker) open(o *object, q *wire.Request, r *wire.Reply) error {
	flags := int(q.Flags)
	if flags&^openFlags != 0 || flags&unix.O_ACCMODE == unix.O_ACCMODE {
		return unix.EINVAL
	}
	if flags&unix.O_ACCMODE != unix.O_RDONLY && o.tree.ReadOnly {
		return unix.EROFS
	}
	fd, err := openRegular(o, q.Name, flags|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return err
	}
	a, err := stat(fd, "")
	if err == nil && a.Mode&unix.S_IFMT != unix.S_IFREG {
		err = unix.ENXIO
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	r.Attr, r.FD = a, fd
	return nil
}

func openRegular(o *object, name string, flags int) (int, error) {
	if name != "" {
		return beneath(o.fd, name, flags, 0)
	}
	if o.mode&unix.S_IFMT != unix.S_IFREG {
		return -1, unix.ENXIO
	}
	return reopen(o, flags)
}

// reopen opens o anew, with other flags than O_PATH. Its path is a magic link,
// the only one there is where the process stands.
func reopen(o *object, flags int) (int, error) {
	for {
		fd, err := unix.Open(o.path(), flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// create makes a file that was not there.
func (w *worker) create(o *object, q *wire.Request, r *wire.Reply) error {
	if err := w.as(q.UID, q.GID); err != nil {
		return err
	}
	if q.Name == "" {
		return unix.EINVAL
	}
	fd, err := beneath(o.fd, q.Name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, q.Mode&07777)
	if err != nil {
		return err
	}
	return w.handOver(o, fd, r)
}

// tmpfile makes a file without a name, which Link may give it.
func (w *worker) tmpfile(o *object, q *wire.Request, r *wire.Reply) error {
	if err := w.as(q.UID, q.GID); err != nil {
		return err
	}
	fd, err := beneath(o.fd, ".", unix.O_RDWR|unix.O_TMPFILE, q.Mode&07777)
	if err != nil {
		return err
	}
	return w.handOver(o, fd, r)
}

// handOver gives the new file fd an id and sends fd along.
func (w *worker) handOver(o *object, fd int, r *wire.Reply) error {
	err := after(o, &r.Dir)
	var path int
	if err == nil {
		path, err = reopen(&object{fd: fd}, unix.O_PATH)
	}
	if err == nil {
		err = w.adopt(o, path, r)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	r.FD = fd
	return nil
}

// as makes what this thread creates from now on belong to uid and gid, as the
// kernel does it for a process of that user: in one step with the creation,
// with the rules of set-group-id directories, default ACLs and quotas. The change of the user
// takes the capabilities over files away, which the permitted set gives back.
func (w *worker) as(uid, gid uint32) error {
	if uid == w.uid && gid == w.gid {
		return nil
	}
	if int32(uid) < 0 || int32(gid) < 0 {
		return unix.EINVAL
	}
	unix.SetfsgidRetGid(int(gid)) // tell the former id, never an error
	unix.SetfsuidRetUid(int(uid))
	w.uid, w.gid = uid, gid
	if g, _ := unix.SetfsgidRetGid(-1); g != int(gid) {
		return unix.EPERM
	}
	if u, _ := unix.SetfsuidRetUid(-1); u != int(uid) {
		return unix.EPERM
	}
	return raise()
}

// connect gives a socket connected to a host's, for what was mounted on purpose
// to be talked to.
func (w *worker) connect(o *object, q *wire.Request, r *wire.Reply) error {
	if !o.tree.Sockets {
		return unix.ECONNREFUSED
	}
	switch q.Flags {
	case unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET:
	default:
		return unix.EINVAL
	}
	c, done, err := child(o, q)
	if err != nil {
		return err
	}
	defer done()
	if c.mode&unix.S_IFMT != unix.S_IFSOCK {
		return unix.ECONNREFUSED
	}
	fd, err := unix.Socket(unix.AF_UNIX, int(q.Flags)|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: c.path()}); err != nil {
		unix.Close(fd)
		return err
	}
	r.FD = fd
	return nil
}
