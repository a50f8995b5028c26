package gofer

import (
	"bytes"
	"encoding/binary"

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
		if dir.shut {
			if i < len(q.Names)-1 {
				r.Stop = unix.ENOENT
			}
			r.End = q.Flags&wire.WalkList != 0
			return nil
		}
	}
	if q.Flags&wire.WalkList != 0 && dir.mode&unix.S_IFMT == unix.S_IFDIR {
		w.listSmall(dir, r, min(budget, smallList))
	}
	return nil
}

// smallList is how many bytes of entries come with a walk for nothing: each
// costs the gofer 2 µs to look at, a request of its own the Sentry 20 to 200.
const smallList = 32 * 150

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
		n.ID = w.handles.add(fd, &a, dir.tree)
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
	err := w.list(dir, 0, smallDents, func(fd int, d dirent) (bool, error) {
		e := wire.Entry{Name: d.name, Cookie: d.cookie}
		if budget -= e.Size(); budget < 0 {
			return false, nil
		}
		var err error
		if e.Attr, err = stat(fd, d.name); err != nil {
			return false, err // ENOENT, too: the list would have a gap
		}
		r.Entries = append(r.Entries, e)
		return true, nil
	}, &r.End)
	if err != nil || !r.End {
		r.Entries, r.End = nil, false
	}
}

// smallDents is a buffer that holds what smallList holds; a directory that needs
// a second one is found too big before any of its entries is looked at.
const smallDents = 32 * 64

func (w *worker) readDir(o *object, q *wire.Request, r *wire.Reply) error {
	budget := wire.MaxReply - 4096
	return w.list(o, q.Offset, manyDents, func(fd int, d dirent) (bool, error) {
		e := wire.Entry{Name: d.name, Cookie: d.cookie}
		if budget -= e.Size(); budget < 0 || len(r.Entries) == wire.MaxEntries {
			return false, nil
		}
		var err error
		if e.Attr, err = stat(fd, d.name); err == unix.ENOENT {
			return true, nil // gone since
		} else if err != nil {
			return false, err
		}
		r.Entries = append(r.Entries, e)
		return true, nil
	}, &r.End)
}

func (w *worker) names(o *object, q *wire.Request, r *wire.Reply) error {
	budget := wire.MaxReply - 4096
	return w.list(o, q.Offset, manyDents, func(_ int, d dirent) (bool, error) {
		e := wire.Short{Name: d.name, Cookie: d.cookie, Ino: d.ino, Type: d.kind}
		if budget -= e.Size(); budget < 0 || len(r.Short) == wire.MaxEntries {
			return false, nil
		}
		r.Short = append(r.Short, e)
		return true, nil
	}, &r.End)
}

const manyDents = 32 << 10

// list emits what stands in dir from cookie on, until emit says false; end says
// whether that is all. With smallDents it emits nothing of a directory that is bigger.
func (w *worker) list(dir *object, cookie uint64, buf int, emit func(fd int, d dirent) (bool, error), end *bool) error {
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
	b := w.scratch()
	for {
		n, err := unix.Getdents(fd, b[:buf])
		if err != nil {
			return err
		}
		if buf == smallDents && n > 0 {
			if more, err := unix.Getdents(fd, b[buf:2*buf]); err != nil || more > 0 {
				return err
			}
			*end = true
		}
		for rest := b[:n]; len(rest) > 0; {
			var d dirent
			d, rest = parseDirent(rest)
			if d.name == "." || d.name == ".." {
				continue
			}
			if more, err := emit(fd, d); err != nil || !more {
				*end = false
				return err
			}
		}
		if n == 0 || *end {
			*end = true
			return nil
		}
	}
}

// dirent is one struct linux_dirent64.
type dirent struct {
	name        string
	ino, cookie uint64
	kind        uint8
}

// parseDirent takes one from b, which the kernel wrote.
func parseDirent(b []byte) (d dirent, rest []byte) {
	size := binary.NativeEndian.Uint16(b[16:])
	name := b[19:size]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	return dirent{string(name), binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[8:]), b[18]}, b[size:]
}

func (w *worker) scratch() []byte {
	if w.buf == nil {
		w.buf = make([]byte, wire.MaxXattr)
	}
	return w.buf
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
