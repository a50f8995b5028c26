// Package virtiotest is a driver for tests of devices: it plays the guest in
// plain memory, without a machine and without a transport. It can also
// misbehave as only a hostile guest does.
//
// Locks: Driver.mu guards the driver's side of all queues; nothing is called
// from beneath it but the rings.
package virtiotest

import (
	"fmt"
	"sync"
	"testing"

	"bulkhead/virtio"
)

// Driver drives one device.
type Driver struct {
	Memory   *Memory
	Features uint64 // negotiated

	t      testing.TB
	dev    virtio.Device
	runner virtio.Runner
	active *virtio.Active

	mu      sync.Mutex
	changed *sync.Cond // something was used, or the device failed
	queues  []*queue
	failure error
	asked   bool // the test looked at failure
	running bool
	configs int // how often the configuration changed
}

// queue is what the driver knows of a queue.
type queue struct {
	*Ring
	device  *virtio.Queue
	bell    *Bell
	free    []uint16 // descriptors
	waiting map[uint16]*Request
}

const ram = 64 << 20 // bytes of guest memory for Start

// Start negotiates those of features that dev or the transport has, sets all
// queues up at their full size, and starts dev. The test's end stops it, and
// reports a failure of the device that the test did not ask for (Failed).
func Start(t testing.TB, dev virtio.Device, features uint64) *Driver {
	t.Helper()
	return StartIn(t, NewMemory(ram), dev, features)
}

// StartIn is Start with memory of the test's choice.
func StartIn(t testing.TB, mem *Memory, dev virtio.Device, features uint64) *Driver {
	t.Helper()
	const rings = virtio.FeatureIndirectDesc | virtio.FeatureEventIdx
	d := &Driver{Memory: mem, t: t, dev: dev, Features: virtio.FeatureVersion1 | features&(dev.Features()|rings)}
	d.changed = sync.NewCond(&d.mu)
	switch dev := dev.(type) {
	case virtio.Runner:
		d.runner = dev
	case virtio.Server:
		d.runner = virtio.Serve(dev)
	default:
		t.Fatalf("virtiotest: %T is neither a Server nor a Runner", dev)
	}
	d.setUp(0)
	d.Restart()
	t.Cleanup(d.end)
	return d
}

func (d *Driver) end() {
	d.Stop()
	d.closeBells()
	if d.failure != nil && !d.asked {
		d.t.Errorf("the device failed: %v", d.failure)
	}
}

// setUp makes the queues, as after a reset, and leaves those out that without
// has a bit for.
func (d *Driver) setUp(without uint) {
	d.closeBells()
	d.queues = nil
	d.active = &virtio.Active{Features: d.Features, ConfigChanged: d.configChanged, Fail: d.fail}
	for i, size := range d.dev.Queues() {
		q := &queue{Ring: NewRing(d.Memory, size, d.Features), bell: NewBell(), waiting: map[uint16]*Request{}}
		for i := range size {
			q.free = append(q.free, i)
		}
		if without>>i&1 == 0 {
			q.device = d.queue(q)
		} else {
			q.bell.giveUp()
		}
		d.queues = append(d.queues, q)
		d.active.Queues = append(d.active.Queues, q.device)
	}
}

func (d *Driver) closeBells() {
	for _, q := range d.queues {
		q.bell.Close()
	}
}

// queue is the device's side of q.
func (d *Driver) queue(q *queue) *virtio.Queue {
	device, err := virtio.NewQueue(d.Memory, q.Layout, d.Features, q.Layout.Size)
	if err != nil {
		d.t.Fatal(err)
	}
	device.SetDoorbell(q.bell)
	device.SetInterrupt(d.interrupt)
	return device
}

func (d *Driver) interrupt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changed.Broadcast()
}

func (d *Driver) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failure == nil {
		d.failure = err
	}
	for _, q := range d.queues {
		q.bell.giveUp()
	}
	d.changed.Broadcast()
}

func (d *Driver) configChanged() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.configs++
	d.changed.Broadcast()
}

// Failed is what the device was failed for. Asking for it says that the test
// knows that the device may fail.
func (d *Driver) Failed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = true
	return d.failure
}

// WaitFailed waits until the device has failed.
func (d *Driver) WaitFailed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = true
	for d.failure == nil {
		d.changed.Wait()
	}
	return d.failure
}

// WaitConfig waits until the configuration has changed n times in all.
func (d *Driver) WaitConfig(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.configs < n && d.failure == nil {
		d.changed.Wait()
	}
}

// Stop pauses the device, and Restart lets it go on with the same queues. A
// device must have given back all it took, which Stop checks.
func (d *Driver) Stop() {
	d.t.Helper()
	if !d.running {
		return
	}
	d.runner.Stop()
	d.running = false
	for i, q := range d.queues {
		if q.device == nil {
			continue
		}
		if s := q.device.Save(); d.failure == nil && s.NextAvail != s.NextUsed {
			d.t.Errorf("queue %d: the stopped device still holds %d chains", i, s.NextAvail-s.NextUsed)
		}
	}
}

// Restart starts a device that Stop stopped.
func (d *Driver) Restart() {
	d.t.Helper()
	if d.running {
		return
	}
	if err := d.runner.Start(d.active); err != nil {
		d.t.Fatalf("start the device: %v", err)
	}
	d.running = true
}

// Reset stops the device, resets it, and starts it with new, empty queues.
// Requests under way are forgotten: they return nil.
func (d *Driver) Reset() {
	d.t.Helper()
	d.ResetWithout(0)
}

// ResetWithout is Reset, upon which the driver does not enable the queues that
// without has a bit for.
func (d *Driver) ResetWithout(without uint) {
	d.t.Helper()
	d.Stop()
	if r, ok := d.dev.(virtio.Resetter); ok {
		r.Reset()
	}
	d.mu.Lock()
	for _, q := range d.queues {
		for _, r := range q.waiting {
			r.done = true
		}
	}
	d.failure = nil
	d.changed.Broadcast()
	d.mu.Unlock()
	d.setUp(without)
	d.Restart()
}

// Replace goes on with another device in place of this one, as a restored
// snapshot does: same memory, same queues, state through virtio.Keeper.
func (d *Driver) Replace(dev virtio.Device) {
	d.t.Helper()
	d.Stop()
	if keeper, ok := d.dev.(virtio.Keeper); ok {
		state, err := keeper.Save()
		if err == nil {
			err = dev.(virtio.Keeper).Restore(state)
		}
		if err != nil {
			d.t.Fatalf("replace the device: %v", err)
		}
	}
	d.dev = dev
	switch dev := dev.(type) {
	case virtio.Runner:
		d.runner = dev
	case virtio.Server:
		d.runner = virtio.Serve(dev)
	}
	for i, q := range d.queues {
		if q.device == nil {
			continue
		}
		state := q.device.Save()
		q.device = d.queue(q)
		q.device.Restore(state)
		d.active.Queues[i] = q.device
	}
	d.Restart()
}

// Config is n bytes of the device's configuration space at offset at.
func (d *Driver) Config(at uint32, n int) []byte {
	b := make([]byte, n)
	if c, ok := d.dev.(virtio.Configured); ok {
		c.ReadConfig(at, b)
	}
	return b
}

// SetConfig writes it.
func (d *Driver) SetConfig(at uint32, b []byte) {
	if c, ok := d.dev.(virtio.Configured); ok {
		c.WriteConfig(at, b)
	}
}

// Ring is the driver's side of queue i, to misbehave with. It is not for tests
// that also Send there.
func (d *Driver) Ring(i int) *Ring { return d.queues[i].Ring }

// Kick rings queue i whether or not the device wants that.
func (d *Driver) Kick(i int) { d.queues[i].bell.Ring() }

// AwaitSleep waits until the device sleeps at the doorbells of these queues,
// having heard every ring, or has failed.
func (d *Driver) AwaitSleep(queues ...int) {
	for _, i := range queues {
		d.queues[i].bell.AwaitSleep()
	}
}

// Do sends one request, of out to read and in bytes to fill (either may be
// nothing), and returns what the device wrote. It is nil if the device failed.
func (d *Driver) Do(queue int, out []byte, in int) []byte {
	d.t.Helper()
	var outs [][]byte
	var ins []int
	if len(out) > 0 {
		outs = [][]byte{out}
	}
	if in > 0 {
		ins = []int{in}
	}
	return d.Send(queue, outs, ins).Wait()
}

// Request is a chain that is under way.
type Request struct {
	driver  *Driver
	queue   *queue
	descs   []uint16
	table   virtio.Addr // indirect, if there are no more than one of descs
	buffers []buffer
	done    bool
	written int // as the device said
	answer  []byte
}

type buffer struct {
	at virtio.Addr
	n  int
	in bool
}

// Send makes one chain available, with a descriptor for each of out to read and of
// in to fill; in one indirect table if that was negotiated and there are several.
// It waits while the queue is full.
func (d *Driver) Send(queue int, out [][]byte, in []int) *Request {
	d.t.Helper()
	q := d.queues[queue]
	r := &Request{driver: d, queue: q}
	for _, b := range out {
		at := d.Memory.Alloc(len(b))
		copy(d.Memory.Bytes(at, len(b)), b)
		r.buffers = append(r.buffers, buffer{at: at, n: len(b)})
	}
	for _, n := range in {
		r.buffers = append(r.buffers, buffer{at: d.Memory.Alloc(n), n: n, in: true})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !r.take() {
		r.finish()
		return r
	}
	r.describe()
	q.waiting[r.descs[0]] = r
	if q.Offer(r.descs[0]) {
		q.bell.Ring()
	}
	return r
}

// take gets the descriptors, and is false if the device fails meanwhile.
func (r *Request) take() bool {
	need := max(1, len(r.buffers))
	if r.indirect() {
		need = 1
	}
	if need > int(r.queue.Layout.Size) {
		panic(fmt.Sprintf("virtiotest: %d descriptors in a queue of %d", need, r.queue.Layout.Size))
	}
	for len(r.queue.free) < need {
		if r.driver.failure != nil {
			return false
		}
		r.driver.awaitLocked(r.queue)
	}
	r.descs = append(r.descs, r.queue.free[:need]...)
	r.queue.free = r.queue.free[need:]
	return true
}

func (r *Request) indirect() bool {
	return r.driver.Features&virtio.FeatureIndirectDesc != 0 && len(r.buffers) > 1
}

// describe writes the descriptors.
func (r *Request) describe() {
	if len(r.buffers) == 0 {
		r.queue.SetDesc(r.descs[0], Desc{})
	}
	var table []byte
	if r.indirect() {
		n := len(r.buffers) * descSize
		r.table = r.driver.Memory.Alloc(n)
		table = r.driver.Memory.Bytes(r.table, n)
		r.queue.SetDesc(r.descs[0], Desc{Addr: r.table, Len: uint32(n), Flags: Indirect})
	}
	for i, b := range r.buffers {
		desc := Desc{Addr: b.at, Len: uint32(b.n)}
		if b.in {
			desc.Flags |= Write
		}
		last := i == len(r.buffers)-1
		if !last {
			desc.Flags |= Next
		}
		if table != nil {
			desc.Next = uint16(i + 1)
			desc.put(table[i*descSize:])
			continue
		}
		if !last {
			desc.Next = r.descs[i+1]
		}
		r.queue.SetDesc(r.descs[i], desc)
	}
}

// Wait is what the device wrote into the request, or nil if it failed before.
func (r *Request) Wait() []byte {
	d := r.driver
	d.mu.Lock()
	defer d.mu.Unlock()
	for !r.done {
		d.reapLocked(r.queue)
		if r.done || d.failure != nil {
			break
		}
		d.awaitLocked(r.queue)
	}
	return r.answer
}

// Done tells whether the device has answered.
func (r *Request) Done() bool {
	d := r.driver
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reapLocked(r.queue)
	return r.done
}

// awaitLocked arms the interrupt and waits for it, unless something has been used since.
func (d *Driver) awaitLocked(q *queue) {
	q.Arm()
	if d.reapLocked(q) > 0 {
		q.Mute()
		return
	}
	d.changed.Wait()
}

// reapLocked finishes the requests that the device has used.
func (d *Driver) reapLocked(q *queue) int {
	n := 0
	for {
		head, written, ok := q.Reap()
		if !ok {
			return n
		}
		n++
		r := q.waiting[uint16(head)]
		if r == nil || head > 0xffff {
			d.failure = fmt.Errorf("virtiotest: the device used head %d, which is not under way", head)
			d.changed.Broadcast()
			return n
		}
		delete(q.waiting, uint16(head))
		q.free = append(q.free, r.descs...)
		r.written = written
		r.collect(written)
		r.finish()
		d.changed.Broadcast()
	}
}

// collect copies the first written bytes of the buffers to fill.
func (r *Request) collect(written int) {
	r.answer = make([]byte, 0, written)
	for _, b := range r.buffers {
		if n := min(b.n, written-len(r.answer)); b.in && n > 0 {
			r.answer = append(r.answer, r.driver.Memory.Bytes(b.at, n)...)
		}
	}
}

func (r *Request) finish() {
	r.done = true
	for _, b := range r.buffers {
		r.driver.Memory.Free(b.at, b.n)
	}
	if r.table != 0 {
		r.driver.Memory.Free(r.table, len(r.buffers)*descSize)
	}
}
