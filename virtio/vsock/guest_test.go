package vsock

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"testing"

	"bulkhead/virtio"
	"bulkhead/virtio/virtiotest"
)

const testCID = 42

// guest is a small vsock driver: what Linux's does, in a test.
type guest struct {
	t       testing.TB
	driver  *virtiotest.Driver
	buffers int // bytes of a receive buffer
	done    chan struct{}

	mu       sync.Mutex
	changed  *sync.Cond
	conns    map[key]*guestConn // by (guest's port, host's port)
	services map[uint32]func(*guestConn)
	last     []header // packets that belong to no connection
}

// guestConn is the guest's end of a connection.
type guestConn struct {
	g        *guest
	key      key
	alloc    uint32 // our window
	in       bytes.Buffer
	received uint32
	taken    uint32
	told     uint32

	sent                 uint32
	peerAlloc, peerTaken uint32
	answered, reset      bool
	shutdown             uint32 // flags of the host's
	requests             int    // of the host for credit
}

const guestWindow = 256 << 10 // bytes

func newGuest(t testing.TB, d *virtiotest.Driver) *guest {
	g := &guest{t: t, driver: d, buffers: 4096, conns: map[key]*guestConn{}, services: map[uint32]func(*guestConn){}, done: make(chan struct{})}
	g.changed = sync.NewCond(&g.mu)
	go g.receive()
	return g
}

// receive keeps buffers in the receive queue until the driver is reset.
func (g *guest) receive() {
	defer close(g.done)
	var line []*virtiotest.Request
	for range 128 {
		line = append(line, g.driver.Send(receiveQueue, nil, []int{g.buffers}))
	}
	for {
		b := line[0].Wait()
		if b == nil {
			return
		}
		g.handle(b)
		line = append(line[1:], g.driver.Send(receiveQueue, nil, []int{g.buffers}))
	}
}

// listen serves a port of the guest, a goroutine a connection.
func (g *guest) listen(port uint32, serve func(*guestConn)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.services[port] = serve
}

func decode(b []byte) header {
	return header{
		srcCID: binary.LittleEndian.Uint64(b), dstCID: binary.LittleEndian.Uint64(b[8:]),
		srcPort: binary.LittleEndian.Uint32(b[16:]), dstPort: binary.LittleEndian.Uint32(b[20:]), len: binary.LittleEndian.Uint32(b[24:]),
		kind: binary.LittleEndian.Uint16(b[28:]), op: binary.LittleEndian.Uint16(b[30:]),
		flags: binary.LittleEndian.Uint32(b[32:]), alloc: binary.LittleEndian.Uint32(b[36:]), forwarded: binary.LittleEndian.Uint32(b[40:]),
	}
}

func (g *guest) handle(b []byte) {
	if len(b) < headerSize {
		g.t.Errorf("a packet of %d bytes", len(b))
		return
	}
	h := decode(b)
	if h.srcCID != hostCID || h.dstCID != testCID || h.kind != stream && h.op != opReset || int(h.len) != len(b)-headerSize {
		g.t.Errorf("a packet with the header %+v and %d bytes", h, len(b)-headerSize)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.changed.Broadcast()
	k := key{h.dstPort, h.srcPort}
	c := g.conns[k]
	if c == nil {
		g.strangerLocked(h, k)
		return
	}
	c.peerAlloc, c.peerTaken = h.alloc, h.forwarded
	switch h.op {
	case opResponse:
		c.answered = true
	case opReset:
		c.reset = true
		delete(g.conns, k)
	case opShutdown:
		c.shutdown |= h.flags
	case opData:
		if h.len > c.alloc-(c.received-c.taken) {
			g.t.Errorf("%v: %d bytes more than there is credit for", k, h.len)
		}
		c.received += h.len
		c.in.Write(b[headerSize:])
	case opCreditUpdate:
	case opCreditRequest:
		c.requests++
		go c.send(opCreditUpdate, 0, nil)
	default:
		g.t.Errorf("%v: operation %d", k, h.op)
	}
}

func (g *guest) strangerLocked(h header, k key) {
	serve := g.services[k.guest]
	switch {
	case h.op == opReset:
		g.last = append(g.last, h)
	case h.op == opRequest && serve != nil:
		c := &guestConn{g: g, key: k, alloc: guestWindow, peerAlloc: h.alloc, answered: true}
		g.conns[k] = c
		go func() {
			c.send(opResponse, 0, nil)
			serve(c)
		}()
	default:
		go g.raw(header{srcCID: testCID, dstCID: hostCID, srcPort: k.guest, dstPort: k.host, kind: stream, op: opReset}, nil)
	}
}

// strangers is how many packets belonged to no connection.
func (g *guest) strangers() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.last)
}

// raw sends any packet.
func (g *guest) raw(h header, payload []byte) {
	b := h.bytes()
	out := [][]byte{b[:]}
	if len(payload) > 0 {
		out = append(out, payload)
	}
	g.driver.Send(sendQueue, out, nil).Wait()
}

// await waits until cond holds.
func (g *guest) await(cond func() bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for !cond() {
		g.changed.Wait()
	}
}

func (c *guestConn) send(op uint16, flags uint32, payload []byte) {
	c.g.mu.Lock()
	h := header{srcCID: testCID, dstCID: hostCID, srcPort: c.key.guest, dstPort: c.key.host, len: uint32(len(payload)),
		kind: stream, op: op, flags: flags, alloc: c.alloc, forwarded: c.taken}
	c.told = c.taken
	c.g.mu.Unlock()
	c.g.raw(h, payload)
}

// dial connects to a port of the host and waits for the answer.
func (g *guest) dial(from, to uint32) (*guestConn, error) {
	c := &guestConn{g: g, key: key{from, to}, alloc: guestWindow}
	g.mu.Lock()
	g.conns[c.key] = c
	g.mu.Unlock()
	c.send(opRequest, 0, nil)
	g.await(func() bool { return c.answered || c.reset })
	if c.reset {
		return nil, fmt.Errorf("connect to port %d of the host: reset", to)
	}
	return c, nil
}

// Write sends p as credit allows, in pieces that Linux would send.
func (c *guestConn) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		var room uint32
		c.g.await(func() bool {
			room = c.peerAlloc - (c.sent - c.peerTaken)
			return room > 0 || c.reset || c.shutdown&noReceive != 0
		})
		if room == 0 || c.shutdown&noReceive != 0 {
			return total - len(p), io.ErrClosedPipe
		}
		n := min(len(p), int(room), 64<<10)
		c.g.mu.Lock()
		c.sent += uint32(n)
		c.g.mu.Unlock()
		c.send(opData, 0, p[:n])
		p = p[n:]
	}
	return total, nil
}

// Read is io.EOF once the host is done sending, and another error after a reset.
func (c *guestConn) Read(p []byte) (int, error) {
	c.g.await(func() bool { return c.in.Len() > 0 || c.reset || c.shutdown&noSend != 0 })
	c.g.mu.Lock()
	n, _ := c.in.Read(p)
	c.taken += uint32(n)
	late := c.alloc-(c.received-c.told) < c.alloc/2
	over, reset := c.shutdown&noSend != 0, c.reset
	c.g.mu.Unlock()
	switch {
	case n > 0:
		if late && !reset {
			c.send(opCreditUpdate, 0, nil)
		}
		return n, nil
	case over:
		return 0, io.EOF
	case reset:
		return 0, io.ErrUnexpectedEOF
	}
	return 0, nil
}

// close is what Linux does: a shutdown both ways, which the host answers with a reset.
func (c *guestConn) close() {
	c.send(opShutdown, noMore, nil)
	c.g.await(func() bool { return c.reset })
}

func startDevice(t testing.TB, path string) (*Device, *guest) {
	t.Helper()
	d, err := New(Options{CID: testCID, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	driver := virtiotest.Start(t, d, virtio.FeatureEventIdx|virtio.FeatureIndirectDesc)
	return d, newGuest(t, driver)
}
