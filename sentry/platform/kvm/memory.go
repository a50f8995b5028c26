package kvm

import (
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/kvm"
	"bulkhead/sentry/platform"
)

const (
	pageSize = 4096
	hugeSize = 2 << 20

	// chunk is how much memory one slot covers. Shadow paging allocates reverse
	// maps for each page of a slot (8 bytes a page and level), so a slot is made
	// when something in it is first mapped, and never for a whole arena.
	chunk = 64 << 20

	// ownSize is room for page tables, slots and stacks; ownChunk is as chunk.
	ownSize  = 4 << 30
	ownChunk = 4 << 20

	// appBase is where the applications' memory begins, above all that a machine
	// has below 4 GiB and above our own.
	appBase = 16 << 30

	// flushSlot exists to be dropped: KVM then forgets all translations.
	flushSlot = 0
	flushGPA  = 8 << 30

	// parked is how many pages of dead page tables wait for a flush together.
	parked = 512
)

// guestMemory is the machine's physical memory: our own pages, and the regions
// that the Sentry announced.
//
// Page tables are written by the host, which shadow paging does not see: it
// keeps what it derived from a table until it is told. So a page that was a
// table is used again only after flush.
type guestMemory struct {
	vm        *kvm.VM
	own       []byte
	notifier  *notifier  // nil: mprotect has to do,
	protectMu sync.Mutex // one at a time

	mu       sync.Mutex
	next     uint64   // first page of own never used
	backed   uint64   // end of own's slots
	free     []uint64 // pages of own
	dead     []uint64 // pages of own that KVM may still know as tables
	slots    uint32
	maxSlots uint32
	regions  []region
	top      uint64 // end of the last region

	// begun and ended count flushes. What changed when begun was n is flushed
	// when ended is more than n.
	flushMu      sync.Mutex
	begun, ended atomic.Uint64
}

// region is what AddMemory announced, with the guest address it got.
type region struct {
	host   []byte
	at     uint64
	gpa    uint64
	backed []atomic.Bool // chunks
}

func newGuestMemory(vm *kvm.VM, maxSlots int) (*guestMemory, error) {
	own, err := unix.Mmap(-1, 0, ownSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("platform/kvm: reserve page tables: %w", err)
	}
	// Small pages: a huge one would hold a few tables and count for 2 MiB.
	_ = unix.Madvise(own, unix.MADV_NOHUGEPAGE)
	m := &guestMemory{vm: vm, own: own, notifier: newNotifier(), slots: flushSlot + 1, maxSlots: uint32(maxSlots), top: appBase, next: pageSize}
	if err := vm.SetMemory(flushSlot, flushGPA, own[:pageSize], 0); err != nil {
		unix.Munmap(own)
		return nil, err
	}
	return m, nil
}

// page hands out a zeroed page of our own.
func (m *guestMemory) page() (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.free) == 0 && len(m.dead) >= parked {
		if err := m.recycleLocked(); err != nil {
			return 0, err
		}
	}
	if n := len(m.free); n > 0 {
		p := m.free[n-1]
		m.free = m.free[:n-1]
		clear(m.own[p : p+pageSize])
		return p, nil
	}
	if m.next == m.backed || m.backed == 0 {
		if err := m.growLocked(); err != nil {
			return 0, err
		}
	}
	p := m.next
	m.next += pageSize
	return p, nil
}

func (m *guestMemory) growLocked() error {
	if m.backed >= uint64(len(m.own)) {
		return platform.ErrMemory
	}
	id, err := m.slotLocked()
	if err != nil {
		return err
	}
	if err := m.vm.SetMemory(id, kvm.GPA(m.backed), m.own[m.backed:m.backed+ownChunk], 0); err != nil {
		return err
	}
	m.backed += ownChunk
	return nil
}

func (m *guestMemory) slotLocked() (uint32, error) {
	if m.slots >= m.maxSlots {
		return 0, platform.ErrMemory
	}
	m.slots++
	return m.slots - 1, nil
}

// discard takes pages back that no table and no CR3 names any more.
func (m *guestMemory) discard(pages ...uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = append(m.dead, pages...)
}

func (m *guestMemory) recycleLocked() error {
	if err := m.flush(); err != nil {
		return err
	}
	m.free = append(m.free, m.dead...)
	m.dead = m.dead[:0]
	return nil
}

// flush makes KVM forget every translation of the machine, for hardware and
// shadow paging alike (virt/kvm/kvm_main.c, kvm_invalidate_memslot →
// kvm_mmu_zap_all_fast), and waits until no vCPU uses an old one. It costs 15 µs
// and what the vCPUs spend on finding their working set again.
func (m *guestMemory) flush() error {
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	m.begun.Add(1)
	if err := m.vm.DropMemory(flushSlot); err != nil {
		return err
	}
	if err := m.vm.SetMemory(flushSlot, flushGPA, m.own[:pageSize], 0); err != nil {
		return err
	}
	m.ended.Add(1)
	return nil
}

// add gives a region its guest addresses.
func (m *guestMemory) add(host []byte) error {
	if len(host) == 0 || len(host)%pageSize != 0 {
		return fmt.Errorf("platform/kvm: a region of %d bytes is not whole pages", len(host))
	}
	m.notifier.watch(host)
	m.mu.Lock()
	defer m.mu.Unlock()
	at := address(host)
	gpa := m.top + at%hugeSize // huge pages need the same offset on both sides
	m.regions = append(m.regions, region{host, at, gpa, make([]atomic.Bool, (at%hugeSize+uint64(len(host))+chunk-1)/chunk+1)})
	m.top = (gpa + uint64(len(host)) + 1<<30 - 1) &^ (1<<30 - 1)
	return nil
}

// back returns where host is in the guest, backed by slots, and how many of its bytes: regions
// that lie in a row in the Sentry's memory do not in the guest's.
func (m *guestMemory) back(host []byte) (gpa, size uint64, err error) {
	at, n := address(host), uint64(len(host))
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.regions {
		r := &m.regions[i]
		if at < r.at || at-r.at >= uint64(len(r.host)) {
			continue
		}
		off := at - r.at
		n := min(n, uint64(len(r.host))-off)
		for c := off / chunk; c*chunk < off+n; c++ {
			if r.backed[c].Load() {
				continue
			}
			id, err := m.slotLocked()
			if err != nil {
				return 0, 0, err
			}
			end := min((c+1)*chunk, uint64(len(r.host)))
			if err := m.vm.SetMemory(id, kvm.GPA(r.gpa+c*chunk), r.host[c*chunk:end], 0); err != nil {
				return 0, 0, err
			}
			r.backed[c].Store(true)
		}
		return r.gpa + off, n, nil
	}
	return 0, 0, fmt.Errorf("platform/kvm: %d bytes at %#x are in no region that was announced", n, at)
}

// host is the memory behind [gpa, gpa+n), or nil.
func (m *guestMemory) host(gpa, n uint64) []byte {
	if gpa < ownSize {
		return m.own[gpa : gpa+n]
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.regions {
		r := &m.regions[i]
		if gpa >= r.gpa && gpa-r.gpa < uint64(len(r.host)) && n <= uint64(len(r.host))-(gpa-r.gpa) {
			return r.host[gpa-r.gpa:][:n]
		}
	}
	return nil
}

func (m *guestMemory) close() error {
	m.notifier.close()
	return unix.Munmap(m.own)
}
