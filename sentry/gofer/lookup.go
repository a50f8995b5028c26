package gofer

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
)

// walk goes down q.Names as far as they lead.
func (w *worker) walk(o *object, q *wire.Request, r *wire.Reply) error {
	dir := o
	budget := wire.MaxReply - 4096
	for i, name := range q.Names {
		fd, err := beneath(dir.fd, name, unix.O_PATH, 0)
		if err != nil {
			r.Stop = w.errno(q, err)
			break
		}
		n, err := w.node(dir, fd, q.Flags)
		if err != nil {
			unix.Close(fd)
			r.Stop = w.errno(q, err)
			break
		}
		r.Nodes = append(r.Nodes, n)
		budget -= 256 + len(n.Target)
		if n.Attr.Mode&unix.S_IFMT != unix.S_IFDIR {
			if i < len(q.Names)-1 && n.Target == "" {
				r.Stop = unix.ENOTDIR
			}
			break
		}
		if budget < 0 {
			break
		}
		last, err := w.handles.hold(n.ID)
		if err != nil {
			break // released by another request of a Sentry that plays
		}
		defer w.handles.drop(last)
		dir = last
	}
	if q.Flags&wire.WalkList != 0 && dir.mode&unix.S_IFMT == unix.S_IFDIR {
		w.listSmall(dir, r, min(budget, smallList))
	}
	return nil
}

// smallList is how many bytes of entries come with a walk for nothing: reading them
// costs about 1 µs an entry, a request of their own 90.
const smallList = 16 << 10

// node describes what fd leads to and gives it an id, or closes it.
func (w *worker) node(dir *object, fd int, flags uint32) (wire.Node, error) {
	a, err := stat(fd, "")
	if err != nil {
		return wire.Node{}, err
	}
	n := wire.Node{ID: wire.NoID, Attr: a}
	if a.Mode&unix.S_IFMT == unix.S_IFLNK {
		if n.Target, err = target(fd); err != nil {
			return n, err
		}
	}
	if a.Mode&unix.S_IFMT == unix.S_IFDIR || flags&wire.WalkIDs != 0 {
		n.ID = w.handles.add(fd, a.Mode, dir.tree)
	} else {
		unix.Close(fd)
	}
	return n, nil
}

func target(fd int) (string, error) {
	b := make([]byte, wire.MaxTarget+1)
	n, err := unix.Readlinkat(fd, "", b)
	if err != nil {
		return "", err
	}
	return string(b[:min(n, wire.MaxTarget)]), nil
}

// listSmall adds the whole of dir to r if it fits in budget, and nothing otherwise.
func (w *worker) listSmall(dir *object, r *wire.Reply, budget int) {
	if err := w.list64(dir, 0, budget, r); err != nil || !r.End {
		r.Entries, r.End = nil, false
	}
}

func (w *worker) readDir(o *object, q *wire.Request, r *wire.Reply) error {
	return w.list64(o, q.Offset, wire.MaxReply-4096, r)
}

// list64 adds entries from cookie on to r until budget bytes are used up.
func (w *worker) list64(dir *object, cookie uint64, budget int, r *wire.Reply) error {
	fd, err := beneath(dir.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if cookie != 0 {
		if _, err := unix.Seek(fd, int64(cookie), unix.SEEK_SET); err != nil {
			return err
		}
	}
	for {
		n, err := unix.Getdents(fd, w.scratch()[:32<<10])
		if err != nil {
			return err
		}
		if n == 0 {
			r.End = true
			return nil
		}
		for b := w.list[:n]; len(b) > 0; {
			var e wire.Entry
			e.Name, e.Cookie, b = dirent(b)
			if e.Name == "." || e.Name == ".." {
				continue
			}
			if budget -= e.Size(); budget < 0 || len(r.Entries) == wire.MaxEntries {
				return nil
			}
			if e.Attr, err = stat(fd, e.Name); err == unix.ENOENT {
				continue // gone since
			} else if err != nil {
				return err
			}
			r.Entries = append(r.Entries, e)
		}
	}
}

// dirent takes one struct linux_dirent64 from b, which the kernel wrote.
func dirent(b []byte) (name string, cookie uint64, rest []byte) {
	cookie = binary.NativeEndian.Uint64(b[8:])
	size := binary.NativeEndian.Uint16(b[16:])
	name = string(b[19:size])
	if i := strings.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	return name, cookie, b[size:]
}

func (w *worker) scratch() []byte {
	if w.list == nil {
		w.list = make([]byte, wire.MaxXattr)
	}
	return w.list
}

func (w *worker) getAttr(o *object, q *wire.Request, r *wire.Reply) (err error) {
	r.Attr, err = stat(o.fd, q.Name)
	return err
}

func (w *worker) readlink(o *object, q *wire.Request, r *wire.Reply) error {
	c, done, err := child(o, q)
	if err != nil {
		return err
	}
	defer done()
	r.Target, err = target(c.fd)
	return err
}

func (w *worker) statfs(o *object, q *wire.Request, r *wire.Reply) error {
	return unix.Fstatfs(o.fd, &r.Statfs)
}
