package platform

import (
	"sync/atomic"
	"testing"
)

// TestStore stores between two neighbours, so that one store of too many bytes, or
// elsewhere, shows.
func TestStore(t *testing.T) {
	var a [3]atomic.Int64
	var b [3]atomic.Uint32
	for i := range a {
		a[i].Store(-1)
		b[i].Store(^uint32(0))
	}
	Store64(&a[1], 1<<62+5)
	Store32(&b[1], 1<<30+7)
	for i, want := range []int64{-1, 1<<62 + 5, -1} {
		if got := a[i].Load(); got != want {
			t.Errorf("64 bits, place %d: %#x, want %#x", i, got, want)
		}
	}
	for i, want := range []uint32{^uint32(0), 1<<30 + 7, ^uint32(0)} {
		if got := b[i].Load(); got != want {
			t.Errorf("32 bits, place %d: %#x, want %#x", i, got, want)
		}
	}
}
