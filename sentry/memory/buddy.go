package memory

import "math/bits"

// A region is cut into units, and a unit into power-of-two blocks of pages up to
// a huge page. Bitmaps rather than lists: the lowest block always goes first,
// which keeps what is used dense (huge pages are shared by neighbours, and one
// platform.Map covers many pages).
const (
	hugeOrder = 9
	hugePages = 1 << hugeOrder // pages of 2 MiB
	hugeSize  = hugePages * PageSize
	unitPages = 1 << 14
	unitSize  = unitPages * PageSize // 64 MiB
	orders    = hugeOrder + 1
)

// blocks are the free blocks of one unit, or of one kind of them.
type blocks struct {
	maps  [orders][]uint64
	count [orders]int
	free  uint32 // pages
}

func newBlocks() *blocks {
	b := new(blocks)
	for k := range b.maps {
		b.maps[k] = make([]uint64, max(1, unitPages>>k/64))
	}
	return b
}

func (b *blocks) has(k int, i uint32) bool { return b.maps[k][i/64]&(1<<(i%64)) != 0 }

func (b *blocks) flip(k int, i uint32) { b.maps[k][i/64] ^= 1 << (i % 64) }

// put frees pages [at, at+n) of the unit, joining them with their buddies.
func (b *blocks) put(at, n uint32) {
	b.free += n
	for n > 0 {
		k := min(bits.TrailingZeros32(at|1<<hugeOrder), bits.Len32(n)-1)
		i := at >> k
		at, n = at+1<<k, n-1<<k
		for k < hugeOrder && b.has(k, i^1) {
			b.flip(k, i^1)
			b.count[k]--
			k, i = k+1, i/2
		}
		b.flip(k, i)
		b.count[k]++
	}
}

// take removes n pages, at most 1<<k, from the lowest block of the smallest
// order that holds 1<<k.
func (b *blocks) take(k int, n uint32) (uint32, bool) {
	for j := k; j < orders; j++ {
		if b.count[j] == 0 {
			continue
		}
		at := b.lowest(j) << j
		b.flip(j, at>>j)
		b.count[j]--
		b.free -= 1 << j
		b.put(at+n, 1<<j-n)
		return at, true
	}
	return 0, false
}

func (b *blocks) lowest(k int) uint32 {
	for w, m := range b.maps[k] {
		if m != 0 {
			return uint32(w*64 + bits.TrailingZeros64(m))
		}
	}
	panic("memory: a count of free blocks disagrees with its map")
}
