package memory

import (
	"math"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// VMA is an area as /proc/PID/maps and smaps show it.
type VMA struct {
	Start, End       Addr
	Access, MaxProt  platform.Access
	Shared           bool
	Offset, Dev, Ino uint64
	Name             string
	Origin           Origin
	GrowsDown        bool
	Locked           bool
	Noreserve        bool
	DontFork         bool
	WipeOnFork       bool
	DontDump         bool
	Anonymous        bool   // no file behind it
	Resident         uint64 // bytes
	Private          uint64 // bytes of pages of its own, anonymous or copied
	PrivateShared    uint64 // of these, shared with another space since a fork
}

// Sizes are sums over a space, in bytes, as /proc/PID/status and statm have them.
type Sizes struct {
	Virtual, PeakVirtual   uint64
	Resident, PeakResident uint64
	ResidentAnon           uint64
	ResidentFile           uint64
	ResidentShmem          uint64
	Shared                 uint64 // resident in files and shared memory
	Data, Stack, Text      uint64 // virtual
	Locked                 uint64
	Brk, BrkStart          Addr
	StackLow, StackHigh    Addr
}

// VMAs is a snapshot of the areas, by address.
func (s *Space) VMAs() []VMA {
	s.mu.RLock()
	list := make([]VMA, len(s.areas))
	for i, ar := range s.areas {
		list[i] = s.describe(ar)
	}
	s.mu.RUnlock()
	for i := range list {
		if o := list[i].Origin; o != nil {
			list[i].Name = o.Name()
		}
	}
	return list
}

func (s *Space) describe(ar *area) VMA {
	v := VMA{Start: ar.start, End: ar.end, Access: ar.prot, MaxProt: ar.max, Offset: ar.off,
		Dev: ar.dev, Ino: ar.ino, Name: ar.name, Origin: ar.origin,
		Shared: ar.is(shared), GrowsDown: ar.is(growsDown), Locked: ar.is(locked),
		Noreserve: ar.is(noreserve), DontFork: ar.is(dontFork), WipeOnFork: ar.is(wipeOnFork),
		DontDump: ar.is(dontDump), Anonymous: ar.obj == nil}
	lo, hi := vpn(ar.start), vpn(ar.end)
	v.Private = s.table.has(lo, hi) * PageSize
	v.PrivateShared = v.Private - s.table.exclusives(lo, hi)*PageSize
	v.Resident = v.Private + min(ar.shown(), ar.size()-v.Private)
	if ar.is(internal) && v.Name == "" {
		v.Name = "/dev/zero (deleted)" // mm/shmem.c, shmem_zero_setup
	}
	if v.Name == "" && ar.obj == nil {
		v.Name = s.anonymousName(ar)
	}
	return v
}

// anonymousName is what fs/proc/task_mmu.c, get_vma_name makes of brk and stack.
func (s *Space) anonymousName(ar *area) string {
	switch {
	case ar.start < s.brk && ar.end > s.brkStart && s.brkStart != 0:
		return "[heap]"
	case s.stackHigh != 0 && ar.start < s.stackHigh && ar.end >= s.stackHigh:
		return "[stack]"
	}
	return ""
}

// shown estimates how much of the object is in memory for this area: its pages,
// or what was mapped of a host's file, for only the host knows its cache.
func (ar *area) shown() uint64 {
	switch o := backing(ar.obj).(type) {
	case *Object:
		return o.Resident(ar.off, ar.size())
	case *HostFile:
		return ar.shownBytes
	}
	return 0
}

// notePeak is called before pages go.
func (s *Space) notePeak() { s.peakPages = max(s.peakPages, uint64(s.table.pages)) }

// Sizes sums up.
func (s *Space) Sizes() Sizes {
	s.mu.Lock()
	defer s.mu.Unlock()
	z := Sizes{Virtual: s.virtual, PeakVirtual: s.peakVirtual, Locked: s.locked, Data: s.data,
		Brk: s.brk, BrkStart: s.brkStart, StackLow: s.stackLow, StackHigh: s.stackHigh}
	z.ResidentAnon = uint64(s.table.pages) * PageSize
	for _, ar := range s.areas {
		n := ar.shown()
		own := s.table.has(vpn(ar.start), vpn(ar.end)) * PageSize
		n = min(n, ar.size()-own)
		switch backing(ar.obj).(type) {
		case *Object:
			z.ResidentShmem += n
		case *HostFile:
			z.ResidentFile += n
		}
		switch {
		case ar.is(growsDown):
			z.Stack += ar.size()
		case ar.prot&(platform.Exec|platform.Write) == platform.Exec && ar.obj != nil:
			z.Text += ar.size()
		}
	}
	z.Shared = z.ResidentFile + z.ResidentShmem
	z.Resident = z.ResidentAnon + z.Shared
	s.notePeak()
	s.peakResident = max(s.peakResident, z.Resident, s.peakPages*PageSize+z.Shared)
	z.PeakResident = s.peakResident
	return z
}

// ResetPeak forgets how much was resident at most (fs/proc/task_mmu.c, CLEAR_REFS_MM_HIWATER_RSS).
func (s *Space) ResetPeak() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peakPages, s.peakResident = uint64(s.table.pages), 0
}

// Mincore says for each page of [at, at+n) whether it is in memory. Of a host's
// file it says so as far as the file reaches: its cache is the host's business.
func (s *Space) Mincore(at Addr, n uint64) ([]byte, error) {
	if at%PageSize != 0 {
		return nil, unix.EINVAL
	}
	end := at + Addr(pageUp(n))
	if end < at || end > s.limit {
		return nil, unix.ENOMEM
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if n > 0 && !s.whole(at, end) {
		return nil, unix.ENOMEM
	}
	out := make([]byte, 0, vpn(end)-vpn(at))
	for ; at < end; at += PageSize {
		ar := s.find(at)
		in := byte(0)
		if s.table.get(vpn(at)) != 0 {
			in = 1
		} else if o, ok := aheadOf(ar.obj); ok && o.present(ar.offset(at)) {
			in = 1
		}
		out = append(out, in)
	}
	return out, nil
}

// Bits of an entry of /proc/PID/pagemap.
const (
	pagePresent   = 1 << 63
	pageOfFile    = 1 << 61 // or of shared memory
	pageExclusive = 1 << 56
)

// Pagemap describes up to n pages from the one numbered first on, as far as
// addresses go.
func (s *Space) Pagemap(first, n uint64) []uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	end := min(vpn(s.limit), first+n)
	var out []uint64
	for v := first; v < end; v++ {
		e := uint64(0)
		switch ar := s.find(addr(v)); {
		case ar == nil:
		case s.table.get(v) != 0:
			e = pagePresent
			if s.table.exclusive(v) {
				e |= pageExclusive
			}
		default:
			if o, ok := aheadOf(ar.obj); ok && o.present(ar.offset(addr(v))) {
				e = pagePresent | pageOfFile
			}
		}
		out = append(out, e)
	}
	return out
}

// Lock marks [at, at+n) as locked, and makes it present. Nothing is ever swapped
// by the Sentry, so that is all. ENOMEM: more than limit bytes would be locked.
func (s *Space) Lock(at Addr, n, limit uint64) error { return s.setLocked(at, n, true, limit) }

// Unlock takes that back.
func (s *Space) Unlock(at Addr, n uint64) error { return s.setLocked(at, n, false, math.MaxUint64) }

// LockAll is mlockall(2): it locks what is mapped, and with future what comes.
func (s *Space) LockAll(current, future bool, limit uint64) error {
	s.mu.Lock()
	defer s.unlock()
	s.settle(false, 0)
	if current && s.virtual > limit {
		return unix.ENOMEM
	}
	s.lockNew = future
	if current {
		for _, ar := range s.areas {
			s.lockArea(ar, true)
		}
	}
	return nil
}

// UnlockAll is munlockall(2).
func (s *Space) UnlockAll() {
	s.mu.Lock()
	defer s.unlock()
	s.settle(false, 0)
	s.lockNew = false
	for _, ar := range s.areas {
		s.lockArea(ar, false)
	}
}

func (s *Space) setLocked(at Addr, n uint64, on bool, limit uint64) error {
	lo := at &^ (PageSize - 1)
	hi := Addr(pageUp(uint64(at) + n))
	if hi < lo {
		return unix.EINVAL
	}
	if lo == hi {
		return nil
	}
	s.mu.Lock()
	defer s.unlock()
	if on && s.locked+uint64(hi-lo)-s.lockedIn(lo, hi) > limit {
		return unix.ENOMEM
	}
	part, whole, err := s.covered(lo, hi)
	if err != nil {
		return err
	}
	for _, ar := range part {
		s.lockArea(ar, on)
	}
	s.merge(lo, hi)
	if !whole {
		return unix.ENOMEM
	}
	return nil
}

func (s *Space) lockArea(ar *area, on bool) {
	if on == ar.is(locked) {
		return
	}
	s.grow(ar, -int64(ar.size()))
	ar.flags ^= locked
	s.grow(ar, int64(ar.size()))
	if on && ar.prot != 0 {
		s.populate(ar, ar.start, ar.end, ar.populateAs())
	}
}

// lockedIn is how many bytes of [lo, hi) are locked.
func (s *Space) lockedIn(lo, hi Addr) (n uint64) {
	for i := s.index(lo); i < len(s.areas) && s.areas[i].start < hi; i++ {
		if ar := s.areas[i]; ar.is(locked) {
			n += uint64(min(hi, ar.end) - max(lo, ar.start))
		}
	}
	return n
}

// populateAs is the access with which mlock touches an area (mm/gup.c,
// populate_vma_page_range).
func (ar *area) populateAs() platform.Access {
	if ar.prot&platform.Write != 0 && ar.private() {
		return platform.Write
	}
	return platform.Read
}

// Sync does what msync(2) says: shared files of the host's are written back for
// MS_SYNC; everything else is coherent as it is.
func (s *Space) Sync(at Addr, n uint64, flags int) error {
	const both = unix.MS_ASYNC | unix.MS_SYNC
	end := at + Addr(pageUp(n))
	switch {
	case flags&^(both|unix.MS_INVALIDATE) != 0, at%PageSize != 0, flags&both == both:
		return unix.EINVAL
	case end < at:
		return unix.ENOMEM
	case end == at:
		return nil
	}
	files, err := s.filesIn(at, end, flags)
	for _, m := range files {
		if f, ok := backing(m).(*HostFile); ok {
			if e := f.sync(); e != nil && err == nil {
				err = unix.EIO
			}
		}
		m.Unref()
	}
	return err
}

// filesIn are the shared objects in [lo, hi), each with a reference.
func (s *Space) filesIn(lo, hi Addr, flags int) (files []Mappable, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.whole(lo, hi) {
		err = unix.ENOMEM
	}
	for i := s.index(lo); i < len(s.areas) && s.areas[i].start < hi; i++ {
		ar := s.areas[i]
		if ar.is(locked) && flags&unix.MS_INVALIDATE != 0 {
			return files, unix.EBUSY
		}
		if ar.is(shared) && flags&unix.MS_SYNC != 0 {
			ar.obj.Ref()
			files = append(files, ar.obj)
		}
	}
	return files, err
}
