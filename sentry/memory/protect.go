package memory

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// Protect does what mprotect(2) says.
func (s *Space) Protect(at Addr, n uint64, access platform.Access) error {
	return s.protect(at, n, access, false)
}

// ProtectStack is Protect with PROT_GROWSDOWN: from the start on of the stack
// that at lies in.
func (s *Space) ProtectStack(at Addr, n uint64, access platform.Access) error {
	return s.protect(at, n, access, true)
}

func (s *Space) protect(at Addr, n uint64, access platform.Access, stack bool) error {
	s.mu.Lock()
	defer s.unlock()
	if at%PageSize != 0 {
		return unix.EINVAL
	}
	s.settle(true, at)
	if n == 0 {
		return nil
	}
	if n = pageUp(n); n == 0 || at+Addr(n) < at || at+Addr(n) > s.limit {
		return unix.ENOMEM
	}
	lo, hi := at, at+Addr(n)
	ar := s.find(lo)
	if ar == nil {
		return unix.ENOMEM
	}
	if stack {
		if !ar.is(growsDown) {
			return unix.EINVAL
		}
		lo = ar.start
	}
	if s.sealedIn(lo, hi) {
		return unix.EPERM
	}
	part, whole, err := s.covered(lo, hi)
	if err != nil {
		return err
	}
	for i, ar := range part {
		if i > 0 && part[i-1].end != ar.start {
			break
		}
		if err = s.protectArea(ar, access); err != nil {
			break
		}
	}
	s.merge(lo, hi)
	if err == nil && !whole {
		err = unix.ENOMEM
	}
	return err
}

// protectArea changes one area. Like mm/mprotect.c, do_mprotect_pkey, what went
// before it stays changed if this fails.
func (s *Space) protectArea(ar *area, access platform.Access) error {
	if access&^ar.max != 0 {
		return unix.EACCES
	}
	old := ar.prot
	if old == access {
		return nil
	}
	n := int64(ar.size())
	s.grow(ar, -n)
	ar.prot = access
	if ar.counted() && s.data+uint64(n) > s.limitData {
		ar.prot = old
		s.grow(ar, n)
		return unix.ENOMEM
	}
	s.grow(ar, n)
	if !ar.mapped {
		s.opened(ar, old)
		return nil
	}
	return s.protectPages(ar, access)
}

// opened maps the beginning of use of memory that was reserved with PROT_NONE:
// a heap that grows by small pieces, the top of a thread's stack.
func (s *Space) opened(ar *area, old platform.Access) {
	if ar.obj != nil || ar.faults != nil || old != 0 || ar.prot&platform.Write == 0 || s.a.tight() {
		return
	}
	lo, hi := vpn(ar.start), vpn(ar.end)
	if hi-lo > s.tuning().eager {
		lo = hi - eagerTop
	}
	for lo < hi {
		if have := s.table.filled(lo, hi); have > 0 {
			lo += have
			continue
		}
		stop := lo + s.table.holes(lo, hi)
		if s.fill(ar, lo, stop) != nil {
			return
		}
		lo = stop
	}
}

// protectPages tells the platform. Stores are given only to pages that are the
// space's own; others come by faults.
func (s *Space) protectPages(ar *area, access platform.Access) error {
	lo, hi := vpn(ar.start), vpn(ar.end)
	if access&platform.Write == 0 || ar.is(shared) && !ar.readOnly() {
		return s.as.Protect(ar.start, ar.size(), access)
	}
	if err := s.protectForeign(ar, lo, hi, access); err != nil {
		return err
	}
	return s.protectOwn(ar, lo, hi, access)
}

// readOnly says that the host would refuse stores to the area's object.
func (ar *area) readOnly() bool {
	f, ok := backing(ar.obj).(*HostFile)
	return ok && !f.writable
}

// protectForeign sets what is not exclusive to access without stores, unless
// there is nothing of that kind.
func (s *Space) protectForeign(ar *area, lo, hi uint64, access platform.Access) error {
	if ar.obj == nil && !ar.zeros && s.table.exclusives(lo, hi) == s.table.has(lo, hi) {
		return nil
	}
	return s.as.Protect(addr(lo), (hi-lo)*PageSize, access&^platform.Write)
}

// protectOwn sets the exclusive pages to access, in one call if nothing else is
// mapped between them.
func (s *Space) protectOwn(ar *area, lo, hi uint64, access platform.Access) error {
	own, all := s.table.exclusives(lo, hi), s.table.has(lo, hi)
	if own == 0 {
		return nil
	}
	if ar.obj == nil && !ar.zeros && own == all {
		return s.as.Protect(addr(lo), (hi-lo)*PageSize, access)
	}
	// What is scattered wider than this is left to faults.
	for v, calls := lo, 0; v < hi && calls < 4*s.tuning().calls; {
		if !s.table.exclusive(v) {
			v += max(s.table.holes(v, hi), 1)
			continue
		}
		first := v
		for v < hi && s.table.exclusive(v) {
			v++
		}
		if err := s.as.Protect(addr(first), (v-first)*PageSize, access); err != nil {
			return err
		}
		calls++
	}
	return nil
}
