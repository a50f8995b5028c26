package socket

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
)

// still is a platform that runs nothing.
type still struct{ platform.Platform }

func (still) Private() bool          { return true }
func (still) AddMemory([]byte) error { return nil }

const limit = 64 // pages

func newHeld(t *testing.T) (*Held, *memory.Arena) {
	a, err := memory.NewArena(still{}, limit*memory.PageSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	h := &Held{}
	h.arena.Store(a)
	return h, a
}

// TestHeld: what sockets hold counts in pages, and is refused past the limit.
func TestHeld(t *testing.T) {
	h, a := newHeld(t)
	for _, row := range []struct {
		n           int64 // more, or less
		err         error
		bytes, page int64
	}{
		{1, nil, 1, 1},
		{memory.PageSize - 1, nil, memory.PageSize, 1},
		{1, nil, memory.PageSize + 1, 2},
		{(limit - 1) * memory.PageSize, unix.ENOBUFS, memory.PageSize + 1, 2},
		{(limit-1)*memory.PageSize - 1, nil, limit * memory.PageSize, limit},
		{1, unix.ENOBUFS, limit * memory.PageSize, limit},
		{-limit*memory.PageSize + 1, nil, 1, 1},
		{-1, nil, 0, 0},
	} {
		var err error
		if row.n < 0 {
			h.Sub(-row.n)
		} else {
			err = h.Add(row.n)
		}
		if err != row.err || h.Load() != row.bytes || int64(a.Usage()) != row.page*memory.PageSize {
			t.Errorf("%+d: %v, %d bytes held, %d in use; want %v, %d, %d", row.n, err, h.Load(), a.Usage(), row.err, row.bytes, row.page*memory.PageSize)
		}
	}
}

// TestHeldByMany: however their steps fall between each other's, what many hold and give
// back leaves nothing in use.
func TestHeldByMany(t *testing.T) {
	h, a := newHeld(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 2000 {
				n := int64((i*7919 + j*104729) % (12 * memory.PageSize))
				if h.Add(n) == nil {
					h.Sub(n)
				}
			}
		})
	}
	wg.Wait()
	if h.Load() != 0 || a.Usage() != 0 {
		t.Errorf("%d bytes held, %d in use", h.Load(), a.Usage())
	}
}
