package memory

import (
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"
)

// region is reserved address space of the Sentry's, announced to the platform
// unit by unit as it comes into use, and the free blocks in it. Arena.mu guards it.
type region struct {
	base  []byte // the part that begins at a 2 MiB border
	whole []byte
	ready int // units in use
	clean []*blocks
	dirty []*blocks // free but not zero; always empty for windows
	grow  func(part []byte, off int64) error
}

func newRegion(size uint64, grow func([]byte, int64) error) (*region, error) {
	for ; ; size /= 2 { // RLIMIT_AS may allow less
		whole, err := unix.Mmap(-1, 0, int(size+hugeSize), unix.PROT_NONE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err == nil {
			skip := (hugeSize - misaligned(whole, hugeSize)) % hugeSize
			return &region{base: whole[skip:][:size], whole: whole, grow: grow}, nil
		}
		if size <= unitSize {
			return nil, fmt.Errorf("memory: reserve %d bytes of address space: %w", size, err)
		}
	}
}

func (r *region) close() error { return unix.Munmap(r.whole) }

// bytes are n pages from page pfn on.
func (r *region) bytes(pfn, n uint32) []byte {
	at := int(pfn) * PageSize
	end := at + int(n)*PageSize
	return r.base[at:end:end]
}

// take removes n pages (at most 512) in a row from the free ones.
func (r *region) take(sets []*blocks, n uint32) (pfn uint32, ok bool) {
	k := bits.Len32(n - 1)
	for u, b := range sets {
		if b.free < n {
			continue
		}
		if at, ok := b.take(k, n); ok {
			return uint32(u)*unitPages + at, true
		}
	}
	return 0, false
}

// takeClean takes from the zero pages, and makes more of them usable at need.
func (r *region) takeClean(n uint32) (uint32, error) {
	for {
		if pfn, ok := r.take(r.clean, n); ok {
			return pfn, nil
		}
		if err := r.more(); err != nil {
			return 0, err
		}
	}
}

// put frees pages into one of the sets. They lie within one unit.
func (r *region) put(sets []*blocks, pfn, n uint32) {
	for n > 0 {
		at := pfn % unitPages
		part := min(n, unitPages-at)
		sets[pfn/unitPages].put(at, part)
		pfn, n = pfn+part, n-part
	}
}

// more makes the next units usable: as many as there are, up to 16 (1 GiB), so
// that the platform hears of few regions.
func (r *region) more() error {
	n := min(max(r.ready, 1), 16, len(r.base)/unitSize-r.ready)
	if n <= 0 {
		return unix.ENOMEM
	}
	off := r.ready * unitSize
	if err := r.grow(r.base[off:off+n*unitSize], int64(off)); err != nil {
		return err
	}
	for range n {
		c := newBlocks()
		c.put(0, unitPages)
		r.clean, r.dirty = append(r.clean, c), append(r.dirty, newBlocks())
	}
	r.ready += n
	return nil
}
