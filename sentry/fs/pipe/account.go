package pipe

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// A pipe counts twice. Its room, used or not, counts for the user who made it, whom the
// limits below bound (pipe(7), /proc/sys/fs/pipe-user-pages-*): without them a thousand
// descriptors would be a gigabyte. What it really takes counts as the container's memory.
const minSize = 2 * 4096 // of a user's pipes past the soft limit (PIPE_MIN_DEF_BUFFERS)

// Limits are the pages that a user's pipes may have room for, unless the user has
// CAP_SYS_RESOURCE or CAP_SYS_ADMIN; 0 is none.
var Limits = newLimits()

type limits struct{ Soft, Hard atomic.Int64 }

func newLimits() *limits {
	l := new(limits)
	l.Soft.Store(16384) // PIPE_DEF_BUFFERS * INR_OPEN_CUR
	return l
}

// rooms are the pages that each user's pipes have room for.
var rooms = struct {
	mu sync.Mutex
	of map[uint32]int64
}{of: map[uint32]int64{}}

// account changes a user's pages and returns how many there are.
func account(uid uint32, pages int64) int64 {
	rooms.mu.Lock()
	defer rooms.mu.Unlock()
	n := rooms.of[uid] + pages
	if rooms.of[uid] = n; n == 0 {
		delete(rooms.of, uid)
	}
	return n
}

func passes(limit *atomic.Int64, pages int64) bool {
	l := limit.Load()
	return l != 0 && pages > l
}

func bounded(ctx vfs.Context) bool {
	c := ctx.Creds()
	return !c.Has(unix.CAP_SYS_RESOURCE) && !c.Has(unix.CAP_SYS_ADMIN)
}

// newPipe is alloc_pipe_info (fs/pipe.c); nil is a user past the hard limit.
func newPipe(ctx vfs.Context) *Pipe {
	p := &Pipe{id: lastID.Add(1), size: defaultSize, uid: ctx.Creds().UID}
	if mm := ctx.Memory(); mm != nil {
		p.arena = mm.Arena()
	}
	n := account(p.uid, pages(p.size))
	if passes(&Limits.Soft, n) && bounded(ctx) {
		n = account(p.uid, pages(minSize)-pages(p.size))
		p.size = minSize
	}
	if passes(&Limits.Hard, n) && bounded(ctx) {
		account(p.uid, -pages(p.size))
		return nil
	}
	return p
}

func pages(size int) int64 { return int64(size / 4096) }

// resizeLocked counts another size (pipe_set_size).
func (p *Pipe) resizeLocked(ctx vfs.Context, size int) error {
	n := account(p.uid, pages(size)-pages(p.size))
	if size > p.size && (passes(&Limits.Hard, n) || passes(&Limits.Soft, n)) && bounded(ctx) {
		account(p.uid, pages(p.size)-pages(size))
		return unix.EPERM
	}
	p.size = size
	return nil
}

// chargeLocked counts the ring's memory as size bytes.
func (p *Pipe) chargeLocked(size int) error {
	if p.arena == nil {
		return nil
	}
	if err := p.arena.Charge(pages(size) - p.charged); err != nil {
		return err
	}
	p.charged = pages(size)
	return nil
}

// closeLocked gives up what the pipe counts for.
func (p *Pipe) closeLocked() {
	account(p.uid, -pages(p.size))
	p.chargeLocked(0) // less is never refused
	p.ring, p.n, p.packets, p.loose = nil, 0, nil, 0
}
