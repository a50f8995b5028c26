package virtio

import (
	"math/rand/v2"
	"testing"
)

// TestCrossed compares with going there step by step.
func TestCrossed(t *testing.T) {
	byStep := func(event, from, to uint16) bool {
		for ; from != to; from++ {
			if from == event {
				return true
			}
		}
		return false
	}
	edges := []uint16{0, 1, 2, 255, 1<<15 - 1, 1 << 15, 1<<15 + 1, 1<<16 - 2, 1<<16 - 1}
	random := rand.New(rand.NewPCG(1, 2))
	for _, from := range edges {
		for range 300 {
			steps := uint16(random.UintN(300))
			event := from + uint16(random.UintN(600)) - 150
			if got, want := crossed(event, from, from+steps), byStep(event, from, from+steps); got != want {
				t.Errorf("event %d, from %d by %d: got %v, want %v", event, from, steps, got, want)
			}
		}
	}
}

// TestIndexKeepsNeighbours stores into each half of a word.
func TestIndexKeepsNeighbours(t *testing.T) {
	ring := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	StoreIndex(ring, 2, 0xbbaa)
	StoreIndex(ring, 4, 0xddcc)
	if want := [8]byte{1, 2, 0xaa, 0xbb, 0xcc, 0xdd, 7, 8}; [8]byte(ring) != want {
		t.Errorf("got %x, want %x", ring, want)
	}
	for at, want := range map[int]uint16{0: 0x0201, 2: 0xbbaa, 4: 0xddcc, 6: 0x0807} {
		if got := LoadIndex(ring, at); got != want {
			t.Errorf("at %d: got %#x, want %#x", at, got, want)
		}
	}
}
