package net

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/virtio"
)

// pair is a receiver and a sender on one queue of the TAP.
type pair struct {
	port     *port
	receiver receiver
	sender   sender

	running bool
	ended   chan struct{} // closed by stop
	workers sync.WaitGroup
}

func newPair(d *Device, port *port) *pair {
	p := &pair{port: port}
	p.receiver = receiver{Device: d, port: port, spill: make([]byte, headerSize+maxFrame)}
	p.receiver.attempt = p.receiver.try
	p.sender = sender{Device: d, port: port}
	p.sender.attempt = p.sender.try
	return p
}

// start begins work on queues, of which either may be nil.
func (p *pair) start(rx, tx *virtio.Queue) {
	if p.running {
		return
	}
	p.running, p.ended = true, make(chan struct{})
	p.receiver.queue, p.sender.queue = rx, tx
	p.receiver.ended, p.sender.ended = p.ended, p.ended
	d := p.receiver.Device
	features := d.active.Features
	p.receiver.merge = features&FeatureMergeable != 0
	p.receiver.keepFlags = features&FeatureGuestCsum != 0
	p.receiver.largest = headerSize + minFrame + 4 + d.mtu
	if features&(FeatureGuestTSO4|FeatureGuestTSO6) != 0 {
		p.receiver.largest = headerSize + maxFrame
	}
	if rx != nil {
		rx.Release()
		p.workers.Go(func() { p.ends("receive queue", p.receiver.run()) })
	}
	if tx != nil {
		tx.Release()
		p.workers.Go(func() { p.ends("send queue", p.sender.run()) })
	}
}

// ends tells the driver's faults from an orderly end. When the TAP is gone the
// guest's queues stand still.
func (p *pair) ends(what string, err error) {
	d := p.receiver.Device
	var gone goneError
	switch {
	case errors.Is(err, virtio.ErrStopped):
	case errors.As(err, &gone):
		d.lost(gone.error)
	default:
		d.fail(what, err)
	}
}

// stop ends both and waits: those in the TAP by a deadline that has passed,
// those at the doorbell by Interrupt, those at a limit by ended.
func (p *pair) stop() {
	if !p.running {
		return
	}
	p.running = false
	close(p.ended)
	p.port.file.SetDeadline(time.Unix(1, 0))
	for _, q := range []*virtio.Queue{p.receiver.queue, p.sender.queue} {
		if q != nil {
			q.Interrupt()
		}
	}
	p.workers.Wait()
	p.port.file.SetDeadline(time.Time{})
}

// goneError is an error of a TAP that will not work again.
type goneError struct{ error }

// waitError is what a wait for the TAP ended with.
func waitError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return virtio.ErrStopped
	}
	return goneError{err}
}

// maxQuiet is how many frames are passed on before the driver hears of them.
const maxQuiet = 64

// receiver brings frames from the TAP to the guest. It holds chains that are
// to be filled, enough for the largest frame if the driver gave so many.
type receiver struct {
	*Device
	port  *port
	queue *virtio.Queue
	ended chan struct{}

	merge     bool // a frame may take several chains
	keepFlags bool // the driver knows what flags mean
	largest   int  // bytes that a read may bring

	held    []*virtio.Chain
	room    int // bytes in held
	written []int
	header  header
	spill   []byte // what of a frame held has no room for
	vector  vector // header, held, spill
	quiet   int

	attempt func(fd uintptr) bool // try, bound once
	n       int                   // its result
	err     error
}

func (r *receiver) run() error {
	defer r.giveBack()
	for {
		if err := r.hold(); err != nil {
			return err
		}
		r.gather()
		if err := waitError(r.port.raw.Read(r.attempt)); err != nil {
			return err
		}
		if r.err != nil { // a TAP that lives has only EAGAIN, which try waits out
			return goneError{r.err}
		}
		if err := r.deliver(r.n); err != nil {
			return err
		}
		if r.quiet >= maxQuiet {
			r.notify()
		}
		if r.receiveMay != nil {
			r.notify()
			if !r.receiveMay.Wait(r.n, r.ended) {
				return virtio.ErrStopped
			}
		}
	}
}

func (r *receiver) notify() {
	r.queue.Notify()
	r.quiet = 0
}

// try is one read, and false if there is nothing to read.
func (r *receiver) try(fd uintptr) bool {
	r.err = unix.EINTR
	for r.err == unix.EINTR {
		r.n, r.err = readv(int(fd), r.vector)
	}
	if r.err == unix.EAGAIN {
		r.notify()
		return false
	}
	return true
}

// hold takes chains for the next frame; one at least, which it waits for.
func (r *receiver) hold() error {
	for len(r.held) == 0 || r.merge && r.room < r.largest {
		taken, err := r.take()
		if err != nil {
			return err
		}
		if taken {
			continue
		}
		if len(r.held) > 0 {
			return nil
		}
		r.notify()
		if err := r.queue.Wait(); err != nil {
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
	r.vector = append(r.vector[:0], piece(r.header[:]))
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

// deliver gives a frame that was read, of n bytes with its header, to the guest.
func (r *receiver) deliver(n int) error {
	if n < headerSize+minFrame {
		r.receiveDropped.Add(1)
		return nil
	}
	spilled := r.spill[:max(0, n-r.inPlace())]
	if ok, err := r.holdMore(n); !ok {
		r.receiveDropped.Add(1)
		return err
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
	r.received.Add(1)
	r.receivedBytes.Add(uint64(n - headerSize))
	return r.push(len(r.written))
}

// inPlace is how many bytes of header and frame the vector has before the spill.
func (r *receiver) inPlace() int {
	n := 0
	for _, p := range r.vector[:len(r.vector)-1] {
		n += int(p.Len)
	}
	return n
}

// holdMore waits for chains for a frame that is read but has no room yet, and
// says whether it has them. One chain, or the whole queue, may not be enough.
func (r *receiver) holdMore(n int) (bool, error) {
	for r.room < n {
		if !r.merge || len(r.held) >= r.queue.Size() {
			return false, nil
		}
		taken, err := r.take()
		switch {
		case err != nil:
			return false, err
		case taken:
			continue
		}
		r.notify()
		if err := r.queue.Wait(); err != nil {
			return false, err
		}
	}
	return true, nil
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
	r.quiet++
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
	for i := len(r.held) - 1; i >= 0; i-- {
		r.queue.Unpop(r.held[i])
	}
	r.held, r.room = r.held[:0], 0
	r.notify()
}

// sender brings frames from the guest to the TAP.
type sender struct {
	*Device
	port  *port
	queue *virtio.Queue
	ended chan struct{}

	header header
	vector vector // header, frame
	quiet  int

	attempt func(fd uintptr) bool // try, bound once
	err     error                 // its result
}

func (s *sender) run() error {
	defer s.queue.Notify()
	for {
		c, err := s.queue.Next()
		if err != nil {
			return err
		}
		if c == nil {
			s.notify()
			if err := s.queue.Wait(); err != nil {
				return err
			}
			continue
		}
		if err := s.send(c); err != nil {
			s.queue.Unpop(c)
			return err
		}
		if err := s.queue.PushQuietly(c, 0); err != nil {
			return err
		}
		if s.quiet++; s.quiet >= maxQuiet {
			s.notify()
		}
	}
}

func (s *sender) notify() {
	s.queue.Notify()
	s.quiet = 0
}

var errHeader = errors.New("frame without a whole header (§5.1.6.2)")

// send passes on the frame of c, or drops it. With an error it did neither.
func (s *sender) send(c *virtio.Chain) error {
	var raw header
	if n, _ := c.Read(raw[:]); n < headerSize {
		return errHeader
	}
	n := c.Readable()
	var err error
	if s.header, err = parseHeader(raw, n, s.active.Features); err != nil {
		s.sendDropped.Add(1)
		return nil
	}
	if s.sendMay != nil {
		s.notify()
		if !s.sendMay.Wait(n, s.ended) {
			return virtio.ErrStopped
		}
	}
	s.vector = append(s.vector[:0], piece(s.header[:]))
	for _, segment := range c.ReadSegments() {
		s.vector = append(s.vector, piece(segment))
	}
	if err := waitError(s.port.raw.Write(s.attempt)); err != nil {
		return err
	}
	switch s.err {
	case nil:
		s.sent.Add(1)
		s.sentBytes.Add(uint64(n))
	case unix.EBADFD, unix.ENODEV:
		return goneError{s.err}
	default: // a TAP that is down, a frame that the host does not like
		s.sendDropped.Add(1)
	}
	return nil
}

// try is one write, and false if the TAP has no room.
func (s *sender) try(fd uintptr) bool {
	s.err = unix.EINTR
	for s.err == unix.EINTR {
		_, s.err = writev(int(fd), s.vector)
	}
	if s.err == unix.EAGAIN {
		s.notify()
		return false
	}
	return true
}
