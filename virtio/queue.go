package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
)

// ErrStopped ends a Wait that Interrupt called off.
var ErrStopped = errors.New("virtio: queue stopped")

// A Doorbell is how a driver wakes a device that waits for its queue: an
// eventfd that KVM writes, a channel where there is none.
type Doorbell interface {
	// Wait returns once for any number of rings since it last returned.
	Wait() error
	Ring()
}

// A Pollable is a Doorbell that can be waited for together with other things.
type Pollable interface {
	Doorbell
	// Descriptor is one that poll(2) finds readable from a ring on until Hear.
	Descriptor() int
	// Hear is Wait that finds no ring to wait for. It is called upon that.
	Hear() error
}

// Layout is where a driver put a queue (§2.7).
type Layout struct {
	Size              uint16 // entries
	Desc, Avail, Used Addr
}

// QueueState is what a queue remembers beside what lies in guest memory. The
// two differ by the chains that a device holds.
type QueueState struct {
	NextAvail uint16 // index in the available ring that is taken next
	NextUsed  uint16 // index in the used ring that is filled next
}

// Traffic counts what went through a queue.
type Traffic struct {
	Chains  uint64
	Read    uint64 // bytes that the driver gave to read
	Written uint64 // bytes that the device wrote
}

// Add sums two counts.
func (t *Traffic) Add(u Traffic) {
	t.Chains += u.Chains
	t.Read += u.Read
	t.Written += u.Written
}

// Queue is the device's side of one split virtqueue (§2.7). One goroutine takes
// from it (Next, Peek, Unpop, Wait); any may give back (Push) and Interrupt.
type Queue struct {
	mem      Memory
	features uint64
	size     uint16

	// The three parts, slices of guest memory for as long as the queue lives.
	// avail begins at availAt of its slice, which is aligned for LoadIndex.
	desc, avail, used []byte
	availAt           int

	doorbell  Doorbell
	interrupt func()

	next    uint16        // NextAvail, the taker's own
	filled  atomic.Uint32 // NextUsed; its writer holds mu
	stopped atomic.Bool

	mu        sync.Mutex
	signalled uint16   // NextUsed at the last Notify
	free      []*Chain // to use again
	traffic   Traffic
}

// Fields of the rings (§2.7.6, §2.7.8): flags, idx, then the entries; behind
// those the event field of the other side.
const (
	ringFlags   = 0
	ringIndex   = 2
	ringEntries = 4

	availEntry = 2 // bytes
	usedEntry  = 8

	noInterrupt = 1 // flags of the available ring
	noNotify    = 1 // flags of the used ring
)

// NewQueue is a queue as a driver laid it out, with features negotiated and at most max
// entries. Every part of it must be RAM, in the alignment of §2.7.
func NewQueue(mem Memory, l Layout, features uint64, max uint16) (*Queue, error) {
	if bits.OnesCount16(l.Size) != 1 || l.Size > max {
		return nil, fmt.Errorf("virtio: queue of %d entries: not a power of 2 up to %d", l.Size, max)
	}
	q := &Queue{mem: mem, features: features, size: l.Size, availAt: int(l.Avail & 3)}
	n := uint64(l.Size)
	// Four bytes of head, and the event field with the rest of its word.
	parts := []struct {
		name  string
		at    Addr
		align Addr
		from  Addr
		n     uint64
		slice *[]byte
	}{
		{"descriptor table", l.Desc, 16, l.Desc, n * descSize, &q.desc},
		{"available ring", l.Avail, 2, l.Avail &^ 3, n*availEntry + 8, &q.avail},
		{"used ring", l.Used, 4, l.Used, n*usedEntry + 8, &q.used},
	}
	for _, p := range parts {
		if p.at%p.align != 0 {
			return nil, fmt.Errorf("virtio: %s at %#x is not aligned to %d (§2.7)", p.name, p.at, p.align)
		}
		b, err := mem.Slice(p.from, p.n)
		if err != nil {
			return nil, fmt.Errorf("virtio: %s: %w", p.name, err)
		}
		if !aligned(b) {
			return nil, fmt.Errorf("virtio: %s at %#x: the host's mapping is not aligned to 4", p.name, p.at)
		}
		*p.slice = b
	}
	return q, nil
}

// SetDoorbell and SetInterrupt are the transport's, before the queue is used.
func (q *Queue) SetDoorbell(d Doorbell) { q.doorbell = d }
func (q *Queue) SetInterrupt(f func())  { q.interrupt = f }

// Size is the number of entries that the driver chose.
func (q *Queue) Size() int { return int(q.size) }

// Next is the next chain that the driver made available, or nil if there is
// none, or if the queue has been interrupted. An error is the driver's fault.
func (q *Queue) Next() (*Chain, error) {
	if q.stopped.Load() {
		return nil, nil
	}
	if ready, err := q.Peek(); !ready {
		return nil, err
	}
	at := q.availAt + ringEntries + int(q.next&(q.size-1))*availEntry
	c := q.chain()
	c.index = q.next
	if err := q.parse(c, binary.LittleEndian.Uint16(q.avail[at:])); err != nil {
		return nil, err
	}
	q.next++
	return c, nil
}

// Peek tells whether Next has a chain. The driver's index lies between ours and
// as far past the used one as the queue has entries; it does not go back (§2.7.6.1).
func (q *Queue) Peek() (bool, error) {
	// idx pairs with the driver's publication of it, after its entries.
	index := LoadIndex(q.avail, q.availAt+ringIndex)
	filled := uint16(q.filled.Load())
	offered, taken := index-filled, q.next-filled
	if offered > q.size || offered < taken {
		return false, fmt.Errorf("virtio: available index %d is %d past the used one, in a queue of %d of which %d are taken", index, offered, q.size, taken)
	}
	return offered > taken, nil
}

// chain is a chain to fill.
func (q *Queue) chain() *Chain {
	q.mu.Lock()
	defer q.mu.Unlock()
	last := len(q.free) - 1
	if last < 0 {
		return new(Chain)
	}
	c := q.free[last]
	q.free = q.free[:last]
	return c
}

// Push gives c back with what was written into its first bytes, and interrupts
// the driver if it wants that.
func (q *Queue) Push(c *Chain, written int) error {
	if err := q.PushQuietly(c, written); err != nil {
		return err
	}
	q.Notify()
	return nil
}

// PushQuietly is Push without the interrupt, for all but the last of a batch;
// Notify follows.
func (q *Queue) PushQuietly(c *Chain, written int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	index := uint16(q.filled.Load())
	if err := q.fillLocked(index, c, written); err != nil {
		return err
	}
	q.publishLocked(index + 1)
	return nil
}

// PushTogether is PushQuietly for chains that the driver must see used at once
// or not at all, as the buffers of one received frame (§5.1.6.4.1).
func (q *Queue) PushTogether(chains []*Chain, written []int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	index := uint16(q.filled.Load())
	for i, c := range chains {
		if err := q.fillLocked(index, c, written[i]); err != nil {
			return err
		}
		index++
	}
	q.publishLocked(index)
	return nil
}

// fillLocked writes entry index of the used ring, where the driver does not look yet.
func (q *Queue) fillLocked(index uint16, c *Chain, written int) error {
	if room := c.written + c.writable; written < 0 || written > room {
		return fmt.Errorf("virtio: %d bytes written to a chain for %d", written, room)
	}
	entry := q.used[ringEntries+int(index&(q.size-1))*usedEntry:]
	binary.LittleEndian.PutUint32(entry[0:], uint32(c.Head))
	binary.LittleEndian.PutUint32(entry[4:], uint32(written))
	q.traffic.Add(Traffic{1, uint64(c.offered), uint64(written)})
	q.free = append(q.free, c)
	return nil
}

// publishLocked shows the driver the entries before index. Ours goes up first:
// a driver that sees its own may at once make the descriptors available again, and
// Peek counts by ours.
func (q *Queue) publishLocked(index uint16) {
	q.filled.Store(uint32(index))
	StoreIndex(q.used, ringIndex, index)
}

// Await is Next that waits until there is a chain. It is ErrStopped after Interrupt.
func (q *Queue) Await() (*Chain, error) {
	for {
		if c, err := q.Next(); c != nil || err != nil {
			return c, err
		}
		if err := q.Wait(); err != nil {
			return nil, err
		}
	}
}

// Notify interrupts the driver for what was pushed since the last time, if it
// wants that (§2.7.7.2).
func (q *Queue) Notify() {
	if q.wanted() && q.interrupt != nil {
		q.interrupt()
	}
}

// wanted asks the driver after StoreIndex has published the entries: that is a
// full barrier, and the driver has one between its arming and its last look.
func (q *Queue) wanted() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	from, to := q.signalled, uint16(q.filled.Load())
	q.signalled = to
	if from == to {
		return false
	}
	if q.features&FeatureEventIdx == 0 {
		return LoadIndex(q.avail, q.availAt+ringFlags)&noInterrupt == 0
	}
	event := LoadIndex(q.avail, q.availAt+ringEntries+int(q.size)*availEntry)
	return crossed(event, from, to)
}

// crossed tells whether an index that went from one to the other, modulo 1<<16,
// filled the entry event (§2.7.7.2, vring_need_event).
func crossed(event, from, to uint16) bool { return to-event-1 < to-from }

// Unpop gives back the chain taken last, unserved; Next finds it again. Several
// go back in the reverse of the order in which they came.
func (q *Queue) Unpop(c *Chain) {
	if c.index != q.next-1 {
		panic("virtio: Unpop of a chain that was not the last one taken")
	}
	q.next--
	q.mu.Lock()
	defer q.mu.Unlock()
	q.free = append(q.free, c)
}

// Wait returns when the driver has something for Next, at once or after it
// rang, with ErrStopped after Interrupt. It does not poll before it sleeps: on
// two CPUs that won nothing (mmio's BenchmarkRequest) and takes a vCPU's time.
func (q *Queue) Wait() error {
	for q.Rest() {
		if err := q.doorbell.Wait(); err != nil {
			return fmt.Errorf("virtio: wait for the doorbell: %w", err)
		}
	}
	if q.Interrupted() {
		return ErrStopped
	}
	return nil
}

// Rest is Wait without the wait: it asks the driver for a ring at what it makes
// available next, and says false if there is something already or after Interrupt. Who polls
// Descriptor rests before each poll, and hears each ring (Hear).
func (q *Queue) Rest() bool {
	if q.Interrupted() {
		return false
	}
	if !q.changed() {
		// Arming is a full barrier: either we see the entry that the
		// driver published, or it sees that we wait (§2.7.13.4.1).
		if q.arm(); !q.changed() {
			return true
		}
	}
	q.disarm()
	return false
}

// Descriptor is the doorbell's, or -1 if that cannot be polled.
func (q *Queue) Descriptor() int {
	if p, ok := q.doorbell.(Pollable); ok {
		return p.Descriptor()
	}
	return -1
}

// Hear takes a ring away that poll(2) told of.
func (q *Queue) Hear() error {
	q.disarm()
	if err := q.doorbell.(Pollable).Hear(); err != nil {
		return fmt.Errorf("virtio: hear the doorbell: %w", err)
	}
	return nil
}

// changed tells whether there is something for Next to say, be it an error.
func (q *Queue) changed() bool { return LoadIndex(q.avail, q.availAt+ringIndex) != q.next }

// arm asks for a ring at the next entry.
func (q *Queue) arm() {
	if q.features&FeatureEventIdx != 0 {
		StoreIndex(q.used, ringEntries+int(q.size)*usedEntry, q.next)
		return
	}
	StoreIndex(q.used, ringFlags, 0)
}

// disarm saves the driver rings while we are busy. By event index there is
// nothing to do: it stays behind.
func (q *Queue) disarm() {
	if q.features&FeatureEventIdx == 0 {
		StoreIndex(q.used, ringFlags, noNotify)
	}
}

// Interrupt makes Wait return ErrStopped and Next nothing, until Release.
func (q *Queue) Interrupt() {
	q.stopped.Store(true)
	if q.doorbell != nil {
		q.doorbell.Ring()
	}
}

// Interrupted tells whether Interrupt was called. It is true before the ring for it is heard.
func (q *Queue) Interrupted() bool { return q.stopped.Load() }

// Release ends what Interrupt began, before the device starts again.
func (q *Queue) Release() { q.stopped.Store(false) }

// Traffic may be asked at any time.
func (q *Queue) Traffic() Traffic {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.traffic
}

// Save is called while no chain is being taken or given back.
func (q *Queue) Save() QueueState { return QueueState{q.next, uint16(q.filled.Load())} }

// Restore is called before the queue is first used.
func (q *Queue) Restore(s QueueState) {
	q.next, q.signalled = s.NextAvail, s.NextUsed
	q.filled.Store(uint32(s.NextUsed))
}
