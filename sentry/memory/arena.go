package memory

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

const (
	maxPages   = 256 << 30 // bytes of address space for pages
	maxWindows = 64 << 30  // and for windows onto files of the host's

	// Freed pages that are kept for quick re-use, in pages: clearing one costs
	// 0.1 µs, giving it back and touching it again 5 µs and, on kvm, a shootdown.
	keepPages = 16 << 20 / PageSize

	// Pages that nobody took for so long go back to the host. The timer runs
	// only after something was freed, so an idle sandbox has no wake-ups of it.
	keepTime = 500 * time.Millisecond
)

// errLimit says that the allocation would pass the arena's limit. Whoever holds
// no lock answers it with Arena.relieve and another try.
var errLimit = errors.New("memory: the limit is reached")

// Arena owns the pages that applications use and the windows through which they
// see files of the host's. What is allocated through one is on its account: the
// containers of a pod have an Arena each (Divide), and share what is behind it.
type Arena struct {
	*pool
	*account
}

// pool is what all accounts draw upon.
type pool struct {
	p       platform.Platform
	private bool
	fd      int // the memfd, or -1
	zeros   zeros

	total atomic.Int64 // pages that there can be without a limit, 0: unknown

	shown  atomic.Int64 // pages of windows
	cached atomic.Int64 // of what is used: copies of programs' text
	spaces atomic.Int64

	accounts accounts

	// refs is indexed by unit. A page's count has the references in its low and
	// the pins (I/O under way) in its high half: a page is free when both are 0,
	// and may be written in place when there is one reference, pinned or not. Neither
	// half can run over: see maxSpaces and crowded.
	refs [maxPages / unitSize]atomic.Pointer[[unitPages]atomic.Uint32]

	mu      sync.Mutex
	pages   *region
	windows *region
	dirty   int  // free pages that are not zero
	reused  bool // since the timer was set
	timer   *time.Timer
	closed  bool
}

const onePin = 1 << 16

// extent is a run of pages of the arena.
type extent struct{ pfn, n uint32 }

// NewArena makes an arena for the applications of p. limit is in bytes; 0 is none.
func NewArena(p platform.Platform, limit uint64) (*Arena, error) {
	a := &Arena{pool: &pool{p: p, private: p.Private(), fd: -1}}
	a.account = a.accounts.first()
	a.SetLimit(limit)
	var err error
	if a.zeros.fd, err = newZeros(); err != nil {
		return nil, err
	}
	if !a.private {
		if a.fd, err = unix.MemfdCreate("bulkhead-arena", unix.MFD_CLOEXEC); err != nil {
			return nil, errors.Join(fmt.Errorf("memory: make a memfd: %w", err), a.Close())
		}
	}
	if a.pages, err = newRegion(maxPages, a.addPages); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	if a.windows, err = newRegion(maxWindows, a.addWindows); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	if err := a.pages.more(); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	a.pages.take(a.pages.clean, 1) // page 0 means none
	return a, nil
}

func (a *Arena) addPages(part []byte, off int64) (err error) {
	const prot = unix.PROT_READ | unix.PROT_WRITE
	if a.private {
		err = place(part, prot, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE, -1, 0)
	} else if err = unix.Ftruncate(a.fd, off+int64(len(part))); err == nil {
		err = place(part, prot, unix.MAP_SHARED|unix.MAP_NORESERVE, a.fd, off)
	}
	if err != nil {
		return fmt.Errorf("memory: add %d bytes to the arena: %w", len(part), err)
	}
	// Where the host has no huge pages (for shared memory most have none), this
	// fails and touching costs more.
	_ = unix.Madvise(part, unix.MADV_HUGEPAGE)
	for u := range len(part) / unitSize {
		a.refs[int(off/unitSize)+u].Store(new([unitPages]atomic.Uint32))
	}
	return a.p.AddMemory(part)
}

func (a *Arena) addWindows(part []byte, _ int64) error { return a.p.AddMemory(part) }

// SetTotal says how much memory the host has: what no allocation can pass, limit or not.
func (a *Arena) SetTotal(bytes uint64) { a.total.Store(int64(bytes / PageSize)) }

// Figures are sizes in bytes.
type Figures struct {
	Used    uint64 // pages of applications, of tmpfs and memfds, and Text
	Free    uint64 // once used, kept for the next who needs some
	Text    uint64 // copies of files that are run (see text)
	Windows uint64 // of the host's files shown to applications: the pages are its cache's, shared with everybody there
}

// Figures says what memory there is.
func (a *Arena) Figures() Figures {
	a.mu.Lock()
	free := a.dirty
	a.mu.Unlock()
	return Figures{Used: a.Usage(), Free: uint64(free) * PageSize, Text: uint64(max(a.cached.Load(), 0)) * PageSize,
		Windows: uint64(a.shown.Load()) * PageSize}
}

// Close unmaps everything. Nothing runs and no object is used any more.
func (a *Arena) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	if a.timer != nil {
		a.timer.Stop()
	}
	var err error
	for _, r := range []*region{a.pages, a.windows} {
		if r != nil {
			err = errors.Join(err, r.close())
		}
	}
	for _, fd := range []int{a.fd, a.zeros.fd} {
		if fd >= 0 {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	return err
}

// alloc hands out at most n pages in a row, at least one, each with one
// reference. They are zero if zero is set.
func (a *Arena) alloc(n uint32, zero bool) (extent, error) {
	n = min(n, hugePages)
	switch l := a.limit.Load(); {
	case a.full(1):
		return extent{}, errLimit
	case l > 0:
		n = uint32(min(int64(n), max(l-a.used.Load(), 1)))
	}
	a.mu.Lock()
	pfn, n, ok := a.takeDirtyLocked(n)
	if !ok {
		zero = false
		var err error
		if pfn, err = a.pages.takeClean(n); err != nil {
			a.mu.Unlock()
			return extent{}, err
		}
	}
	a.mu.Unlock()
	a.take(pfn, n)
	switch b := a.pages.bytes(pfn, n); {
	case zero:
		clear(b)
	case !ok:
		// The host allocates (a huge page, if it can) for a touch of ours in a
		// quarter of the time that it takes for one from inside a guest.
		b[0] = 0
	}
	for i := range n {
		a.count(pfn + i).Store(1)
	}
	return extent{pfn, n}, nil
}

// fewDirty is how many freed pages in a row are still better than more that the
// host must allocate: to map another row costs less than to touch a fresh page.
const fewDirty = 8

// takeDirtyLocked takes n freed pages, or as many as there are in one row. Who
// asks for a whole huge page gets that or nothing. Without this a program that
// forks and ends all the time would break its freed pages up, take fresh ones
// for every larger piece, and pay for a huge page (0.2 to 6 ms) each time.
func (a *Arena) takeDirtyLocked(n uint32) (uint32, uint32, bool) {
	least := min(n, fewDirty)
	if n == hugePages {
		least = n
	}
	for m := n; m >= least; m = 1 << (bits.Len32(m-1) - 1) {
		if a.dirty >= int(m) {
			if pfn, ok := a.pages.take(a.pages.dirty, m); ok {
				a.dirty -= int(m)
				a.reused = true
				return pfn, m, true
			}
		}
		if m == 1 {
			break
		}
	}
	return 0, n, false
}

func (a *Arena) count(pfn uint32) *atomic.Uint32 {
	return &a.refs[pfn/unitPages].Load()[pfn%unitPages]
}

func (a *Arena) bytes(pfn, n uint32) []byte { return a.pages.bytes(pfn, n) }

func (a *Arena) segment(pfn, n uint32) platform.Segment {
	return platform.Segment{FD: a.fd, Offset: int64(pfn) * PageSize, Host: a.bytes(pfn, n)}
}

// exclusive says that a page has one reference, which is the caller's.
func (a *Arena) exclusive(pfn uint32) bool { return a.count(pfn).Load()&(onePin-1) == 1 }

func (a *Arena) ref(pfn uint32) { a.count(pfn).Add(1) }

func (a *Arena) pin(pfn, n uint32) {
	for i := range n {
		a.count(pfn + i).Add(onePin)
	}
}

// crowded is from how many pins on a page is refused another that may last: a
// program can have as many reads of one page wait as it likes, and a count that
// wraps would free the page under them. What is left is for pins as long as a copy.
const crowded = 0xf000 * onePin

func (a *Arena) isCrowded(e extent) bool {
	for i := range e.n {
		if a.count(e.pfn+i).Load() >= crowded {
			return true
		}
	}
	return false
}

func (a *Arena) unref(pfn, n uint32) { a.drop(pfn, n, 1) }

func (a *Arena) unpin(pfn, n uint32) { a.drop(pfn, n, onePin) }

// drop takes what from the counts of pages and frees those that come to 0.
func (a *Arena) drop(pfn, n, what uint32) {
	first, run := pfn, uint32(0)
	for i := range n {
		if a.count(pfn+i).Add(-what) == 0 {
			if run == 0 {
				first = pfn + i
			}
			run++
		} else if run > 0 {
			a.free(first, run)
			run = 0
		}
	}
	if run > 0 {
		a.free(first, run)
	}
}

func (a *Arena) free(pfn, n uint32) {
	a.give(pfn, n)
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return
	}
	a.pages.put(a.pages.dirty, pfn, n)
	a.dirty += int(n)
	if a.timer == nil {
		a.reused = false
		a.timer = time.AfterFunc(keepTime, a.idle)
	}
	over := a.dirty > keepPages
	a.mu.Unlock()
	if over {
		a.trim(keepPages / 2)
	}
}

// idle runs a while after something was freed.
func (a *Arena) idle() {
	a.mu.Lock()
	busy := a.reused
	a.reused, a.timer = false, nil
	if busy && !a.closed {
		a.timer = time.AfterFunc(keepTime, a.idle)
	}
	a.mu.Unlock()
	if !busy {
		a.trim(0)
	}
}

// trim gives free pages back to the host until no more than keep are left,
// large blocks first.
func (a *Arena) trim(keep int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k := hugeOrder; k >= 0 && a.dirty > keep; k-- {
		a.trimOrderLocked(k, keep)
	}
}

func (a *Arena) trimOrderLocked(k, keep int) {
	for u, b := range a.pages.dirty {
		for b.count[k] > 0 && a.dirty > keep && !a.closed {
			at := b.lowest(k) << k
			n := uint32(0)
			for n+at < unitPages && b.has(k, (at+n)>>k) && a.dirty > keep {
				b.flip(k, (at+n)>>k)
				b.count[k]--
				b.free -= 1 << k
				n += 1 << k
				a.dirty -= 1 << k
			}
			pfn := uint32(u)*unitPages + at
			a.discard(pfn, n)
			a.pages.put(a.pages.clean, pfn, n)
		}
	}
}

// discard makes pages holes, which read as zeros when they are touched again.
func (a *Arena) discard(pfn, n uint32) {
	b := a.bytes(pfn, n)
	var err error
	if a.private {
		err = unix.Madvise(b, unix.MADV_DONTNEED)
	} else {
		err = unix.Fallocate(a.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			int64(pfn)*PageSize, int64(len(b)))
	}
	if err != nil {
		clear(b) // they are promised to be zero
	}
}

// window maps n pages of fd, a power of two and at most 512.
func (a *Arena) window(fd int, off int64, n uint32, writable bool) ([]byte, uint32, error) {
	a.mu.Lock()
	pfn, err := a.windows.takeClean(n)
	a.mu.Unlock()
	if err != nil {
		return nil, 0, err
	}
	prot := unix.PROT_READ
	if writable {
		prot |= unix.PROT_WRITE
	}
	b := a.windows.bytes(pfn, n)
	if err := place(b, prot, unix.MAP_SHARED|unix.MAP_NORESERVE, fd, off); err != nil {
		a.mu.Lock()
		a.windows.put(a.windows.clean, pfn, n)
		a.mu.Unlock()
		return nil, 0, err
	}
	a.shown.Add(int64(n))
	return b, pfn, nil
}

// unwindow takes windows away again.
func (a *Arena) unwindow(pfn, n uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shown.Add(-int64(n))
	if a.closed {
		return
	}
	err := place(a.windows.bytes(pfn, n), unix.PROT_NONE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE, -1, 0)
	if err == nil { // else the address space is lost, and nothing more
		a.windows.put(a.windows.clean, pfn, n)
	}
}
