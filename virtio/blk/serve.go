package blk

import (
	"errors"

	"bulkhead/virtio"
)

// taker is the goroutine of one queue.
type taker struct {
	*Device
	queue *virtio.Queue
	free  chan *request
	quiet int // bytes answered since the driver was told
}

// maxQuiet bounds how long answers wait for the rest of a batch before the
// driver is interrupted: about as long as copying so much takes.
const maxQuiet = 256 << 10 // bytes

// run serves the queue until it is stopped or the driver breaks the rules.
func (t *taker) run() error {
	for {
		c, err := t.queue.Next()
		if err != nil {
			return err
		}
		if c == nil {
			t.notify()
			if err := t.queue.Wait(); err != nil {
				return err
			}
			continue
		}
		if err := t.serve(c); err != nil {
			return err
		}
	}
}

func (t *taker) notify() {
	t.queue.Notify()
	t.quiet = 0
}

// serve answers c or gives it to the pool. With an error c is back in the queue.
func (t *taker) serve(c *virtio.Chain) error {
	r := t.rest()
	r.queue = t.queue
	err := r.parse(c, rules{t.sectors(), t.disk().readOnly, t.features})
	s, answered := err.(status)
	if err != nil && !answered {
		t.queue.Unpop(c)
		t.free <- r
		return err
	}
	if t.limiter != nil {
		t.notify()
		if !t.limiter.Wait(r.n, t.stop) {
			t.queue.Unpop(c)
			t.free <- r
			return virtio.ErrStopped
		}
	}
	if !answered {
		if s, answered = t.attempt(r); !answered {
			t.work <- r
			return nil
		}
	}
	t.quiet += r.n + sectorSize
	if err := t.answer(r, s); err != nil {
		return err
	}
	if t.quiet > maxQuiet {
		t.notify()
	}
	return nil
}

// rest is a request that is not in flight. There are as many as a queue has
// entries, so a driver cannot have more in flight by naming a chain twice.
func (t *taker) rest() *request {
	select {
	case r := <-t.free:
		return r
	default:
		t.notify()
		return <-t.free
	}
}

// attempt does what does not wait for a disk. Buffered writes are among it:
// they go to memory, and where the host makes them wait, it makes all of them wait.
func (t *taker) attempt(r *request) (s status, done bool) {
	switch r.kind {
	case kindIn:
		return t.attemptRead(r)
	case kindOut:
		if t.disk().direct >= 0 || t.durable.Load() {
			return 0, false
		}
		return t.do(r), true
	case kindGetID:
		return t.do(r), true
	}
	return 0, false
}

func (t *taker) attemptRead(r *request) (s status, done bool) {
	if t.disk().direct >= 0 || t.disk().mustWait.Load() {
		return 0, false
	}
	err := t.disk().readNow(r)
	if errors.Is(err, errWouldWait) {
		return 0, false
	}
	return t.verdict(r, err), true
}

// block is a goroutine of the pool.
func (d *Device) block() {
	for r := range d.work {
		queue := r.queue
		if err := d.answer(r, d.do(r)); err != nil {
			d.active.Fail(err)
		}
		queue.Notify()
	}
}

// do carries a request out, however long that takes.
func (d *Device) do(r *request) status {
	var err error
	switch r.kind {
	case kindIn:
		err = d.disk().read(r)
	case kindOut:
		err = d.disk().write(r, d.durable.Load())
	case kindFlush:
		err = d.disk().flush()
	case kindGetID:
		var id [serialSize]byte
		copy(id[:], d.options.Serial)
		r.chain.Write(id[:min(serialSize, r.chain.Writable()-1)]) // there is room
	case kindDiscard, kindWriteZeroes:
		err = d.disk().spread(r, d.durable.Load())
	}
	return d.verdict(r, err)
}

// verdict makes a status of the host's answer, which only the log sees.
func (d *Device) verdict(r *request, err error) status {
	if err == nil {
		return statusOK
	}
	if d.errors.Load() == 0 { // the first is enough to go by; the rest are counted
		d.log.Error("disk fails", "device", d.disk().path, "kind", r.kind, "at", r.at, "bytes", r.n, "err", err)
	}
	return statusIOError
}

// answer gives r back to the driver, which is not told yet.
func (d *Device) answer(r *request, s status) error {
	d.count(r, s)
	err := r.queue.PushQuietly(r.chain, r.finish(s))
	r.chain = nil
	r.free <- r
	return err
}

func (d *Device) count(r *request, s status) {
	if s != statusOK {
		d.errors.Add(1)
	}
	switch r.kind {
	case kindIn:
		d.reads.Add(1)
		d.readBytes.Add(uint64(r.done))
	case kindOut:
		d.writes.Add(1)
		d.writtenBytes.Add(uint64(r.done))
	case kindFlush:
		d.flushes.Add(1)
	case kindDiscard, kindWriteZeroes:
		d.discards.Add(1)
	}
}
