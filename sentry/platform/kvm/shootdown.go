package kvm

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// shootdown collects what a change of page tables took away, and makes sure in
// the end that no vCPU uses it any more: KVM does not see the host's writes to a
// guest's tables, but drops and flushes what it derived from them when the host's
// mapping of the pages changes (virt/kvm/kvm_main.c, kvm_mmu_notifier_invalidate_range_start).
type shootdown struct {
	as    *addressSpace
	runs  []run
	whole bool // too many runs
}

// run is guest memory that lies in a row, of the arena or of a window onto a file.
type run struct {
	gpa, n uint64
	arena  bool
}

// maxRuns is where one flush gets cheaper than so many changes of the host's
// mapping: 8 µs each, against 30 µs and some hundred pages that all processes find
// anew, at 4 to 30 µs each (BenchmarkShootdown, BenchmarkFirstTouch).
const maxRuns = 48

// gone notes that old, an entry for size bytes, is no more.
func (s *shootdown) gone(old, size uint64) {
	if old&pteP == 0 || s.whole {
		return
	}
	r := run{old & pteFrame, size, old&pteArena != 0}
	if n := len(s.runs); n > 0 {
		last := &s.runs[n-1]
		if last.gpa+last.n == r.gpa && last.arena == r.arena {
			last.n += size
			return
		}
	}
	if len(s.runs) == maxRuns {
		s.whole = true
		return
	}
	s.runs = append(s.runs, r)
}

// replace stores pte in e. The same page with more rights takes nothing away: a
// stale entry faults once more.
func (s *shootdown) replace(e *atomic.Uint64, pte, size uint64) {
	old := e.Swap(pte)
	same := (old^pte)&pteFrame == 0 && old&pteHuge == pte&pteHuge
	if same && old&pteW <= pte&pteW && pte&pteNX <= old&pteNX && pte&pteP != 0 {
		return
	}
	s.gone(old, size)
}

// flushAll does at once all that is due, and more.
func (s *shootdown) flushAll() error {
	s.runs, s.whole = nil, false
	return s.as.m.flush()
}

// done ends the shootdown.
func (s *shootdown) done() error {
	if s.whole {
		return s.flushAll()
	}
	for _, r := range s.runs {
		if !s.as.m.touch(r) {
			return s.flushAll()
		}
	}
	return nil
}

// touch has the kernel tell KVM that r changed, for no other purpose. Where the
// host has no page, nothing was derived from it either, and nobody is told.
//
// A window is a shared mapping, so dropping its pages loses nothing; its
// protection is not ours to know. The arena's pages are notified of. Where that is
// not to be had their protection changes and comes back, in a way that means nothing to
// the CPU (arch/x86/mm/pgprot.c, protection_map: private pages to be written can be read):
// nobody who reads or writes them meanwhile notices, neither the Sentry nor another
// address space, but for a fault that KVM answers.
func (m *guestMemory) touch(r run) bool {
	b := m.host(r.gpa, r.n)
	switch {
	case b == nil:
		return false
	case !r.arena:
		return unix.Madvise(b, unix.MADV_DONTNEED) == nil
	case m.notifier.notify(b):
		return true
	}
	m.protectMu.Lock()
	defer m.protectMu.Unlock()
	return unix.Mprotect(b, unix.PROT_WRITE) == nil && unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE) == nil
}

// settle returns when no protection is other than it should be.
func (m *guestMemory) settle() {
	m.protectMu.Lock()
	defer m.protectMu.Unlock()
}
