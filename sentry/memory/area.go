package memory

import (
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// area is a vm_area_struct. All fields but the fault-around state belong to
// whoever holds Space.mu for writing.
type area struct {
	start, end Addr
	prot, max  platform.Access
	flags      areaFlags
	obj        Mappable // nil: private anonymous memory
	off        uint64   // of start in obj
	name       string
	dev, ino   uint64
	origin     Origin
	faults     *Userfault // who hears of missing pages; or nil

	// mapped says that the platform may show something here, zeros that it may in
	// holes of anonymous memory, too; shownBytes is about how much of a host's file.
	mapped     bool
	zeros      bool // in holes, too: see Space.showZeros
	shownBytes uint64

	// Fault-around: how many pages the last one made, and where.
	window         uint32
	lastLo, lastHi uint64 // page numbers
}

type areaFlags uint16

const (
	shared areaFlags = 1 << iota
	growsDown
	locked
	noreserve
	dontFork
	wipeOnFork
	dontDump
	internal    // obj is a shared anonymous mapping's, made here
	trampolines // of the platform's, see Space.TrampolineArea
	sealed      // see Space.Seal
)

func (ar *area) is(f areaFlags) bool { return ar.flags&f != 0 }

func (ar *area) size() uint64 { return uint64(ar.end - ar.start) }

// offset is where at lies in the object.
func (ar *area) offset(at Addr) uint64 { return ar.off + uint64(at-ar.start) }

// private says that stores go to pages of the space's own.
func (ar *area) private() bool { return !ar.is(shared) }

// counted says that the area counts as data: private, writable, no stack
// (include/linux/mm.h, is_data_mapping).
func (ar *area) counted() bool {
	return ar.prot&platform.Write != 0 && !ar.is(shared|growsDown)
}

// allows is arch/x86/mm/fault.c, access_error: any permission lets read.
func (ar *area) allows(want platform.Access) bool {
	switch {
	case want&platform.Write != 0:
		return ar.prot&platform.Write != 0
	case want&platform.Exec != 0:
		return ar.prot&platform.Exec != 0
	}
	return ar.prot != 0
}

// index is the first area that ends above at.
func (s *Space) index(at Addr) int {
	return sort.Search(len(s.areas), func(i int) bool { return s.areas[i].end > at })
}

// find is the area at an address, or nil.
func (s *Space) find(at Addr) *area {
	if i := s.index(at); i < len(s.areas) && s.areas[i].start <= at {
		return s.areas[i]
	}
	return nil
}

func (s *Space) insert(ar *area) {
	i := s.index(ar.start)
	s.areas = append(s.areas, nil)
	copy(s.areas[i+1:], s.areas[i:])
	s.areas[i] = ar
}

// split makes at a border between two areas, if one spans it.
func (s *Space) split(at Addr) error {
	ar := s.find(at)
	if ar == nil || ar.start == at {
		return nil
	}
	if len(s.areas) >= maxAreas {
		return unix.ENOMEM
	}
	tail := new(area)
	*tail = *ar
	tail.start = at
	tail.shownBytes = min(tail.shownBytes, uint64(tail.end-at))
	if ar.obj != nil {
		tail.off = ar.off + uint64(at-ar.start)
		s.hold(tail)
	}
	s.resize(ar, ar.start, at)
	ar.shownBytes = min(ar.shownBytes, ar.size())
	s.insert(tail)
	return nil
}

// hold takes an area's reference to its object.
func (s *Space) hold(ar *area) {
	if ar.obj != nil {
		ar.obj.Ref()
		ar.obj.Attach(s, ar.start, ar.off, ar.size(), ar.is(shared))
	}
}

// resize moves an area's borders, not its bytes.
func (s *Space) resize(ar *area, start, end Addr) {
	if ar.obj == nil {
		ar.start, ar.end = start, end
		return
	}
	off := ar.off + uint64(start-ar.start) // may wrap and come back
	ar.obj.Attach(s, start, off, uint64(end-start), ar.is(shared))
	ar.obj.Detach(s, ar.start, ar.off, ar.size(), ar.is(shared))
	ar.start, ar.end, ar.off = start, end, off
}

// forget gives it up, after unlock.
func (s *Space) forget(ar *area) {
	if ar.obj != nil {
		ar.obj.Detach(s, ar.start, ar.off, ar.size(), ar.is(shared))
		s.gone = append(s.gone, ar.obj)
	}
}

// covered are the areas within [lo, hi), split so that none passes its borders.
// whole says that they leave no hole.
func (s *Space) covered(lo, hi Addr) (part []*area, whole bool, err error) {
	if err := s.split(lo); err != nil {
		return nil, false, err
	}
	if err := s.split(hi); err != nil {
		return nil, false, err
	}
	i := s.index(lo)
	j, at := i, lo
	whole = true
	for ; j < len(s.areas) && s.areas[j].start < hi; j++ {
		whole = whole && s.areas[j].start == at
		at = s.areas[j].end
	}
	return s.areas[i:j:j], whole && at == hi, nil
}

// whole says that areas cover [lo, hi) without a hole.
func (s *Space) whole(lo, hi Addr) bool {
	for i := s.index(lo); i < len(s.areas) && s.areas[i].start <= lo; i++ {
		if lo = s.areas[i].end; lo >= hi {
			return true
		}
	}
	return false
}

// joins says whether b continues a (mm/vma.c, can_vma_merge_after). Names of
// special mappings keep those apart.
func (a *area) joins(b *area) bool {
	if a.end != b.start || a.prot != b.prot || a.max != b.max || a.flags != b.flags ||
		a.obj != b.obj || a.faults != b.faults || a.name != b.name || a.dev != b.dev || a.ino != b.ino {
		return false
	}
	if a.name != "" && a.name[0] == '[' && !strings.HasPrefix(a.name, "[anon:") {
		return false
	}
	return a.obj == nil || a.off+a.size() == b.off
}

// merge joins what can be joined from the area before lo to the one at hi.
func (s *Space) merge(lo, hi Addr) {
	i := max(s.index(lo), 1)
	keep := i
	for ; i < len(s.areas) && s.areas[i].start <= hi; i++ {
		a, b := s.areas[keep-1], s.areas[i]
		if !a.joins(b) {
			s.areas[keep] = b
			keep++
			continue
		}
		s.forget(b)
		s.resize(a, a.start, b.end)
		a.mapped, a.zeros = a.mapped || b.mapped, a.zeros || b.zeros
		a.shownBytes += b.shownBytes
	}
	if keep < i {
		n := copy(s.areas[keep:], s.areas[i:])
		clear(s.areas[keep+n:])
		s.areas = s.areas[:keep+n]
	}
}
