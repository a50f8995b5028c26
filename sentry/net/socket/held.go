package socket

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// Held counts bytes that sockets hold in the Sentry's own memory: what was sent and not
// received yet. The pages that they come to are in use in the container as its own are
// (Linux's mem_cgroup_charge_skmem), so that a thousand full sockets meet its limit and
// not the host's.
type Held struct {
	arena atomic.Pointer[memory.Arena] // nil: of no container, counted alone
	bytes atomic.Int64
}

// In has h count as ctx's, if it counts as nobody's yet.
func (h *Held) In(ctx vfs.Context) {
	if m := ctx.Memory(); m != nil {
		h.Of(m.Arena())
	}
}

// Of has h count to a, if it counts to nothing yet: what outlives the container that uses
// it first, as a pod's network does, counts to the pod's own.
func (h *Held) Of(a *memory.Arena) { h.arena.CompareAndSwap(nil, a) }

// Limit is the container's, in bytes; 0 is none.
func (h *Held) Limit() uint64 {
	if a := h.arena.Load(); a != nil {
		return a.Limit()
	}
	return 0
}

func (h *Held) Load() int64 { return h.bytes.Load() }

// Add counts n more. ENOBUFS says that the container's memory has no room for them, and
// nothing was counted: no process is killed for it, for which of them would give room
// nobody knows.
func (h *Held) Add(n int64) error {
	if _, err := h.change(n); err != nil {
		return unix.ENOBUFS // net/core/sock.c, sock_alloc_send_pskb
	}
	return nil
}

// Sub counts n less, and returns how many are left.
func (h *Held) Sub(n int64) int64 {
	left, _ := h.change(-n) // less is never refused
	return left
}

// change charges for the step from one number of bytes to the next, whichever the steps
// of others come between: so the sum of the charges is what the bytes come to.
func (h *Held) change(n int64) (int64, error) {
	a := h.arena.Load()
	for {
		was := h.bytes.Load()
		pages := pagesOf(was+n) - pagesOf(was)
		if a != nil && pages > 0 {
			if err := a.Charge(pages); err != nil {
				return was, err
			}
		}
		if h.bytes.CompareAndSwap(was, was+n) {
			if a != nil && pages < 0 {
				a.Charge(pages)
			}
			return was + n, nil
		}
		if a != nil && pages > 0 {
			a.Charge(-pages)
		}
	}
}

func pagesOf(bytes int64) int64 { return (bytes + memory.PageSize - 1) / memory.PageSize }
