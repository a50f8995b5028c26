package memory

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// Layout of an address space (arch/x86/mm/mmap.c).
const (
	stackGuard = 256 * PageSize // bytes kept free below a stack (mm/mmap.c, stack_guard_gap)
	maxAreas   = 65530          // vm.max_map_count
	stackRand  = 1 << 34        // bytes of randomness of the stack's top
	mapRand    = 1 << 40        // and of the place of mappings: 28 bits of pages
)

// Space is one address space (mm_struct).
type Space struct {
	a  *Arena
	p  platform.Platform
	as platform.AddressSpace

	users atomic.Int64
	owner atomic.Int32

	// limit is the end of what can be mapped; stackTop and mapBase are where
	// stack and mappings begin, downwards. They never change.
	limit, stackTop, mapBase Addr

	mu      sync.RWMutex
	areas   []*area // by address, without overlap
	pending pending
	table   table // pages of the space's own: anonymous memory and private copies
	gone    []Mappable

	patches  map[Addr]changed // text that was changed for the platform's sake, by address
	pristine bool             // no more of that

	limitAS, limitData, limitStack uint64 // bytes
	virtual, data, locked          uint64 // bytes
	peakVirtual, peakResident      uint64
	peakPages                      uint64 // of the table's
	brkStart, brk                  Addr
	stackLow, stackHigh            Addr
	lockNew                        bool // mlockall(MCL_FUTURE)
	dead                           bool

	storesMu sync.Mutex
	stores   *pins // of those that the Sentry stores into
}

// bounded is what a platform offers that keeps the top of the address space.
type bounded interface{ TaskSize() platform.Addr }

// maxSpaces is how many there may be: each may have two references to a page (one in
// passing, while it moves), and a page counts less than 1<<16.
const maxSpaces = onePin/2 - 1<<12

// newPlatformSpace makes what the platform has of a space; unix.EAGAIN past maxSpaces.
func newPlatformSpace(a *Arena, p platform.Platform) (platform.AddressSpace, error) {
	if a.spaces.Add(1) > maxSpaces {
		a.spaces.Add(-1)
		return nil, unix.EAGAIN
	}
	as, err := p.NewAddressSpace()
	if err != nil {
		a.spaces.Add(-1)
		return nil, fmt.Errorf("memory: make an address space: %w", err)
	}
	return as, nil
}

// NewSpace makes an empty address space with one user.
func NewSpace(a *Arena, p platform.Platform) (*Space, error) {
	as, err := newPlatformSpace(a, p)
	if err != nil {
		return nil, err
	}
	s := newSpace(a, p, as)
	s.stackTop = s.limit - Addr(random(stackRand))
	// Programs may raise their stack's limit up to what lies below it
	// (arch/x86/mm/mmap.c, mmap_base): a fixed 1 GiB is kept rather than RLIMIT_STACK,
	// which the loader may set after this.
	s.mapBase = s.limit - stackRand - 1<<30 - Addr(random(mapRand))
	return s, nil
}

func newSpace(a *Arena, p platform.Platform, as platform.AddressSpace) *Space {
	s := &Space{a: a, p: p, as: as, limit: platform.TaskSize, table: newTable(a),
		limitAS: math.MaxUint64, limitData: math.MaxUint64, limitStack: 8 << 20}
	if b, ok := p.(bounded); ok {
		s.limit = b.TaskSize()
	}
	s.table.spares = true
	s.users.Store(1)
	if p, ok := as.(platform.Patchable); ok {
		p.SetPatcher(s)
	}
	return s
}

// random is a multiple of the page size below n, a power of two.
func random(n uint64) uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.NativeEndian.Uint64(b[:]) & (n - 1) &^ (PageSize - 1)
}

// Unrandomized puts stack and mappings where they are at each run
// (ADDR_NO_RANDOMIZE, which debuggers set). It comes before the first map.
func (s *Space) Unrandomized() {
	s.stackTop = s.limit
	s.mapBase = s.limit - stackRand - 1<<30
}

// Arena is whose pages the space uses.
func (s *Space) Arena() *Arena { return s.a }

// Platform is the address space for Thread.Run.
func (s *Space) Platform() platform.AddressSpace { return s.as }

// StackTop is the random address below which the loader puts the stack.
func (s *Space) StackTop() Addr { return s.stackTop }

// Owner is the process that the space is of, as SetOwner said last; 0 for none.
func (s *Space) Owner() int32       { return s.owner.Load() }
func (s *Space) SetOwner(pid int32) { s.owner.Store(pid) }

// Retain adds a user: a thread, or somebody who looks in from /proc.
func (s *Space) Retain() { s.users.Add(1) }

// Release takes a user away, and frees everything with the last.
func (s *Space) Release() {
	switch n := s.users.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("memory: a space is released twice")
	}
	s.mu.Lock()
	defer s.unlock()
	s.dead = true
	s.as.Release()
	s.a.spaces.Add(-1)
	for _, ar := range s.areas {
		s.forget(ar)
	}
	s.areas = nil
	s.table.clear()
}

// unlock ends a change. Objects are given up after it: that may close a file,
// which takes locks of other rooms.
func (s *Space) unlock() {
	gone := s.gone
	s.gone = nil
	s.mu.Unlock()
	for _, m := range gone {
		m.Unref()
	}
}

// SetLimits sets RLIMIT_AS, RLIMIT_DATA and RLIMIT_STACK, in bytes.
func (s *Space) SetLimits(as, data, stack uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limitAS, s.limitData, s.limitStack = as, data, stack
}

// SetStackRange names the area that /proc shows as [stack].
func (s *Space) SetStackRange(lo, hi Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stackLow, s.stackHigh = lo, hi
}

// pageUp rounds up; it gives 0 on overflow.
func pageUp(n uint64) uint64 { return (n + PageSize - 1) &^ (PageSize - 1) }

func vpn(at Addr) uint64 { return uint64(at) / PageSize }

func addr(vpn uint64) Addr { return Addr(vpn * PageSize) }
