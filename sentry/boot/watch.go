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
	files map[int32]*hostFile
}

func newWatcher() (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &watcher{epoll: fd, files: map[int32]*hostFile{}}, err
}

// add begins to watch f. It is false for files that are always ready.
func (w *watcher) add(f *hostFile) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	// Edge-triggered: it tells of changes, and Ready is asked for the state.
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: int32(f.fd)}
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, f.fd, &ev); err != nil {
		return false
	}
	w.files[int32(f.fd)] = f
	return true
}

func (w *watcher) remove(f *hostFile) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.files[int32(f.fd)] == f {
		delete(w.files, int32(f.fd))
		unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, f.fd, nil)
	}
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
			f := w.files[e.Fd]
			w.mu.Unlock()
			if f != nil {
				f.queue.Notify(vfs.Events(e.Events))
			}
		}
	}
}
