package memory

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// smallWindow is the least that a window covers, in pages: small files are many,
// and a platform keeps some bytes for each page of a region.
const smallWindow = 16

// HostFile shows a file of the host's to applications, through windows of the
// arena's region: the page cache is the host's, shared with everybody there. It
// implements Mappable.
type HostFile struct {
	programMark
	a        *Arena
	writable bool
	size     func() (uint64, error)
	refs     atomic.Int64
	closed   atomic.Bool

	mu      sync.Mutex
	fd      int  // the caller's, until the first window: then our own copy of it
	owned   bool // fd is ours
	windows []window
	text    *text   // if it is a program's
	old     []*text // of contents since changed, still mapped

	usersMu sync.Mutex
	users   users
}

// window shows pages of the file from page first on.
type window struct {
	first uint64
	host  []byte
	pfn   uint32 // in Arena.windows
}

// NewHostFile wraps fd, open for reading, and for writing if shared mappings may
// store. fd stays the caller's, who keeps it open until Close; mappings that
// outlive Close have a duplicate. size asks for the file's size now.
func NewHostFile(a *Arena, fd int, writable bool, size func() (uint64, error)) *HostFile {
	h := &HostFile{a: a, fd: fd, writable: writable, size: size, users: users{}}
	if size == nil { // of the descriptor, which may be h's own by then
		h.size = h.statSize
	}
	h.refs.Store(1)
	return h
}

func (h *HostFile) statSize() (uint64, error) {
	h.mu.Lock()
	fd := h.fd
	h.mu.Unlock()
	var s unix.Stat_t
	err := unix.Fstat(fd, &s)
	return uint64(s.Size), err
}

// Close gives up the first reference; the windows go with the last.
func (h *HostFile) Close() error {
	if !h.closed.Swap(true) {
		h.Unref()
	}
	return nil
}

// Pages implements Mappable.
func (h *HostFile) Pages(off, n uint64, write bool) (Run, error) {
	return h.pagesAhead(want{off: off, n: n, fill: n, write: write})
}

func (h *HostFile) pagesAhead(q want) (Run, error) {
	if q.write && !h.writable {
		return Run{}, unix.EACCES
	}
	size, err := h.size()
	if err != nil {
		return Run{}, unix.EIO
	}
	end := (size + PageSize - 1) / PageSize
	first := q.off / PageSize
	if first >= end {
		return Run{}, unix.ENXIO
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if q.private && h.text != nil {
		if r, err := h.text.pages(h.fd, q.off, min(q.n, (end-first)*PageSize)); err == nil {
			return r, nil
		}
	}
	w, err := h.windowLocked(first, end)
	if err != nil {
		return Run{}, err
	}
	at := first - w.first
	most := min(uint64(len(w.host))/PageSize-at, end-first, max(q.n/PageSize, 1))
	h.Ref()
	r := Run{file: h}
	r.FD, r.Offset = h.fd, int64(first*PageSize)
	r.Host = w.host[at*PageSize:][: most*PageSize : most*PageSize]
	return r, nil
}

// probe says whether the host can map the file at all.
func (h *HostFile) probe(off uint64) error {
	r, err := h.Pages(off, PageSize, false)
	if err == unix.ENXIO {
		return nil
	}
	r.Release()
	return err
}

func (h *HostFile) present(uint64) bool { return true }

// ownLocked makes the descriptor ours.
func (h *HostFile) ownLocked() error {
	if h.owned {
		return nil
	}
	fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		h.fd, h.owned = fd, true
	}
	return err
}

// windowLocked finds or makes the window with page first, in a file of size pages.
func (h *HostFile) windowLocked(first, size uint64) (window, error) {
	for _, w := range h.windows {
		if first >= w.first && first < w.first+uint64(len(w.host))/PageSize {
			return w, nil
		}
	}
	if err := h.ownLocked(); err != nil {
		return window{}, err
	}
	n := uint64(hugePages)
	if size < n {
		n = max(smallWindow, uint64(1)<<bits.Len64(size-1))
	}
	w := window{first: first &^ (n - 1)}
	var err error
	w.host, w.pfn, err = h.a.window(h.fd, int64(w.first*PageSize), uint32(n), h.writable)
	if err != nil {
		return window{}, err
	}
	h.windows = append(h.windows, w)
	return w, nil
}

// CopyOut copies bytes of the file, which is size bytes long, from off on into dst, and
// says how many. It may be fewer than there are: a window ends, or the file was cut meanwhile.
func (h *HostFile) CopyOut(dst Buffers, off, size uint64) int {
	if off >= size {
		return 0
	}
	h.mu.Lock()
	w, err := h.windowLocked(off/PageSize, (size+PageSize-1)/PageSize)
	h.mu.Unlock()
	if err != nil {
		return 0
	}
	at := off - w.first*PageSize
	return dst.CopyOut(w.host[at:min(uint64(len(w.host)), at+size-off)])
}

// sync writes back what was stored, for msync(MS_SYNC).
func (h *HostFile) sync() error {
	if !h.writable {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return unix.Fdatasync(h.fd)
}

func (h *HostFile) identity() any { return h }

// Attach implements Mappable.
func (h *HostFile) Attach(s *Space, at Addr, off, length uint64, shared bool) {
	h.usersMu.Lock()
	defer h.usersMu.Unlock()
	h.users.attach(s)
}

// Detach implements Mappable.
func (h *HostFile) Detach(s *Space, at Addr, off, length uint64, shared bool) {
	h.usersMu.Lock()
	defer h.usersMu.Unlock()
	h.users.detach(s)
}

// Truncated tells the mappings that the file lost [size, …), by whatever way the
// caller truncated it: their translations go, and the next touch is SIGBUS.
func (h *HostFile) Truncated(size uint64) {
	from := (size + PageSize - 1) / PageSize * PageSize
	h.usersMu.Lock()
	spaces := h.users.list()
	h.usersMu.Unlock()
	for _, s := range spaces {
		s.invalidate(h, from, ^uint64(0)-from, true)
	}
}

// Ref implements Mappable.
func (h *HostFile) Ref() { h.refs.Add(1) }

// Unref implements Mappable.
func (h *HostFile) Unref() {
	switch n := h.refs.Add(-1); {
	case n == 0:
		h.release()
	case n < 0:
		panic("memory: a host file is given up twice")
	}
}

func (h *HostFile) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.windows {
		h.a.unwindow(w.pfn, uint32(len(w.host)/PageSize))
	}
	h.windows = nil
	if h.text != nil {
		h.old = append(h.old, h.text)
	}
	for _, t := range h.old {
		h.a.cached.Add(-int64(t.o.Usage() / PageSize)) // whoever maps it yet has it as his own
		t.o.Unref()
	}
	h.text, h.old = nil, nil
	if h.owned {
		unix.Close(h.fd)
	}
}
