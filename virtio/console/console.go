// Package console is the console device (virtio 1.3 §5.3) with one port: bytes
// each way, and the size of the terminal.
//
// Two goroutines belong to the host's ends and live until Close: one reads In
// while nothing waits for the guest, one writes Out what the guest sent. So a
// terminal that nobody reads holds the guest's output up, and never a pause or
// a reset. Two more serve the queues, from Start to Stop.
//
// Locks: Device.mu alone.
package console

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"bulkhead/virtio"
)

// Feature bits (§5.3.3).
const (
	featureSize      = 1 << 0
	featureEmergency = 1 << 2
)

// The queues (§5.3.2).
const (
	receive  = 0 // to the guest
	transmit = 1
)

const (
	entries     = 64       // of each queue
	inputLimit  = 4 << 10  // bytes read ahead of the guest
	outputLimit = 64 << 10 // bytes that the guest may be ahead of Out
)

// Size is a terminal's, in characters; 0 by 0 is unknown.
type Size struct{ Cols, Rows uint16 }

// Device implements virtio.Runner.
type Device struct {
	in  io.Reader
	out io.Writer
	log *slog.Logger

	mu       sync.Mutex
	changed  *sync.Cond // any of the following
	input    []byte     // read, and not yet with the guest
	output   []byte     // from the guest, and not yet written
	writing  bool       // some more is being written
	taken    int        // bytes of the chain that is next to transmit which were in output before a Stop
	size     Size
	told     Size // what the driver was last told to look at
	active   *virtio.Active
	stopping bool
	closed   bool

	workers sync.WaitGroup // from Start to Stop
}

// New is a console whose guest reads in and writes out. Either may be nil: no
// input, or output that is thrown away. What goes wrong with them is logged, and the
// guest does not notice.
func New(in io.Reader, out io.Writer, log *slog.Logger) *Device {
	d := &Device{in: in, out: out, log: log}
	if out == nil {
		d.out = io.Discard
	}
	if log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.changed = sync.NewCond(&d.mu)
	go d.writeOut()
	if in != nil {
		go d.readIn()
	}
	return d
}

func (*Device) ID() virtio.DeviceID { return virtio.Console }
func (*Device) Features() uint64    { return featureSize | featureEmergency }
func (*Device) Queues() []uint16    { return []uint16{receive: entries, transmit: entries} }

// Start implements virtio.Runner.
func (d *Device) Start(a *virtio.Active) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active, d.stopping = a, false
	for i, serve := range []func(*virtio.Queue) error{receive: d.receive, transmit: d.transmit} {
		q := a.Queues[i]
		if q == nil {
			continue
		}
		q.Release()
		d.workers.Go(func() {
			if err := serve(q); !errors.Is(err, virtio.ErrStopped) {
				a.Fail(fmt.Errorf("console: queue %d: %w", i, err))
			}
		})
	}
	d.tellLocked()
	return nil
}

// Stop implements virtio.Runner.
func (d *Device) Stop() {
	d.mu.Lock()
	active := d.active
	d.active, d.stopping = nil, true
	d.changed.Broadcast()
	d.mu.Unlock()
	if active == nil {
		return
	}
	active.Interrupt()
	d.workers.Wait()
}

// Reset implements virtio.Resetter. What was typed stays for the next driver.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.taken = 0
}

// Close ends the goroutines of the host's ends: at once, or when the Read or
// Write that one is in returns.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.changed.Broadcast()
	return nil
}

// Flush waits until all that the guest has sent is written.
func (d *Device) Flush(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.changed.Broadcast()
	})()
	d.mu.Lock()
	defer d.mu.Unlock()
	for (d.writing || len(d.output) > 0) && !d.closed && ctx.Err() == nil {
		d.changed.Wait()
	}
	return ctx.Err()
}

// Resize tells the guest the size of its terminal.
func (d *Device) Resize(s Size) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.size = s
	d.tellLocked()
}

// tellLocked points the driver at a size that it has not seen.
func (d *Device) tellLocked() {
	if d.active != nil && d.active.Features&featureSize != 0 && d.told != d.size {
		d.told = d.size
		d.active.ConfigChanged()
	}
}

// The configuration space (§5.3.4): cols, rows, the number of ports, which means
// something with multiple ports alone, and the emergency write.
const (
	configEmergency = 8
	configSize      = 12
)

// ReadConfig implements virtio.Configured.
func (d *Device) ReadConfig(at uint32, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var space [configSize]byte
	binary.LittleEndian.PutUint16(space[0:], d.size.Cols)
	binary.LittleEndian.PutUint16(space[2:], d.size.Rows)
	clear(b)
	if at < configSize {
		copy(b, space[at:])
	}
}

// WriteConfig takes a character of an emergency (§5.3.4): a guest's last words,
// for which it needs no queue. It is lost when output is held up, since no vCPU waits for that.
func (d *Device) WriteConfig(at uint32, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at == configEmergency && len(b) > 0 && len(d.output) < outputLimit {
		d.output = append(d.output, b[0])
		d.changed.Broadcast()
	}
}

// receive gives the guest what was read, and holds no chain while there is nothing.
func (d *Device) receive(q *virtio.Queue) error {
	for d.awaitInput() {
		c, err := q.Await()
		if err != nil {
			return err
		}
		d.give(c)
		if err := q.Push(c, c.Written()); err != nil {
			return err
		}
	}
	return virtio.ErrStopped
}

func (d *Device) awaitInput() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.input) == 0 && !d.stopping {
		d.changed.Wait()
	}
	return !d.stopping
}

// give writes as much input into c as goes in.
func (d *Device) give(c *virtio.Chain) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, _ := c.Write(d.input) // too little room leaves the rest
	d.input = d.input[n:]
	d.changed.Broadcast()
}

// transmit takes what the guest sends.
func (d *Device) transmit(q *virtio.Queue) error {
	for {
		c, err := q.Await()
		if err != nil {
			return err
		}
		if !d.takeAll(c) {
			q.Unpop(c)
			return virtio.ErrStopped
		}
		if err := q.Push(c, 0); err != nil {
			return err
		}
	}
}

// takeAll moves c into output as Out makes room. Stopped in the middle, it
// remembers how far it came, for the same chain comes again.
func (d *Device) takeAll(c *virtio.Chain) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.SkipRead(d.taken)
	for c.Readable() > 0 {
		room := outputLimit - len(d.output)
		if room <= 0 {
			if d.stopping {
				return false
			}
			d.changed.Wait()
			continue
		}
		end := len(d.output)
		d.output = append(d.output, make([]byte, min(room, c.Readable()))...)
		n, _ := c.Read(d.output[end:]) // all of it, as Readable says
		d.taken += n
		d.changed.Broadcast()
	}
	d.taken = 0
	return true
}

// readIn reads on when the guest has taken all there was.
func (d *Device) readIn() {
	buf := make([]byte, inputLimit)
	for {
		n, err := d.in.Read(buf)
		d.mu.Lock()
		for len(d.input) > 0 && !d.closed {
			d.changed.Wait()
		}
		d.input = append(d.input[:0], buf[:n]...)
		closed := d.closed
		d.changed.Broadcast()
		d.mu.Unlock()
		if closed {
			return
		}
		if err != nil {
			if err != io.EOF {
				d.log.Warn("console input ended", "err", err)
			}
			return
		}
	}
}

// writeOut writes what the guest has sent. Once that fails it is thrown away:
// a guest does not stop because nobody listens.
func (d *Device) writeOut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	var spare []byte
	for {
		for len(d.output) == 0 && !d.closed {
			d.changed.Wait()
		}
		if len(d.output) == 0 {
			return
		}
		b := d.output
		d.output, d.writing = spare[:0], true
		d.changed.Broadcast()
		d.mu.Unlock()
		_, err := d.out.Write(b)
		d.mu.Lock()
		spare, d.writing = b, false
		d.changed.Broadcast()
		if err != nil {
			d.log.Warn("console output is thrown away from here", "err", err)
			d.out = io.Discard
		}
	}
}

// state is what a snapshot keeps.
type state struct {
	Taken int
	Input []byte
	Told  Size
}

// Save implements virtio.Keeper.
func (d *Device) Save() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return json.Marshal(state{d.taken, d.input, d.told})
}

// Restore implements virtio.Keeper. The size is the new terminal's.
func (d *Device) Restore(b []byte) error {
	var s state
	if err := virtio.ParseState(b, &s); err != nil {
		return fmt.Errorf("console: restore: %w", err)
	}
	if s.Taken < 0 || len(s.Input) > inputLimit {
		return fmt.Errorf("console: restore: %d bytes taken, %d of input", s.Taken, len(s.Input))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.taken, d.told = s.Taken, s.Told
	d.input = append(s.Input, d.input...)
	return nil
}
