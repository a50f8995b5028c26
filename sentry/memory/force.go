package memory

import (
	"bytes"
	"maps"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// changed is text that PatchText put new for.
type changed struct{ old, new []byte }

// Unpatch takes back what PatchText changed, and lets it change no more: a
// debugger looks at this text, steps through it and puts breakpoints into it.
func (s *Space) Unpatch() {
	s.mu.Lock()
	defer s.unlock()
	s.pristine = true
	for at := range s.patches {
		s.restore(at)
	}
}

// restore undoes one patch, if it still stands.
func (s *Space) restore(at Addr) {
	p := s.patches[at]
	delete(s.patches, at)
	ar, v, in := s.find(at), vpn(at), uint64(at)%PageSize
	pfn := s.table.get(v)
	if ar == nil || pfn == 0 || !ar.private() || !bytes.Equal(s.a.bytes(pfn, 1)[in:][:len(p.new)], p.new) {
		return
	}
	if s.table.exclusive(v) && in%8+uint64(len(p.new)) <= 8 {
		storeText(s.a.bytes(pfn, 1), in, p.new, p.old)
		return
	}
	s.patchCopy(ar, v, in, p.new, p.old)
}

// Original puts into b, which was read at at, what the application believes to
// stand where PatchText changed it.
func (s *Space) Original(at Addr, b []byte) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.originalLocked(at, b)
}

func (s *Space) originalLocked(at Addr, b []byte) {
	end := at + Addr(len(b))
	for site, p := range s.patches {
		lo, hi := max(site, at), min(site+Addr(len(p.old)), end)
		if lo < hi && bytes.Equal(b[lo-at:hi-at], p.new[lo-site:hi-site]) {
			copy(b[lo-at:hi-at], p.old[lo-site:])
		}
	}
}

// Peek reads as a debugger does (mm/gup.c, FOLL_FORCE): also what the
// application itself may not read. It returns how many bytes, and unix.EFAULT
// for fewer than asked for.
func (s *Space) Peek(at Addr, p []byte) (int, error) { return s.force(at, p, s.peekPage) }

// Poke writes as a debugger does: a private page that is not writable gets a
// private copy, and keeps its permissions.
func (s *Space) Poke(at Addr, p []byte) (int, error) { return s.force(at, p, s.pokePage) }

// force calls f for each page's share of p, again after memory was made room for.
func (s *Space) force(at Addr, p []byte, f func(Addr, []byte) error) (int, error) {
	done := 0
	for try := 0; done < len(p); {
		here := at + Addr(done)
		n := min(len(p)-done, int(PageSize-here%PageSize))
		err := f(here, p[done:done+n])
		switch {
		case err == nil:
			done, try = done+n, 0
		case s.a.relieve(err, try):
			try++
		default:
			return done, copyErr(errnoOf(err))
		}
	}
	return done, nil
}

func (s *Space) peekPage(at Addr, p []byte) error {
	s.mu.Lock()
	defer s.unlock()
	ar := s.find(at)
	if s.dead || ar == nil || ar.max&(platform.Read|platform.Exec) == 0 {
		return unix.EFAULT
	}
	v, in := vpn(at), uint64(at)%PageSize
	switch pfn := s.table.get(v); {
	case pfn != 0:
		copy(p, s.a.bytes(pfn, 1)[in:])
	case ar.obj == nil:
		clear(p)
	default:
		r, err := ar.obj.Pages(ar.offset(addr(v)), PageSize, false)
		if err != nil {
			return err
		}
		defer r.Release()
		if move(p, r.Host[in:]) < len(p) {
			return unix.EFAULT
		}
	}
	s.originalLocked(at, p)
	return nil
}

func (s *Space) pokePage(at Addr, p []byte) error {
	s.mu.Lock()
	ar := s.find(at)
	if !s.dead && ar != nil && ar.is(shared) && ar.prot&platform.Write != 0 {
		s.mu.Unlock()
		_, err := s.Write(at, p)
		return err
	}
	defer s.unlock()
	if s.dead || ar == nil || ar.is(shared|trampolines) {
		return unix.EFAULT
	}
	s.settle(false, 0)
	for site := range maps.Clone(s.patches) {
		if site < at+Addr(len(p)) && at < site+8 {
			s.restore(site)
		}
	}
	v, in := vpn(at), uint64(at)%PageSize
	if s.table.exclusive(v) {
		b := s.a.bytes(s.table.get(v), 1)
		if in%8+uint64(len(p)) <= 8 {
			return storeText(b, in, bytes.Clone(b[in:][:len(p)]), p)
		}
		copy(b[in:], p)
		return nil
	}
	return s.pokeCopy(ar, v, in, p)
}

// pokeCopy gives the space a page of its own at v, with p at in.
func (s *Space) pokeCopy(ar *area, v, in uint64, p []byte) error {
	e, err := s.a.alloc(1, true)
	if err != nil {
		return err
	}
	b := s.a.bytes(e.pfn, 1)
	if s.table.get(v) != 0 || ar.obj != nil {
		if err := s.copyPage(ar, v, b); err != nil {
			s.a.unref(e.pfn, 1)
			return err
		}
	}
	copy(b[in:], p)
	if s.table.get(v) == 0 {
		s.table.set(v, e)
	} else {
		s.table.replace(v, e)
	}
	if ar.prot != 0 {
		if err = s.showOwn(ar, v, e, true); err != nil {
			s.as.Unmap(addr(v), PageSize)
		}
	}
	s.table.dropStale()
	return err
}
