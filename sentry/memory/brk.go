package memory

import "bulkhead/sentry/platform"

// SetBrk says where the heap begins; it is empty then.
func (s *Space) SetBrk(start Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.brkStart, s.brk = start, start
}

// Brk moves the end of the heap and returns where it is then: to, or where it
// was if that cannot be (mm/mmap.c, brk).
func (s *Space) Brk(to Addr) Addr {
	for try := 0; ; try++ {
		s.mu.Lock()
		at, err := s.brkLocked(to)
		s.unlock()
		if !s.a.relieve(err, try) {
			return at
		}
	}
}

func (s *Space) brkLocked(to Addr) (Addr, error) {
	s.settle(false, 0)
	if to < s.brkStart || to >= s.limit-PageSize {
		return s.brk, nil
	}
	old, end := Addr(pageUp(uint64(s.brk))), Addr(pageUp(uint64(to)))
	switch {
	case end < old && s.sealedIn(end, old):
		return s.brk, nil
	case end < old:
		if err := s.unmapLocked(end, old); err != nil {
			return s.brk, err
		}
	case end > old:
		ar := newArea(old, MapRequest{Length: uint64(end - old), Prot: platform.Read | platform.Write,
			MaxProt: platform.Read | platform.Write | platform.Exec})
		if uint64(end-s.brkStart) > s.limitData || !s.roomy(old, end+PageSize) || s.mayGrow(ar, old) != nil {
			return s.brk, nil
		}
		if err := s.replace(ar, some); err != nil {
			return s.brk, err
		}
	}
	s.brk = to
	return to, nil
}
