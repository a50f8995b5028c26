package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"bulkhead/virtio"
)

// Server answers FUSE requests. Calls run concurrently.
type Server interface {
	// Handle answers the request in in, and says how many bytes it wrote to out.
	// Both are the guest's memory. An error is the driver's breach of the protocol.
	Handle(in, out [][]byte) (int, error)
	// Forget forgets the client, whose driver was reset.
	Forget()
}

// Front is the device that the guest sees: queues and configuration, without
// the files, which a Server has, here or in another process (virtio/fs/remote). It
// implements virtio.Runner, Configured and Resetter.
type Front struct {
	tag    string
	queues int
	server Server
	slots  chan struct{} // one for each request under way

	active *virtio.Active
	work   sync.WaitGroup
}

// NewFront is a device for a server elsewhere.
func NewFront(tag string, server Server) (*Front, error) {
	o := Options{Tag: tag, Descriptors: 1 << 10}.defaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	return &Front{tag: tag, queues: o.Queues, slots: make(chan struct{}, o.Workers), server: server}, nil
}

func (d *Front) ID() virtio.DeviceID { return virtio.FS }
func (d *Front) Features() uint64    { return 0 }

func (d *Front) Queues() []uint16 {
	sizes := []uint16{hiprio: hiprioSize}
	for range d.queues {
		sizes = append(sizes, requestSize)
	}
	return sizes
}

// ReadConfig is struct virtio_fs_config (§5.11.4).
func (d *Front) ReadConfig(at uint32, b []byte) {
	var config [tagSize + 4]byte
	copy(config[:tagSize], d.tag)
	binary.LittleEndian.PutUint32(config[tagSize:], uint32(d.queues))
	clear(b)
	if at < uint32(len(config)) {
		copy(b, config[at:])
	}
}

// WriteConfig ignores the driver: all of the space is read-only.
func (d *Front) WriteConfig(uint32, []byte) {}

func (d *Front) Start(a *virtio.Active) error {
	d.active = a
	for i, q := range a.Queues {
		if q != nil {
			q.Release()
			d.work.Go(func() { d.take(i, q) })
		}
	}
	return nil
}

// take serves a queue until it is stopped or breaks. Requests are answered as they
// are done, not in the order in which they came (§5.11.6.2); those of hiprio are
// done in order and never wait.
func (d *Front) take(i int, q *virtio.Queue) {
	for {
		c, err := q.Next()
		if c == nil && err == nil {
			err = q.Wait()
		}
		switch {
		case errors.Is(err, virtio.ErrStopped):
			return
		case err != nil:
			d.active.Fail(fmt.Errorf("fs: queue %d: %w", i, err))
			return
		case c == nil:
		case i == hiprio:
			d.serve(q, c)
		default:
			d.slots <- struct{}{}
			d.work.Go(func() {
				d.serve(q, c)
				<-d.slots
			})
		}
	}
}

// serve answers one request. The chain goes back also when it broke the
// protocol, so that the rings are all there is to save.
func (d *Front) serve(q *virtio.Queue, c *virtio.Chain) {
	n, err := d.server.Handle(c.ReadSegments(), c.WriteSegments())
	if pushed := q.Push(c, n); err == nil {
		err = pushed
	}
	if err != nil {
		d.active.Fail(err)
	}
}

// Stop lets requests under way end; nothing that they do can wait for the guest.
func (d *Front) Stop() {
	if d.active == nil {
		return
	}
	d.active.Interrupt()
	d.work.Wait()
	d.active = nil
}

// Reset forgets what the guest knew, as its unmount does.
func (d *Front) Reset() { d.server.Forget() }
