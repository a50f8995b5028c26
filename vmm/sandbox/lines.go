package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent/rpc"
)

// switchboard takes the guest's connections: one to the calls' port, which is
// its init's, before it runs anything else, and streams that somebody waits for.
// Anything in the guest can call; what it can cost is bounded here and in the device.
//
// Until its init has been greeted the last call is the one that counts: on a host that has
// other things to do a guest may have given a call up before that was taken (connect(2) of a
// vsock waits for 2 s, net/vmw_vsock/af_vsock.c), or have lost it to the news that it is a copy.
type switchboard struct {
	calls    chan net.Conn // has room for the last
	patience time.Duration // with a guest that has started a process and opens not all of its streams: it has before it answers

	mu      sync.Mutex
	greeted bool
	closed  bool
	waiting map[rpc.StreamID]chan net.Conn
	unnamed []net.Conn // have not said which stream they are, the oldest first
}

// mostUnnamed is far above what an init opens at one time.
const mostUnnamed = 64

var errClosed = errors.New("the guest is gone")

func newSwitchboard() *switchboard {
	return &switchboard{calls: make(chan net.Conn, 1), patience: 10 * time.Second, waiting: map[rpc.StreamID]chan net.Conn{}}
}

// dial is the device's way to a port of the host.
func (b *switchboard) dial(_ context.Context, port uint32) (net.Conn, error) {
	if port != rpc.CallsPort && port != rpc.StreamsPort {
		return nil, unix.ECONNREFUSED
	}
	theirs, ours, err := connected()
	if err != nil {
		return nil, err
	}
	if port == rpc.CallsPort {
		err = b.call(ours)
	} else {
		err = b.stream(ours)
	}
	if err != nil {
		theirs.Close()
		ours.Close()
		return nil, err
	}
	return theirs, nil
}

func (b *switchboard) call(c net.Conn) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.greeted || b.closed {
		return unix.ECONNREFUSED
	}
	select {
	case former := <-b.calls:
		former.Close()
	default:
	}
	b.calls <- c
	return nil
}

// greet has no call taken any more.
func (b *switchboard) greet() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.greeted {
		return
	}
	b.greeted = true
	select {
	case former := <-b.calls:
		former.Close()
	default:
	}
}

func (b *switchboard) stream(c net.Conn) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return unix.ECONNREFUSED
	}
	if len(b.unnamed) == mostUnnamed {
		b.unnamed[0].Close() // its reader takes it off
		b.unnamed = b.unnamed[1:]
	}
	b.unnamed = append(b.unnamed, c)
	go b.name(c)
	return nil
}

// name hears which stream a connection is, and hands it to who waits for it.
func (b *switchboard) name(c net.Conn) {
	id, err := rpc.ReadStreamID(c)
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, u := range b.unnamed {
		if u == c {
			b.unnamed = append(b.unnamed[:i:i], b.unnamed[i+1:]...)
			break
		}
	}
	w := b.waiting[id]
	if err != nil || w == nil {
		c.Close()
		return
	}
	delete(b.waiting, id)
	w <- c // has room for one
}

// expect makes a stream that the guest is to open.
func (b *switchboard) expect() (rpc.StreamID, <-chan net.Conn) {
	id, c := rpc.NewStreamID(), make(chan net.Conn, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting[id] = c
	return id, c
}

// forget waits for a stream no longer.
func (b *switchboard) forget(id rpc.StreamID, c <-chan net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, id)
	select {
	case conn := <-c:
		conn.Close()
	default:
	}
}

// agent waits for the guest's init to call.
func (b *switchboard) agent(ctx context.Context) (net.Conn, error) {
	select {
	case c, ok := <-b.calls:
		if !ok {
			return nil, errClosed
		}
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// callsConn is the connection on which the guest's init is called. ttrpc's calls heed their
// contexts when they wait for an answer and not when they write, and write one at a time:
// a guest that reads nothing would have all of them wait for ever.
type callsConn struct {
	net.Conn
	patience time.Duration
	paused   func() bool // the guest cannot read
}

func (c *callsConn) Write(b []byte) (n int, err error) {
	for {
		if err := c.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
			return n, err
		}
		m, err := c.Conn.Write(b[n:])
		if n += m; err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if !c.paused() {
			return n, fmt.Errorf("the guest's init reads no calls: %w", err)
		}
	}
}

// close ends the wait for the init, and what has no name. Streams end with their device.
func (b *switchboard) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.closed = true
	if !b.greeted {
		close(b.calls)
	}
	for _, c := range b.unnamed {
		c.Close()
	}
}

// connected is a pair of sockets that wait in Go's poller.
func connected() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	conns := [2]net.Conn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "stream")
		conns[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			for _, fd := range fds[i+1:] {
				unix.Close(fd)
			}
			if i > 0 {
				conns[0].Close()
			}
			return nil, nil, err
		}
	}
	return conns[0], conns[1], nil
}
