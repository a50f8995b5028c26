package gofer

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
)

func (w *worker) mkdir(o *object, q *wire.Request, r *wire.Reply) error {
	if err := w.as(q.UID, q.GID); err != nil {
		return err
	}
	if err := unix.Mkdirat(o.fd, q.Name, q.Mode&07777); err != nil {
		return err
	}
	return w.show(o, q.Name, r)
}

// mknod makes FIFOs and sockets, which mean nothing outside a kernel, and
// overlay's whiteouts. Other devices would be the host's.
func (w *worker) mknod(o *object, q *wire.Request, r *wire.Reply) error {
	switch q.Mode & unix.S_IFMT {
	case unix.S_IFIFO, unix.S_IFSOCK:
		q.Rdev = 0
	case unix.S_IFCHR:
		if q.Rdev != 0 && !o.tree.Devices {
			return unix.EPERM
		}
	case unix.S_IFBLK:
		if !o.tree.Devices {
			return unix.EPERM
		}
	default:
		return unix.EINVAL
	}
	if err := w.as(q.UID, q.GID); err != nil {
		return err
	}
	if err := unix.Mknodat(o.fd, q.Name, q.Mode&(unix.S_IFMT|07777), int(q.Rdev)); err != nil {
		return err
	}
	return w.show(o, q.Name, r)
}

func (w *worker) symlink(o *object, q *wire.Request, r *wire.Reply) error {
	if err := w.as(q.UID, q.GID); err != nil {
		return err
	}
	if err := unix.Symlinkat(q.Target, o.fd, q.Name); err != nil {
		return err
	}
	return w.show(o, q.Name, r)
}

// target2 is the second directory of a Link or Rename, on the same attachment.
func (w *worker) target2(o *object, q *wire.Request) (*object, error) {
	to, err := w.handles.hold(q.To)
	if err != nil {
		return nil, err
	}
	if to.tree != o.tree {
		w.handles.drop(to)
		return nil, unix.EXDEV
	}
	return to, nil
}

func (w *worker) link(o *object, q *wire.Request, r *wire.Reply) error {
	to, err := w.target2(o, q)
	if err != nil {
		return err
	}
	defer w.handles.drop(to)
	c, done, err := child(o, q)
	if err != nil {
		return err
	}
	defer done()
	if err := unix.Linkat(unix.AT_FDCWD, c.path(), to.fd, q.ToName, unix.AT_SYMLINK_FOLLOW); err != nil {
		return err
	}
	if r.Attr, err = stat(c.fd, ""); err != nil {
		return err
	}
	return after(to, &r.ToDir)
}

// after tells what a directory has become by a change in it.
func after(dir *object, a *wire.Attr) (err error) {
	*a, err = stat(dir.fd, "")
	return err
}

func (w *worker) unlink(o *object, q *wire.Request, r *wire.Reply) error {
	if q.Flags&^unix.AT_REMOVEDIR != 0 || q.Name == "" {
		return unix.EINVAL
	}
	if err := unix.Unlinkat(o.fd, q.Name, int(q.Flags)); err != nil {
		return err
	}
	return after(o, &r.Dir)
}

func (w *worker) rename(o *object, q *wire.Request, r *wire.Reply) error {
	if q.Name == "" {
		return unix.EINVAL
	}
	to, err := w.target2(o, q)
	if err != nil {
		return err
	}
	defer w.handles.drop(to)
	if err := unix.Renameat2(o.fd, q.Name, to.fd, q.ToName, uint(q.Flags)); err != nil {
		return err
	}
	if err := after(o, &r.Dir); err != nil {
		return err
	}
	return after(to, &r.ToDir)
}

// setAttr changes the owner before the mode, for a change of owner takes
// set-user-id away (fs/attr.c, chown_common).
func (w *worker) setAttr(o *object, q *wire.Request, r *wire.Reply) error {
	c, done, err := child(o, q)
	if err != nil {
		return err
	}
	defer done()
	s := &q.Set
	if s.Mask&wire.SetSize != 0 {
		if c.mode&unix.S_IFMT != unix.S_IFREG {
			return unix.EINVAL
		}
		if err := unix.Truncate(c.path(), int64(s.Size)); err != nil {
			return err
		}
	}
	if s.Mask&(wire.SetUID|wire.SetGID) != 0 {
		if err := unix.Fchownat(c.fd, "", id(s.Mask&wire.SetUID, s.UID), id(s.Mask&wire.SetGID, s.GID), unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	if s.Mask&wire.SetMode != 0 {
		if err := unix.Fchmodat(unix.AT_FDCWD, c.path(), s.Mode&07777, 0); err != nil {
			return err
		}
	}
	if s.Mask&(wire.SetAtime|wire.SetMtime) != 0 {
		ts := []unix.Timespec{stamp(s.Mask&wire.SetAtime, s.Atime), stamp(s.Mask&wire.SetMtime, s.Mtime)}
		if err := unix.UtimesNanoAt(c.fd, "", ts, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	r.Attr, err = stat(c.fd, "")
	return err
}

// id is what chown takes for "leave it" where set is 0.
func id(set, v uint32) int {
	if set == 0 {
		return -1
	}
	return int(v)
}

func stamp(set uint32, t wire.Time) unix.Timespec {
	if set == 0 {
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)}
}

func (w *worker) fsync(o *object, _ *wire.Request, _ *wire.Reply) error {
	switch o.mode & unix.S_IFMT {
	case unix.S_IFDIR, unix.S_IFREG:
	default:
		return unix.EINVAL
	}
	fd, err := reopen(o, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fsync(fd)
}

// The attributes with xattr calls go by path, for the calls on descriptors
// refuse O_PATH. Which names may be touched the kernel decides by our
// capabilities: not trusted.*.

func (w *worker) getXattr(o *object, q *wire.Request, r *wire.Reply) error {
	c, done, err := child(o, q)
	if err != nil {
		return err
	}
	defer done()
	n, err := unix.Getxattr(c.path(), q.Xattr, w.scratch())
	if err != nil {
		return err
	}
	r.Data = w.buf[:n]
	return nil
}

func (w *worker) setXattr(o *object, q *wire.Request, _ *wire.Reply) error {
	c, done, err := child(o, q)
	if err != nil {
		return err
	}
	defer done()
	return unix.Setxattr(c.path(), q.Xattr, q.Data, int(q.Flags))
}

func (w *worker) listXattr(o *object, q *wire.Request, r *wire.Reply) error {
	c, done, err := child(o, q)
	if err != nil {
		return err
	}
	defer done()
	n, err := unix.Listxattr(c.path(), w.scratch())
	if err != nil {
		return err
	}
	r.Data = w.buf[:n]
	return nil
}

func (w *worker) removeXattr(o *object, q *wire.Request, _ *wire.Reply) error {
	c, done, err := child(o, q)
	if err != nil {
		return err
	}
	defer done()
	return unix.Removexattr(c.path(), q.Xattr)
}
