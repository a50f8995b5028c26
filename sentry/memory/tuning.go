package memory

// tuning is how much is done ahead of need, in pages and in calls of
// platform.Map: a fault is far dearer than what it maps.
type tuning struct {
	window    uint32 // pages around a first fault in anonymous memory
	eager     uint64 // anonymous areas up to this size get all their pages with mmap
	copies    uint64 // private writable maps of files up to this size are copied with mmap
	cow       uint64 // pages that one fault copies
	zeros     uint64 // an area of so many pages shows zeros to who only looks
	calls     int    // that one fault may make
	forkCalls int    // that a fork makes for the child
	forkArea  uint64 // areas with up to so many pages are copied by fork, not later
	forkPages uint64 // and so many pages in all
}

var (
	// frugal is for when memory is short.
	frugal = tuning{window: 16, eager: 36, copies: 16, cow: 16, zeros: 64, calls: 4, forkCalls: 32, forkArea: 0, forkPages: 0}

	// ptrace: a fault costs 10 µs and more, a call 5, and the host allocates a page
	// of a memfd when it is touched. malloc's first brk has 33 pages, Python's
	// arenas 256, its data 300.
	cheapFaults = tuning{window: 64, eager: 256, copies: 320, cow: 16, zeros: 512, calls: 4, forkCalls: 64, forkArea: 64, forkPages: 256}

	// kvm: a fault costs 50-250 µs, a call a store for each page; a page that is
	// replaced in a page table costs a shootdown, so what will be copied is better
	// not shown before.
	dearFaults = tuning{window: 64, eager: 256, copies: 512, cow: 32, zeros: 512, calls: 64, forkCalls: 512, forkArea: 128, forkPages: 512}
)

// tuning is generous as long as memory is.
func (s *Space) tuning() *tuning {
	switch {
	case !s.a.plenty():
		return &frugal
	case s.a.private:
		return &dearFaults
	}
	return &cheapFaults
}
