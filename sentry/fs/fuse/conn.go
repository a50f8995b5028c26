package fuse

import (
	"bytes"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// Sizes of headers, and the smallest buffer that a server may read into.
const (
	inHeader  = 40
	outHeader = 16
	minRead   = 8192
)

// conn is an open /dev/fuse: the server's end.
type conn struct {
	vfs.NoFile
	queue vfs.Queue

	mu       sync.Mutex
	state    connState
	last     uint64
	pending  []*request          // not yet read
	waiting  map[uint64]*request // read or not, to be answered
	maxWrite uint32
	ready    chan struct{} // closed when INIT was answered
}

type connState uint8

const (
	unmounted connState = iota
	starting            // INIT is not answered yet
	running
	gone      // the server has
	abandoned // the file system was unmounted
)

// request is one question.
type request struct {
	unique uint64
	bytes  []byte
	done   chan struct{}
	errno  unix.Errno
	reply  []byte
}

// Open is open(2) of /dev/fuse.
func Open(vfs.Context, vfs.Path, int) (vfs.File, error) {
	return &conn{waiting: map[uint64]*request{}, ready: make(chan struct{})}, nil
}

// begin is called by mount(2): the first request is INIT.
func (c *conn) begin() error {
	const bigWrites, parallel, maxPages = 1 << 5, 1 << 18, 1 << 22
	c.mu.Lock()
	if c.state != unmounted {
		c.mu.Unlock()
		return unix.EBUSY
	}
	c.state = starting
	b := le.AppendUint32(le.AppendUint32(nil, 7), 31)
	b = le.AppendUint32(le.AppendUint32(b, maxTransfer), bigWrites|parallel|maxPages)
	c.addLocked(nil, opInit, 0, b, true)
	c.mu.Unlock()
	c.queue.Notify(vfs.EventIn)
	return nil
}

// addLocked puts a request into the queue; answered says that a reply comes.
func (c *conn) addLocked(ctx vfs.Context, op uint32, node uint64, body []byte, answered bool) *request {
	c.last += 2
	r := &request{unique: c.last, done: make(chan struct{})}
	b := le.AppendUint32(nil, uint32(inHeader+len(body)))
	b = le.AppendUint64(le.AppendUint32(b, op), r.unique)
	b = le.AppendUint64(b, node)
	uid, gid, pid := uint32(0), uint32(0), uint32(0)
	if ctx != nil {
		uid, gid = ctx.Creds().FSUID, ctx.Creds().FSGID
		if t, ok := ctx.(*kernel.Task); ok {
			pid = uint32(t.Group().PID())
		}
	}
	b = le.AppendUint32(le.AppendUint32(le.AppendUint32(b, uid), gid), pid)
	r.bytes = append(le.AppendUint32(b, 0), body...)
	c.pending = append(c.pending, r)
	if answered {
		c.waiting[r.unique] = r
	}
	return r
}

// post sends what needs no answer.
func (c *conn) post(op uint32, node uint64, body []byte) {
	c.mu.Lock()
	ok := c.state == running
	if ok {
		c.addLocked(nil, op, node, body, false)
	}
	c.mu.Unlock()
	if ok {
		c.queue.Notify(vfs.EventIn)
	}
}

// taskOf is who waits for the server: the caller, or whom the Sentry acts for.
func taskOf(ctx vfs.Context) (*kernel.Task, bool) {
	switch c := ctx.(type) {
	case *kernel.Task:
		return c, true
	case interface{ Task() *kernel.Task }:
		return c.Task(), true
	}
	return nil, false
}

// call asks the server, and waits for at least size bytes of answer.
func (c *conn) call(ctx vfs.Context, op uint32, node uint64, size int, body ...[]byte) ([]byte, error) {
	t, ok := taskOf(ctx)
	if !ok {
		return nil, unix.EAGAIN // the Sentry waits for no server
	}
	if err := t.WaitKillable(c.ready); err != nil {
		return nil, err
	}
	c.mu.Lock()
	switch c.state {
	case gone, abandoned:
		c.mu.Unlock()
		return nil, unix.ENOTCONN
	}
	r := c.addLocked(ctx, op, node, bytes.Join(body, nil), true)
	c.mu.Unlock()
	c.queue.Notify(vfs.EventIn)
	if err := t.WaitKillable(r.done); err != nil {
		c.mu.Lock()
		delete(c.waiting, r.unique)
		c.mu.Unlock()
		return nil, err
	}
	if r.errno != 0 {
		return nil, r.errno
	}
	if len(r.reply) < size {
		return nil, unix.EIO
	}
	return r.reply, nil
}

// Read gives the server its next request.
func (c *conn) Read(_ vfs.Context, dst memory.Buffers, _ int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.state == unmounted:
		return 0, unix.EPERM
	case c.state == abandoned:
		return 0, unix.ENODEV
	case dst.Len() < minRead:
		return 0, unix.EINVAL
	case len(c.pending) == 0:
		return 0, unix.EAGAIN
	}
	r := c.pending[0]
	c.pending = c.pending[1:]
	if len(r.bytes) > dst.Len() {
		c.endLocked(r, unix.EIO, nil)
		return 0, unix.EAGAIN
	}
	n := dst.CopyOut(r.bytes)
	r.bytes = nil
	if n < 1 {
		return 0, unix.EFAULT
	}
	return n, nil
}

// Write takes an answer.
func (c *conn) Write(_ vfs.Context, src memory.Buffers, _ int64) (int, error) {
	size := src.Len()
	c.mu.Lock()
	state := c.state
	c.mu.Unlock()
	if state == unmounted {
		return 0, unix.EPERM
	}
	if size < outHeader || size > outHeader+maxTransfer+4096 {
		return 0, unix.EINVAL
	}
	b := make([]byte, size)
	if src.CopyIn(b) < size {
		return 0, unix.EFAULT
	}
	errno := int32(le.Uint32(b[4:]))
	if int(le.Uint32(b)) != size || errno > 0 || errno <= -512 || errno != 0 && size > outHeader {
		return 0, unix.EINVAL
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == abandoned {
		return 0, unix.ENODEV
	}
	unique := le.Uint64(b[8:])
	if unique == 0 { // a notice, of caches that we do not keep
		return size, nil
	}
	r := c.waiting[unique]
	if r == nil || r.bytes != nil {
		return 0, unix.ENOENT
	}
	if c.state == starting {
		if !c.startLocked(errno, b[outHeader:]) {
			return 0, unix.EINVAL
		}
	}
	c.endLocked(r, unix.Errno(-errno), b[outHeader:])
	return size, nil
}

// startLocked takes the answer to INIT.
func (c *conn) startLocked(errno int32, b []byte) bool {
	if errno != 0 || len(b) < 24 || le.Uint32(b) != 7 {
		c.abortLocked(gone)
		return errno != 0
	}
	c.maxWrite = min(max(le.Uint32(b[20:]), 4096), maxTransfer)
	c.state = running
	close(c.ready)
	return true
}

func (c *conn) endLocked(r *request, errno unix.Errno, reply []byte) {
	if _, there := c.waiting[r.unique]; !there {
		return
	}
	delete(c.waiting, r.unique)
	r.errno, r.reply = errno, reply
	close(r.done)
}

func (c *conn) abortLocked(to connState) {
	if c.state == starting || c.state == unmounted {
		close(c.ready)
	}
	c.state, c.pending = to, nil
	for _, r := range c.waiting {
		c.endLocked(r, unix.ECONNABORTED, nil)
	}
}

// abort ends the connection.
func (c *conn) abort(unmount bool) {
	c.mu.Lock()
	if c.state != abandoned && c.state != gone {
		to := gone
		if unmount {
			to = abandoned
		}
		c.abortLocked(to)
	}
	c.mu.Unlock()
	c.queue.Notify(vfs.EventIn | vfs.EventErr | vfs.EventHup)
}

// Release: the server has gone.
func (c *conn) Release() { c.abort(false) }

func (c *conn) Stream()           {}
func (c *conn) Queue() *vfs.Queue { return &c.queue }

func (c *conn) Ready(mask vfs.Events) vfs.Events {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.state == abandoned || c.state == gone || c.state == unmounted:
		return vfs.EventErr
	case len(c.pending) > 0:
		return mask & (vfs.EventIn | vfs.EventOut)
	}
	return mask & vfs.EventOut
}
