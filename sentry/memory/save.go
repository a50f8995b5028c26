package memory

import (
	"fmt"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// SavedSpace is what a checkpoint keeps of a Space but for its areas and its limits, which are
// the process's.
type SavedSpace struct {
	StackTop, MapBase, BrkStart, Brk, StackLow, StackHigh Addr
	LockNew                                               bool
}

// SavedArea is an area, but for what is behind it.
type SavedArea struct {
	Start, End Addr
	Prot, Max  platform.Access
	Flags      uint16
	Off        uint64
	Name       string `json:",omitempty"`
}

// savedFlags are those that a checkpoint keeps; the others follow from what is behind.
const savedFlags = shared | growsDown | locked | noreserve | dontFork | wipeOnFork | dontDump | sealed

// Shared says that stores go to what is behind the area.
func (a *SavedArea) Shared() bool { return areaFlags(a.Flags)&shared != 0 }

// AreaSource is what is behind a saved area: nothing, if it is private anonymous memory.
type AreaSource struct {
	Object Mappable
	Origin Origin
}

// Save describes s, whose threads all stand still. What the platform made for itself is
// left out: the text that jumps to it is saved as it was (SavePages).
func (s *Space) Save() (sp SavedSpace, areas []SavedArea, from []AreaSource, err error) {
	s.mu.Lock()
	defer s.unlock()
	s.settle(false, 0)
	sp = SavedSpace{s.stackTop, s.mapBase, s.brkStart, s.brk, s.stackLow, s.stackHigh, s.lockNew}
	for _, ar := range s.areas {
		if ar.is(trampolines) {
			continue
		}
		if ar.faults != nil {
			return sp, nil, nil, fmt.Errorf("memory at %#x whose faults a userfaultfd hears of", ar.start)
		}
		areas = append(areas, SavedArea{ar.start, ar.end, ar.prot, ar.max, uint16(ar.flags & savedFlags), ar.off, ar.name})
		from = append(from, AreaSource{ar.obj, ar.origin})
	}
	return sp, areas, from, nil
}

// SavePages calls f with the pages in [lo, hi) that are the space's own, a run of at most
// most bytes at a time, as the application believes them to be.
func (s *Space) SavePages(lo, hi Addr, most int, f func(at Addr, b []byte) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for v, end := vpn(lo), vpn(hi); v < end; {
		if v += s.table.holes(v, end); v >= end {
			break
		}
		e := s.table.run(v, min(end, v+uint64(most)/PageSize), false)
		b := s.a.bytes(e.pfn, e.n)
		if len(s.patches) > 0 {
			b = append([]byte(nil), b...)
			s.originalLocked(addr(v), b)
		}
		if err := f(addr(v), b); err != nil {
			return err
		}
		v += uint64(e.n)
	}
	return nil
}

// RestoreArea maps a, of which r has what is behind it. It comes before Restore.
func (s *Space) RestoreArea(a SavedArea, r MapRequest) error {
	const all = platform.Read | platform.Write | platform.Exec
	flags := areaFlags(a.Flags)
	if a.Start >= a.End || a.End%PageSize != 0 || flags&^savedFlags != 0 || a.Max&^all != 0 || a.Prot&^a.Max != 0 ||
		flags&shared != 0 && r.Object == nil {
		return fmt.Errorf("memory: no area can be at %#x to %#x: %w", a.Start, a.End, unix.EINVAL)
	}
	r.At, r.Length, r.Fixed, r.NoReplace = a.Start, uint64(a.End-a.Start), true, true
	r.Offset, r.Name, r.Shared = a.Off, a.Name, flags&shared != 0
	if r.MaxProt == 0 {
		r.MaxProt = all
	}
	// What the file allows now is the most that it can be.
	if r.MaxProt &= a.Max; r.MaxProt == 0 {
		r.Prot, r.MaxProt = 0, platform.Read
	}
	r.Prot = a.Prot & r.MaxProt
	r.GrowsDown, r.Noreserve = flags&growsDown != 0, flags&noreserve != 0
	if _, err := s.Map(r); err != nil {
		return fmt.Errorf("memory: map %#x to %#x: %w", a.Start, a.End, err)
	}
	const late = dontFork | wipeOnFork | dontDump | sealed
	if flags&late == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.unlock()
	part, _, err := s.covered(a.Start, a.End)
	if err != nil {
		return err
	}
	for _, ar := range part {
		ar.flags |= flags & late
	}
	return nil
}

// RestorePage puts b at at, in an area that is private.
func (s *Space) RestorePage(at Addr, b []byte) error {
	s.mu.RLock()
	ar := s.find(at)
	private := ar != nil && ar.private() && at+Addr(len(b)) <= ar.end
	s.mu.RUnlock()
	if !private {
		return fmt.Errorf("memory: pages at %#x are no private mapping's: %w", at, unix.EINVAL)
	}
	_, err := s.Poke(at, b)
	return err
}

// Restore sets what Save told of the space itself; its areas and pages are there.
func (s *Space) Restore(sp SavedSpace) error {
	if sp.Brk < sp.BrkStart || sp.Brk > s.limit || sp.StackTop > s.limit || sp.MapBase > s.limit || sp.StackHigh > s.limit {
		return fmt.Errorf("memory: no address space is laid out so: %w", unix.EINVAL)
	}
	s.mu.Lock()
	defer s.unlock()
	s.stackTop, s.mapBase, s.brkStart, s.brk = sp.StackTop, sp.MapBase, sp.BrkStart, sp.Brk
	s.stackLow, s.stackHigh, s.lockNew = sp.StackLow, sp.StackHigh, sp.LockNew
	return nil
}
