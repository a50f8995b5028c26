package memory

import (
	"maps"

	"bulkhead/sentry/platform"
)

// Fork makes a copy of the space. Private pages are shared until one side
// stores into them.
func (s *Space) Fork() (*Space, error) {
	as, err := newPlatformSpace(s.a, s.p)
	if err != nil {
		return nil, err
	}
	c := newSpace(s.a, s.p, as)
	c.stackTop, c.mapBase = s.stackTop, s.mapBase
	s.mu.Lock()
	c.mu.Lock() // objects know the child from its first area on
	err = s.forkLocked(c)
	c.unlock()
	s.unlock()
	if err != nil {
		c.Release()
		return nil, err
	}
	return c, nil
}

func (s *Space) forkLocked(c *Space) error {
	s.settle(false, 0)
	c.limitAS, c.limitData, c.limitStack = s.limitAS, s.limitData, s.limitStack
	c.brkStart, c.brk, c.stackLow, c.stackHigh = s.brkStart, s.brk, s.stackLow, s.stackHigh
	c.table = s.table.share()
	c.patches, c.pristine = maps.Clone(s.patches), s.pristine
	budget := s.tuning().forkPages
	if s.users.Load() > 1 {
		budget = 0 // another thread may store meanwhile: each page must be of one moment
	}
	for _, ar := range s.areas {
		switch {
		case ar.is(dontFork):
			c.table.drop(vpn(ar.start), vpn(ar.end))
			continue
		case ar.is(wipeOnFork):
			c.table.drop(vpn(ar.start), vpn(ar.end))
		case ar.is(trampolines):
			// The platform writes to them without asking here, so they cannot be
			// shared until somebody stores.
			if err := s.copyTo(c, ar); err != nil {
				return err
			}
		case ar.private() && ar.prot&platform.Write != 0:
			budget -= s.copySmall(c, ar, budget)
		}
		n := new(area)
		*n = *ar
		n.mapped, n.zeros, n.shownBytes, n.faults = false, false, 0, nil
		n.flags &^= locked // mm/mmap.c, dup_mmap
		c.hold(n)
		c.areas = append(c.areas, n)
		c.grow(n, int64(n.size()))
	}
	if err := s.protectShared(); err != nil {
		return err
	}
	if err := s.keepStores(c); err != nil {
		return err
	}
	c.mirror(s.areas)
	return nil
}

// keepStores gives a child its own copies of the pages that the Sentry is going to
// store into for another thread of its parent, which waits for a pipe's bytes, say.
// Shared, they would become the child's when that parent stores into them, and
// what is read would be lost on it (mm/memory.c, copy_present_page). The parent
// cannot store while they are copied, after protectShared.
func (s *Space) keepStores(c *Space) error {
	type span struct{ v, hi uint64 }
	var spans []span
	s.storesMu.Lock()
	for p := s.stores; p != nil; p = p.next {
		spans = append(spans, span{vpn(p.at), vpn(p.end-1) + 1})
	}
	s.storesMu.Unlock()
	for _, p := range spans {
		for v := p.v; v < p.hi; v++ {
			if v += c.table.holes(v, p.hi); v == p.hi {
				break
			}
			if c.table.exclusive(v) { // by another of the spans, or copyTo
				continue
			}
			e, err := s.a.alloc(1, false)
			if err != nil {
				return err
			}
			copy(s.a.bytes(e.pfn, 1), s.a.bytes(c.table.get(v), 1))
			c.table.set(v, e)
		}
	}
	return nil
}

// mirror maps in a child what its parent had mapped, as far as few calls reach:
// a mapping costs less than the fault that asks for it, and the child runs the
// same code on the same data.
func (c *Space) mirror(parents []*area) {
	calls := c.tuning().forkCalls
	for _, p := range parents {
		if ar := c.find(p.start); ar != nil && p.mapped && ar.prot != 0 && calls > 0 {
			calls = c.mirrorArea(ar, calls)
		}
	}
}

// mirrorArea does that for one area and says how many calls are left. Errors
// are left to the faults that follow.
func (c *Space) mirrorArea(ar *area, calls int) int {
	v, hi := vpn(ar.start), vpn(ar.end)
	if hi-v > fileWindow { // what is large is used in parts
		return calls
	}
	write := ar.is(shared) && ar.prot&platform.Write != 0
	o, _ := aheadOf(ar.obj)
	for v < hi && calls > 0 {
		if hole := c.table.holes(v, hi); hole > 0 {
			if o == nil || !o.present(ar.offset(addr(v))) {
				v += hole
				continue
			}
			n, err := c.mapObjectRun(ar, v, v+hole, 1, write)
			if err != nil {
				return calls
			}
			v, calls = v+n, calls-1
			continue
		}
		n, err := c.mapOwnRun(ar, v, hi)
		if err != nil {
			return calls
		}
		v, calls = v+n, calls-1
	}
	return calls
}

// protectShared takes the platform's leave to store into private pages, in as
// few calls as areas with like permissions in a row allow.
func (s *Space) protectShared() error {
	var lo, hi Addr
	var prot platform.Access
	flush := func() error {
		if lo == hi {
			return nil
		}
		return s.as.Protect(lo, uint64(hi-lo), prot)
	}
	for i, ar := range s.areas {
		if !ar.mapped || ar.is(shared) || ar.prot&platform.Write == 0 ||
			s.table.has(vpn(ar.start), vpn(ar.end)) == s.table.exclusives(vpn(ar.start), vpn(ar.end)) {
			continue
		}
		next := ar.prot &^ platform.Write
		if lo < hi && next == prot && s.areas[i-1].end == hi {
			hi = ar.end
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		lo, hi, prot = ar.start, ar.end, next
	}
	return flush()
}

// copySmall copies a small area's pages at once, and says how many: both sides
// will store there soon, each for the price of a fault.
func (s *Space) copySmall(c *Space, ar *area, budget uint64) uint64 {
	n := s.table.has(vpn(ar.start), vpn(ar.end))
	if n == 0 || n > min(s.tuning().forkArea, budget) || s.copyTo(c, ar) != nil {
		return 0 // what is not copied is shared
	}
	return n
}

// copyTo gives a child its own copies of the pages of an area.
func (s *Space) copyTo(c *Space, ar *area) error {
	hi := vpn(ar.end)
	for v := vpn(ar.start); v < hi; {
		if hole := s.table.holes(v, hi); hole > 0 {
			v += hole
			continue
		}
		e, err := s.a.alloc(s.table.run(v, hi, false).n, false)
		if err != nil {
			return err
		}
		for i := range e.n {
			copy(s.a.bytes(e.pfn+i, 1), s.a.bytes(s.table.get(v+uint64(i)), 1))
		}
		c.table.set(v, e)
		v += uint64(e.n)
	}
	return nil
}
