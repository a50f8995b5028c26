package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/virtio"
)

const (
	// maxConns is far beyond what a guest has in earnest; more are refused.
	maxConns = 4096

	// A connection's window is what we take of the guest's before the socket
	// does: large while there are few, so that all together stay within
	// 300 MiB when no socket takes anything.
	largeWindow = 256 << 10 // bytes
	smallWindow = 64 << 10
	fewConns    = 256

	// chunk is how much of the host's data we hold for the guest.
	chunk = 64 << 10 // bytes

	// answerTime is what a guest has to answer a connection of the host's;
	// Linux gives two seconds, which an emulated guest may need longer than.
	answerTime = 10 * time.Second
)

// key is a connection's name: a port on each side. The CIDs are always the same.
type key struct{ guest, host uint32 }

type state int

const (
	connecting state = iota // one side waits for the other
	open
	closed
)

// debts are packets that the guest is to be sent, besides data.
type debts uint8

const (
	oweRequest debts = 1 << iota
	oweResponse
	oweShutdown
	oweCreditUpdate
	oweCreditRequest
	oweReset
)

// conn is a connection between a port of the guest and a socket of the host.
type conn struct {
	device *Device
	key    key
	window uint32 // bytes; buf_alloc of our packets
	queued bool   // in Device.ready, whose lock guards it

	mu      sync.Mutex
	changed *sync.Cond  // anything that the reader or the writer waits for
	stop    func() bool // what would end it from without
	state   state
	sock    *socket // nil while we dial
	owed    debts

	// To the guest (§5.10.6.3).
	pending              []byte // of the reader's chunk, not sent yet
	sent                 uint32 // tx_cnt
	peerAlloc, peerTaken uint32 // what the guest last said
	asked                bool   // for credit

	// To the host.
	greeting  []byte // goes before everything
	out       []byte // what the socket did not take yet
	writing   bool   // the writer has a part of it in hand
	received  uint32 // bytes
	forwarded uint32 // fwd_cnt; what left for the socket
	told      uint32 // the forwarded that the guest knows of

	guestDone uint32 // flags of the guest's opShutdown, taken together
	hostDone  uint32 // and of ours
	forgotten bool   // the guest has none of it any more; the rest still goes to the socket
}

func (d *Device) newConnLocked(k key) *conn {
	c := &conn{device: d, key: k, window: largeWindow, stop: func() bool { return false }}
	if len(d.conns) >= fewConns {
		c.window = smallWindow
	}
	c.changed = sync.NewCond(&c.mu)
	d.conns[k] = c
	d.opened.Add(1)
	return c
}

func (d *Device) find(k key) *conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conns[k]
}

func (d *Device) remove(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conns[c.key] == c {
		delete(d.conns, c.key)
	}
}

// request is the guest's wish for a new connection. The socket is dialled
// apart: a listener with a full backlog makes that wait.
func (d *Device) request(h header) {
	d.mu.Lock()
	if d.closed || len(d.conns) >= maxConns {
		d.mu.Unlock()
		d.refuse(h)
		return
	}
	c := d.newConnLocked(key{h.srcPort, h.dstPort})
	c.peerAlloc, c.peerTaken = h.alloc, h.forwarded
	// A guest that takes its request back ends the dialling, or it could pile
	// up any number of them.
	ctx, cancel := context.WithCancel(d.ctx)
	c.stop = func() bool { cancel(); return true }
	d.mu.Unlock()
	d.sockets.Go(func() {
		nc, err := d.dial(ctx, h.dstPort)
		if err != nil {
			d.refused.Add(1)
			d.log.Debug("vsock: nothing on the host serves the guest's connection", "port", h.dstPort, "err", err)
			c.end()
			return
		}
		c.open(newSocket(nc))
	})
}

// connect asks the guest for a connection to its port, for sock.
func (d *Device) connect(port uint32, sock *socket) error {
	c, err := d.newOutgoing(port, sock)
	if err != nil {
		return err
	}
	d.ready.push(c)
	return nil
}

func (d *Device) newOutgoing(port uint32, sock *socket) (*conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed || !d.driven:
		return nil, errors.New("the guest has no vsock driver yet")
	case len(d.conns) >= maxConns:
		return nil, fmt.Errorf("there are %d connections", maxConns)
	}
	c := d.newConnLocked(key{port, d.freePortLocked(port)})
	c.sock = sock
	c.owed = oweRequest
	c.stop = time.AfterFunc(answerTime, c.unanswered).Stop
	return c, nil
}

// firstPort of ours. Ports below are for those who serve.
const firstPort = 1 << 30

func (d *Device) freePortLocked(guest uint32) uint32 {
	for { // there are more ports than connections
		port := d.nextPort
		d.nextPort = max(d.nextPort+1, firstPort)
		if _, taken := d.conns[key{guest, port}]; !taken && port != 1<<32-1 { // VMADDR_PORT_ANY
			return port
		}
	}
}

func (c *conn) unanswered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == connecting {
		c.device.unanswered.Add(1)
		c.endLocked()
	}
}

// open begins the exchange between sock and the guest, which has asked for it.
func (c *conn) open(sock *socket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != connecting { // the guest, or Close, was faster
		sock.Close()
		return
	}
	c.sock = sock
	c.oweLocked(oweResponse)
	c.openLocked()
}

func (c *conn) openLocked() {
	c.state = open
	c.stop()
	c.stop = context.AfterFunc(c.device.ctx, c.abandon)
	c.device.sockets.Go(c.read)
	c.device.sockets.Go(c.write)
}

// oweLocked puts off a packet until the guest has a buffer for it.
func (c *conn) oweLocked(d debts) {
	if c.forgotten || c.state == closed && d != oweReset {
		return
	}
	c.owed |= d
	c.device.ready.push(c)
}

// end closes the connection for both sides.
func (c *conn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked()
}

func (c *conn) endLocked() {
	if c.state == closed {
		return
	}
	c.closeLocked()
	// It keeps its name until the guest has been told, or a new connection
	// of this name would get the answer.
	c.oweLocked(oweReset)
}

// abandon closes the connection, of which the guest knows nothing any more.
func (c *conn) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked()
}

func (c *conn) closeLocked() {
	c.state, c.owed = closed, 0
	c.pending, c.out = nil, nil
	c.stop()
	if c.sock != nil {
		c.sock.Close()
	}
	c.changed.Broadcast()
}

// creditLocked is how many bytes the guest has room for (§5.10.6.3). One that
// talks nonsense has none.
func (c *conn) creditLocked() uint32 {
	used := c.sent - c.peerTaken
	if used > c.peerAlloc {
		return 0
	}
	return c.peerAlloc - used
}

// fill writes c's next packet into chain, and is false if there is none.
func (c *conn) fill(chain *virtio.Chain) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := header{
		srcCID: hostCID, dstCID: c.device.cid, srcPort: c.key.host, dstPort: c.key.guest,
		kind: stream, alloc: c.window, forwarded: c.forwarded,
	}
	var payload []byte
	credit := c.creditLocked()
	if len(c.pending) > 0 && credit == 0 && !c.asked {
		c.asked = true
		c.owed |= oweCreditRequest
	}
	switch {
	case c.payLocked(oweReset):
		h.op = opReset
		c.device.remove(c)
	case c.payLocked(oweRequest):
		h.op = opRequest
	case c.payLocked(oweResponse):
		h.op = opResponse
	case len(c.pending) > 0 && credit > 0:
		h.op = opData
		h.len = min(uint32(len(c.pending)), credit, uint32(chain.Writable()-headerSize))
		payload = c.pending[:h.len]
	case c.payLocked(oweShutdown):
		h.op, h.flags = opShutdown, c.hostDone
	case c.payLocked(oweCreditRequest):
		h.op = opCreditRequest
	case c.payLocked(oweCreditUpdate):
		h.op = opCreditUpdate
	default:
		return false
	}
	write(chain, h, payload)
	c.told = c.forwarded
	c.owed &^= oweCreditUpdate // every packet is one
	if h.op == opData {
		c.sentLocked(h.len)
	}
	if c.owed != 0 || len(c.pending) > 0 && c.creditLocked() > 0 {
		c.device.ready.push(c)
	}
	return true
}

func (c *conn) payLocked(d debts) bool {
	owed := c.owed&d != 0
	c.owed &^= d
	return owed
}

func (c *conn) sentLocked(n uint32) {
	c.sent += n
	c.device.toGuest.Add(uint64(n))
	c.pending = c.pending[n:]
	if len(c.pending) == 0 {
		c.changed.Broadcast()
	} else if c.creditLocked() == 0 {
		c.device.ready.push(c) // to ask for more
	}
}

// receive is a packet of the guest's for c; its payload is what chain has left.
func (c *conn) receive(h header, chain *virtio.Chain) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.op == opReset {
		c.resetLocked()
		return
	}
	if c.state == closed { // it will read our reset
		return
	}
	c.learnLocked(h)
	switch h.op {
	case opResponse:
		c.answeredLocked()
	case opData:
		c.takeLocked(h.len, chain)
	case opShutdown:
		c.shutdownLocked(h.flags & noMore)
	case opCreditUpdate:
	case opCreditRequest:
		c.oweLocked(oweCreditUpdate)
	default: // opRequest too: there is this connection already
		c.endLocked()
	}
}

// learnLocked takes the credit that every packet carries.
func (c *conn) learnLocked(h header) {
	before := c.creditLocked()
	c.peerAlloc, c.peerTaken = h.alloc, h.forwarded
	if before > 0 || c.creditLocked() == 0 {
		return
	}
	c.asked = false
	if len(c.pending) > 0 {
		c.device.ready.push(c)
	}
	c.changed.Broadcast()
}

// answeredLocked is the guest's yes to the host's connection.
func (c *conn) answeredLocked() {
	if c.state != connecting || c.sock == nil || c.owed&oweRequest != 0 {
		c.endLocked()
		return
	}
	c.greeting = greeting(c.key.host)
	c.openLocked()
}

// takeLocked takes n bytes for the socket: at once if it has room and nothing is
// before them, else into our window.
func (c *conn) takeLocked(n uint32, chain *virtio.Chain) {
	if c.state != open || c.guestDone&noSend != 0 {
		c.endLocked()
		return
	}
	if n > c.window-(c.received-c.forwarded) {
		c.device.creditOverruns.Add(1)
		c.endLocked()
		return
	}
	c.received += n
	c.device.fromGuest.Add(uint64(n))
	if c.hostDone&noReceive != 0 {
		c.forwardedLocked(n)
		return
	}
	if len(c.out) == 0 && !c.writing && len(c.greeting) == 0 {
		m := c.sock.trySend(chain.ReadSegments(), int(n))
		chain.SkipRead(m)
		n -= uint32(m)
		c.forwardedLocked(uint32(m))
	}
	if n == 0 {
		return
	}
	at := len(c.out)
	c.out = append(c.out, make([]byte, n)...)
	io.ReadFull(chain, c.out[at:]) // parseHeader has seen that it is there
	c.changed.Broadcast()
}

// forwardedLocked counts n bytes that left our window, and tells the guest when it
// thinks that half of the window is full.
func (c *conn) forwardedLocked(n uint32) {
	c.forwarded += n
	if c.forwarded != c.told && c.received-c.told > c.window/2 {
		c.oweLocked(oweCreditUpdate)
	}
}

// shutdownLocked is the guest's word that it will receive, or send, no more.
func (c *conn) shutdownLocked(flags uint32) {
	if c.state != open {
		c.endLocked()
		return
	}
	c.guestDone |= flags
	if c.guestDone&noReceive != 0 {
		c.pending = nil
		c.owed &^= oweShutdown
		c.sock.closeRead()
	}
	c.changed.Broadcast() // the writer does the rest, after what is before it
}

// resetLocked ends it for the guest. What a guest sent before it said that it
// was done still goes to the socket: Linux resets where our answer to its
// shutdown takes too long (net/vmw_vsock/virtio_transport_common.c, virtio_transport_close_timeout).
func (c *conn) resetLocked() {
	c.device.remove(c)
	if c.state == open && c.guestDone&noSend != 0 {
		c.forgotten, c.guestDone = true, noMore
		c.pending, c.owed = nil, 0
		c.sock.closeRead()
		c.changed.Broadcast()
		return
	}
	c.closeLocked()
}

// read is a goroutine: it brings what the socket has, a chunk at a time, when
// the guest has taken the last one and has room.
func (c *conn) read() {
	for {
		room, ok := c.awaitRoom()
		if !ok {
			return
		}
		buf, n, err := c.sock.read(int(min(room, chunk)))
		if n > 0 && !c.offer(buf[:n]) {
			freeChunk(buf)
			return
		}
		freeChunk(buf)
		if err != nil {
			c.ended(err)
			return
		}
	}
}

// awaitRoom is the credit there is, once there is some.
func (c *conn) awaitRoom() (uint32, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.state == open && c.guestDone&noReceive == 0 && c.creditLocked() == 0 {
		if !c.asked {
			c.asked = true
			c.oweLocked(oweCreditRequest)
		}
		c.changed.Wait()
	}
	return c.creditLocked(), c.state == open && c.guestDone&noReceive == 0
}

// offer waits until the guest has b, and is false if it will not have it.
func (c *conn) offer(b []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != open || c.guestDone&noReceive != 0 {
		return false
	}
	c.pending = b
	c.device.ready.push(c)
	for len(c.pending) > 0 {
		c.changed.Wait()
	}
	return c.state == open
}

// ended tells the guest what the socket's other end did: it is done sending, and
// with it receiving if it has closed the socket altogether.
func (c *conn) ended(err error) {
	if !errors.Is(err, io.EOF) {
		c.end()
		return
	}
	if !c.sock.hungUp() {
		c.hostIsDone(noSend)
		c.sock.awaitHangUp()
	}
	c.hostIsDone(noMore)
}

func (c *conn) hostIsDone(flags uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != open || c.forgotten || c.hostDone|flags == c.hostDone {
		return
	}
	c.hostDone |= flags
	c.oweLocked(oweShutdown)
}

// write is a goroutine: it gives the socket what it did not take at once.
func (c *conn) write() {
	for {
		b, counts, ok := c.awaitOut()
		if !ok {
			return
		}
		for len(b) > 0 {
			piece := b[:min(len(b), chunk)]
			b = b[len(piece):]
			if _, err := c.sock.Write(piece); err != nil {
				c.refused(err)
				break
			}
			if counts {
				c.wrote(len(piece))
			}
		}
	}
}

// awaitOut is what there is to write: the greeting, then data, which counts for
// the guest's credit. Behind them the guest's shutdown takes effect.
func (c *conn) awaitOut() (b []byte, counts, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = false
	for ; c.state == open; c.changed.Wait() {
		switch {
		case len(c.greeting) > 0:
			b, c.greeting, c.writing = c.greeting, nil, true
			return b, false, true
		case len(c.out) > 0:
			b, c.out, c.writing = c.out, nil, true
			return b, true, true
		case c.guestDone == noMore && c.forgotten:
			c.closeLocked()
			return nil, false, false
		case c.guestDone == noMore: // our reset is the answer (§5.10.6.6)
			c.endLocked()
			return nil, false, false
		case c.guestDone == noSend:
			c.sock.closeWrite()
		}
	}
	return nil, false, false
}

func (c *conn) wrote(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forwardedLocked(uint32(n))
}

// refused is a socket that takes no more, of which the guest is told. All that
// it sent is gone.
func (c *conn) refused(err error) {
	if !errors.Is(err, unix.EPIPE) {
		c.end()
		return
	}
	c.mu.Lock()
	c.out = nil
	c.forwarded = c.received
	c.mu.Unlock()
	c.hostIsDone(noReceive)
}
