package memory

import (
	"fmt"

	"bulkhead/sentry/platform"
)

// Fork makes a copy of the space. Private pages are shared until one side
// stores into them.
func (s *Space) Fork() (*Space, error) {
	as, err := s.p.NewAddressSpace()
	if err != nil {
		return nil, fmt.Errorf("memory: fork an address space: %w", err)
	}
	c := newSpace(s.a, s.p, as)
	c.stackTop, c.mapBase = s.stackTop, s.mapBase
	s.mu.Lock()
	err = s.forkLocked(c)
	s.unlock()
	if err != nil {
		c.Release()
		return nil, err
	}
	return c, nil
}

func (s *Space) forkLocked(c *Space) error {
	c.limitAS, c.limitData, c.limitStack = s.limitAS, s.limitData, s.limitStack
	c.brkStart, c.brk, c.stackLow, c.stackHigh = s.brkStart, s.brk, s.stackLow, s.stackHigh
	c.table = s.table.share()
	for _, ar := range s.areas {
		switch {
		case ar.is(dontFork):
			c.table.drop(vpn(ar.start), vpn(ar.end))
			continue
		case ar.is(wipeOnFork):
			c.table.drop(vpn(ar.start), vpn(ar.end))
		case ar.is(trampolines):
			if err := s.copyTrampolines(c, ar); err != nil {
				return err
			}
		}
		n := new(area)
		*n = *ar
		n.mapped = false
		n.flags &^= locked // mm/mmap.c, dup_mmap
		c.hold(n)
		c.areas = append(c.areas, n)
		c.grow(n, int64(n.size()))
	}
	return s.protectShared()
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
			s.table.has(vpn(ar.start), vpn(ar.end)) == 0 {
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
