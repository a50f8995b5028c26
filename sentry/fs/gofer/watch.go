package gofer

import (
	"encoding/binary"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
	"bulkhead/sentry/vfs"
)

// hostChanges are the events that the host is asked for: what changes an object or
// the names in it, not who looks at it.
const hostChanges = unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CLOSE_WRITE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_CREATE | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF

// WatchFD has events of a descriptor told to a queue until stop is called.
type WatchFD func(fd int, q *vfs.Queue) (stop func(), err error)

// hostEvents reads what the gofer's inotify instance tells of shared attachments,
// from the first watch on. It is one for all attachments of a gofer.
type hostEvents struct {
	watchFD WatchFD
	queue   vfs.Queue

	mu     sync.Mutex
	fd     int // -1 before the first watch
	stop   func()
	closed bool
	inodes map[int32]vfs.Inode
}

// WatchHost lets inotify inside see what the host changes in shared attachments.
// guard is deferred by the goroutine that reads.
func WatchHost(files []*FS, w WatchFD, guard func()) {
	e := &hostEvents{watchFD: w, fd: -1, inodes: map[int32]vfs.Inode{}}
	for _, f := range files {
		f.events, f.guard = e, guard
	}
}

// watchHost is vfs.HostWatched for i, which self is.
func (i *inode) watchHost(self vfs.Inode) (stop func()) {
	e := i.fs.events
	if e == nil || i.fs.exclusive() {
		return nil
	}
	wd, ok := e.add(i, self)
	if !ok {
		return nil // its own changes are seen all the same
	}
	root, err := inodeOf(i.fs.root).need()
	if err != nil {
		return nil
	}
	return func() {
		e.mu.Lock()
		_, there := e.inodes[wd]
		delete(e.inodes, wd)
		e.mu.Unlock()
		if there {
			i.fs.conn.Call(&wire.Request{Op: wire.Unwatch, ID: root, Flags: uint32(wd)})
		}
	}
}

// add asks the gofer. The first event must not come before the number is known.
func (e *hostEvents) add(i *inode, self vfs.Inode) (wd int32, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r, err := i.call(wire.Request{Op: wire.Watch, Flags: hostChanges})
	if err != nil || r.FD < 0 {
		return 0, false
	}
	if e.closed {
		unix.Close(r.FD)
		return 0, false
	}
	if e.fd >= 0 {
		unix.Close(r.FD)
	} else if e.fd = r.FD; !e.start(i.fs.guard) {
		return 0, false
	}
	e.inodes[int32(r.ID)] = self
	return int32(r.ID), true
}

func (e *hostEvents) start(guard func()) bool {
	ready := make(chan struct{}, 1)
	e.queue.Add(vfs.NewWaiter(vfs.EventIn, ready))
	stop, err := e.watchFD(e.fd, &e.queue)
	if err != nil {
		return false
	}
	e.stop = stop
	go func() {
		defer guard()
		for e.read() {
			<-ready
		}
	}()
	return true
}

// Detach gives up the attachments of one gofer: nobody uses a file of theirs any more.
func Detach(files []*FS) {
	for _, f := range files {
		if e := f.events; e != nil {
			e.close()
		}
	}
}

func (e *hostEvents) close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.queue.Notify(vfs.EventIn) // for who reads, and ends then
}

// over ends the reading of a gofer that was given up.
func (e *hostEvents) over() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		return false
	}
	e.stop()
	unix.Close(e.fd)
	return true
}

// read takes what there is. It is false once the gofer has gone.
func (e *hostEvents) read() bool {
	b := make([]byte, 16<<10)
	if e.over() {
		return false
	}
	for {
		n, err := unix.Read(e.fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return true
		case err != nil || n == 0:
			return false
		}
		for rest := b[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			le := binary.LittleEndian
			wd, mask, cookie, size := int32(le.Uint32(rest)), le.Uint32(rest[4:]), le.Uint32(rest[8:]), le.Uint32(rest[12:])
			if uint64(len(rest)) < unix.SizeofInotifyEvent+uint64(size) {
				return false
			}
			name, _, _ := strings.Cut(string(rest[unix.SizeofInotifyEvent:][:size]), "\x00")
			e.tell(wd, mask, cookie, name)
			rest = rest[unix.SizeofInotifyEvent+size:]
		}
	}
}

func (e *hostEvents) tell(wd int32, mask, cookie uint32, name string) {
	e.mu.Lock()
	i := e.inodes[wd]
	if mask&unix.IN_IGNORED != 0 {
		delete(e.inodes, wd)
	}
	e.mu.Unlock()
	if i == nil || mask&unix.IN_IGNORED != 0 {
		return
	}
	inodeOf(i).stale()
	vfs.TellHost(i, mask, cookie, name)
}

// WatchHost implements vfs.HostWatched.
func (d *dir) WatchHost() (stop func())  { return d.watchHost(d) }
func (f *file) WatchHost() (stop func()) { return f.watchHost(f) }
