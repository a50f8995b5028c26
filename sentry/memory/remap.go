package memory

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// moveRuns is how many rows of pages are mapped at once at their new place.
const moveRuns = 64

// remap is a call of mremap, in whole pages.
type remap struct {
	old                       Addr
	oldSize, newSize          uint64
	mayMove, fixed, duplicate bool // duplicate: MREMAP_DONTUNMAP
	to                        Addr
}

// Remap does what mremap(2) says.
func (s *Space) Remap(old Addr, oldSize, newSize uint64, mayMove, fixed, dontUnmap bool, newAddr Addr) (Addr, error) {
	r := remap{old, pageUp(oldSize), pageUp(newSize), mayMove, fixed, dontUnmap, newAddr}
	if err := r.check(s.limit); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.unlock()
	at, err := s.remapLocked(r)
	return at, errnoOf(err)
}

func (r remap) check(limit Addr) error {
	switch {
	case r.old%PageSize != 0, r.newSize == 0,
		r.fixed && !r.mayMove,
		r.duplicate && (!r.mayMove || r.oldSize != r.newSize):
		return unix.EINVAL
	case r.newSize > uint64(limit), r.oldSize > uint64(limit):
		return unix.EINVAL
	}
	if !r.fixed {
		return nil
	}
	end := r.to + Addr(r.newSize)
	switch {
	case r.to%PageSize != 0, end > limit, end < r.to,
		r.old+Addr(r.oldSize) > r.to && end > r.old:
		return unix.EINVAL
	case r.to < platform.MinAddr:
		return unix.EPERM
	}
	return nil
}

func (s *Space) remapLocked(r remap) (Addr, error) {
	ar := s.find(r.old)
	if ar == nil {
		return 0, unix.EFAULT
	}
	if s.sealedIn(r.old, r.old+Addr(max(r.oldSize, 1))) || r.fixed && s.sealedIn(r.to, r.to+Addr(r.newSize)) {
		return 0, unix.EPERM
	}
	if r.oldSize == 0 && (!ar.is(shared) || !r.mayMove) {
		return 0, unix.EINVAL // mm/mremap.c: only a shared mapping can be doubled
	}
	if r.fixed {
		if err := s.unmapLocked(r.to, r.to+Addr(r.newSize)); err != nil {
			return 0, err
		}
		if ar = s.find(r.old); ar == nil {
			return 0, unix.EFAULT
		}
	}
	if r.oldSize > r.newSize {
		if err := s.unmapLocked(r.old+Addr(r.newSize), r.old+Addr(r.oldSize)); err != nil {
			return 0, err
		}
		r.oldSize = r.newSize
		if ar = s.find(r.old); ar == nil {
			return 0, unix.EFAULT
		}
	}
	if r.oldSize == r.newSize && !r.fixed && !r.duplicate {
		return r.old, nil
	}
	if r.oldSize > uint64(ar.end-r.old) {
		return 0, unix.EFAULT
	}
	if err := s.mayRemap(ar, r); err != nil {
		return 0, err
	}
	if s.extends(ar, r) {
		return r.old, nil
	}
	if !r.mayMove {
		return 0, unix.ENOMEM
	}
	return s.relocate(ar, r)
}

// mayRemap checks the limits and the object's offsets.
func (s *Space) mayRemap(ar *area, r remap) error {
	more := r.newSize - r.oldSize
	if r.duplicate {
		more = r.newSize
	}
	switch {
	case ar.obj != nil && ar.offset(r.old)+r.newSize < r.newSize:
		return unix.EINVAL
	case s.virtual+more > s.limitAS, ar.counted() && s.data+more > s.limitData:
		return unix.ENOMEM
	}
	return nil
}

// extends grows the area where it stands, if there is room.
func (s *Space) extends(ar *area, r remap) bool {
	end := r.old + Addr(r.newSize)
	if r.fixed || r.duplicate || r.oldSize == 0 || r.old+Addr(r.oldSize) != ar.end ||
		end > s.limit || end < r.old || !s.roomy(ar.end, end) {
		return false
	}
	first := ar.end
	s.grow(ar, int64(end-ar.end))
	s.resize(ar, ar.start, end)
	if n := vpn(end) - vpn(first); ar.obj == nil && ar.faults == nil && ar.prot&platform.Write != 0 && n <= s.tuning().eager && !s.a.tight() {
		s.fill(ar, vpn(first), vpn(end))
	}
	s.merge(ar.start, end)
	return true
}

// relocate moves an area's pages, or a part's, to another place.
func (s *Space) relocate(ar *area, r remap) (Addr, error) {
	to := r.to
	if !r.fixed {
		var err error
		if to, err = s.place(MapRequest{At: r.to, Length: r.newSize, Object: ar.obj}); err != nil {
			return 0, err
		}
	}
	// The area's ends are borders from here on, also where this fails half-way.
	if r.oldSize > 0 {
		part, _, err := s.covered(r.old, r.old+Addr(r.oldSize))
		if err != nil {
			return 0, err
		}
		ar = part[0]
	}
	if len(s.areas) >= maxAreas {
		return 0, unix.ENOMEM
	}
	moved := new(area)
	*moved = *ar
	moved.off = ar.offset(r.old)
	moved.start, moved.end = to, to+Addr(r.newSize)
	moved.mapped, moved.zeros, moved.shownBytes, moved.faults = false, false, 0, nil
	if moved.obj == nil {
		moved.off = 0
	}
	s.hold(moved)
	s.insert(moved)
	s.grow(moved, int64(r.newSize))
	if err := s.movePages(ar, moved, r); err != nil {
		return 0, err
	}
	s.merge(moved.start, moved.end)
	return to, nil
}

func (s *Space) movePages(from, moved *area, r remap) error {
	if r.oldSize == 0 {
		return nil
	}
	lo, hi := r.old, r.old+Addr(r.oldSize)
	if from.mapped {
		if err := s.as.Unmap(lo, r.oldSize); err != nil {
			return err
		}
		from.mapped = false
	}
	s.table.move(vpn(lo), vpn(hi), vpn(moved.start))
	if !r.duplicate {
		s.remove(lo, hi, []*area{from})
	}
	if moved.prot == 0 {
		return nil
	}
	return s.mapOwnRuns(moved, vpn(moved.start), vpn(moved.end), moveRuns)
}
