package remote

import (
	"errors"
	"fmt"
	"net"
	"sync"
)

// Memory tells where in the memory that both processes have a slice of it lies.
type Memory interface {
	Offset(b []byte) (uint64, bool)
}

// Client implements fs.Server by a server in another process.
type Client struct {
	conn *net.UnixConn
	mem  Memory
	done chan struct{} // closed when the reader has ended

	mu      sync.Mutex // guards what follows
	next    uint64
	pending map[uint64]chan message
	err     error
}

// NewClient takes conn over, a SOCK_SEQPACKET socket whose other end has a Serve.
func NewClient(conn *net.UnixConn, mem Memory) *Client {
	c := &Client{conn: conn, mem: mem, done: make(chan struct{}), pending: map[uint64]chan message{}}
	go c.read()
	return c
}

// Done is closed when the server is gone.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close hangs up. What is under way ends with an error.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

func (c *Client) read() {
	defer close(c.done)
	buf := make([]byte, maxSize)
	for {
		n, err := c.conn.Read(buf)
		var m message
		if err == nil && n == 0 {
			err = errors.New("fs: the process that serves the share is gone")
		}
		if err == nil {
			m, err = parse(buf[:n])
		}
		if err == nil && m.kind != answer {
			err = fmt.Errorf("fs: a packet of kind %d in place of an answer", m.kind)
		}
		c.mu.Lock()
		if err != nil {
			c.err = err
			c.mu.Unlock()
			c.conn.Close()
			return
		}
		reply := c.pending[m.id]
		delete(c.pending, m.id)
		c.mu.Unlock()
		if reply != nil {
			reply <- m // has room for one
		}
	}
}

// Handle implements fs.Server. That the server is gone is an error as well, after
// which the device has failed: there are no files any more.
func (c *Client) Handle(in, out [][]byte) (int, error) {
	m := message{kind: request}
	var err error
	if m.in, _, err = c.places(in); err != nil {
		return 0, err
	}
	var room uint64
	if m.out, room, err = c.places(out); err != nil {
		return 0, err
	}
	a, err := c.call(m)
	switch {
	case err != nil:
		return 0, err
	case a.breach != "":
		return 0, errors.New(a.breach)
	case uint64(a.written) > room:
		return 0, fmt.Errorf("fs: an answer of %d bytes where there is room for %d", a.written, room)
	}
	return int(a.written), nil
}

// Forget implements fs.Server.
func (c *Client) Forget() { _, _ = c.call(message{kind: forget}) } // a server that is gone has forgotten

func (c *Client) places(segments [][]byte) (list []part, total uint64, err error) {
	for _, s := range segments {
		at, ok := c.mem.Offset(s)
		if !ok {
			return nil, 0, errors.New("fs: a part of a request is not the guest's memory")
		}
		list = append(list, part{at, uint32(len(s))}) // a chain has less than 4 GiB
		total += uint64(len(s))
	}
	return list, total, nil
}

func (c *Client) call(m message) (message, error) {
	reply := make(chan message, 1)
	c.mu.Lock()
	c.next++
	m.id = c.next
	c.pending[m.id] = reply
	c.mu.Unlock()
	b, err := m.bytes()
	if err == nil {
		_, err = c.conn.Write(b)
	}
	if err == nil {
		select {
		case a := <-reply:
			return a, nil
		case <-c.done:
			select {
			case a := <-reply: // came just before the end
				return a, nil
			default:
				err = c.err
			}
		}
	}
	c.mu.Lock()
	delete(c.pending, m.id)
	c.mu.Unlock()
	return message{}, err
}
