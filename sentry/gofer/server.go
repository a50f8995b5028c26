package gofer

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
)

// workers is how many requests are served at a time. Each waits in read on the
// socket itself, and the kernel wakes one: two keep a second caller from waiting
// for a slow disk, more would only be more stacks. They do not spin for the next
// request: the kernel wakes a reader on the sender's CPU, which is about to wait,
// so that a burst costs 20 µs a request as it is (BenchmarkCall), and the CPU that
// a spin would take is the container's.
const workers = 2

// attachment is one tree, or one file.
type attachment struct {
	Mount
	fd   int // of the detached copy of its mounts
	attr wire.Attr
	devs sync.Map // of mounts beneath that show what is in them
}

func (a *attachment) flags() uint32 {
	var f uint32
	for bit, on := range map[uint32]bool{
		wire.ReadOnly: a.ReadOnly, wire.Exclusive: a.Exclusive, wire.Sockets: a.Sockets, wire.Devices: a.Devices,
		wire.IsFile: a.attr.Mode&unix.S_IFMT != unix.S_IFDIR,
	} {
		if on {
			f |= bit
		}
	}
	return f
}

// object is what an id stands for.
type object struct {
	id   uint32
	fd   int // O_PATH
	mode uint32
	tree *attachment
	shut bool // a directory that shows nothing; see shut.go
	refs int  // under handles.mu: the id's and one of each request that uses it
}

// path leads to the object itself, from the directory that the process is in
// (jail.go, procFD).
func (o *object) path() string { return strconv.Itoa(o.fd) }

// handles are the objects by id. A hostile Sentry may release an id that
// another request uses: the descriptor closes when both are done.
type handles struct {
	mu   sync.Mutex
	byID []*object
	free []uint32
}

func (h *handles) add(fd int, a *wire.Attr, tree *attachment) uint32 {
	shut := tree.shut(fd, a)
	h.mu.Lock()
	defer h.mu.Unlock()
	o := &object{fd: fd, mode: a.Mode, tree: tree, shut: shut, refs: 1}
	if n := len(h.free); n > 0 {
		o.id, h.free = h.free[n-1], h.free[:n-1]
		h.byID[o.id] = o
	} else {
		o.id = uint32(len(h.byID))
		h.byID = append(h.byID, o)
	}
	return o.id
}

func (h *handles) hold(id uint32) (*object, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if id >= uint32(len(h.byID)) || h.byID[id] == nil {
		return nil, unix.EBADF
	}
	o := h.byID[id]
	o.refs++
	return o, nil
}

func (h *handles) drop(o *object) {
	h.mu.Lock()
	o.refs--
	last := o.refs == 0
	h.mu.Unlock()
	if last {
		unix.Close(o.fd)
	}
}

// release takes ids back; attachments stay.
func (h *handles) release(ids []uint32, attachments int) {
	for _, id := range ids {
		h.mu.Lock()
		if id < uint32(attachments) || id >= uint32(len(h.byID)) || h.byID[id] == nil {
			h.mu.Unlock()
			continue
		}
		o := h.byID[id]
		h.byID[id] = nil
		h.free = append(h.free, id)
		h.mu.Unlock()
		h.drop(o)
	}
}

type server struct {
	log     *slog.Logger
	trees   []*attachment
	handles handles
	notifier
	counts [256]atomic.Uint32 // requests served, by operation
}

// tell logs what was served: round trips are what a container waits for.
func (s *server) tell() {
	var all []any
	for op := range s.counts {
		if n := s.counts[op].Load(); n > 0 {
			all = append(all, slog.Int(wire.Op(op).String(), int(n)))
		}
	}
	s.log.Debug("requests", all...)
}

// newServer opens the attachments' sources, which is possible only before the jail.
func newServer(mounts []Mount, log *slog.Logger) (*server, error) {
	s := &server{log: log, notifier: notifier{fd: -1}}
	for _, m := range mounts {
		a := &attachment{Mount: m}
		if err := a.open(); err != nil {
			return nil, err
		}
		s.trees = append(s.trees, a)
		s.handles.add(a.fd, &a.attr, a)
	}
	return s, nil
}

// open makes the detached copy of the source's mounts.
func (a *attachment) open() error {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if a.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, a.Source, flags)
	if err != nil {
		return fmt.Errorf("gofer: open %s: %w", a.Source, err)
	}
	set := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSYMFOLLOW, Propagation: unix.MS_PRIVATE}
	if a.ReadOnly {
		set.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &set); err != nil {
		return fmt.Errorf("gofer: restrict %s: %w", a.Source, err)
	}
	a.fd = fd
	if a.attr, err = stat(fd, ""); err != nil {
		return fmt.Errorf("gofer: stat %s: %w", a.Source, err)
	}
	return nil
}

// serve answers until the other end closes.
func (s *server) serve(sock int) error {
	ended := make(chan error, workers)
	for range workers {
		go func() {
			runtime.LockOSThread() // as changes the thread's credentials
			w := &worker{server: s, in: make([]byte, wire.MaxRequest)}
			ended <- w.loop(sock)
		}()
	}
	return <-ended
}

// worker serves one request at a time, on a thread of its own.
type worker struct {
	*server
	in, out  []byte
	uid, gid uint32 // whom new files belong to at present
	buf      []byte // for getdents64, listxattr and getxattr
}

func (w *worker) loop(sock int) error {
	for {
		n, err := unix.Read(sock, w.in) // read, not recvmsg: a descriptor that came along would be dropped
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECONNRESET || err == nil && n == 0:
			return nil
		case err != nil:
			return fmt.Errorf("gofer: receive: %w", err)
		}
		q, err := wire.ParseRequest(w.in[:n])
		if err != nil {
			return err // our Sentry sends nothing of the kind
		}
		if err := w.answer(sock, &q); err == unix.EPIPE {
			return nil
		} else if err != nil {
			return fmt.Errorf("gofer: send: %w", err)
		}
	}
}

// answer handles q and sends the reply.
func (w *worker) answer(sock int, q *wire.Request) error {
	w.handles.release(q.Released, len(w.trees))
	if q.Op == wire.Release {
		return nil
	}
	w.counts[q.Op].Add(1)
	r := wire.Reply{Tag: q.Tag, FD: -1}
	if err := w.handle(q, &r); err != nil {
		r.Errno = w.errno(q, err)
	}
	w.out = r.Append(w.out[:0], q.Op)
	err := wire.Send(sock, w.out, r.FD)
	if r.FD >= 0 && !w.notifier.keeps(r.FD) {
		unix.Close(r.FD)
	}
	if cap(w.out) > wire.MaxReply/2 {
		w.out = nil // a big directory; the usual reply has a few hundred bytes
	}
	return err
}

// errno is what crosses to the Sentry.
func (w *worker) errno(q *wire.Request, err error) unix.Errno {
	var e unix.Errno
	if errors.As(err, &e) && e > 0 && e < 4096 {
		return e
	}
	w.log.Error("gofer: request failed", "call", q.Op.String(), "err", err)
	return unix.EIO
}
