package memory

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// clearPages is up to how many pages MADV_DONTNEED clears in place: that is the
// same to the program, and cheaper than taking them away and faulting them in.
const clearPages = 16

// advice says what each advice of madvise(2) does to the part [lo, hi) of an area.
var advice = map[int]func(s *Space, ar *area, lo, hi Addr) error{
	unix.MADV_NORMAL:          nothing,
	unix.MADV_RANDOM:          nothing,
	unix.MADV_SEQUENTIAL:      nothing,
	unix.MADV_MERGEABLE:       nothing,
	unix.MADV_UNMERGEABLE:     nothing,
	unix.MADV_HUGEPAGE:        nothing, // huge pages are used wherever they fit
	unix.MADV_NOHUGEPAGE:      nothing,
	unix.MADV_COLLAPSE:        nothing,
	unix.MADV_COLD:            nothing,
	unix.MADV_PAGEOUT:         nothing,
	unix.MADV_WILLNEED:        (*Space).willNeed,
	unix.MADV_POPULATE_READ:   (*Space).populateRead,
	unix.MADV_POPULATE_WRITE:  (*Space).populateWrite,
	unix.MADV_DONTNEED:        (*Space).dontNeed,
	unix.MADV_DONTNEED_LOCKED: (*Space).discardArea,
	unix.MADV_FREE:            (*Space).freeLazily,
	unix.MADV_REMOVE:          nothing, // Advise calls punch
	unix.MADV_DONTFORK:        flag(dontFork, true),
	unix.MADV_DOFORK:          flag(dontFork, false),
	unix.MADV_WIPEONFORK:      (*Space).wipeOnFork,
	unix.MADV_KEEPONFORK:      flag(wipeOnFork, false),
	unix.MADV_DONTDUMP:        flag(dontDump, true),
	unix.MADV_DODUMP:          flag(dontDump, false),
}

// splits are the advices that change an area's flags.
var splits = map[int]bool{unix.MADV_DONTFORK: true, unix.MADV_DOFORK: true, unix.MADV_WIPEONFORK: true,
	unix.MADV_KEEPONFORK: true, unix.MADV_DONTDUMP: true, unix.MADV_DODUMP: true}

// Advise does what madvise(2) says.
func (s *Space) Advise(at Addr, n uint64, what int) error {
	do, known := advice[what]
	size := pageUp(n)
	end := at + Addr(size)
	switch {
	case !known, at%PageSize != 0, n != 0 && size == 0, end < at:
		return unix.EINVAL
	case size == 0:
		return nil
	}
	if discards[what] {
		s.mu.RLock()
		sealed := s.sealedAgainst(at, end, what)
		s.mu.RUnlock()
		if sealed {
			return unix.EPERM
		}
	}
	if what == unix.MADV_REMOVE {
		return s.punch(at, end)
	}
	for try := 0; ; try++ {
		s.mu.Lock()
		err := s.adviseLocked(at, end, splits[what], do)
		s.unlock()
		if !s.a.relieve(err, try) {
			return errnoOf(err)
		}
	}
}

func (s *Space) adviseLocked(lo, hi Addr, split bool, do func(*Space, *area, Addr, Addr) error) error {
	whole := s.whole(lo, hi)
	if split {
		if _, _, err := s.covered(lo, hi); err != nil {
			return err
		}
		defer s.merge(lo, hi)
	}
	for i := s.index(lo); i < len(s.areas) && s.areas[i].start < hi; i++ {
		ar := s.areas[i]
		if err := do(s, ar, max(lo, ar.start), min(hi, ar.end)); err != nil {
			return err
		}
	}
	if !whole {
		return unix.ENOMEM
	}
	return nil
}

func nothing(*Space, *area, Addr, Addr) error { return nil }

func flag(f areaFlags, on bool) func(*Space, *area, Addr, Addr) error {
	return func(_ *Space, ar *area, _, _ Addr) error {
		ar.flags &^= f
		if on {
			ar.flags |= f
		}
		return nil
	}
}

func (s *Space) wipeOnFork(ar *area, _, _ Addr) error {
	if ar.obj != nil || ar.is(shared) {
		return unix.EINVAL
	}
	ar.flags |= wipeOnFork
	return nil
}

// willNeed maps what a file has (mm/madvise.c reads it ahead).
func (s *Space) willNeed(ar *area, lo, hi Addr) error {
	if ar.obj != nil && ar.prot != 0 && ar.is(shared) {
		s.eagerObject(ar, vpn(lo), min(vpn(hi), vpn(lo)+fileWindow), 0)
	}
	return nil
}

func (s *Space) populateRead(ar *area, lo, hi Addr) error {
	return s.populate(ar, lo, hi, platform.Read)
}

func (s *Space) populateWrite(ar *area, lo, hi Addr) error {
	return s.populate(ar, lo, hi, platform.Write)
}

func (s *Space) populate(ar *area, lo, hi Addr, want platform.Access) error {
	if !ar.allows(want) {
		return unix.EINVAL
	}
	write := want == platform.Write
	for v, end := vpn(lo), vpn(hi); v < end; v++ {
		if s.table.get(v) != 0 && (!write || s.table.exclusive(v)) {
			continue
		}
		if s.given(ar, v) {
			return unix.EFAULT
		}
		if ar.obj == nil && s.table.get(v) == 0 {
			n := s.table.holes(v, end)
			if err := s.fill(ar, v, v+n); err != nil {
				return err
			}
			v += n - 1
			continue
		}
		if err := s.resolve(ar, v, write); err != nil {
			if err == unix.ENXIO {
				return unix.EFAULT
			}
			return err
		}
	}
	return nil
}

// dontNeed drops private pages; the next touch finds zeros or the file's bytes.
// A shared mapping's bytes are the object's and stay.
func (s *Space) dontNeed(ar *area, lo, hi Addr) error {
	if ar.is(locked) {
		return unix.EINVAL
	}
	return s.discardArea(ar, lo, hi)
}

func (s *Space) discardArea(ar *area, lo, hi Addr) error {
	first, end := vpn(lo), vpn(hi)
	if ar.is(shared) || s.table.has(first, end) == 0 {
		return nil
	}
	if ar.obj == nil && ar.faults == nil && end-first <= clearPages && !s.a.tight() &&
		s.table.exclusives(first, end) == s.table.has(first, end) {
		for v := first; v < end; v++ {
			if pfn := s.table.get(v); pfn != 0 {
				clear(s.a.bytes(pfn, 1))
			}
		}
		return nil
	}
	return s.forgetPages(ar, lo, hi, true)
}

// freeLazily is MADV_FREE: the kernel may drop the pages when it wants memory,
// and this one wants it when the limit comes near or the piece is large.
func (s *Space) freeLazily(ar *area, lo, hi Addr) error {
	if ar.obj != nil {
		return unix.EINVAL
	}
	if !s.a.tight() && hi-lo < hugeSize {
		return nil
	}
	return s.discardArea(ar, lo, hi)
}

// punch is MADV_REMOVE: it makes holes in shared objects of ours.
func (s *Space) punch(lo, hi Addr) error {
	type hole struct {
		o      *Object
		off, n uint64
	}
	var holes []hole
	s.mu.RLock()
	whole := s.whole(lo, hi)
	for i := s.index(lo); i < len(s.areas) && s.areas[i].start < hi; i++ {
		ar := s.areas[i]
		target, ok := backing(ar.obj).(*Object)
		if ar.obj == nil || ar.is(locked) {
			s.mu.RUnlock()
			return unix.EINVAL
		}
		if !ar.is(shared) || ar.max&platform.Write == 0 {
			s.mu.RUnlock()
			return unix.EACCES
		}
		if !ok {
			s.mu.RUnlock()
			return unix.EINVAL
		}
		from, to := max(lo, ar.start), min(hi, ar.end)
		target.Ref()
		holes = append(holes, hole{target, ar.offset(from), uint64(to - from)})
	}
	s.mu.RUnlock()
	for _, h := range holes {
		h.o.Punch(h.off, h.n)
		h.o.Unref()
	}
	if !whole {
		return unix.ENOMEM
	}
	return nil
}
