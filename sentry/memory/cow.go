package memory

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// copyWindow is how many pages of a program's file one fault copies at most.
const copyWindow = 128

// copyOwn makes v's page, and its neighbours that are shared since a fork,
// the space's own.
func (s *Space) copyOwn(ar *area, v uint64) error {
	w := s.tuning().cow
	lo, hi := max(vpn(ar.start), v&^(w-1)), min(vpn(ar.end), (v|(w-1))+1)
	if s.a.tight() {
		lo, hi = v, v+1
	}
	first, end := v, v+1
	for first > lo && s.foreign(first-1) {
		first--
	}
	for end < hi && s.foreign(end) {
		end++
	}
	err := s.copyRun(first, end)
	if err != nil && s.foreign(v) {
		first, end = v, v+1
		err = s.copyRun(first, end)
	}
	if err != nil {
		return err
	}
	err = s.mapOwnRuns(ar, first, end, int(w))
	if err != nil {
		s.as.Unmap(addr(first), (end-first)*PageSize) // before the old pages can be used again
	}
	s.table.dropStale()
	return err
}

// foreign says that v has a page that others have too.
func (s *Space) foreign(v uint64) bool { return s.table.get(v) != 0 && !s.table.exclusive(v) }

// copyRun replaces the pages in [v, hi), which are all there, by copies. The old
// ones stay until dropStale, for they are mapped.
func (s *Space) copyRun(v, hi uint64) error {
	for v < hi {
		e, err := s.a.alloc(uint32(hi-v), false)
		if err != nil {
			return err
		}
		for i := range e.n {
			copy(s.a.bytes(e.pfn+i, 1), s.a.bytes(s.table.get(v+uint64(i)), 1))
		}
		s.table.replace(v, e)
		v += uint64(e.n)
	}
	return nil
}

// copyObject gives the space private copies of the object's pages around v.
func (s *Space) copyObject(ar *area, v uint64) error {
	if !isProgram(ar.obj) {
		return s.copyIn(ar, v, v+1)
	}
	lo, hi := s.around(ar, v, copyWindow)
	lo = s.holeStart(v, lo)
	hi = v + s.table.holes(v, hi)
	if err := s.copyIn(ar, v, hi); err != nil {
		return err
	}
	if lo < v {
		s.copyIn(ar, lo, v)
	}
	return nil
}

// copyIn copies pages of the object to [v, hi), which has none, and maps them.
// An error means that not even the first was made.
func (s *Space) copyIn(ar *area, v, hi uint64) error {
	for first := v; v < hi; {
		n, err := s.copyPiece(ar, v, hi)
		if err != nil {
			if v > first {
				return nil
			}
			return err
		}
		v += n
	}
	return nil
}

func (s *Space) copyPiece(ar *area, v, hi uint64) (uint64, error) {
	if f, ok := backing(ar.obj).(*HostFile); ok {
		return s.readPiece(f, ar, v, hi)
	}
	r, err := pagesOf(ar.obj, want{off: ar.offset(addr(v)), n: (hi - v) * PageSize, fill: PageSize})
	if err != nil {
		return 0, err
	}
	defer r.Release()
	e, err := s.a.alloc(uint32(len(r.Host)/PageSize), false)
	if err != nil {
		return 0, err
	}
	dst := s.a.bytes(e.pfn, e.n)
	if move(dst, r.Host) < len(dst) {
		s.a.unref(e.pfn, e.n)
		return 0, unix.ENXIO
	}
	s.table.set(v, e)
	return uint64(e.n), s.showOwn(ar, v, e, true)
}

// readPiece does that by reading the file, which is cheaper than to look at it
// through a window.
func (s *Space) readPiece(f *HostFile, ar *area, v, hi uint64) (uint64, error) {
	e, err := f.read(ar.offset(addr(v)), hi-v)
	if err != nil {
		return 0, err
	}
	s.table.set(v, e)
	return uint64(e.n), s.showOwn(ar, v, e, true)
}

// copiesSoon says that a private file map is better copied at the first load
// than shown and replaced at the first store.
func (s *Space) copiesSoon(ar *area) bool {
	return s.a.private && ar.prot&platform.Write != 0 && ar.size()/PageSize <= 4*s.tuning().copies &&
		isProgram(ar.obj)
}
