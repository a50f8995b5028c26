package fs

import (
	"sync"

	"golang.org/x/sys/unix"
)

// A handle is a file or directory that the guest has open.
type handle struct {
	id    uint64
	node  uint64 // the inode's number
	fd    int
	flags uint32 // it was opened with

	mu     sync.Mutex // guards stream
	stream stream     // a directory's

	users int // guarded by handles.mu; one of them is the guest until it releases
}

type handles struct {
	most int

	mu   sync.Mutex
	next uint64
	open map[uint64]*handle
}

func newHandles(most int) *handles {
	return &handles{most: most, next: 1, open: map[uint64]*handle{}}
}

// add takes fd over, also if it fails.
func (t *handles) add(node uint64, fd int, flags uint32) (*handle, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) >= t.most {
		unix.Close(fd)
		return nil, unix.ENFILE
	}
	h := &handle{id: t.next, node: node, fd: fd, flags: flags, users: 1}
	t.next++
	t.open[h.id] = h
	return h, nil
}

// get is the handle that the guest calls id, which stays open until put.
func (t *handles) get(id uint64) (*handle, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.open[id]
	switch {
	case !ok:
		return nil, unix.EBADF
	case h.fd < 0:
		return nil, unix.ESTALE // a snapshot knew it, the host no more
	}
	h.users++
	return h, nil
}

func (t *handles) put(h *handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.putLocked(h)
}

func (t *handles) putLocked(h *handle) {
	if h.users--; h.users == 0 && h.fd >= 0 {
		unix.Close(h.fd)
	}
}

// release is the guest's close. Requests at work on the handle end first.
func (t *handles) release(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h, ok := t.open[id]; ok {
		delete(t.open, id)
		t.putLocked(h)
	}
}

func (t *handles) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, h := range t.open {
		delete(t.open, id)
		t.putLocked(h)
	}
}
