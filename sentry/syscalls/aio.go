package syscalls

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/uring"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func aioCalls() []row {
	return []row{
		{unix.SYS_IO_SETUP, ioSetup, Full, "the ring that the context's address shows is never to be read (its magic is 0)"},
		{unix.SYS_IO_DESTROY, ioDestroy, Full, ""},
		{unix.SYS_IO_SUBMIT, ioSubmit, Full, ""},
		{unix.SYS_IO_GETEVENTS, ioGetevents, Full, ""},
		{unix.SYS_IO_PGETEVENTS, ioPgetevents, Full, ""},
		{unix.SYS_IO_CANCEL, ioCancel, Full, ""},
	}
}

// maxAIO is fs.aio-max-nr, for all contexts of the container.
const maxAIO = 65536

// aioTable are the contexts of all processes (mm->ioctx_table).
type aioTable struct {
	mu sync.Mutex
	at map[aioKey]*aioContext
	n  int // requests that all contexts may have under way
}

type aioKey struct {
	mm *memory.Space
	at memory.Addr
}

// aioContext is an aio_context_t. Its address is that of a page which its process
// maps; with that mapping it ends. (fs/aio.c has it in the mm.)
type aioContext struct {
	*memory.Object
	table *aioTable
	key   aioKey
	most  int
	areas atomic.Int32 // that show the page in the context's own process

	mu      sync.Mutex
	events  []aioEvent
	under   int // requests under way or with an event to take
	pending map[*aioRequest]struct{}
	dead    bool
	queue   vfs.Queue
}

type aioEvent struct{ Data, Object, Res, Res2 uint64 }

// Attach implements memory.Mappable.
func (c *aioContext) Attach(s *memory.Space, at memory.Addr, off, length uint64, shared bool) {
	c.Object.Attach(s, at, off, length, shared)
	if s == c.key.mm {
		c.areas.Add(1)
	}
}

// Detach implements memory.Mappable. It is called with the space's lock held, which
// ending requests cannot be.
func (c *aioContext) Detach(s *memory.Space, at memory.Addr, off, length uint64, shared bool) {
	c.Object.Detach(s, at, off, length, shared)
	if s == c.key.mm && c.areas.Add(-1) == 0 {
		go c.end()
	}
}

// end forgets the context and cancels what is under way.
func (c *aioContext) end() {
	c.table.mu.Lock()
	if c.table.at[c.key] == c {
		delete(c.table.at, c.key)
		c.table.n -= c.most
	}
	c.table.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	for r := range c.pending {
		r.cancelled = true
		r.helper.Cancel()
	}
	c.queue.Notify(vfs.EventIn)
}

func ioSetup(t *kernel.Task, a *Args) (uintptr, error) {
	n, at := a.Uint32(0), a.Addr(1)
	old, err := in64(t, at)
	if err != nil {
		return 0, err
	}
	if old != 0 || n == 0 || n > 0x10000000/32 {
		return 0, unix.EINVAL
	}
	table := &world(t).aio
	table.mu.Lock()
	if table.n+int(n) > maxAIO {
		table.mu.Unlock()
		return 0, unix.EAGAIN
	}
	table.n += int(n)
	table.mu.Unlock()
	c := &aioContext{Object: memory.NewObject(t.Arena()), table: table, most: int(n), pending: map[*aioRequest]struct{}{}}
	defer c.Unref()
	c.key.mm = t.MM()
	// struct aio_ring with a magic that libaio does not know, so that it asks.
	ring := make([]byte, 32)
	le.PutUint32(ring[4:], n)
	le.PutUint32(ring[28:], 32)
	err = c.Truncate(pageSize)
	if err == nil {
		_, err = c.WriteAt(memory.Buffers{ring}, 0)
	}
	if err == nil {
		c.key.at, err = t.MM().Map(memory.MapRequest{Length: pageSize, Shared: true, Prot: access(unix.PROT_READ | unix.PROT_WRITE), Object: c,
			Name: "/[aio] (deleted)"})
	}
	if err != nil {
		table.mu.Lock()
		table.n -= c.most
		table.mu.Unlock()
		return 0, err
	}
	table.mu.Lock()
	if table.at == nil {
		table.at = map[aioKey]*aioContext{}
	}
	table.at[c.key] = c
	table.mu.Unlock()
	if err := out64(t, at, uint64(c.key.at)); err != nil {
		t.MM().Unmap(c.key.at, pageSize)
		return 0, err
	}
	return 0, nil
}

func aioOf(t *kernel.Task, at memory.Addr) (*aioContext, error) {
	table := &world(t).aio
	table.mu.Lock()
	defer table.mu.Unlock()
	if c := table.at[aioKey{t.MM(), at}]; c != nil {
		return c, nil
	}
	return nil, unix.EINVAL
}

func ioDestroy(t *kernel.Task, a *Args) (uintptr, error) {
	c, err := aioOf(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	c.end()
	t.MM().Unmap(c.key.at, pageSize)
	return 0, t.Wait(&c.queue, vfs.EventIn, false, 0, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.pending) > 0 {
			return unix.EAGAIN
		}
		return nil
	})
}

// Commands of an iocb, and its flags (include/uapi/linux/aio_abi.h).
const (
	aioPread, aioPwrite, aioFsync, aioFdsync, aioPoll, aioPreadv, aioPwritev = 0, 1, 2, 3, 5, 7, 8

	aioResfd, aioPrio = 1, 2
)

// iocb is struct iocb, read.
type iocb struct {
	data           uint64
	flags          uint32 // aio_rw_flags
	op             uint16
	fd             int
	buf, n, offset uint64
	cbFlags        uint32
	resfd          int
}

// parseIocb takes one apart; b has 64 bytes.
func parseIocb(b []byte) (c iocb, err error) {
	c = iocb{data: le.Uint64(b), flags: le.Uint32(b[12:]), op: le.Uint16(b[16:]), fd: int(int32(le.Uint32(b[20:]))), buf: le.Uint64(b[24:]),
		n: le.Uint64(b[32:]), offset: le.Uint64(b[40:]), cbFlags: le.Uint32(b[56:]), resfd: int(int32(le.Uint32(b[60:])))}
	if le.Uint64(b[48:]) != 0 || int64(c.n) < 0 {
		err = unix.EINVAL
	}
	return c, err
}

// aioRequest is an iocb on its way.
type aioRequest struct {
	c         *aioContext
	cb        iocb
	object    memory.Addr // the iocb in the program's memory
	file      *vfs.Description
	event     *vfs.Description // eventfd, or nil
	pieces    []piece
	helper    *kernel.Task
	cancelled bool
}

func ioSubmit(t *kernel.Task, a *Args) (uintptr, error) {
	c, err := aioOf(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	n := a.Int64(1)
	if n < 0 {
		return 0, unix.EINVAL
	}
	n = min(n, int64(c.most))
	for i := range n {
		at, err := in64(t, a.Addr(2)+memory.Addr(8*i))
		if err == nil {
			err = c.submit(t, memory.Addr(at))
		}
		if err != nil {
			return partial(uint64(i), err)
		}
	}
	return uintptr(n), nil
}

// submit begins one request. Errors that are found before it begins are the
// call's; others are its event.
func (c *aioContext) submit(t *kernel.Task, at memory.Addr) (err error) {
	var b [64]byte
	if err := in(t, at, b[:]); err != nil {
		return err
	}
	r := &aioRequest{c: c, object: at}
	if r.cb, err = parseIocb(b[:]); err != nil {
		return err
	}
	c.mu.Lock()
	full := c.under >= c.most
	if !full {
		c.under++
	}
	c.mu.Unlock()
	if full {
		return unix.EAGAIN
	}
	if err := r.prepare(t); err != nil {
		r.release()
		c.mu.Lock()
		c.under--
		c.mu.Unlock()
		return err
	}
	var res uint64
	t.TryOnly(func() { res, err = r.do(t) })
	if err != kernel.EWOULDWAIT {
		r.complete(res, err)
		return nil
	}
	h := t.Helper()
	if h == nil {
		r.complete(0, unix.EAGAIN)
		return nil
	}
	c.mu.Lock()
	r.helper = h
	c.pending[r] = struct{}{}
	if c.dead {
		r.cancelled = true
		h.Cancel()
	}
	c.mu.Unlock()
	t.AtEnd(r, func() { r.cancel() })
	go func() {
		defer t.Kernel().Guard()
		res, err := r.do(h)
		t.NotAtEnd(r)
		r.complete(res, err)
		h.Retire()
	}()
	return nil
}

// cancel says whether r was under way.
func (r *aioRequest) cancel() bool {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if _, under := r.c.pending[r]; !under || r.cancelled {
		return false
	}
	r.cancelled = true
	r.helper.Cancel()
	return true
}

// prepare is fs/aio.c, __io_submit_one, before anything begins.
func (r *aioRequest) prepare(t *kernel.Task) (err error) {
	cb := &r.cb
	if r.file, err = t.FDs().Get(cb.fd); err != nil {
		return err
	}
	if cb.cbFlags&aioResfd != 0 {
		if r.event, err = eventOf(t, cb.resfd); err != nil {
			return err
		}
	}
	if err := out32(t, r.object+8, 0); err != nil { // aio_key
		return err
	}
	write := cb.op == aioPwrite || cb.op == aioPwritev
	if cb.op != aioPoll && cb.op != aioFsync && cb.op != aioFdsync && int64(cb.offset) < 0 {
		return unix.EINVAL // rw_verify_area
	}
	switch cb.op {
	case aioPread, aioPwrite:
		r.pieces = []piece{{memory.Addr(cb.buf), min(cb.n, maxRW)}}
		if cb.n > 0 && (cb.buf >= uint64(taskSize) || uint64(taskSize)-cb.buf < cb.n) {
			err = unix.EFAULT
		}
	case aioPreadv, aioPwritev:
		r.pieces, err = inIovec(t, memory.Addr(cb.buf), cb.n)
	case aioFsync, aioFdsync:
		if cb.buf != 0 || cb.offset != 0 || cb.n != 0 || cb.flags != 0 {
			return unix.EINVAL
		}
		return nil
	case aioPoll:
		if cb.buf > 0xffff || cb.offset != 0 || cb.n != 0 || cb.flags != 0 {
			return unix.EINVAL
		}
		return nil
	default:
		return unix.EINVAL
	}
	switch {
	case cb.flags&^rwfKnown != 0:
		return unix.EOPNOTSUPP
	case write && !r.file.Writable(), !write && !r.file.Readable():
		return unix.EBADF
	}
	return err
}

func (r *aioRequest) do(t *kernel.Task) (uint64, error) {
	cb := &r.cb
	switch cb.op {
	case aioFsync, aioFdsync:
		return 0, r.file.Sync(t, cb.op == aioFdsync)
	case aioPoll:
		mask := vfs.Events(cb.buf) | vfs.EventErr | vfs.EventHup
		var got vfs.Events
		err := t.Wait(r.file.Queue(), mask, false, 0, func() error {
			if got = r.file.Ready(mask) & mask; got == 0 {
				return unix.EAGAIN
			}
			return nil
		})
		return uint64(got), err
	}
	write := cb.op == aioPwrite || cb.op == aioPwritev
	x := transfer{d: r.file, pos: -1, write: write, nonblock: cb.flags&unix.RWF_NOWAIT != 0 || r.file.NonBlocking()}
	if x.regular() {
		if x.pos = int64(cb.offset); x.pos < 0 {
			return 0, unix.EINVAL
		}
	}
	if write && cb.flags&unix.RWF_APPEND != 0 {
		x.toEnd(t)
	}
	n, err := x.pieces(t, r.pieces)
	if err == unix.ESPIPE && x.pos >= 0 {
		x.pos = -1
		n, err = x.pieces(t, r.pieces)
	}
	if err == nil && write && cb.flags&(unix.RWF_DSYNC|unix.RWF_SYNC) != 0 {
		err = x.d.Sync(t, cb.flags&unix.RWF_SYNC == 0)
	}
	return uint64(n), err
}

// complete makes an event of the result.
func (r *aioRequest) complete(res uint64, err error) {
	c := r.c
	c.mu.Lock()
	delete(c.pending, r)
	if err != nil {
		e, ok := err.(unix.Errno)
		switch {
		case r.cancelled && e == kernel.ERESTARTSYS:
			e = unix.ECANCELED
		case e >= kernel.ERESTARTSYS:
			e = unix.EINTR
		case missingPage(err) != nil: // nobody waits here
			e = unix.EFAULT
		case !ok:
			e = unix.EIO
		}
		res = uint64(-int64(e))
	}
	c.events = append(c.events, aioEvent{r.cb.data, uint64(r.object), res, 0})
	c.mu.Unlock()
	c.queue.Notify(vfs.EventIn)
	if r.event != nil {
		uring.Signal(r.event)
	}
	r.release()
}

func (r *aioRequest) release() {
	for _, d := range []*vfs.Description{r.file, r.event} {
		if d != nil {
			d.Unref()
		}
	}
}

func ioGetevents(t *kernel.Task, a *Args) (uintptr, error) { return getEvents(t, a) }

func ioPgetevents(t *kernel.Task, a *Args) (uintptr, error) {
	if a[5] != 0 {
		s, err := inStruct[[2]uint64](t, a.Addr(5)) // struct __aio_sigset
		if err != nil {
			return 0, err
		}
		if s[0] != 0 {
			m, err := inMask(t, memory.Addr(s[0]), s[1])
			if err != nil {
				return 0, err
			}
			t.WithMask(m)
		}
	}
	n, err := getEvents(t, a)
	if err == unix.EINTR {
		err = kernel.ERESTARTNOHAND
	}
	return n, err
}

func getEvents(t *kernel.Task, a *Args) (uintptr, error) {
	least, most, to := a.Int64(1), a.Int64(2), a.Addr(3)
	var deadline time.Duration
	now := false
	if a[4] != 0 {
		ts, err := inTimespec(t, a.Addr(4))
		if err != nil {
			return 0, err
		}
		now = ts.Sec < 0 || span(ts) <= 0
		deadline = after(t, ts)
	}
	c, err := aioOf(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	if least > most || least < 0 {
		return 0, unix.EINVAL
	}
	done := int64(0)
	take := func() error {
		c.mu.Lock()
		n := min(int64(len(c.events)), most-done)
		part := c.events[:n]
		c.events = c.events[n:]
		c.under -= int(n)
		dead := c.dead
		c.mu.Unlock()
		for i := range part {
			if err := outStruct(t, to+memory.Addr(32*done), &part[i]); err != nil {
				return err
			}
			done++
		}
		if done < least && !dead {
			return unix.EAGAIN
		}
		return nil
	}
	err = t.Wait(&c.queue, vfs.EventIn, now, deadline, take)
	switch err {
	case unix.EAGAIN, unix.ETIMEDOUT:
		err = nil
	case kernel.ERESTARTSYS:
		err = unix.EINTR
	}
	return partial(uint64(done), err)
}

// ioCancel is answered by the event of what was cancelled.
func ioCancel(t *kernel.Task, a *Args) (uintptr, error) {
	at := a.Addr(1)
	key, err := in32(t, at+8)
	if err != nil {
		return 0, err
	}
	if key != 0 {
		return 0, unix.EINVAL
	}
	c, err := aioOf(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	var found *aioRequest
	for r := range c.pending {
		if r.object == at {
			found = r
		}
	}
	c.mu.Unlock()
	if found == nil || !found.cancel() {
		return 0, unix.EINVAL
	}
	return 0, unix.EINPROGRESS
}
