package boot

import (
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// watcher tells host files' queues when the host's descriptors become ready. It
// has one thread, which sleeps in epoll_wait, and only once somebody waits.
type watcher struct {
	epoll int
	once  sync.Once
	mu    sync.Mutex
	files map[int32]*vfs.Queue
	ends  map[int32]func()
}

func newWatcher() (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &watcher{epoll: fd, files: map[int32]*vfs.Queue{}, ends: map[int32]func(){}}, err
}

// atEnd calls f when the other end of the socket fd is no more. What comes to the socket
// meanwhile wakes nobody here.
func (w *watcher) atEnd(fd int, f func()) error {
	w.mu.Lock()
	w.ends[int32(fd)] = f
	w.mu.Unlock()
	ev := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(fd)} // and EPOLLHUP, always
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return err
	}
	w.start()
	return nil
}

// forget undoes atEnd. What is told already may still come.
func (w *watcher) forget(fd int) {
	w.mu.Lock()
	delete(w.ends, int32(fd))
	w.mu.Unlock()
	_ = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, fd, nil) // it may have told, and be gone
}

// add begins to watch fd for q. It is false for files that are always ready.
func (w *watcher) add(fd int, q *vfs.Queue) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	// Edge-triggered: it tells of changes, and Ready is asked for the state.
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: int32(fd)}
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return false
	}
	w.files[int32(fd)] = q
	return true
}

func (w *watcher) remove(fd int, q *vfs.Queue) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.files[int32(fd)] == q {
		delete(w.files, int32(fd))
		unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, fd, nil)
	}
}

// watchSocket watches a socket of the host's, which somebody is sure to wait for.
func (w *watcher) watchSocket(fd int, q *vfs.Queue) (stop func(), err error) {
	if !w.add(fd, q) {
		return nil, unix.ENOMEM
	}
	w.start()
	return func() { w.remove(fd, q) }, nil
}

// start begins the thread; the first wait calls it.
func (w *watcher) start() { w.once.Do(func() { go w.run() }) }

func (w *watcher) run() {
	var evs [16]unix.EpollEvent
	for {
		n, err := unix.EpollWait(w.epoll, evs[:], -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		for _, e := range evs[:n] {
			w.mu.Lock()
			q, end := w.files[e.Fd], w.ends[e.Fd]
			w.mu.Unlock()
			if end != nil {
				end()
			}
			if q != nil {
				q.Notify(vfs.Events(e.Events))
			}
		}
	}
}
