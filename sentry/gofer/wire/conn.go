package wire

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Conn is the Sentry's end. Any goroutine may Call; whoever waits first reads
// for all, so that a lone caller, the usual case, gets its reply in its own
// recvmsg and no goroutine stands between.
type Conn struct {
	fd  int
	buf []byte // the reader's

	mu       sync.Mutex
	calls    map[uint32]*call // by tag
	tag      uint32
	reading  bool     // somebody is in recvmsg
	released []uint32 // ids that the next request takes along
	err      error    // why the connection is of no more use
	sent     uint64
}

// Calls is how many requests were sent that have a reply.
func (c *Conn) Calls() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

type call struct {
	op    Op
	done  bool // reply and err count
	reply Reply
	err   error
	wake  chan struct{} // done, or there is no reader
}

// NewConn takes over fd, a connected SOCK_SEQPACKET socket.
func NewConn(fd int) (*Conn, error) {
	if err := CheckSocket(fd); err != nil {
		return nil, err
	}
	return &Conn{fd: fd, buf: make([]byte, MaxReply), calls: map[uint32]*call{}}, nil
}

// requests are buffers to encode into; most requests are small.
var requests = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

// Call sends q and waits for its reply. An errno of the gofer's is meant for
// the application and comes back bare: this is where it crosses. Any other
// error means that the gofer is lost.
func (c *Conn) Call(q *Request) (Reply, error) {
	if err := q.check(); err != nil {
		return Reply{FD: -1}, err
	}
	w := &call{op: q.Op, wake: make(chan struct{}, 1)}
	if err := c.enter(q, w); err != nil {
		return Reply{FD: -1}, err
	}
	if err := c.send(q); err != nil {
		c.fail(err)
	}
	c.await(w)
	if w.err != nil {
		return Reply{FD: -1}, w.err
	}
	if w.reply.Errno != 0 {
		return Reply{FD: -1}, w.reply.Errno
	}
	return w.reply, nil
}

// Release says that id is of no more use. The gofer hears of it with the next
// request, or at once if there are many: an object may hold disk space.
func (c *Conn) Release(id uint32) {
	c.mu.Lock()
	c.released = append(c.released, id)
	if len(c.released) < 64 || c.err != nil {
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	c.Flush()
}

// Flush tells the gofer of all released ids.
func (c *Conn) Flush() {
	for {
		q := Request{Op: Release}
		c.mu.Lock()
		q.Released = c.takeReleasedLocked()
		dead := c.err != nil
		c.mu.Unlock()
		if len(q.Released) == 0 || dead {
			return
		}
		if err := c.send(&q); err != nil {
			c.fail(err)
		}
	}
}

func (c *Conn) takeReleasedLocked() []uint32 {
	n := min(len(c.released), MaxReleased)
	if n == 0 {
		return nil
	}
	ids := c.released[:n:n]
	if c.released = c.released[n:]; len(c.released) == 0 {
		c.released = nil
	}
	return ids
}

func (c *Conn) enter(q *Request, w *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.tag++
	for c.calls[c.tag] != nil {
		c.tag++
	}
	q.Tag, q.Released = c.tag, c.takeReleasedLocked()
	c.calls[q.Tag] = w
	c.sent++
	return nil
}

func (c *Conn) send(q *Request) error {
	b := requests.Get().(*[]byte)
	*b = q.Append((*b)[:0])
	err := Send(c.fd, *b, -1)
	if cap(*b) <= 4096 {
		requests.Put(b)
	}
	if err != nil {
		return fmt.Errorf("gofer: send %v: %w", q.Op, err)
	}
	return nil
}

// await returns when w is done, reading for everybody while nobody else does.
func (c *Conn) await(w *call) {
	c.mu.Lock()
	for !w.done {
		if c.reading {
			c.mu.Unlock()
			<-w.wake
			c.mu.Lock()
			continue
		}
		c.reading = true
		c.mu.Unlock()
		err := c.receive()
		c.mu.Lock()
		c.reading = false
		if err != nil {
			c.failLocked(err)
		}
	}
	if !c.reading {
		c.wakeReaderLocked()
	}
	c.mu.Unlock()
}

// wakeReaderLocked makes one of those who wait the next reader. Who has not
// begun to wait will see for itself that there is none.
func (c *Conn) wakeReaderLocked() {
	for _, w := range c.calls {
		w.tell()
		return
	}
}

func (w *call) tell() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// receive takes one reply and gives it to its caller.
func (c *Conn) receive() error {
	n, fd, err := Receive(c.fd, c.buf, 0)
	if err == io.EOF {
		return errors.New("gofer: it has gone")
	} else if err != nil {
		return fmt.Errorf("gofer: receive: %w", err)
	}
	if err := c.deliver(c.buf[:n], fd); err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return err
	}
	return nil
}

func (c *Conn) deliver(b []byte, fd int) error {
	tag, ok := replyTag(b)
	c.mu.Lock()
	w := c.calls[tag]
	c.mu.Unlock()
	if !ok || w == nil {
		return fmt.Errorf("gofer: reply of %d bytes to no request", len(b))
	}
	r, err := ParseReply(b, w.op)
	if err != nil {
		return err
	}
	switch want := layouts[w.op].fd && r.Errno == 0; {
	case !want && fd >= 0:
		return fmt.Errorf("gofer: reply to %v with a descriptor", w.op)
	case want && fd < 0: // it was dropped on the way into a full table
		r = Reply{Tag: r.Tag, Errno: unix.EMFILE}
	}
	r.FD = fd
	c.mu.Lock()
	delete(c.calls, tag)
	w.reply, w.done = r, true
	w.tell()
	c.mu.Unlock()
	return nil
}

func (c *Conn) fail(err error) {
	c.mu.Lock()
	c.failLocked(err)
	c.mu.Unlock()
}

// failLocked ends all calls with err. The reader, if there is one, gets out of
// recvmsg by the shutdown.
func (c *Conn) failLocked(err error) {
	if c.err == nil {
		c.err = err
		unix.Shutdown(c.fd, unix.SHUT_RDWR)
	}
	for tag, w := range c.calls {
		delete(c.calls, tag)
		w.err, w.done = c.err, true
		w.tell()
	}
}

// errClosed is what calls get after Close.
var errClosed = errors.New("gofer: connection closed")

// Close ends the connection and with it the gofer. Calls under way fail. The descriptor goes
// when nobody can be using its number any more.
func (c *Conn) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == errClosed {
		return
	}
	c.failLocked(errClosed)
	c.err = errClosed
	runtime.AddCleanup(c, func(fd int) { unix.Close(fd) }, c.fd)
}
