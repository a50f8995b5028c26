package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone says that the sandbox hung up, or was never there.
var ErrGone = errors.New("the sandbox process is gone")

// Client calls a sandbox. Its methods may be used concurrently; an answer to a
// call whose context has ended is dropped.
type Client struct {
	w    *wire
	done chan struct{} // closed when the reader has ended

	mu      sync.Mutex // guards what follows
	next    uint64
	pending map[uint64]chan *message
	err     error // why the reader ended
}

// Dial connects to the socket at path, which may be longer than a socket address.
func Dial(ctx context.Context, path string) (*Client, error) {
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("agent: connect to %s: %w", path, err)
	}
	defer dir.Close()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socketPath(dir, path))
	if err != nil {
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("agent: connect to %s: %w", path, ErrGone)
		}
		return nil, fmt.Errorf("agent: connect to %s: %w", path, err)
	}
	return NewClient(conn.(*net.UnixConn)), nil
}

// Listen makes the socket at path, which may be longer than a socket address
// (108 bytes; docker's state directories come close), and gives its descriptor.
func Listen(path string) (*os.File, error) {
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("agent: listen at %s: %w", path, err)
	}
	defer dir.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath(dir, path), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("agent: listen at %s: %w", path, err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	return l.File()
}

func socketPath(dir *os.File, path string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path)
}

// NewClient takes a connection over.
func NewClient(conn *net.UnixConn) *Client {
	c := &Client{
		w:       &wire{conn: conn},
		done:    make(chan struct{}),
		pending: make(map[uint64]chan *message),
	}
	go c.read()
	return c
}

// Close hangs up, which ends the calls that are under way.
func (c *Client) Close() error {
	err := c.w.conn.Close()
	<-c.done
	return err
}

// read hands answers to their callers until the connection ends.
func (c *Client) read() {
	defer close(c.done)
	for {
		m, _, err := c.w.receive()
		c.mu.Lock()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
				err = ErrGone
			}
			c.err = err
			c.mu.Unlock()
			c.w.conn.Close()
			return
		}
		reply := c.pending[m.ID]
		delete(c.pending, m.ID)
		c.mu.Unlock()
		if reply != nil {
			reply <- m // has room for one
		}
	}
}

// call sends a request and decodes its answer into reply, unless that is nil.
func (c *Client) call(ctx context.Context, method string, request, reply any, files ...*os.File) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("agent: encode %s: %w", method, err)
	}
	answer := make(chan *message, 1)
	c.mu.Lock()
	c.next++
	id := c.next
	c.pending[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
	}()

	if err := c.w.send(&message{ID: id, Method: method, Body: body}, files); err != nil {
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed) {
			err = ErrGone
		}
		return fmt.Errorf("agent: %s: %w", method, err)
	}
	var m *message
	select {
	case m = <-answer:
	case <-ctx.Done():
		return fmt.Errorf("agent: %s: %w", method, ctx.Err())
	case <-c.done:
		select {
		case m = <-answer: // arrived just before the end
		default:
			return fmt.Errorf("agent: %s: %w", method, c.err)
		}
	}
	if m.Error != nil {
		m.Error.Message = Words(m.Error.Message)
		return m.Error
	}
	if reply == nil {
		return nil
	}
	if err := json.Unmarshal(m.Body, reply); err != nil {
		return fmt.Errorf("agent: parse the answer to %s: %w", method, err)
	}
	return nil
}

// Hello checks that both sides speak the same protocol.
func (c *Client) Hello(ctx context.Context) (Info, error) {
	var i Info
	if err := c.call(ctx, "hello", nil, &i); err != nil {
		return i, err
	}
	if i.Version != Version {
		return i, fmt.Errorf("agent: the sandbox speaks version %d, we speak %d", i.Version, Version)
	}
	return i, nil
}

// Start and the following are Handler's.
func (c *Client) Start(ctx context.Context, container string) error {
	return c.call(ctx, "start", container, nil)
}

// Condition is Conditioned's.
func (c *Client) Condition(ctx context.Context, container string) (*Condition, error) {
	a := new(Condition)
	if err := c.call(ctx, "condition", container, a); err != nil {
		return nil, err
	}
	return a, nil
}

// Exec leaves the files open for the caller to close.
func (c *Client) Exec(ctx context.Context, r *ExecRequest, files []*os.File) (pid int, err error) {
	err = c.call(ctx, "exec", r, &pid, files...)
	return pid, err
}

// Add is Podding's, as is Remove. The files stay the caller's.
func (c *Client) Add(ctx context.Context, r *AddRequest, files []*os.File) error {
	return c.call(ctx, "add", r, nil, files...)
}

func (c *Client) Remove(ctx context.Context, container string) error {
	return c.call(ctx, "remove", container, nil)
}

func (c *Client) Signal(ctx context.Context, r *SignalRequest) error {
	return c.call(ctx, "signal", r, nil)
}

func (c *Client) Wait(ctx context.Context, r *WaitRequest) (s ExitStatus, err error) {
	err = c.call(ctx, "wait", r, &s)
	return s, err
}

func (c *Client) Resize(ctx context.Context, r *ResizeRequest) error {
	return c.call(ctx, "resize", r, nil)
}

func (c *Client) Processes(ctx context.Context, container string) (p []Process, err error) {
	err = c.call(ctx, "processes", container, &p)
	return p, err
}

func (c *Client) Stats(ctx context.Context, container string) (*Stats, error) {
	s := new(Stats)
	if err := c.call(ctx, "stats", container, s); err != nil {
		return nil, err
	}
	return s, nil
}

// Metrics is Metering's.
func (c *Client) Metrics(ctx context.Context, container string) (*Metrics, error) {
	m := new(Metrics)
	if err := c.call(ctx, "metrics", container, m); err != nil {
		return nil, err
	}
	return m, nil
}

func (c *Client) Update(ctx context.Context, r *UpdateRequest) error {
	return c.call(ctx, "update", r, nil)
}

// GivenBack is Shrinking's.
func (c *Client) GivenBack(ctx context.Context, patience time.Duration) (n uint64, err error) {
	err = c.call(ctx, "givenBack", patience, &n)
	return n, err
}

func (c *Client) Pause(ctx context.Context, container string) error {
	return c.call(ctx, "pause", container, nil)
}

func (c *Client) Resume(ctx context.Context, container string) error {
	return c.call(ctx, "resume", container, nil)
}

// Trace writes to to until ctx ends or nobody reads; see Tracing.
func (c *Client) Trace(ctx context.Context, r *TraceRequest, to *os.File) error {
	return c.call(ctx, "trace", r, nil, to)
}

// OOM is Starving's. It returns when ctx ends or nothing more will come; the file stays
// the caller's.
func (c *Client) OOM(ctx context.Context, container string, to *os.File) error {
	return c.call(ctx, "oom", container, nil, to)
}

// Checkpoint is Checkpointing's. The file stays the caller's.
func (c *Client) Checkpoint(ctx context.Context, r *CheckpointRequest, to *os.File) error {
	return c.call(ctx, "checkpoint", r, nil, to)
}

func (c *Client) Debug(ctx context.Context, what string) (text string, err error) {
	err = c.call(ctx, "debug", what, &text)
	return text, err
}
