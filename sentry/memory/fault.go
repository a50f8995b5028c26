package memory

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// How much is mapped around a fault, in pages: the window doubles while faults
// follow each other. What is there already is mapped more generously.
const (
	lastWindow = 2 * hugePages
	fileWindow = 4 << 20 / PageSize // of an object, as far as it has pages
	stackStep  = 16                 // by which a stack grows
)

// Fault makes at accessible as wanted, if the areas allow it: nil means try
// again; *Missing: when the program has given the page. unix.EFAULT: nothing is mapped (SEGV_MAPERR); unix.EACCES: not like
// this (SEGV_ACCERR); unix.ENXIO: the file ends before (BUS_ADRERR); unix.ENOMEM.
//
// A load from memory that was never stored into is shown zeros, and makes no page.
func (s *Space) Fault(at Addr, access platform.Access) error { return s.fault(at, access, true) }

// fault is for the Sentry, too, which sees what has a page alone: not zeros.
func (s *Space) fault(at Addr, access platform.Access, zeros bool) error {
	for try := 0; ; try++ {
		s.mu.Lock()
		err := s.faultLocked(at, access, zeros)
		s.unlock()
		if !s.a.relieve(err, try) {
			return errnoOf(err)
		}
	}
}

func (s *Space) faultLocked(at Addr, access platform.Access, zeros bool) error {
	if s.dead || at >= s.limit {
		return unix.EFAULT
	}
	s.settle(false, 0)
	ar := s.find(at)
	if ar == nil {
		if ar = s.growStack(at); ar == nil {
			return unix.EFAULT
		}
	}
	if !ar.allows(access) {
		return unix.EACCES
	}
	v, write := vpn(at), access&platform.Write != 0
	if s.given(ar, v) {
		return s.missing(ar, at, write)
	}
	if zeros && !write && s.table.get(v) == 0 && s.showZeros(ar, v) {
		return nil
	}
	return s.resolve(ar, v, write)
}

// growStack extends a stack down to at, by whole windows where it may
// (mm/vma.c, expand_downwards).
func (s *Space) growStack(at Addr) *area {
	i := s.index(at)
	if i == len(s.areas) || !s.areas[i].is(growsDown) {
		return nil
	}
	ar := s.areas[i]
	floor := platform.MinAddr
	if i > 0 {
		floor = s.areas[i-1].end
		if s.areas[i-1].prot != 0 && !s.areas[i-1].is(growsDown) {
			floor += stackGuard
		}
	}
	if uint64(ar.end) > s.limitStack {
		floor = max(floor, ar.end-Addr(s.limitStack&^(PageSize-1)))
	}
	start := at &^ (PageSize - 1)
	if start < floor || s.virtual+uint64(ar.start-start) > s.limitAS {
		return nil
	}
	low := max(floor, start&^(stackStep*PageSize-1))
	if s.virtual+uint64(ar.start-low) > s.limitAS {
		low = start
	}
	n := uint64(ar.start - low)
	if ar.obj != nil && ar.off < n {
		return nil
	}
	s.resize(ar, low, ar.end)
	s.grow(ar, int64(n))
	return ar
}

// grow counts n more (or fewer) bytes of ar.
func (s *Space) grow(ar *area, n int64) {
	s.virtual += uint64(n)
	s.peakVirtual = max(s.peakVirtual, s.virtual)
	if ar.counted() {
		s.data += uint64(n)
	}
	if ar.is(locked) {
		s.locked += uint64(n)
	}
}

// resolve maps page v of ar, and what is worth it around.
func (s *Space) resolve(ar *area, v uint64, write bool) error {
	switch {
	case s.table.get(v) != 0:
		if write && !s.table.exclusive(v) {
			return s.copyOwn(ar, v)
		}
		return s.mapOwn(ar, v)
	case ar.obj == nil:
		return s.makePages(ar, v)
	case ar.private() && (write || s.copiesSoon(ar)):
		return s.copyObject(ar, v)
	}
	return s.mapObject(ar, v, write)
}

// show makes the platform map b's pages at v. A platform that has no room any
// more (a stub process has 65,530 mappings) starts again from nothing.
func (s *Space) show(ar *area, v uint64, seg platform.Segment, access platform.Access) error {
	ar.mapped = true
	err := s.as.Map(addr(v), seg, access)
	if err != platform.ErrMemory {
		return err
	}
	if err := s.as.Unmap(platform.MinAddr, uint64(s.limit-platform.MinAddr)); err != nil {
		return err
	}
	return s.as.Map(addr(v), seg, access)
}

// showOwn maps pages of the space's own; stores need them exclusive.
func (s *Space) showOwn(ar *area, v uint64, e extent, own bool) error {
	access := ar.prot
	if !own {
		access &^= platform.Write
	}
	return s.show(ar, v, s.a.segment(e.pfn, e.n), access)
}

// mapOwn maps pages that are there: the row around v, then others close by.
func (s *Space) mapOwn(ar *area, v uint64) error {
	lo := max(vpn(ar.start), v&^(hugePages-1))
	hi := min(vpn(ar.end), (v|(hugePages-1))+1)
	if !s.a.private || s.table.has(lo, hi) > uint64(s.tuning().calls) {
		lo = s.rowStart(v, lo)
	}
	return s.mapOwnRuns(ar, lo, hi, s.tuning().calls)
}

// rowStart goes back from v to the start of its row in the arena.
func (s *Space) rowStart(v, lo uint64) uint64 {
	pfn := s.table.get(v)
	own := s.table.exclusive(v)
	for v > lo && s.table.get(v-1) == pfn-1 && s.table.exclusive(v-1) == own {
		v, pfn = v-1, pfn-1
	}
	return v
}

// mapOwnRuns maps the rows in [v, hi), at most so many.
func (s *Space) mapOwnRuns(ar *area, v, hi uint64, runs int) error {
	for v < hi && runs > 0 {
		if hole := s.table.holes(v, hi); hole > 0 {
			v += hole
			continue
		}
		n, err := s.mapOwnRun(ar, v, hi)
		if err != nil {
			return err
		}
		v, runs = v+n, runs-1
	}
	return nil
}

// mapOwnRun maps the row of pages from v on that are all exclusive, or all not.
func (s *Space) mapOwnRun(ar *area, v, hi uint64) (uint64, error) {
	own := s.table.exclusive(v)
	e := s.table.run(v, hi, own)
	if !own {
		e.n = s.commonRun(v, e)
	}
	return uint64(e.n), s.showOwn(ar, v, e, own)
}

// commonRun shortens a row to the pages that are not exclusive.
func (s *Space) commonRun(v uint64, e extent) uint32 {
	n := uint32(1)
	for n < e.n && !s.table.exclusive(v+uint64(n)) {
		n++
	}
	return n
}

// around is the window for a fault at v: aligned, inside the area, growing while
// one window follows another. most is in pages.
func (s *Space) around(ar *area, v uint64, most uint32) (lo, hi uint64) {
	least := s.tuning().window
	switch {
	case s.a.tight():
		ar.window = 1
	case ar.window == 0:
		ar.window = least
	case v >= ar.lastLo && v <= ar.lastHi || v+1 == ar.lastLo:
		ar.window = min(max(ar.window, least/2)*2, most)
	default:
		ar.window = max(ar.window/2, least)
	}
	if s.hugeFits(ar, v) {
		ar.window = max(ar.window, hugePages)
	}
	w := uint64(ar.window)
	lo, hi = max(vpn(ar.start), v&^(w-1)), min(vpn(ar.end), (v|(w-1))+1)
	ar.lastLo, ar.lastHi = lo, hi
	return lo, hi
}

// hugeFits says that a huge page can stand around v and is worth it: on kvm a
// guest's first touch costs 3-15 µs for each small page, and as much for a huge one.
func (s *Space) hugeFits(ar *area, v uint64) bool {
	lo := v &^ (hugePages - 1)
	return s.a.private && ar.obj == nil && lo >= vpn(ar.start) && lo+hugePages <= vpn(ar.end) &&
		s.a.plenty() && s.table.has(lo, lo+hugePages) == 0
}

// makePages fills the hole around v with zero pages.
func (s *Space) makePages(ar *area, v uint64) error {
	lo, hi := s.around(ar, v, lastWindow)
	lo = s.holeStart(v, lo)
	hi = v + s.table.holes(v, hi)
	err := s.fill(ar, lo, hi)
	if err != nil && s.table.get(v) == 0 {
		err = s.fill(ar, v, v+1)
	}
	return err
}

// holeStart goes back from v, which has no page, while there are none.
func (s *Space) holeStart(v, lo uint64) uint64 {
	if s.table.has(lo, v) == 0 {
		return lo
	}
	for v > lo && s.table.get(v-1) == 0 {
		v--
	}
	return v
}

// fill makes zero pages in [lo, hi), which has none, and maps them.
func (s *Space) fill(ar *area, lo, hi uint64) error {
	for lo < hi {
		e, err := s.a.alloc(uint32(min(hi-lo, hugePages-lo%hugePages)), true)
		if err != nil {
			return err
		}
		s.table.set(lo, e)
		if err := s.showOwn(ar, lo, e, true); err != nil {
			return err
		}
		lo += uint64(e.n)
	}
	return nil
}

// mapObject maps the object's own pages: from v on, then what lies before.
func (s *Space) mapObject(ar *area, v uint64, write bool) error {
	_, made := s.around(ar, v, lastWindow)
	if ar.faults != nil || !ar.is(internal) && ar.window <= s.tuning().window {
		made = v + 1 // a hole in a file stays one until it is used
	}
	lo, hi := max(vpn(ar.start), v&^(fileWindow-1)), min(vpn(ar.end), (v|(fileWindow-1))+1)
	if ar.private() {
		lo, hi = s.holeStart(v, lo), v+s.table.holes(v, hi)
	}
	n, err := s.mapObjectRun(ar, v, hi, max(made, v+1)-v, write)
	if err != nil {
		return err
	}
	s.mapPresent(ar, v+n, hi, write)
	s.mapPresent(ar, lo, v, write)
	return nil
}

// mapPresent maps pages in [v, hi) that the object has, and makes none. It is
// for the future's sake, so nobody hears of errors.
func (s *Space) mapPresent(ar *area, v, hi uint64, write bool) {
	o, ok := aheadOf(ar.obj)
	for runs := s.tuning().calls / 2; ok && v < hi && runs > 0; runs-- {
		if !o.present(ar.offset(addr(v))) {
			return
		}
		n, err := s.mapObjectRun(ar, v, hi, 1, write)
		if err != nil {
			return
		}
		v += n
	}
}

// mapObjectRun maps one run of the object's pages and says how many.
func (s *Space) mapObjectRun(ar *area, v, hi, fill uint64, write bool) (uint64, error) {
	r, err := pagesOf(ar.obj, want{ar.offset(addr(v)), (hi - v) * PageSize, fill * PageSize, write, ar.private()})
	if err != nil {
		return 0, err
	}
	defer r.Release()
	access := ar.prot
	if ar.private() || r.readOnly() {
		access &^= platform.Write
	}
	ar.shownBytes = min(ar.shownBytes+uint64(len(r.Host)), ar.size())
	return uint64(len(r.Host)) / PageSize, s.show(ar, v, r.Segment, access)
}

// pagesOf asks an object for pages.
func pagesOf(m Mappable, w want) (Run, error) {
	if a, ok := aheadOf(m); ok {
		return a.pagesAhead(w)
	}
	return m.Pages(w.off, w.fill, w.write)
}
