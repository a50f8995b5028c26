// Package vsock is the socket device (virtio 1.3 §5.10), served in the process:
// the host's side are Unix sockets. It knows chains; how the guest runs and how
// it hears of a used buffer is the transport's business.
//
// A program of the host connects to the device's socket, writes "CONNECT port\n",
// and reads "OK port\n" once the guest's listener at that port has it. Where the
// guest connects to port P of the host (CID 2), the device connects to the
// socket at the same path with "_P" behind it. This is Firecracker's convention.
//
// While the device runs, one goroutine takes the guest's packets (send queue)
// and never waits for a socket; one fills the guest's buffers (receive queue)
// from the connections that have something to say (ready). Each connection has
// a reader and a writer of its socket, which see no guest memory and live on
// through a pause: Start and Stop are the queues', Close is the sockets'. A
// driver restored from a snapshot gets no packet until it has read the event
// that its connections are gone; what it sends is taken meanwhile.
//
// Memory is bounded: a connection holds at most what its window allows of the
// guest's data and one chunk of the host's; a guest that sends beyond its credit
// loses the connection; connections and refusals have limits.
//
// Locks: conn.mu, then ready.mu or Device.mu, neither of which is held while
// another is taken.
package vsock

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"bulkhead/virtio"
)

// Context IDs (§5.10.4).
const (
	hostCID = 2
	minCID  = 3
	maxCID  = 1<<32 - 2
)

// The queues (§5.10.2), and how many entries they have.
const (
	receiveQueue = iota
	sendQueue
	eventQueue
	queues

	queueSize = 256
	eventSize = 16
)

// FeatureStream is VIRTIO_VSOCK_F_STREAM (§5.10.3).
const FeatureStream = 1 << 0

// Options are a device's.
type Options struct {
	CID  uint64 // the guest's
	Path string // of the Unix socket; "" is none, and every connection is refused
	// Dial connects to what serves a port of the host, if not the socket at Path_port.
	Dial func(ctx context.Context, port uint32) (net.Conn, error)
	// EventTime is what a driver that was restored has to take notice of that; 0 is 5 s. Who
	// connects to no guest can wait for longer.
	EventTime time.Duration
	Log       *slog.Logger // nil is silent
}

// Stats counts since the device was made; Connections are those of now.
type Stats struct {
	Connections                int
	Opened, Refused            uint64
	FromGuest, ToGuest         uint64 // bytes
	BadPackets, LostRefusals   uint64
	CreditOverruns, Unanswered uint64
}

// Device implements virtio.Runner, Configured, Resetter and Keeper.
type Device struct {
	cid  uint64
	dial func(context.Context, uint32) (net.Conn, error)
	log  *slog.Logger

	eventTime time.Duration

	listener net.Listener // nil without a path
	ctx      context.Context
	cancel   context.CancelFunc
	sockets  sync.WaitGroup // what Close waits for

	active  *virtio.Active // while it runs
	workers sync.WaitGroup
	ready   ready

	mu       sync.Mutex
	conns    map[key]*conn
	nextPort uint32
	driven   bool // a driver started the device and has not reset it
	restored bool // the driver is yet to be told that its connections are gone
	awaited  int  // event buffers that, once available, show that it has read so
	closed   bool

	opened, refused, fromGuest, toGuest, badPackets, lostRefusals, creditOverruns, unanswered atomic.Uint64
}

// New makes a device and listens for programs of the host.
func New(o Options) (*Device, error) {
	if o.CID < minCID || o.CID > maxCID {
		return nil, fmt.Errorf("vsock: CID %d; give %d to %d", o.CID, minCID, uint64(maxCID))
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &Device{cid: o.CID, dial: o.Dial, log: o.Log, eventTime: cmp.Or(o.EventTime, eventTime), conns: map[key]*conn{}}
	// Another one in each life: a restored guest still knows our old ports.
	d.nextPort = firstPort + rand.Uint32N(firstPort)
	d.ready.init()
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if d.dial == nil {
		d.dial = dialer(o.Path)
	}
	if o.Path == "" {
		return d, nil
	}
	l, err := listen(o.Path)
	if err != nil {
		d.cancel()
		return nil, err
	}
	d.listener = l
	d.sockets.Go(d.accept)
	return d, nil
}

// Close ends all connections and the listener, whose path it removes. The
// device has been stopped. The listener goes first, so that no connection comes
// after the last was ended.
func (d *Device) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	var err error
	if d.listener != nil {
		if err = d.listener.Close(); errors.Is(err, net.ErrClosed) {
			err = nil
		}
	}
	d.dropAll()
	d.sockets.Wait()
	return err
}

// Stats is a look at the counters, which go on.
func (d *Device) Stats() Stats {
	d.mu.Lock()
	n := len(d.conns)
	d.mu.Unlock()
	return Stats{
		Connections: n, Opened: d.opened.Load(), Refused: d.refused.Load(),
		FromGuest: d.fromGuest.Load(), ToGuest: d.toGuest.Load(),
		BadPackets: d.badPackets.Load(), LostRefusals: d.lostRefusals.Load(),
		CreditOverruns: d.creditOverruns.Load(), Unanswered: d.unanswered.Load(),
	}
}

// ID implements virtio.Device.
func (*Device) ID() virtio.DeviceID { return virtio.Vsock }

// Features implements virtio.Device.
func (*Device) Features() uint64 { return FeatureStream }

// Queues implements virtio.Device.
func (*Device) Queues() []uint16 { return []uint16{queueSize, queueSize, eventSize} }

// ReadConfig implements virtio.Configured: struct virtio_vsock_config.
func (d *Device) ReadConfig(at uint32, b []byte) {
	space := binary.LittleEndian.AppendUint64(nil, d.cid)
	clear(b)
	if at < uint32(len(space)) {
		copy(b, space[at:])
	}
}

// WriteConfig implements virtio.Configured: nothing may be written.
func (*Device) WriteConfig(uint32, []byte) {}

// Start implements virtio.Runner.
func (d *Device) Start(a *virtio.Active) error {
	d.active = a
	d.mu.Lock()
	d.driven = true
	news := d.restored || d.awaited > 0
	d.mu.Unlock()
	if a.Queues[eventQueue] == nil { // so it has no way to hear, and resets nothing
		d.ready.release()
	}
	d.ready.start()
	work := [queues]func(*virtio.Queue) error{receiveQueue: d.deliver, sendQueue: d.collect, eventQueue: d.announce}
	if !news {
		work[eventQueue] = nil
	}
	for i, do := range work {
		if q := a.Queues[i]; q != nil && do != nil {
			d.run(q, do)
		}
	}
	return nil
}

func (d *Device) run(q *virtio.Queue, do func(*virtio.Queue) error) {
	fail := d.active.Fail
	q.Release()
	d.workers.Go(func() {
		if err := do(q); err != nil && !errors.Is(err, virtio.ErrStopped) {
			fail(fmt.Errorf("vsock: %w", err))
		}
	})
}

// Stop implements virtio.Runner. Connections stay; what their sockets bring waits.
func (d *Device) Stop() {
	if d.active == nil {
		return
	}
	d.active.Interrupt()
	d.ready.stop()
	d.workers.Wait()
	d.active = nil
}

// Reset implements virtio.Resetter: the driver knows no connection any more.
func (d *Device) Reset() {
	d.mu.Lock()
	d.driven, d.restored, d.awaited = false, false, 0
	d.mu.Unlock()
	d.dropAll()
	d.ready.clear()
}

// dropAll ends every connection without a word to the guest.
func (d *Device) dropAll() {
	d.mu.Lock()
	conns := make([]*conn, 0, len(d.conns))
	for _, c := range d.conns {
		conns = append(conns, c)
	}
	clear(d.conns)
	d.mu.Unlock()
	for _, c := range conns {
		c.abandon()
	}
}

// collect takes the guest's packets. It waits for nothing but the guest: a
// device that did could lock up with a driver that holds its own receive queue
// back until we take its answers (§5.10.6.1.1).
func (d *Device) collect(q *virtio.Queue) error {
	for {
		c, err := q.Next()
		if err != nil {
			return err
		}
		if c == nil {
			q.Notify()
			if err := q.Wait(); err != nil {
				return err
			}
			continue
		}
		d.receive(c)
		if err := q.PushQuietly(c, 0); err != nil {
			return err
		}
	}
}

// batch is how many packets share an interrupt.
const batch = 16

// deliver fills the guest's buffers with what connections have to say.
func (d *Device) deliver(q *virtio.Queue) error {
	for sent := 0; ; {
		if !d.ready.any() || sent >= batch {
			q.Notify()
			sent = 0
		}
		if !d.ready.wait() {
			return virtio.ErrStopped
		}
		c, err := q.Next()
		if err != nil {
			return err
		}
		if c == nil {
			q.Notify()
			if err := q.Wait(); err != nil {
				return err
			}
			continue
		}
		if room := c.Writable(); room <= headerSize || c.Readable() > 0 {
			q.Unpop(c)
			return fmt.Errorf("a receive buffer with %d bytes to fill and %d to read (§5.10.6.1)", room, c.Readable())
		}
		if !d.fill(c) {
			q.Unpop(c)
			continue
		}
		sent++
		if err := q.PushQuietly(c, c.Written()); err != nil {
			return err
		}
	}
}

// fill writes one packet into chain, or says that there is none after all.
func (d *Device) fill(chain *virtio.Chain) bool {
	for {
		refusal, c, ok := d.ready.pop()
		if !ok {
			return false
		}
		if c == nil {
			write(chain, refusal, nil)
			return true
		}
		if c.fill(chain) {
			return true
		}
	}
}

func write(chain *virtio.Chain, h header, payload []byte) {
	b := h.bytes()
	chain.Write(b[:])
	chain.Write(payload)
}

// receive is one packet of the guest's. What is not addressed to us, or is no packet,
// is dropped; what belongs to no connection is refused.
func (d *Device) receive(chain *virtio.Chain) {
	h, err := parseHeader(chain)
	if err != nil || h.dstCID != hostCID || h.srcCID != d.cid {
		d.badPackets.Add(1)
		return
	}
	c := d.find(key{h.srcPort, h.dstPort})
	switch {
	case c != nil && h.kind == stream:
		c.receive(h, chain)
	case h.op == opReset:
	case h.op == opRequest && h.kind == stream:
		d.request(h)
	default:
		d.refuse(h)
	}
}

func (d *Device) refuse(h header) {
	d.refused.Add(1)
	if !d.ready.refuse(h.refusal()) {
		d.lostRefusals.Add(1)
	}
}
