package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"bulkhead/virtio"
)

// eventReset is VIRTIO_VSOCK_EVENT_TRANSPORT_RESET (§5.10.6.7).
const eventReset = 0

// eventTime is what a restored driver has, without Options.EventTime, to take the event
// before it gets packets all the same: it should give the buffer back, but need not
// (§5.10.6.7.1). A connection that waited has the other half for its answer.
const eventTime = answerTime / 2

// announce tells a restored driver that its connections are gone and that its
// CID may be another (§5.10.6.7), and lets packets through when it has read so.
// It must: upon the event Linux ends every connection that it has, also one that
// came after the restore but out of the other queue first
// (net/vmw_vsock/virtio_transport.c, virtio_vsock_event_handle).
func (d *Device) announce(q *virtio.Queue) error {
	patience := time.AfterFunc(d.eventTime, d.giveUp)
	defer patience.Stop()
	// Buffers are taken to see when there are more, and go back.
	var taken []*virtio.Chain
	defer func() {
		for _, c := range slices.Backward(taken) {
			q.Unpop(c)
		}
	}()
	if d.isRestored() {
		var err error
		if taken, err = takeAll(q); err != nil {
			return err
		}
		if d.ready.hold() { // the first buffer came late
			d.dropAll()
			patience.Reset(d.eventTime)
		}
		event := binary.LittleEndian.AppendUint32(nil, eventReset)
		if _, err := taken[0].Write(event); err != nil {
			return fmt.Errorf("an event buffer of %d bytes (§5.10.6.7): %w", taken[0].Written(), err)
		}
		d.announced(len(taken))
		if err := q.Push(taken[0], taken[0].Written()); err != nil {
			return err
		}
		taken = taken[1:]
	}
	for len(taken) < d.awaitedBuffers() {
		c, err := q.Await()
		if err != nil {
			return err
		}
		taken = append(taken, c)
	}
	d.heard()
	return nil
}

// takeAll waits for a chain and takes all that there are. What it took before an
// error it has put back.
func takeAll(q *virtio.Queue) ([]*virtio.Chain, error) {
	first, err := q.Await()
	if err != nil {
		return nil, err
	}
	taken := []*virtio.Chain{first}
	for {
		more, err := q.Peek()
		if err == nil && !more {
			return taken, nil
		}
		var c *virtio.Chain
		if err == nil {
			c, err = q.Next()
		}
		if err == nil && c == nil {
			err = virtio.ErrStopped
		}
		if err != nil {
			for _, c := range slices.Backward(taken) {
				q.Unpop(c)
			}
			return nil, err
		}
		taken = append(taken, c)
	}
}

func (d *Device) isRestored() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.restored
}

// announced notes that the driver is being sent the event in the first of
// its available buffers. It has given that back when as many are
// available again; or more, if it still has that of an earlier event.
func (d *Device) announced(available int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.restored = false
	d.awaited = max(d.awaited, available)
}

func (d *Device) awaitedBuffers() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.awaited
}

// heard lets packets through to a driver that has read the event.
func (d *Device) heard() {
	d.mu.Lock()
	d.awaited = 0
	d.mu.Unlock()
	d.ready.release()
}

// giveUp lets packets through to a driver that has no buffer for the event, or
// keeps it.
func (d *Device) giveUp() {
	if d.ready.release() {
		d.log.Warn("vsock: the driver did not give back the event of its restore; it may reset connections that are new", "waited", d.eventTime)
	}
}

// stateVersion is the first of the two bytes of a snapshot. The other is how many
// event buffers show that the driver has read an earlier event. No connection
// outlives a snapshot: their other ends are processes of the host.
const stateVersion = 2

// Save implements virtio.Keeper.
func (d *Device) Save() ([]byte, error) { return []byte{stateVersion, byte(d.awaitedBuffers())}, nil }

// Restore implements virtio.Keeper. The driver is told with an event, and gets
// nothing before.
func (d *Device) Restore(state []byte) error {
	if len(state) != 2 || state[0] != stateVersion {
		return fmt.Errorf("vsock: restore a state of %d bytes: not one of this version", len(state))
	}
	if state[1] > eventSize {
		return errors.New("vsock: restore: more event buffers awaited than the queue has")
	}
	d.mu.Lock()
	d.restored, d.awaited = true, int(state[1])
	d.mu.Unlock()
	d.ready.hold()
	return nil
}
