// Package uring is the shared memory of io_uring(7): the rings of requests and of
// their results, as a file that is mapped and polled (io_uring/io_uring.c). What a
// request does is the business of the system calls.
//
// The rings are written by the application at any time. The Sentry keeps its own
// head of the submission ring and tail of the completion ring, reads every word
// and every entry once, masks each index, and trusts the application's own head
// and tail no further than the size of the ring.
//
// Lock order: Ring.mu is a leaf, but for the queue that is told after it.
package uring

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// Flags of io_uring_setup(2).
const (
	SetupIOPoll       = 1 << 0
	SetupSQPoll       = 1 << 1
	SetupSQAff        = 1 << 2
	SetupCQSize       = 1 << 3
	SetupClamp        = 1 << 4
	SetupAttachWQ     = 1 << 5
	SetupDisabled     = 1 << 6
	SetupSubmitAll    = 1 << 7
	SetupCoopTaskrun  = 1 << 8
	SetupTaskrunFlag  = 1 << 9
	SetupSQE128       = 1 << 10
	SetupCQE32        = 1 << 11
	SetupSingleIssuer = 1 << 12
	SetupDeferTaskrun = 1 << 13
	SetupNoMmap       = 1 << 14
	SetupRegFDOnly    = 1 << 15
	SetupNoSQArray    = 1 << 16

	served = SetupCQSize | SetupClamp | SetupAttachWQ | SetupDisabled | SetupSubmitAll | SetupCoopTaskrun | SetupTaskrunFlag |
		SetupSingleIssuer | SetupDeferTaskrun | SetupNoSQArray
)

// Features are IORING_FEAT_…: SINGLE_MMAP, NODROP, SUBMIT_STABLE, RW_CUR_POS,
// CUR_PERSONALITY, FAST_POLL, POLL_32BITS, EXT_ARG, NATIVE_WORKERS, CQE_SKIP,
// LINKED_FILE.
const Features = 1 | 2 | 4 | 8 | 16 | 32 | 64 | 256 | 512 | 2048 | 4096

const (
	maxEntries   = 32768 // IORING_MAX_ENTRIES
	maxCQEntries = 2 * maxEntries

	// Results that wait for room in the ring; one more is counted as lost.
	maxOverflow = 1 << 16

	cqeSize = 16
)

// Flags in the rings, and of a CQE.
const (
	sqCQOverflow    = 1 << 1
	cqEventDisabled = 1 << 0

	CQEBuffer = 1 << 0
	CQEMore   = 1 << 1
)

// Where things lie in the ring's memory. (Where they lie is ours to say: Params
// tells the application.) Heads and tails have a cache line each.
const (
	sqHead, sqTail                        = 0, 64
	sqMask, sqEntries, sqFlags, sqDropped = 128, 132, 136, 140
	cqHead, cqTail                        = 192, 256
	cqMask, cqEntries, cqOverflow, cqFlag = 320, 324, 328, 332
	cqes                                  = 384
)

// Params is struct io_uring_params.
type Params struct {
	SQEntries, CQEntries, Flags, SQThreadCPU, SQThreadIdle, Features, WQFD uint32
	Resv                                                                   [3]uint32
	SQ                                                                     [10]uint32 // struct io_sqring_offsets
	CQ                                                                     [10]uint32 // struct io_cqring_offsets
}

// Offsets of mmap(2).
const (
	OffSQRing = 0
	OffCQRing = 0x8000000
	OffSQEs   = 0x10000000
)

// CQE is struct io_uring_cqe.
type CQE struct {
	UserData uint64
	Res      int32
	Flags    uint32
}

// Ring is an io_uring.
type Ring struct {
	vfs.NoFile
	Flags uint32
	// Requests is what the system calls keep for the ring; Closed is called when
	// the last descriptor has gone.
	Requests any
	Closed   func()

	rings, sqes *memory.Shared
	sqN, cqN    uint32
	array       uint32 // where the indices lie; 0: there are none

	submit sync.Mutex // one submission at a time
	head   atomic.Uint32

	mu       sync.Mutex
	tail     uint32
	posted   uint32 // results ever
	lost     uint32
	overflow []CQE
	event    *vfs.Description // eventfd, or nil
	onPost   func(posted uint32)
	dead     bool

	queue vfs.Queue
}

// New makes a ring for entries requests, and completes p.
func New(a *memory.Arena, entries uint32, p *Params) (*vfs.Description, error) {
	if p.Flags&^served != 0 {
		return nil, unix.EINVAL
	}
	if p.Flags&SetupDeferTaskrun != 0 && p.Flags&SetupSingleIssuer == 0 ||
		p.Flags&SetupTaskrunFlag != 0 && p.Flags&(SetupCoopTaskrun|SetupDeferTaskrun) == 0 {
		return nil, unix.EINVAL
	}
	clamp := p.Flags&SetupClamp != 0
	if entries == 0 || entries > maxEntries && !clamp {
		return nil, unix.EINVAL
	}
	r := &Ring{Flags: p.Flags, sqN: roundUp(min(entries, maxEntries))}
	r.cqN = 2 * r.sqN
	if p.Flags&SetupCQSize != 0 {
		if p.CQEntries == 0 || p.CQEntries > maxCQEntries && !clamp {
			return nil, unix.EINVAL
		}
		if r.cqN = roundUp(min(p.CQEntries, maxCQEntries)); r.cqN < r.sqN {
			return nil, unix.EINVAL
		}
	}
	size := cqes + cqeSize*r.cqN
	if p.Flags&SetupNoSQArray == 0 {
		r.array = size
		size += 4 * r.sqN
	}
	var err error
	if r.rings, err = memory.NewShared(a, uint64(size)); err != nil {
		return nil, err
	}
	if r.sqes, err = memory.NewShared(a, uint64(sqeSize*r.sqN)); err != nil {
		r.rings.Close()
		return nil, err
	}
	for at, v := range map[uint32]uint32{sqMask: r.sqN - 1, sqEntries: r.sqN, cqMask: r.cqN - 1, cqEntries: r.cqN} {
		r.rings.Store(at, v)
	}
	p.SQEntries, p.CQEntries, p.Features = r.sqN, r.cqN, Features
	p.SQ = [10]uint32{sqHead, sqTail, sqMask, sqEntries, sqFlags, sqDropped, r.array}
	p.CQ = [10]uint32{cqHead, cqTail, cqMask, cqEntries, cqOverflow, cqes, cqFlag}
	return vfs.NewAnonymous(r, "anon_inode:[io_uring]", unix.O_RDWR), nil
}

// roundUp gives the next power of two.
func roundUp(n uint32) uint32 { return 1 << bits.Len32(n-1) }

// Entries are the sizes of the two rings.
func (r *Ring) Entries() (sq, cq uint32) { return r.sqN, r.cqN }

// Stream implements vfs.Stream: there is no position.
func (r *Ring) Stream() {}

// Queue implements vfs.File.
func (r *Ring) Queue() *vfs.Queue { return &r.queue }

// Ready implements vfs.File: readable with a result, writable with room for a
// request.
func (r *Ring) Ready(mask vfs.Events) (e vfs.Events) {
	if r.rings.Load(sqTail)-r.head.Load() < r.sqN {
		e |= vfs.EventOut
	}
	if r.Available() > 0 {
		e |= vfs.EventIn
	}
	return e & mask
}

// Mappable implements vfs.Mapper; MapOffset says what part of it an offset is.
func (r *Ring) Mappable(_ vfs.Context, m memory.MapRequest) (memory.Mappable, error) {
	s := r.rings
	if m.Offset&OffSQEs != 0 {
		s = r.sqes
	}
	if m.Length > s.Size() {
		return nil, unix.EINVAL
	}
	return s.Object, nil
}

func (r *Ring) MapOffset(off uint64) (uint64, error) {
	const which = 0xf8000000 // IORING_OFF_MMAP_MASK; what lies below it is not looked at
	switch off & which {
	case OffSQRing, OffCQRing, OffSQEs:
		return 0, nil
	}
	return 0, unix.EINVAL
}

// Release implements vfs.File.
func (r *Ring) Release() {
	if r.Closed != nil {
		r.Closed()
	}
	r.SetEvent(nil)
	r.submit.Lock()
	defer r.submit.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dead = true
	r.rings.Close()
	r.sqes.Close()
}

// Submit takes at most n requests off the ring and calls f with each until it
// says false. It returns how many it took.
func (r *Ring) Submit(n uint32, f func(SQE) bool) uint32 {
	r.submit.Lock()
	defer r.submit.Unlock()
	head := r.head.Load()
	n = min(n, r.rings.Load(sqTail)-head, r.sqN)
	done := uint32(0)
	for done < n {
		i := head & (r.sqN - 1)
		if r.array != 0 {
			i = r.rings.Load(r.array + 4*i)
		}
		head++
		if i >= r.sqN {
			r.rings.Store(sqDropped, r.rings.Load(sqDropped)+1)
			break
		}
		var b [sqeSize]byte
		r.sqes.ReadBytes(sqeSize*i, b[:])
		done++
		if !f(ParseSQE(b[:])) {
			break
		}
	}
	r.head.Store(head)
	r.rings.Store(sqHead, head)
	return done
}

// Post puts a result into the ring, or keeps it until there is room
// (IORING_FEAT_NODROP).
func (r *Ring) Post(c CQE) {
	r.mu.Lock()
	if r.dead {
		r.mu.Unlock()
		return
	}
	r.posted++
	posted, onPost := r.posted, r.onPost
	switch {
	case len(r.overflow) == 0 && r.putLocked(c):
	case len(r.overflow) < maxOverflow:
		r.overflow = append(r.overflow, c)
		r.rings.Store(sqFlags, r.rings.Load(sqFlags)|sqCQOverflow)
	default:
		r.lost++
		r.rings.Store(cqOverflow, r.lost)
	}
	event := r.event
	if event != nil && r.rings.Load(cqFlag)&cqEventDisabled != 0 {
		event = nil
	}
	if event != nil {
		event.Ref()
	}
	r.mu.Unlock()
	r.queue.Notify(vfs.EventIn)
	if event != nil {
		Signal(event)
		event.Unref()
	}
	if onPost != nil {
		onPost(posted)
	}
}

// Signal adds one to an eventfd.
func Signal(event *vfs.Description) {
	one := binary.LittleEndian.AppendUint64(nil, 1)
	event.Write(vfs.SentryContext(), memory.Buffers{one})
}

// putLocked writes c into the ring if there is room.
func (r *Ring) putLocked(c CQE) bool {
	if r.tail-r.rings.Load(cqHead) >= r.cqN {
		return false
	}
	var b [cqeSize]byte
	binary.LittleEndian.PutUint64(b[:], c.UserData)
	binary.LittleEndian.PutUint32(b[8:], uint32(c.Res))
	binary.LittleEndian.PutUint32(b[12:], c.Flags)
	r.rings.WriteBytes(cqes+cqeSize*(r.tail&(r.cqN-1)), b[:])
	r.tail++
	r.rings.Store(cqTail, r.tail)
	return true
}

// Available moves results that waited for room into the ring, and says how many
// there are for the application to take.
func (r *Ring) Available() uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead {
		return 0
	}
	for len(r.overflow) > 0 && r.putLocked(r.overflow[0]) {
		if r.overflow = r.overflow[1:]; len(r.overflow) == 0 {
			r.overflow = nil
			r.rings.Store(sqFlags, r.rings.Load(sqFlags)&^sqCQOverflow)
		}
	}
	return min(r.tail-r.rings.Load(cqHead), r.cqN) + uint32(len(r.overflow))
}

// Posted counts the results so far; f is told of each from now on (nil: nobody),
// after it was posted and without locks.
func (r *Ring) Posted() uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.posted
}

func (r *Ring) OnPost(f func(posted uint32)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onPost = f
}

// HasEvent says whether an eventfd hears of results.
func (r *Ring) HasEvent() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.event != nil
}

// SetEvent says which eventfd hears of results, nil for none; it takes the
// caller's reference, and says whether there was one before.
func (r *Ring) SetEvent(d *vfs.Description) (was bool) {
	r.mu.Lock()
	old := r.event
	r.event = d
	r.mu.Unlock()
	if old != nil {
		old.Unref()
	}
	return old != nil
}
