package net

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/virtio"
	"bulkhead/virtio/ratelimit"
)

// pair is a receiver and a sender on one queue of the TAP. One goroutine serves
// both by turns: what comes back for a frame that was sent, as an acknowledgement, it
// finds at its next turn, where one of its own had to be woken for it.
type pair struct {
	*Device
	port     port
	receiver receiver
	sender   sender

	running bool
	worker  sync.WaitGroup
	polled  [3]unix.PollFd // both doorbells and the TAP
}

func newPair(d *Device, port port) *pair {
	return &pair{
		Device: d, port: port,
		receiver: receiver{
			direction: direction{Device: d, port: port, limit: d.receiveMay, event: unix.POLLIN},
			spill:     make([]byte, headerSize+maxFrame),
		},
		sender: sender{direction: direction{Device: d, port: port, limit: d.sendMay, event: unix.POLLOUT}},
	}
}

// both are what the pair's goroutine serves.
func (p *pair) both() [2]*direction {
	return [2]*direction{&p.receiver.direction, &p.sender.direction}
}

// start begins work on queues, of which either may be nil.
func (p *pair) start(rx, tx *virtio.Queue) error {
	if p.running {
		return nil
	}
	for i, q := range []*virtio.Queue{rx, tx} {
		if err := p.both()[i].use(q); err != nil {
			return err
		}
	}
	if rx == nil && tx == nil || p.port == noPort {
		return nil
	}
	p.running = true
	p.receiver.settle(p.active.Features)
	p.worker.Go(func() { p.ends(p.run()) })
	return nil
}

// ends tells the driver's faults from an orderly end. When the TAP is gone the
// guest's queues stand still.
func (p *pair) ends(err error) {
	var gone goneError
	switch {
	case errors.Is(err, virtio.ErrStopped):
	case errors.As(err, &gone):
		p.lost(gone.error)
	default:
		p.fail(err)
	}
}

// stop ends the work and waits: either's doorbell ends the wait for all.
func (p *pair) stop() {
	if !p.running {
		return
	}
	p.running = false
	for _, d := range p.both() {
		if d.queue != nil {
			d.queue.Interrupt()
		}
	}
	p.worker.Wait()
}

// goneError is an error of a TAP that will not work again.
type goneError struct{ error }

// need is what a direction goes on with.
type need int

const (
	needTurn    need = iota // its next turn
	needChain               // one from the driver
	needTAP                 // a frame from it, or room in it
	needTime                // its limit's
	needNothing             // the driver does not use it
)

// maxTurn is how many frames a direction passes on before the other has its
// turn, and the driver hears of them.
const maxTurn = 64

// run gives each its turn, and waits when none can go on. Neither waits for the other's needs.
func (p *pair) run() error {
	defer p.receiver.giveBack()
	for !p.interrupted() {
		var err error
		if p.sender.need, err = p.sender.turn(); err != nil {
			return fmt.Errorf("send queue: %w", err)
		}
		if p.receiver.need, err = p.receiver.turn(); err != nil {
			return fmt.Errorf("receive queue: %w", err)
		}
		if err := p.wait(); err != nil {
			return err
		}
	}
	return virtio.ErrStopped
}

func (p *pair) interrupted() bool {
	for _, d := range p.both() {
		if d.queue != nil && d.queue.Interrupted() {
			return true
		}
	}
	return false
}

// wait returns when either may have what it needs, or either's doorbell rang.
func (p *pair) wait() error {
	tap := unix.PollFd{Fd: -1} // if none needs it: one that is gone would end each poll at once
	var timeout *unix.Timespec
	for _, d := range p.both() {
		switch d.need {
		case needTurn:
			return nil
		case needChain:
			if !d.queue.Rest() {
				return nil
			}
		case needTAP:
			tap.Fd = int32(p.port)
			tap.Events |= d.event
		case needTime:
			timeout = sooner(timeout, d.rests())
		}
	}
	p.polled = [...]unix.PollFd{{Fd: p.receiver.bell(), Events: unix.POLLIN}, {Fd: p.sender.bell(), Events: unix.POLLIN}, tap}
	if _, err := unix.Ppoll(p.polled[:], timeout, nil); err != nil && err != unix.EINTR {
		return fmt.Errorf("wait for the TAP and the doorbells: %w", err)
	}
	for i, d := range p.both() {
		if p.polled[i].Revents == 0 {
			continue
		}
		if err := d.queue.Hear(); err != nil {
			return err
		}
	}
	return nil
}

func sooner(t *unix.Timespec, d time.Duration) *unix.Timespec {
	if t != nil && t.Nano() < int64(d) {
		return t
	}
	u := unix.NsecToTimespec(int64(d))
	return &u
}

// direction is what a receiver and a sender have alike.
type direction struct {
	*Device
	port  port
	limit *ratelimit.Limiter
	event int16 // the TAP's, when it can go on

	queue *virtio.Queue // nil if the driver does not use it
	need  need
	due   time.Time // when what has passed is within the limit
}

// use makes q the queue.
func (d *direction) use(q *virtio.Queue) error {
	d.queue = q
	if q == nil {
		return nil
	}
	if q.Descriptor() < 0 {
		return errors.New("network: a doorbell that cannot be polled")
	}
	q.Release()
	return nil
}

// bell is the descriptor of the doorbell, or one that poll passes over.
func (d *direction) bell() int32 {
	if d.queue == nil {
		return -1
	}
	return int32(d.queue.Descriptor())
}

// charge counts n bytes that have passed; the next frame is late for them.
func (d *direction) charge(n int) {
	if late := d.limit.Take(n); late > 0 {
		d.due = time.Now().Add(late)
	}
}

// rests is for how long nothing may pass.
func (d *direction) rests() time.Duration {
	if d.due.IsZero() {
		return 0
	}
	return max(0, time.Until(d.due))
}

// receiver brings frames from the TAP to the guest. It holds chains that are
// to be filled, enough for a frame as they were of late if the driver gave so many.
type receiver struct {
	direction

	merge     bool // a frame may take several chains
	keepFlags bool // the driver knows what flags mean
	usual     int  // bytes of the largest frame of late, header included

	held    []*virtio.Chain
	room    int // bytes in held
	written []int
	header  header
	spill   []byte // what of a frame held has no room for
	vector  vector // header, held, spill
	waiting int    // bytes of a frame that was read and needs more chains, or 0
}

// settle is for what the driver negotiated.
func (r *receiver) settle(features uint64) {
	r.merge = features&FeatureMergeable != 0
	r.keepFlags = features&FeatureGuestCsum != 0
	r.usual = 0
}

// turn passes on frames until there are no more, or no room.
func (r *receiver) turn() (need, error) {
	if r.queue == nil {
		return needNothing, nil
	}
	defer r.queue.Notify()
	for range maxTurn {
		if r.waiting == 0 {
			if need, err := r.read(); need != needTurn || err != nil {
				return need, err
			}
		}
		if need, err := r.deliver(); need != needTurn || err != nil {
			return need, err
		}
	}
	return needTurn, nil
}

// read takes a frame from the TAP, which waits then.
func (r *receiver) read() (need, error) {
	if r.rests() > 0 {
		return needTime, nil
	}
	if err := r.hold(); err != nil || len(r.held) == 0 {
		return needChain, err
	}
	r.gather()
	n, err := readv(int(r.port), r.vector)
	switch {
	case err == unix.EAGAIN || err == unix.ENETDOWN: // a packet socket says once that its interface went down
		return needTAP, nil
	case err != nil: // a TAP that lives has no other
		return needTAP, goneError{err}
	}
	n += headerSize - r.host.header()
	r.waiting = n
	r.usual = max(n, r.usual-r.usual/8)
	r.charge(n)
	return needTurn, nil
}

// hold takes chains for the next frame.
func (r *receiver) hold() error {
	for len(r.held) == 0 || r.merge && r.room < r.usual {
		if taken, err := r.take(); !taken {
			return err
		}
	}
	return nil
}

var errBuffer = errors.New("receive buffer shorter than a header (§5.1.6.3.1)")

func (r *receiver) take() (bool, error) {
	c, err := r.queue.Next()
	if c == nil {
		return false, err
	}
	if c.Writable() < headerSize {
		r.queue.Unpop(c)
		return false, errBuffer
	}
	r.held = append(r.held, c)
	r.room += c.Writable()
	return true, nil
}

// gather lists where the next frame goes. Its header comes to us first.
func (r *receiver) gather() {
	r.vector = append(r.vector[:0], piece(r.header[:r.host.header()]))
	skip := headerSize
	for _, c := range r.held {
		for _, s := range c.WriteSegments() {
			if skip >= len(s) {
				skip -= len(s)
				continue
			}
			if len(r.vector) == maxVector-1 {
				break
			}
			r.vector = append(r.vector, piece(s[skip:]))
			skip = 0
		}
	}
	r.vector = append(r.vector, piece(r.spill))
}

// deliver gives the frame that waits to the guest, or drops it. It needs a chain if there is
// no room for all of it yet.
func (r *receiver) deliver() (need, error) {
	n := r.waiting
	if n < headerSize+minFrame || !r.host.admits(&r.header) {
		r.drop()
		return needTurn, nil
	}
	spilled := r.spill[:max(0, n-r.inPlace())]
	for r.room < n {
		if !r.merge || len(r.held) >= r.queue.Size() { // one chain, or the whole queue, may not be enough
			r.drop()
			return needTurn, nil
		}
		if taken, err := r.take(); !taken {
			return needChain, err
		}
	}
	r.finishHeader(n)
	place := n - headerSize - len(spilled)
	r.held[0].Write(r.header[:]) // has room, by take
	r.written = r.written[:0]
	for _, c := range r.held {
		here := min(place, c.Writable())
		c.SkipWrite(here)
		place -= here
		here, _ = c.Write(spilled) // what has no room is the next one's
		spilled = spilled[here:]
		r.written = append(r.written, c.Written())
		if place == 0 && len(spilled) == 0 {
			break
		}
	}
	r.waiting = 0
	r.received.Add(1)
	r.receivedBytes.Add(uint64(n - headerSize))
	return needTurn, r.push(len(r.written))
}

func (r *receiver) drop() {
	r.waiting = 0
	r.receiveDropped.Add(1)
}

// inPlace is how many bytes of header and frame the vector has before the spill.
func (r *receiver) inPlace() int {
	n := headerSize
	for _, p := range r.vector[1 : len(r.vector)-1] {
		n += int(p.Len)
	}
	return n
}

// finishHeader makes the host's header the guest's.
func (r *receiver) finishHeader(n int) {
	if !r.keepFlags {
		r.header[0] = 0 // §5.1.6.4.1
	}
	buffers, left := 0, n
	for _, c := range r.held {
		if left <= 0 {
			break
		}
		left -= c.Writable()
		buffers++
	}
	r.header.buffers(buffers)
}

// push gives back the first n chains held, so that the driver sees them at once
// or not at all (§5.1.6.4.1).
func (r *receiver) push(n int) error {
	for _, c := range r.held[:n] {
		r.room -= c.Written() + c.Writable()
	}
	var err error
	if n == 1 {
		err = r.queue.PushQuietly(r.held[0], r.written[0])
	} else {
		err = r.queue.PushTogether(r.held[:n], r.written)
	}
	r.held = r.held[:copy(r.held, r.held[n:])]
	return err
}

// giveBack returns what is held to the queue, the last first.
func (r *receiver) giveBack() {
	if r.waiting != 0 {
		r.drop()
	}
	for i := len(r.held) - 1; i >= 0; i-- {
		r.queue.Unpop(r.held[i])
	}
	r.held, r.room = r.held[:0], 0
}

// sender brings frames from the guest to the TAP.
type sender struct {
	direction
	header header
	vector vector // header, frame
}

// turn passes on frames until there are no more, or no room.
func (s *sender) turn() (need, error) {
	if s.queue == nil {
		return needNothing, nil
	}
	defer s.queue.Notify()
	for range maxTurn {
		if s.rests() > 0 {
			return needTime, nil
		}
		c, err := s.queue.Next()
		if c == nil {
			return needChain, err
		}
		if need, err := s.send(c); need != needTurn || err != nil {
			s.queue.Unpop(c)
			return need, err
		}
		if err := s.queue.PushQuietly(c, 0); err != nil {
			return needTurn, err
		}
	}
	return needTurn, nil
}

var errHeader = errors.New("frame without a whole header (§5.1.6.2)")

// send passes on the frame of c, or drops it. With an error or another need it did neither.
func (s *sender) send(c *virtio.Chain) (need, error) {
	var raw header
	if n, _ := c.Read(raw[:]); n < headerSize {
		return needTurn, errHeader
	}
	n := c.Readable()
	var err error
	if s.header, err = parseHeader(raw, n, s.active.Features); err != nil {
		s.sendDropped.Add(1)
		return needTurn, nil
	}
	s.vector = append(s.vector[:0], piece(s.header[:s.host.header()]))
	for _, segment := range c.ReadSegments() {
		s.vector = append(s.vector, piece(segment))
	}
	switch _, err := writev(int(s.port), s.vector); err {
	case nil:
		s.sent.Add(1)
		s.sentBytes.Add(uint64(n))
	case unix.EAGAIN:
		return needTAP, nil
	case unix.EBADFD, unix.ENODEV, unix.ENXIO: // the last is a packet socket's
		return needTAP, goneError{err}
	default: // a TAP that is down, a frame that the host does not like
		s.sendDropped.Add(1)
	}
	s.charge(n)
	return needTurn, nil
}
