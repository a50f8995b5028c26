package gofer

import (
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
)

// notifier is the inotify instance whose descriptor the Sentry reads. What it
// watches only we decide: the Sentry may not add to it, and finds no names if it did.
type notifier struct {
	mu sync.Mutex
	fd int // -1 until the first watch
}

// watch begins to watch an object: the reply has its number and the instance.
func (w *worker) watch(o *object, q *wire.Request, r *wire.Reply) error {
	if o.tree.Exclusive {
		return unix.EOPNOTSUPP // nobody else changes it
	}
	c, done, err := child(o, q)
	if err != nil {
		return err
	}
	defer done()
	if c.shut {
		return unix.EOPNOTSUPP
	}
	n := &w.notifier
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd < 0 {
		if n.fd, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
			n.fd = -1
			return err
		}
	}
	wd, err := unix.InotifyAddWatch(n.fd, c.path(), q.Flags)
	if err != nil {
		return err
	}
	r.ID, r.FD = uint32(wd), n.fd
	return nil
}

// keeps: fd is sent and stays open.
func (n *notifier) keeps(fd int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fd == n.fd
}

// unwatch ends the watch with number Flags.
func (w *worker) unwatch(_ *object, q *wire.Request, _ *wire.Reply) error {
	w.notifier.mu.Lock()
	defer w.notifier.mu.Unlock()
	if w.notifier.fd < 0 {
		return unix.EINVAL
	}
	_, err := unix.InotifyRmWatch(w.notifier.fd, q.Flags)
	return err
}
