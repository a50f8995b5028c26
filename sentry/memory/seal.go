package memory

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// Seal does what mseal(2) says: nothing of [at, at+n) is unmapped, moved, replaced,
// protected otherwise or, where it is private and not writable, discarded again
// (mm/mseal.c).
func (s *Space) Seal(at Addr, n uint64) error {
	s.mu.Lock()
	defer s.unlock()
	if at%PageSize != 0 {
		return unix.EINVAL
	}
	size := pageUp(n)
	end := at + Addr(size)
	if n != 0 && size == 0 || end < at || end > s.limit {
		return unix.EINVAL
	}
	if size == 0 {
		return nil
	}
	s.settle(true, at)
	if !s.whole(at, end) {
		return unix.ENOMEM
	}
	part, _, err := s.covered(at, end)
	if err != nil {
		return err
	}
	for _, ar := range part {
		ar.flags |= sealed
	}
	s.merge(at, end)
	return nil
}

// sealedIn says that part of [lo, hi) is sealed.
func (s *Space) sealedIn(lo, hi Addr) bool {
	for i := s.index(lo); i < len(s.areas) && s.areas[i].start < hi; i++ {
		if s.areas[i].is(sealed) {
			return true
		}
	}
	return false
}

// discards are the advices that throw contents away, which a seal forbids where
// the program could not have written them away itself.
var discards = map[int]bool{unix.MADV_DONTNEED: true, unix.MADV_DONTNEED_LOCKED: true, unix.MADV_FREE: true,
	unix.MADV_REMOVE: true, unix.MADV_DONTFORK: true, unix.MADV_WIPEONFORK: true}

func (s *Space) sealedAgainst(lo, hi Addr, what int) bool {
	if !discards[what] {
		return false
	}
	for i := s.index(lo); i < len(s.areas) && s.areas[i].start < hi; i++ {
		if ar := s.areas[i]; ar.is(sealed) && ar.private() && ar.obj == nil && ar.prot&platform.Write == 0 {
			return true
		}
	}
	return false
}

// RemapPages is remap_file_pages(2): other pages of a shared mapping's object, at
// the same place.
func (s *Space) RemapPages(at Addr, n, page uint64) error {
	at &^= PageSize - 1
	n &^= PageSize - 1
	if n == 0 || at+Addr(n) < at || page+n/PageSize < page || page > MaxObject/PageSize {
		return unix.EINVAL
	}
	s.mu.RLock()
	ar := s.find(at)
	var r MapRequest
	ok := ar != nil && ar.is(shared) && ar.obj != nil
	for end := at; ok && end < at+Addr(n); {
		x := s.find(end)
		if ok = x != nil && x.obj == ar.obj && x.flags == ar.flags && x.prot == ar.prot; ok {
			end = x.end
		}
	}
	if ok {
		r = MapRequest{At: at, Length: n, Fixed: true, Prot: ar.prot, MaxProt: ar.max, Shared: true, Object: ar.obj, Offset: page * PageSize,
			Populate: true, Locked: ar.is(locked), Name: ar.name, Dev: ar.dev, Ino: ar.ino, Origin: ar.origin}
		r.Object.Ref()
	}
	s.mu.RUnlock()
	if !ok {
		return unix.EINVAL
	}
	defer r.Object.Unref()
	_, err := s.Map(r)
	return err
}

// Where says what is at a page: 0 if it is in memory, or why not, as move_pages(2)
// reports it.
func (s *Space) Where(at Addr) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ar := s.find(at)
	switch {
	case ar == nil || at >= s.limit:
		return unix.EFAULT
	case s.table.get(vpn(at)) != 0:
		return nil
	}
	if o, ok := aheadOf(ar.obj); ok && o.present(ar.offset(at&^(PageSize-1))) {
		return nil
	}
	return unix.ENOENT
}
