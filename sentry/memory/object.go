package memory

import (
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// MaxObject is the size that no object exceeds (fs/super.c, MAX_LFS_FILESIZE).
const MaxObject = math.MaxInt64 &^ (PageSize - 1)

// Object is sparse memory with the life of a file: tmpfs, memfd, System V and
// shared anonymous memory. It implements Mappable. NewObject's caller holds the
// first reference; the last Unref frees the pages.
type Object struct {
	programMark
	a      *Arena
	refs   atomic.Int64
	budget Budget // nil: none

	mu    sync.RWMutex
	size  uint64
	table table

	usersMu sync.Mutex
	users   users
}

// Budget limits how many pages all objects that share it have, by a read fault's
// too: Take says whether n more are allowed, Give takes them off.
type Budget interface {
	Take(n uint64) bool
	Give(n uint64)
}

// NewObjectWithin makes an empty object whose pages count. Where no more are
// allowed a write is ENOSPC and a fault SIGBUS.
func NewObjectWithin(a *Arena, b Budget) *Object {
	o := NewObject(a)
	o.budget = b
	return o
}

// NewObject makes an empty object.
func NewObject(a *Arena) *Object {
	o := &Object{a: a, table: newTable(a), users: users{}}
	o.refs.Store(1)
	return o
}

// Size is the size in bytes.
func (o *Object) Size() uint64 {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.size
}

// Usage is how many bytes of memory the object has.
func (o *Object) Usage() uint64 {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return uint64(o.table.pages) * PageSize
}

// ReadAt copies bytes from off on into dst, up to the end of the object.
func (o *Object) ReadAt(dst Buffers, off uint64) (int, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	done := 0
	for _, p := range dst {
		for len(p) > 0 && off < o.size {
			want := int(min(uint64(len(p)), o.size-off))
			n, ok := o.readRun(p[:want], off)
			done, off, p = done+n, off+uint64(n), p[n:]
			if !ok {
				return done, fault(done)
			}
		}
	}
	return done, nil
}

// fault is EFAULT, unless something was copied before.
func fault(done int) error {
	if done > 0 {
		return nil
	}
	return unix.EFAULT
}

// readRun copies what lies in a row, be it pages or a hole.
func (o *Object) readRun(dst []byte, off uint64) (int, bool) {
	vpn, in := off/PageSize, off%PageSize
	end := (off + uint64(len(dst)) + PageSize - 1) / PageSize
	if hole := o.table.holes(vpn, end); hole > 0 {
		n := int(min(hole*PageSize-in, uint64(len(dst))))
		return n, Buffers{dst[:n]}.Zero(n) == n
	}
	e := o.table.run(vpn, end, false)
	src := o.a.bytes(e.pfn, e.n)[in:]
	want := min(len(src), len(dst))
	n := move(dst[:want], src)
	return n, n == want
}

// WriteAt copies src to off and on; the object grows as needed.
func (o *Object) WriteAt(src Buffers, off uint64) (int, error) {
	done := 0
	for try := 0; ; try++ {
		n, err := o.writeAt(src.Skip(done), off+uint64(done))
		done += n
		if o.a.relieve(err, try) {
			continue
		}
		if done > 0 {
			return done, nil
		}
		return 0, errnoOf(err)
	}
}

func (o *Object) writeAt(src Buffers, off uint64) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	done := 0
	left := uint64(src.Len())
	for _, p := range src {
		for len(p) > 0 {
			if off >= MaxObject {
				return done, unix.EFBIG
			}
			dst, err := o.fillLocked(off, left)
			if err != nil {
				return done, err
			}
			want := min(len(dst), len(p))
			n := move(dst[:want], p)
			done, off, p, left = done+n, off+uint64(n), p[n:], left-uint64(n)
			if n > 0 {
				o.size = max(o.size, off)
			}
			if n < want {
				return done, unix.EFAULT
			}
		}
	}
	return done, nil
}

// fillLocked gives the bytes from off on, at most n, in pages that are there or
// are made now.
func (o *Object) fillLocked(off, n uint64) ([]byte, error) {
	vpn, in := off/PageSize, off%PageSize
	end := (off + n + PageSize - 1) / PageSize
	e, err := o.makeLocked(vpn, end)
	if err != nil {
		return nil, err
	}
	b := o.a.bytes(e.pfn, e.n)[in:]
	return b[:min(uint64(len(b)), n)], nil
}

// makeLocked gives a run of pages from vpn on, made if vpn is a hole.
func (o *Object) makeLocked(vpn, end uint64) (extent, error) {
	if hole := o.table.holes(vpn, end); hole > 0 {
		n := min(hole, hugePages)
		if o.budget != nil && !o.budget.Take(n) {
			if n = 1; !o.budget.Take(n) {
				return extent{}, unix.ENOSPC
			}
		}
		e, err := o.a.alloc(uint32(n), true)
		if o.budget != nil && uint64(e.n) < n {
			o.budget.Give(n - uint64(e.n))
		}
		if err != nil {
			return extent{}, err
		}
		o.table.set(vpn, e)
	}
	return o.table.run(vpn, end, false), nil
}

// Truncate sets the size. What lies behind it is gone from all mappings.
func (o *Object) Truncate(size uint64) error {
	if size > MaxObject {
		return unix.EFBIG
	}
	o.mu.Lock()
	old := o.size
	o.size = size
	from := (size + PageSize - 1) / PageSize
	if in := size % PageSize; in != 0 && size < old {
		o.zeroLocked(size, size-in+PageSize)
	}
	dropped := o.table.take(from, math.MaxUint64/PageSize)
	o.mu.Unlock()
	if size < old {
		o.invalidate(from*PageSize, math.MaxUint64-from*PageSize, true)
	}
	o.giveUp(dropped)
	return nil
}

// Punch makes [off, off+n) a hole; the size stays.
func (o *Object) Punch(off, n uint64) error {
	o.mu.Lock()
	end := min(off+n, (o.size+PageSize-1)/PageSize*PageSize)
	if off+n < off {
		end = (o.size + PageSize - 1) / PageSize * PageSize
	}
	if off >= end {
		o.mu.Unlock()
		return nil
	}
	first, last := (off+PageSize-1)/PageSize, end/PageSize
	if first > last { // within one page
		o.zeroLocked(off, end)
		o.mu.Unlock()
		return nil
	}
	o.zeroLocked(off, first*PageSize)
	o.zeroLocked(last*PageSize, end)
	dropped := o.table.take(first, last)
	o.mu.Unlock()
	o.invalidate(first*PageSize, (last-first)*PageSize, false)
	o.giveUp(dropped)
	return nil
}

// zeroLocked clears bytes within one page, if it is there.
func (o *Object) zeroLocked(off, end uint64) {
	if pfn := o.table.get(off / PageSize); pfn != 0 && off < end {
		clear(o.a.bytes(pfn, 1)[off%PageSize:][:end-off])
	}
}

func (o *Object) giveUp(dropped []extent) {
	for _, e := range dropped {
		o.a.unref(e.pfn, e.n)
		if o.budget != nil {
			o.budget.Give(uint64(e.n))
		}
	}
}

func (o *Object) invalidate(off, n uint64, copies bool) {
	o.usersMu.Lock()
	spaces := o.users.list()
	o.usersMu.Unlock()
	for _, s := range spaces {
		s.invalidate(o, off, n, copies)
	}
}

// Allocate gives [off, off+n) memory, also behind the end (fallocate with
// FALLOC_FL_KEEP_SIZE; Truncate sets a new size). What there cannot be memory for
// is ENOSPC before any is taken; where stop says so the rest is left out: EINTR.
func (o *Object) Allocate(off, n uint64, stop func() bool) error {
	if off+n < off || off+n > MaxObject {
		return unix.EFBIG
	}
	end := (off + n + PageSize - 1) / PageSize
	if most := o.a.most(); most > 0 && end-off/PageSize > most+o.Usage()/PageSize {
		return unix.ENOSPC
	}
	for vpn, try := off/PageSize, 0; vpn < end; {
		if stop() {
			return unix.EINTR // mm/shmem.c, shmem_fallocate
		}
		o.mu.Lock()
		e, err := o.makeLocked(vpn, end)
		o.mu.Unlock()
		if err != nil {
			if o.a.relieve(err, try) {
				try++
				continue
			}
			if err == errLimit {
				return unix.ENOSPC
			}
			return err
		}
		vpn += uint64(e.n)
	}
	return nil
}

// SeekData is the first offset from off on that has memory; unix.ENXIO if none has.
func (o *Object) SeekData(off uint64) (uint64, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if off >= o.size {
		return 0, unix.ENXIO
	}
	vpn, end := off/PageSize, (o.size+PageSize-1)/PageSize
	hole := o.table.holes(vpn, end)
	if vpn+hole >= end {
		return 0, unix.ENXIO
	}
	return max(off, (vpn+hole)*PageSize), nil
}

// SeekHole is the first offset from off on without memory; the end is one.
func (o *Object) SeekHole(off uint64) (uint64, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if off >= o.size {
		return 0, unix.ENXIO
	}
	vpn, end := off/PageSize, (o.size+PageSize-1)/PageSize
	for vpn < end && o.table.get(vpn) != 0 {
		vpn++
	}
	return min(max(off, vpn*PageSize), o.size), nil
}

// Pages implements Mappable.
func (o *Object) Pages(off, n uint64, write bool) (Run, error) {
	return o.pagesAhead(want{off: off, n: n, fill: n, write: write})
}

func (o *Object) pagesAhead(w want) (Run, error) {
	off, n := w.off, w.n
	o.mu.RLock()
	r, err := o.lookLocked(off, n)
	o.mu.RUnlock()
	if err != nil || r.arena != nil {
		return r, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if r, err = o.lookLocked(off, n); err != nil || r.arena != nil {
		return r, err
	}
	end := min(off+min(w.fill, n), (o.size+PageSize-1)/PageSize*PageSize)
	if _, err := o.makeLocked(off/PageSize, end/PageSize); err != nil {
		return Run{}, err
	}
	return o.lookLocked(off, n)
}

func (o *Object) present(off uint64) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return off < o.size && o.table.get(off/PageSize) != 0
}

// lookLocked gives the pages that are there, pinned; none is no error.
func (o *Object) lookLocked(off, n uint64) (Run, error) {
	vpn, end := off/PageSize, (o.size+PageSize-1)/PageSize
	if vpn >= end {
		return Run{}, unix.ENXIO
	}
	e := o.table.run(vpn, min(end, (off+n)/PageSize), false)
	if e.n == 0 {
		return Run{}, nil
	}
	o.a.pin(e.pfn, e.n)
	return Run{Segment: o.a.segment(e.pfn, e.n), pinned: e, arena: o.a}, nil
}

// Resident counts the bytes in memory in [off, off+n).
func (o *Object) Resident(off, n uint64) uint64 {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.table.has(off/PageSize, (off+n)/PageSize) * PageSize
}

func (o *Object) identity() any { return o }

// Attach implements Mappable.
func (o *Object) Attach(s *Space, at Addr, off, length uint64, shared bool) {
	o.usersMu.Lock()
	defer o.usersMu.Unlock()
	o.users.attach(s)
}

// Detach implements Mappable.
func (o *Object) Detach(s *Space, at Addr, off, length uint64, shared bool) {
	o.usersMu.Lock()
	defer o.usersMu.Unlock()
	o.users.detach(s)
}

// Ref implements Mappable.
func (o *Object) Ref() { o.refs.Add(1) }

// Unref implements Mappable.
func (o *Object) Unref() {
	switch n := o.refs.Add(-1); {
	case n == 0:
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.budget != nil {
			o.budget.Give(uint64(o.table.pages))
		}
		o.table.clear()
		o.size = 0
	case n < 0:
		panic("memory: an object is given up twice")
	}
}
