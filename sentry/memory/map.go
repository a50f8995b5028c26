package memory

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// What is mapped when an area is made, without waiting for a fault.
const (
	eagerFile = 4 << 20 / PageSize // of a file that is only read or run
	eagerTop  = 8                  // of a large PROT_NONE reserve that is opened: a thread's stack
	lowStart  = Addr(0x4000_0000)  // MAP_32BIT (arch/x86/kernel/sys_x86_64.c, find_start_end)
	lowEnd    = Addr(0x8000_0000)
)

// MapRequest is a call of mmap.
type MapRequest struct {
	At        Addr
	Length    uint64
	Fixed     bool // replaces what is there
	NoReplace bool // with Fixed: EEXIST instead

	Prot    platform.Access
	MaxProt platform.Access // what mprotect may make of it; 0 is everything
	Shared  bool
	Object  Mappable // nil: anonymous
	Offset  uint64

	GrowsDown bool
	Populate  bool
	Locked    bool
	Noreserve bool
	Low32     bool // MAP_32BIT
	LockBound bool // LockLimit holds: the caller has not CAP_IPC_LOCK
	LockLimit uint64

	Name     string // for maps: a path or [stack]
	Dev, Ino uint64
	Origin   Origin // nil: Name is all there is to know
}

// Origin is the file that is mapped, whose name may change.
type Origin interface{ Name() string }

// Map does what mmap(2) says, and answers its bare errnos.
func (s *Space) Map(r MapRequest) (Addr, error) {
	for try := 0; ; try++ {
		s.mu.Lock()
		at, err := s.mapLocked(r)
		s.unlock()
		if !s.a.relieve(err, try) {
			return at, errnoOf(err)
		}
	}
}

func (s *Space) mapLocked(r MapRequest) (Addr, error) {
	if r.Length == 0 || r.Offset%PageSize != 0 {
		return 0, unix.EINVAL
	}
	if r.Length = pageUp(r.Length); r.Length == 0 || r.Length > uint64(s.limit) {
		return 0, unix.ENOMEM
	}
	if r.Offset+r.Length < r.Offset {
		return 0, unix.EOVERFLOW
	}
	if r.MaxProt == 0 {
		r.MaxProt = platform.Read | platform.Write | platform.Exec
	}
	if r.Prot&^r.MaxProt != 0 {
		return 0, unix.EACCES
	}
	r.Locked = r.Locked || s.lockNew
	if r.Locked && r.LockBound && s.locked+r.Length > r.LockLimit {
		return 0, unix.EAGAIN
	}
	s.settle(r.Fixed, r.At)
	at, err := s.place(r)
	if err != nil {
		return 0, err
	}
	if err := s.prepare(r); err != nil {
		return 0, err
	}
	if r.Fixed && s.sealedIn(at, at+Addr(r.Length)) {
		return 0, unix.EPERM
	}
	ar := newArea(at, r)
	if err := s.mayGrow(ar, at); err != nil {
		return 0, err
	}
	if r.Shared && r.Object == nil {
		o := NewObject(s.a)
		o.Truncate(r.Length)
		ar.obj, ar.off = o, 0
		ar.flags |= internal
		defer o.Unref() // the area has its own reference by then
	}
	how := eagernessOf(r)
	err = s.replace(ar, how)
	if how == later {
		s.pending = pending{ar.start, ar.end}
	}
	return at, err
}

// hostMapped is a HostFile, or embeds one.
type hostMapped interface {
	probe(off uint64) error
	run() error
}

// prepare asks the host whether it can map the file, and has the text of a
// program copied where that is cheaper to fault in.
func (s *Space) prepare(r MapRequest) error {
	runs := !r.Shared && r.Prot&platform.Exec != 0
	if o, ok := aheadOf(r.Object); ok && runs {
		o.program().Store(true)
	}
	f, ok := r.Object.(hostMapped)
	switch {
	case !ok:
		return nil
	case runs && s.a.private && s.a.plenty():
		return f.run()
	}
	return f.probe(r.Offset)
}

func newArea(at Addr, r MapRequest) *area {
	ar := &area{start: at, end: at + Addr(r.Length), prot: r.Prot, max: r.MaxProt,
		obj: r.Object, off: r.Offset, name: r.Name, dev: r.Dev, ino: r.Ino, origin: r.Origin}
	if r.Object == nil {
		ar.off = 0
	}
	for _, f := range []struct {
		on   bool
		flag areaFlags
	}{
		{r.Shared, shared}, {r.GrowsDown, growsDown}, {r.Locked, locked}, {r.Noreserve, noreserve},
	} {
		if f.on {
			ar.flags |= f.flag
		}
	}
	return ar
}

// mayGrow checks the limits for a new area at at, where it may replace others.
func (s *Space) mayGrow(ar *area, at Addr) error {
	var under, underData uint64
	for i := s.index(at); i < len(s.areas) && s.areas[i].start < ar.end; i++ {
		o := s.areas[i]
		n := uint64(min(o.end, ar.end) - max(o.start, at))
		under += n
		if o.counted() {
			underData += n
		}
	}
	switch {
	case s.virtual-under+ar.size() > s.limitAS,
		ar.counted() && s.data-underData+ar.size() > s.limitData,
		len(s.areas) >= maxAreas:
		return unix.ENOMEM
	}
	return nil
}

// place decides where a mapping goes.
func (s *Space) place(r MapRequest) (Addr, error) {
	if r.Fixed {
		switch end := r.At + Addr(r.Length); {
		case r.At%PageSize != 0:
			return 0, unix.EINVAL
		case end > s.limit || end < r.At:
			return 0, unix.ENOMEM
		case r.At < platform.MinAddr:
			return 0, unix.EPERM
		case r.NoReplace && !s.free(r.At, end):
			return 0, unix.EEXIST
		}
		return r.At, nil
	}
	if at := r.At &^ (PageSize - 1); at != 0 {
		at = max(at, platform.MinAddr)
		end := at + Addr(r.Length)
		if end > at && end <= s.limit && s.roomy(at, end) && (!r.Low32 || end <= lowEnd) {
			return at, nil
		}
	}
	align := Addr(PageSize)
	if r.Object == nil && r.Length >= hugeSize {
		align = hugeSize // mm/huge_memory.c, thp_get_unmapped_area
	}
	if r.Low32 {
		return s.gap(r.Length, PageSize, lowStart, lowEnd)
	}
	for _, within := range []struct{ lo, hi Addr }{
		{platform.MinAddr, s.mapBase}, {s.mapBase, s.limit},
	} {
		for _, align := range []Addr{align, PageSize} {
			if at, err := s.gap(r.Length, align, within.lo, within.hi); err == nil {
				return at, nil
			}
		}
	}
	return 0, unix.ENOMEM
}

// free says that no area touches [lo, hi).
func (s *Space) free(lo, hi Addr) bool {
	i := s.index(lo)
	return i == len(s.areas) || s.areas[i].start >= hi
}

// roomy is free, with the gap that a stack above needs.
func (s *Space) roomy(lo, hi Addr) bool {
	i := s.index(lo)
	return i == len(s.areas) || s.areas[i].floor() >= hi
}

// floor is below where an area needs its room.
func (ar *area) floor() Addr {
	if ar.is(growsDown) {
		return ar.start - min(ar.start, stackGuard)
	}
	return ar.start
}

// gap finds the highest free n bytes in [lo, hi).
func (s *Space) gap(n uint64, align, lo, hi Addr) (Addr, error) {
	i := s.index(hi - 1)
	if i < len(s.areas) {
		hi = min(hi, s.areas[i].floor())
	}
	for ; ; i-- {
		floor := lo
		if i > 0 {
			floor = max(lo, s.areas[i-1].end)
		}
		if hi >= floor && uint64(hi-floor) >= n {
			if at := (hi - Addr(n)) &^ (align - 1); at >= floor {
				return at, nil
			}
		}
		if i == 0 || s.areas[i-1].start <= lo {
			return 0, unix.ENOMEM
		}
		hi = min(hi, s.areas[i-1].floor())
	}
}

// replace puts ar where it says, instead of what is there.
func (s *Space) replace(ar *area, how eagerness) error {
	old, _, err := s.covered(ar.start, ar.end)
	if err != nil {
		return err
	}
	was := false // mapped
	for _, o := range old {
		was = was || o.mapped
	}
	stale := s.remove(ar.start, ar.end, old)
	s.hold(ar)
	s.insert(ar)
	s.grow(ar, int64(ar.size()))
	// What is shown at once needs no unmapping before: platform.Map replaces.
	next := s.eager(ar, how)
	if was && next < ar.end {
		err = s.as.Unmap(next, uint64(ar.end-next))
	}
	for _, e := range stale {
		s.a.unref(e.pfn, e.n)
	}
	s.merge(ar.start, ar.end)
	return err
}

// remove takes areas out of the list and their pages out of the table; the
// caller gives those up once the platform does not map them any more.
func (s *Space) remove(lo, hi Addr, old []*area) []extent {
	if len(old) == 0 {
		return nil
	}
	s.notePeak()
	for _, o := range old {
		s.grow(o, -int64(o.size()))
		s.forget(o)
	}
	i := s.index(lo)
	n := copy(s.areas[i:], s.areas[i+len(old):])
	clear(s.areas[i+n:])
	s.areas = s.areas[:i+n]
	return s.table.take(vpn(lo), vpn(hi))
}

// eager maps what a new area will need soon, from its start on, and says how
// far it came. What goes wrong is left to the faults that follow, as Linux does
// for MAP_POPULATE (mm/gup.c, __mm_populate).
func (s *Space) eager(ar *area, how eagerness) (next Addr) {
	populate := how == all
	pages := ar.size() / PageSize
	lo, hi := vpn(ar.start), vpn(ar.end)
	switch {
	case ar.prot == 0 || how == later || s.a.tight() && !populate:
		return ar.start
	case ar.obj == nil:
		if pages <= s.tuning().eager || populate {
			s.fill(ar, lo, hi)
		}
	case ar.private() && ar.prot&platform.Write != 0:
		if pages <= s.tuning().copies && isProgram(ar.obj) || populate {
			s.copyIn(ar, lo, hi)
		}
	case populate || ar.is(internal) && pages <= s.tuning().eager:
		return addr(s.eagerObject(ar, lo, hi, hi-lo))
	case pages <= eagerFile:
		return addr(s.eagerObject(ar, lo, hi, 0))
	}
	return addr(lo + s.table.filled(lo, hi))
}

// eagerObject maps the object's pages in [v, hi) and makes those that are
// missing, at most fill at a time, or ends at the first of them for fill 0.
func (s *Space) eagerObject(ar *area, v, hi, fill uint64) uint64 {
	write := ar.is(shared) && ar.prot&platform.Write != 0
	o, ok := aheadOf(ar.obj)
	for runs := 0; v < hi; runs++ {
		if fill == 0 && (!ok || runs > 2*s.tuning().calls || !o.present(ar.offset(addr(v)))) {
			break
		}
		n, err := s.mapObjectRun(ar, v, hi, max(fill, 1), write)
		if err != nil {
			break
		}
		v += n
	}
	return v
}

// Unmap does what munmap(2) says.
func (s *Space) Unmap(at Addr, n uint64) error {
	s.mu.Lock()
	defer s.unlock()
	n = pageUp(n)
	if at%PageSize != 0 || n == 0 || n > uint64(s.limit) || at > s.limit-Addr(n) {
		return unix.EINVAL
	}
	s.settle(true, at)
	if s.sealedIn(at, at+Addr(n)) {
		return unix.EPERM
	}
	return s.unmapLocked(at, at+Addr(n))
}

func (s *Space) unmapLocked(lo, hi Addr) error {
	old, _, err := s.covered(lo, hi)
	if err != nil {
		return err
	}
	from, to := hi, lo // what the platform maps
	for _, o := range old {
		if o.mapped {
			from, to = min(from, o.start), o.end
		}
	}
	stale := s.remove(lo, hi, old)
	if from < to {
		err = s.as.Unmap(from, uint64(to-from))
	}
	for _, e := range stale {
		s.a.unref(e.pfn, e.n)
	}
	return err
}

// UnmapObject unmaps what shows one object in the places that Map gave it when it
// mapped it at at from its start: shmdt(2) (ipc/shm.c, ksys_shmdt). size says how
// far an object reaches, and whether it is one to unmap so.
func (s *Space) UnmapObject(at Addr, size func(Mappable) (uint64, bool)) error {
	s.mu.Lock()
	defer s.unlock()
	s.settle(true, at)
	var obj Mappable
	end := at
	for i := s.index(at); i < len(s.areas); {
		ar := s.areas[i]
		if obj == nil {
			n, ok := uint64(0), false
			if ar.obj != nil && ar.start >= at && ar.off == uint64(ar.start-at) {
				n, ok = size(ar.obj)
			}
			if !ok {
				i++
				continue
			}
			obj, end = ar.obj, at+Addr(pageUp(n))
		}
		if ar.start >= end {
			break
		}
		if ar.obj != obj || ar.off != uint64(ar.start-at) {
			i++
			continue
		}
		if err := s.unmapLocked(ar.start, ar.end); err != nil {
			return err
		}
	}
	if obj == nil {
		return unix.EINVAL
	}
	return nil
}

// invalidate drops the platform's translations of part of an object, and with
// copies also private pages that came from there (truncation: mm/memory.c,
// unmap_mapping_range with even_cows).
func (s *Space) invalidate(obj any, off, n uint64, copies bool) {
	s.mu.Lock()
	defer s.unlock()
	for _, ar := range s.areas {
		if ar.obj == nil || identityOf(ar.obj) != obj {
			continue
		}
		lo := max(off, ar.off)
		hi := min(off+n, ar.off+ar.size())
		if lo >= hi {
			continue
		}
		s.forgetPages(ar, ar.start+Addr(lo-ar.off), ar.start+Addr(hi-ar.off), copies)
	}
}

// forgetPages unmaps part of an area, and gives up the space's own pages there
// if own is set. Otherwise it leaves those mapped.
func (s *Space) forgetPages(ar *area, lo, hi Addr, own bool) error {
	var stale []extent
	if own {
		s.notePeak()
		stale = s.table.take(vpn(lo), vpn(hi))
	}
	var err error
	if ar.mapped {
		err = s.as.Unmap(lo, uint64(hi-lo))
	}
	for _, e := range stale {
		s.a.unref(e.pfn, e.n)
	}
	return err
}

// Invalidate says that part of an object is gone (a file was truncated or
// punched): translations are dropped, and asked for again by faults.
func (s *Space) Invalidate(obj Mappable, off, n uint64) {
	s.invalidate(identityOf(obj), off, n, false)
}
