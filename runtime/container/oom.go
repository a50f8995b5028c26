package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"bulkhead/runtime/agent"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// OOMWatch hears how many of a container's programs were killed for want of memory. Its
// methods are one goroutine's, but for End.
type OOMWatch struct {
	n     uint64   // so far
	from  *os.File // numbers, a line each (agent.Starving)
	raw   [256]byte
	rest  []byte // of raw: the beginning of a line
	end   context.CancelFunc
	ended chan struct{} // closed when no more is written, or waited for
	last  bool          // what is left is read without waiting
}

// WatchOOM begins to listen: what is killed from now on is told. That may take as long as
// the sandbox is frozen, or until ctx ends, with which the watch ends, too.
func (c *Container) WatchOOM(ctx context.Context) (*OOMWatch, error) {
	if err := c.alive(specs.StateCreated, specs.StateRunning, Paused); err != nil {
		return nil, err
	}
	client, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	from, to, err := os.Pipe()
	if err != nil {
		client.Close()
		return nil, err
	}
	ctx, end := context.WithCancel(ctx)
	w := &OOMWatch{from: from, end: end, ended: make(chan struct{})}
	var refused error
	go func() {
		defer close(w.ended)
		err := client.OOM(ctx, c.inside(), to)
		if errors.As(err, new(*agent.Error)) {
			refused = err
		}
		client.Close()
		to.Close()
		// Not the pipe's end ends it, for the sandbox is believed nothing.
		_ = from.SetReadDeadline(time.Unix(1, 0))
	}()
	n, ok := w.read()
	if !ok {
		w.Close()
		switch {
		case refused != nil:
			return nil, refused
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
		return nil, ErrNotRunning
	}
	w.n = n
	return w, nil
}

// Count is how many there were when WatchOOM, or Next, last heard of it.
func (w *OOMWatch) Count() uint64 { return w.n }

// Next waits until there are more, and says how many in all. When the container has ended,
// or after End, it says what is still untold, and then that there is no more.
func (w *OOMWatch) Next() (n uint64, ok bool) {
	for {
		n, ok := w.read()
		if !ok {
			return w.n, false
		}
		if n > w.n {
			w.n = n
			return n, true
		}
	}
}

// End has Next wait no longer.
func (w *OOMWatch) End() { w.end() }

// Close ends the watch. It may be called twice.
func (w *OOMWatch) Close() {
	w.end()
	<-w.ended
	w.from.Close()
}

// read gives the last number that is there, once there is one.
func (w *OOMWatch) read() (n uint64, ok bool) {
	for {
		at := bytes.LastIndexByte(w.rest, '\n')
		if at >= 0 {
			lines := w.rest[:at]
			number, err := strconv.ParseUint(string(lines[bytes.LastIndexByte(lines, '\n')+1:]), 10, 64)
			w.rest = w.raw[:copy(w.raw[:], w.rest[at+1:])]
			return number, err == nil
		}
		if len(w.rest) == len(w.raw) {
			return 0, false // that is no number
		}
		got, err := w.more(w.raw[len(w.rest):])
		if err != nil || got == 0 {
			return 0, false
		}
		w.rest = w.raw[:len(w.rest)+got]
	}
}

// more reads what comes, or, at the end, what has come.
func (w *OOMWatch) more(b []byte) (n int, err error) {
	if !w.last {
		n, err = w.from.Read(b)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		w.last = true
	}
	conn, err := w.from.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := conn.Control(func(fd uintptr) { n, err = unix.Read(int(fd), b) })
	if err = errors.Join(err, cerr); err != nil {
		return 0, fmt.Errorf("oom: %w", err)
	}
	return n, nil
}

// HostOOMKills is how many of the container's processes on the host, the sandbox's among
// them, the host's kernel has killed for want of memory.
func (c *Container) HostOOMKills() (uint64, error) {
	g, err := c.group()
	if err != nil || g == nil || c.State.Pod != "" {
		return 0, err
	}
	return g.OOMKills()
}
