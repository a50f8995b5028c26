package kvm

import (
	"sync/atomic"

	"bulkhead/sentry/platform"
)

// tally is what a vCPU's owner has counted. One goroutine writes it, so that no
// cache line goes from CPU to CPU for a count's sake.
type tally [tallies]atomic.Int64

// Tallies of a vCPU.
const (
	tallyExitless  = iota // calls that came by the slot, without an exit
	tallyExitCalls        // calls that an exit brought
	tallyTrapped          // of both, those whose SYSCALL trapped, where that can be told
	tallyExits            // returns of KVM_RUN
	tallyFaults
	tallyExceptions
	tallyKicks // interruptions that Run reported
	tallies
)

var tallyNames = [tallies]string{"calls_exitless", "calls_by_exit", "calls_trapped", "exits", "page_faults", "exceptions", "interrupts"}

func (t *tally) add(i int) { platform.Store64(&t[i], t[i].Load()+1) }

// Outcomes of a hot call site. Each counts once, in Platform.sites.
const (
	sitePatched     = iota
	siteUnknownForm // what stands around the SYSCALL cannot be moved
	siteUnaligned   // the jump would not be one store, and other threads run
	siteNoRoom      // no trampoline is near enough, or none that a thread would trap on
	siteRefused     // memory says no: not private file-backed text, changed, or a debugger looks
	siteOutcomes
)

var siteNames = [siteOutcomes]string{"sites_patched", "sites_refused_form", "sites_refused_threads", "sites_refused_room", "sites_refused_text"}

// Counters implements platform.Counted. Of calls_exitless and calls_by_exit those that
// are not in calls_trapped came by a patched site, where the platform patches
// at all (user_stub).
func (p *Platform) Counters() []platform.Counter {
	var sum [tallies]uint64
	p.mu.Lock()
	for _, v := range p.all {
		for i := range sum {
			sum[i] += uint64(v.tally[i].Load())
		}
	}
	vcpus := len(p.all)
	p.mu.Unlock()
	var cs []platform.Counter
	for i, n := range sum {
		cs = append(cs, platform.Counter{Name: tallyNames[i], Value: n})
	}
	for i := range p.sites {
		cs = append(cs, platform.Counter{Name: siteNames[i], Value: p.sites[i].Load()})
	}
	patches := uint64(0)
	if p.userStub {
		patches = 1
	}
	return append(cs, platform.Counter{Name: "vcpus", Value: uint64(vcpus), Level: true}, platform.Counter{Name: "user_stub", Value: patches, Level: true})
}
