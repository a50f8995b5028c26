// Package unix is the AF_UNIX family: streams, datagrams and sequences of
// packets between processes of one container, with names in the file system or
// in the abstract namespace, passed descriptors and credentials. Behaviour
// follows net/unix/af_unix.c, whose names for states and rules are used here.
//
// Descriptors in flight hold references. A cycle of them (a socket sent through
// itself and closed) is never released as Linux's collector would; nothing here
// keeps it reachable, so the Go collector takes its memory.
//
// Lock order: an endpoint's mu before another's with a higher id, then
// Names.mu; vfs.Queue.mu last.
package unix

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

type state uint8

const (
	closed state = iota // not connected: TCP_CLOSE
	listening
	established
)

var ids atomic.Uint64

// Endpoint is one socket.
type Endpoint struct {
	id    uint64
	typ   int
	names *Names
	inode *vfs.AnonInode
	opts  *socket.Options
	queue vfs.Queue
	used  socket.Held // bytes sent and not yet received, as sk_wmem_alloc

	starved atomic.Bool // a send found no room since the last signal of some

	host atomic.Pointer[hostSocket] // whom it is connected to, if not one of ours

	bindMu sync.Mutex // one bind at a time

	mu       sync.Mutex
	state    state
	shutdown int // readDown, writeDown
	dead     bool
	err      unix.Errno
	peer     *Endpoint
	name     *name // nil if not bound
	peerCred *unix.Ucred
	peerGrps []uint32
	in       []*packet
	urgent   *packet     // the last one of in that was sent with MSG_OOB, if not received yet
	pending  []*Endpoint // connections to accept
	backlog  int
	waiting  map[*Endpoint]struct{} // senders or connectors that found no room
}

const (
	readDown  = 1 // RCV_SHUTDOWN
	writeDown = 2
	bothDown  = readDown | writeDown

	// recvqMax is net.unix.max_dgram_qlen: datagrams that one receiver holds.
	recvqMax = 10
	// maxBacklog is net.core.somaxconn.
	maxBacklog = 4096
)

// New makes a socket with names in ns.
func New(c vfs.Context, ns *Names, typ, protocol int) (*Endpoint, error) {
	if protocol != 0 && protocol != unix.AF_UNIX {
		return nil, unix.EPROTONOSUPPORT
	}
	switch typ {
	case unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET:
	case unix.SOCK_RAW: // BSD's word for datagrams
		typ = unix.SOCK_DGRAM
	default:
		return nil, unix.ESOCKTNOSUPPORT
	}
	e := &Endpoint{id: ids.Add(1), typ: typ, names: ns, inode: socket.NewInode(c), opts: socket.NewOptions()}
	e.used.In(c)
	ns.add(e)
	return e, nil
}

// Pair makes two connected sockets.
func Pair(c socket.Caller, ns *Names, typ, protocol int) (a, b *Endpoint, err error) {
	if a, err = New(c, ns, typ, protocol); err != nil {
		return nil, nil, err
	}
	if b, err = New(c, ns, typ, protocol); err != nil {
		return nil, nil, err
	}
	for _, e := range []*Endpoint{a, b} {
		e.peerCred, e.peerGrps = credsOf(c)
		e.state = established
	}
	a.peer, b.peer = b, a
	return a, b, nil
}

func credsOf(c socket.Caller) (*unix.Ucred, []uint32) {
	k := c.Creds()
	return &unix.Ucred{Pid: socket.PID(c), Uid: k.EUID, Gid: k.EGID}, k.Groups
}

func (e *Endpoint) Kind() (family, typ, protocol int)       { return unix.AF_UNIX, e.typ, 0 }
func (e *Endpoint) Inode() *vfs.AnonInode                   { return e.inode }
func (e *Endpoint) Queue() *vfs.Queue                       { return &e.queue }
func (e *Endpoint) Stream()                                 {}
func (e *Endpoint) Timeouts() (receive, send time.Duration) { return e.opts.Timeouts() }
func (e *Endpoint) connectionBased() bool                   { return e.typ != unix.SOCK_DGRAM }

// lock2 locks two endpoints, which may be one.
func lock2(a, b *Endpoint) (unlock func()) {
	if a == b {
		a.mu.Lock()
		return a.mu.Unlock
	}
	if a.id > b.id {
		a, b = b, a
	}
	a.mu.Lock()
	b.mu.Lock()
	return func() { b.mu.Unlock(); a.mu.Unlock() }
}

// Read and Write are recv and send without flags. They cannot know whether their
// caller waits; that matters to nothing but a datagram socket that was shut down.
func (e *Endpoint) Read(ctx vfs.Context, dst memory.Buffers, _ int64) (int, error) {
	m := socket.Message{Data: dst}
	n, err := e.receive(&m, unix.MSG_DONTWAIT)
	m.Control.Release()
	return n, err
}

func (e *Endpoint) Write(ctx vfs.Context, src memory.Buffers, _ int64) (int, error) {
	c, ok := ctx.(socket.Caller)
	if !ok {
		return 0, unix.EINVAL
	}
	return e.Send(c, &socket.Message{Data: src}, 0)
}

// Release closes the socket. unix_release_sock.
func (e *Endpoint) Release() { e.release(false) }

func (e *Endpoint) release(embryo bool) {
	if h := e.host.Load(); h != nil {
		h.close()
	}
	e.mu.Lock()
	e.dead = true
	e.shutdown = bothDown
	peer := e.peer
	unread := len(e.in) > 1 || len(e.in) == 1 && e.in[0].left() > 0 // one empty packet does not count, as in 6.x
	in, pending, waiting, name := e.in, e.pending, e.waiting, e.name
	e.urgent = nil
	e.in, e.pending, e.waiting, e.state, e.peer = nil, nil, nil, closed, nil
	e.mu.Unlock()

	if peer != nil && e.connectionBased() {
		peer.mu.Lock()
		peer.shutdown = bothDown
		if unread || embryo {
			peer.err = unix.ECONNRESET
		}
		peer.mu.Unlock()
		peer.queue.Notify(vfs.EventIn | vfs.EventOut | vfs.EventHup | vfs.EventRdHup)
	}
	for _, p := range in {
		p.drop()
	}
	for _, n := range pending {
		n.release(true)
	}
	for w := range waiting {
		w.queue.Notify(vfs.EventOut)
	}
	e.names.remove(e, name)
	e.queue.Notify(vfs.EventHup)
}

// Shutdown is shutdown(2). unix_shutdown.
func (e *Endpoint) Shutdown(_ socket.Caller, how int) error {
	if how < unix.SHUT_RD || how > unix.SHUT_RDWR {
		return unix.EINVAL
	}
	if h := e.host.Load(); h != nil {
		return unix.Shutdown(h.fd, how)
	}
	mode := how + 1
	e.mu.Lock()
	e.shutdown |= mode
	peer := e.peer
	e.mu.Unlock()
	const all = vfs.EventIn | vfs.EventOut | vfs.EventHup | vfs.EventRdHup
	e.queue.Notify(all)
	if peer == nil || !e.connectionBased() {
		return nil
	}
	peer.mu.Lock()
	if mode&readDown != 0 {
		peer.shutdown |= writeDown
	}
	if mode&writeDown != 0 {
		peer.shutdown |= readDown
	}
	peer.mu.Unlock()
	peer.queue.Notify(all)
	return nil
}

// TellsUrgent implements vfs.Urgent.
func (e *Endpoint) TellsUrgent() {}

// takeError is sock_error: an error is told once.
func (e *Endpoint) takeErrorLocked() error {
	if e.err == 0 {
		return nil
	}
	err := e.err
	e.err = 0
	return err
}

// IOReason implements vfs.Signaller. Room is told to who found none
// (SOCKWQ_ASYNC_NOSPACE), the other side's end is a hang-up.
func (e *Endpoint) IOReason(events vfs.Events) vfs.IOReason {
	switch {
	case events&vfs.EventHup != 0:
		return vfs.IOHangup
	case events&vfs.EventPri != 0:
		return vfs.IOUrgent
	case events&vfs.EventIn != 0:
		return vfs.IOIn
	case events&vfs.EventOut != 0 && e.starved.Swap(false):
		return vfs.IOOut
	}
	return 0
}
