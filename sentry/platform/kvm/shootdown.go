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
	runs  []run // of the arena's memory, in guest addresses
	whole bool  // too many runs, or memory whose mapping we may not touch
}

type run struct{ gpa, n uint64 }

// maxRuns is where one flush of everything gets cheaper than so many changes of
// protection, 5 to 50 µs each.
const maxRuns = 6

// gone notes that old, an entry for size bytes, is no more. An entry that was
// never accessed was never cached, neither by a CPU (APM vol. 2 §5.4.2) nor by KVM.
func (s *shootdown) gone(old, size uint64) {
	if old&pteP == 0 || old&pteA == 0 || s.whole {
		return
	}
	if old&pteArena == 0 {
		s.whole = true
		return
	}
	gpa := old & pteFrame
	if n := len(s.runs); n > 0 && s.runs[n-1].gpa+s.runs[n-1].n == gpa {
		s.runs[n-1].n += size
		return
	}
	if len(s.runs) == maxRuns {
		s.whole = true
		return
	}
	s.runs = append(s.runs, run{gpa, size})
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

// touch changes the protection of the arena's pages to more and back. Nobody
// who reads or writes them meanwhile notices, neither the Sentry nor another
// address space that maps them, but for a fault that KVM answers.
func (m *guestMemory) touch(r run) bool {
	b := m.host(r.gpa, r.n)
	const plain = unix.PROT_READ | unix.PROT_WRITE
	return b != nil && unix.Mprotect(b, plain|unix.PROT_EXEC) == nil && unix.Mprotect(b, plain) == nil
}
