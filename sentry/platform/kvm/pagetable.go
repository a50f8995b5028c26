package kvm

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// Bits of a page-table entry (APM vol. 2 §5.4.1).
const (
	pteP    = 1 << 0
	pteW    = 1 << 1
	pteU    = 1 << 2
	pteA    = 1 << 5
	pteD    = 1 << 6
	pteHuge = 1 << 7
	// Ours: the frame is plain memory of the arena, not a window onto a file;
	// the entry is a mapping without access (it has no P); it was a huge page, and
	// bits 12 and up count the flushes at the time.
	pteArena   = 1 << 9
	pteNone    = 1 << 10
	pteWasHuge = 1 << 11
	pteNX      = 1 << 63
	pteFrame   = 0x000f_ffff_ffff_f000
	pteRights  = pteP | pteW | pteNX | pteNone | pteA
)

type table [512]atomic.Uint64

const topEntries = 256 // of the lower half

// addressSpace implements platform.AddressSpace: a tree of tables below the top
// level, and a top level for each vCPU that runs in it, whose last entry is the
// vCPU's own kernel half.
type addressSpace struct {
	p *Platform
	m *guestMemory

	mu       sync.Mutex
	top      [topEntries]uint64
	tops     []int // entries of top in use
	roots    map[*vcpu]uint64
	pages    []uint64 // all tables
	released bool

	patcher platform.Patcher // set before any thread runs
	sitesMu sync.Mutex       // before mu, and before the patcher's locks
	sites   sites
}

func newAddressSpace(p *Platform) *addressSpace {
	return &addressSpace{p: p, m: p.mem, roots: map[*vcpu]uint64{}}
}

// rights are the bits for access. All are marked as accessed, so that shadow
// paging maps what the host has of the neighbours along with a page
// (arch/x86/kvm/mmu/paging_tmpl.h, pte_prefetch): 4 µs a page instead of 28
// (BenchmarkFirstTouch).
func rights(access platform.Access) uint64 {
	if access == 0 {
		return pteNone
	}
	b := uint64(pteP | pteA)
	if access&platform.Write != 0 {
		b |= pteW
	}
	if access&platform.Exec == 0 {
		b |= pteNX
	}
	return b
}

// populate is up to how many bytes of the arena that are to be written get host
// pages when they are mapped: that costs 0.5 to 2 µs a page here and 28 µs later.
const populate = 64 << 10

// Map implements platform.AddressSpace.Map.
func (as *addressSpace) Map(at platform.Addr, seg platform.Segment, access platform.Access) error {
	for host := seg.Host; ; {
		gpa, n, err := as.m.back(host)
		if err != nil {
			return err
		}
		seg.Host = host[:n]
		if err := as.mapRow(at, gpa, seg, access); err != nil || n == uint64(len(host)) {
			return err
		}
		at, host = at+platform.Addr(n), host[n:]
	}
}

// mapRow maps a segment that is at gpa.
func (as *addressSpace) mapRow(at platform.Addr, gpa uint64, seg platform.Segment, access platform.Access) (err error) {
	bits := rights(access) | pteU | pteD
	if seg.FD < 0 {
		bits |= pteArena
		if len(seg.Host) <= populate && access&platform.Write != 0 {
			_ = unix.Madvise(seg.Host, unix.MADV_POPULATE_WRITE) // EINVAL before 5.14: the guest's fault does it
		}
	}
	as.mu.Lock()
	defer as.mu.Unlock()
	s := shootdown{as: as}
	va, n := uint64(at), uint64(len(seg.Host))
	for n > 0 {
		step := min(n, hugeSize-va%hugeSize)
		if step == hugeSize && gpa%hugeSize == 0 {
			err = as.mapHuge(va, gpa|bits|pteHuge, &s)
		} else {
			err = as.mapSmall(va, step/pageSize, gpa|bits, &s)
		}
		if err != nil {
			break
		}
		va, gpa, n = va+step, gpa+step, n-step
	}
	if e := s.done(); err == nil {
		err = e
	}
	return err
}

// mapSmall writes n entries of one table.
func (as *addressSpace) mapSmall(va, n, pte uint64, s *shootdown) error {
	dir, err := as.directory(va)
	if err != nil {
		return err
	}
	t, err := as.leaf(&dir[index(va, 1)], s)
	if err != nil {
		return err
	}
	i := index(va, 0)
	for ; n > 0; n-- {
		s.replace(&t[i], pte, pageSize)
		i, pte = i+1, pte+pageSize
	}
	return nil
}

func (as *addressSpace) mapHuge(va, pte uint64, s *shootdown) error {
	dir, err := as.directory(va)
	if err != nil {
		return err
	}
	e := &dir[index(va, 1)]
	// KVM must have forgotten whatever else stood here, a table or what it made
	// of another huge page, before it walks through here again.
	old := e.Load()
	isTable := old&(pteP|pteHuge) == pteP
	if isTable || old&pteHuge != 0 && (old^pte)&pteFrame != 0 || as.stale(old) {
		e.Store(0)
		if err := s.flushAll(); err != nil {
			return err
		}
	}
	if isTable {
		as.drop(old & pteFrame)
	}
	s.replace(e, pte, hugeSize)
	return nil
}

// stale says that a huge page was taken out of the empty entry e and no flush followed.
func (as *addressSpace) stale(e uint64) bool {
	return e&pteWasHuge != 0 && as.m.ended.Load() <= e>>12
}

// leaf is the table behind e. A huge page there is split: its entry goes first,
// and with it all that KVM derived from it, for it does not see the change.
func (as *addressSpace) leaf(e *atomic.Uint64, s *shootdown) (*table, error) {
	old := e.Load()
	if old&(pteP|pteHuge) == pteP {
		return as.m.table(old & pteFrame), nil
	}
	p, err := as.newTable()
	if err != nil {
		return nil, err
	}
	t := as.m.table(p)
	if old&pteHuge != 0 {
		small := old &^ pteHuge
		for i := range t {
			t[i].Store(small + uint64(i)*pageSize)
		}
		e.Store(0)
	}
	if old&pteHuge != 0 || as.stale(old) {
		if err := s.flushAll(); err != nil {
			return nil, err
		}
	}
	e.Store(p | pteP | pteW | pteU | pteA)
	return t, nil
}

// directory is the table of 2 MiB entries for va, made if need be.
func (as *addressSpace) directory(va uint64) (*table, error) {
	i := index(va, 3)
	if as.top[i] == 0 {
		p, err := as.newTable()
		if err != nil {
			return nil, err
		}
		as.top[i] = p | pteP | pteW | pteU | pteA
		as.tops = append(as.tops, i)
		for _, root := range as.roots {
			as.m.table(root)[i].Store(as.top[i])
		}
	}
	e := &as.m.table(as.top[i] & pteFrame)[index(va, 2)]
	if e.Load() == 0 {
		p, err := as.newTable()
		if err != nil {
			return nil, err
		}
		e.Store(p | pteP | pteW | pteU | pteA)
	}
	return as.m.table(e.Load() & pteFrame), nil
}

func (as *addressSpace) newTable() (uint64, error) {
	p, err := as.m.page()
	if err == nil {
		as.pages = append(as.pages, p)
	}
	return p, err
}

// drop takes a table out, after a flush.
func (as *addressSpace) drop(p uint64) {
	for i, q := range as.pages {
		if p == q {
			as.pages[i] = as.pages[len(as.pages)-1]
			as.pages = as.pages[:len(as.pages)-1]
			break
		}
	}
	as.m.discard(p)
}

// index is va's place in the table of a level: 0 4 KiB, 1 2 MiB, 2 1 GiB, 3 512 GiB.
func index(va uint64, level int) int { return int(va >> (12 + 9*level) & 511) }

// Protect implements platform.AddressSpace.Protect.
func (as *addressSpace) Protect(at platform.Addr, length uint64, access platform.Access) error {
	bits := rights(access)
	return as.each(at, length, func(e *atomic.Uint64, size uint64, s *shootdown) {
		for {
			old := e.Load()
			if old&(pteP|pteNone) == 0 {
				return
			}
			now := old&^(pteRights) | bits
			if e.CompareAndSwap(old, now) { // the CPU sets A and D meanwhile
				if old&pteP != 0 && (now&pteP == 0 || old&pteW > now&pteW || now&pteNX > old&pteNX) {
					s.gone(old, size)
				}
				return
			}
		}
	})
}

// Unmap implements platform.AddressSpace.Unmap.
func (as *addressSpace) Unmap(at platform.Addr, length uint64) error {
	return as.each(at, length, func(e *atomic.Uint64, size uint64, s *shootdown) {
		var now uint64
		if size == hugeSize {
			now = pteWasHuge | as.m.begun.Load()<<12
		}
		s.gone(e.Swap(now), size)
	})
}

// each calls f with the entries that map part of [at, at+length), splitting
// huge ones at the ends.
func (as *addressSpace) each(at platform.Addr, length uint64, f func(e *atomic.Uint64, size uint64, s *shootdown)) error {
	as.mu.Lock()
	defer as.mu.Unlock()
	s := shootdown{as: as}
	var err error
	for va, end := uint64(at), uint64(at)+length; va < end && err == nil; {
		step := min(end-va, hugeSize-va%hugeSize)
		e, skip := as.find(va)
		switch {
		case e == nil:
			step = min(end-va, skip-va%skip)
		case e.Load()&pteHuge != 0 && step == hugeSize:
			f(e, hugeSize, &s)
		case e.Load()&(pteP|pteHuge) == 0: // nothing was mapped
		default:
			var t *table
			if t, err = as.leaf(e, &s); err == nil {
				i := index(va, 0)
				for k := range int(step / pageSize) {
					if t[i+k].Load() != 0 {
						f(&t[i+k], pageSize, &s)
					}
				}
			}
		}
		va += step
	}
	if e := s.done(); err == nil {
		err = e
	}
	return err
}

// find is the 2 MiB entry for va, or nil and the size of the hole around it.
func (as *addressSpace) find(va uint64) (e *atomic.Uint64, hole uint64) {
	if va>>47 != 0 {
		return nil, 1 << 39
	}
	top := as.top[index(va, 3)]
	if top == 0 {
		return nil, 1 << 39
	}
	p := as.m.table(top & pteFrame)[index(va, 2)].Load()
	if p == 0 {
		return nil, 1 << 30
	}
	return &as.m.table(p & pteFrame)[index(va, 1)], 0
}

// lookup is the guest address that va shows, with the rights of its entry.
func (as *addressSpace) lookup(va uint64) (gpa, pte uint64) {
	as.mu.Lock()
	defer as.mu.Unlock()
	e, _ := as.find(va)
	if e == nil {
		return 0, 0
	}
	pte = e.Load()
	if pte&pteHuge != 0 {
		return pte&pteFrame + va%hugeSize, pte
	}
	if pte&pteP == 0 {
		return 0, 0
	}
	pte = as.m.table(pte & pteFrame)[index(va, 0)].Load()
	return pte&pteFrame + va%pageSize, pte
}

// attach gives v a top level for this address space.
func (as *addressSpace) attach(v *vcpu) (uint64, error) {
	as.mu.Lock()
	defer as.mu.Unlock()
	if r, ok := as.roots[v]; ok {
		return r, nil
	}
	r, err := as.m.page()
	if err != nil {
		return 0, err
	}
	t := as.m.table(r)
	for _, i := range as.tops {
		t[i].Store(as.top[i])
	}
	t[511].Store(v.half)
	as.roots[v] = r
	return r, nil
}

// detach takes it back; v's CR3 names another by now, or v will not run before it does.
func (as *addressSpace) detach(v *vcpu) {
	as.mu.Lock()
	defer as.mu.Unlock()
	if r, ok := as.roots[v]; ok {
		delete(as.roots, v)
		as.m.discard(r)
	}
}

// Release implements platform.AddressSpace.Release. Nothing needs a shootdown:
// no vCPU comes here again, and the tables are not used anew before a flush.
func (as *addressSpace) Release() {
	as.mu.Lock()
	defer as.mu.Unlock()
	for _, r := range as.roots {
		t := as.m.table(r)
		for _, i := range as.tops {
			t[i].Store(0)
		}
	}
	as.m.discard(as.pages...)
	as.pages, as.tops, as.top = nil, nil, [topEntries]uint64{}
	as.released = true
}
