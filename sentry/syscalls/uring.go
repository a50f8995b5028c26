package syscalls

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/uring"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func uringCalls() []row {
	return []row{
		{unix.SYS_IO_URING_SETUP, uringSetup, Partial, "SQPOLL is EPERM; IOPOLL, SQE128, CQE32 and rings in the program's own memory are EINVAL"},
		{unix.SYS_IO_URING_ENTER, uringEnter, Partial, "operations up to LINKAT and some later ones (the probe lists them); the others EINVAL"},
		{unix.SYS_IO_URING_REGISTER, uringRegister, Partial, "no personalities, restrictions, resource tags, registered ring descriptors"},
	}
}

// maxRequests bounds what one ring may have under way: each that waits has a
// goroutine.
const maxRequests = 16384

// ring is an io_uring and what is under way in it.
type ring struct {
	*uring.Ring
	k *kernel.Kernel

	mu       sync.Mutex
	enabled  bool
	closed   bool
	running  int // chains of requests that have begun and not ended
	pending  map[*request]struct{}
	deferred []*request // heads of chains that wait for those before them (IOSQE_IO_DRAIN)
	files    []*vfs.Description
	buffers  []piece // registered; a hole has no bytes
	groups   map[uint16]*bufferGroup
	owners   map[*kernel.Task]struct{} // who submitted
}

// request is one SQE on its way.
type request struct {
	ring  *ring
	sqe   uring.SQE
	op    *ringOp
	owner *kernel.Task // who submitted it
	next  *request     // linked behind it

	failed unix.Errno // found when it was taken apart; it does not begin
	drain  bool
	file   *vfs.Description
	arg    any // what op.prep read

	short     bool // did less than asked for, which ends a chain
	expired   bool // a timeout whose end is no failure
	buffer    *ringBuffer
	timeout   *request // IORING_OP_LINK_TIMEOUT behind it
	timer     *time.Timer
	fire      chan struct{} // tells a timeout of its count or a new deadline, a poll of its file
	target    uint32        // results after which a timeout is over, if counts
	counts    bool
	reached   bool          // it is over
	deadline  time.Duration // guarded by ring.mu
	helper    *kernel.Task  // what it runs on, once it waits
	cancelled bool
	settled   bool // a linked timeout has fired, or will not
}

func uringSetup(t *kernel.Task, a *Args) (uintptr, error) {
	p, err := inStruct[uring.Params](t, a.Addr(1))
	if err != nil {
		return 0, err
	}
	switch {
	case p.Resv != [3]uint32{}:
		return 0, unix.EINVAL
	case p.Flags&uring.SetupSQPoll != 0:
		return 0, unix.EPERM // as kernels before 5.11 without privilege; libraries go on without
	case p.Flags&uring.SetupAttachWQ != 0:
		// io_uring/sqpoll.c, io_sq_offload_create
		switch d, err := ringOf(t, int(int32(p.WQFD))); err {
		case nil:
			d.Unref()
		case unix.EBADF:
			return 0, unix.ENXIO
		default:
			return 0, unix.EINVAL
		}
	}
	d, err := uring.New(t.Arena(), a.Uint32(0), &p)
	if err != nil {
		return 0, err
	}
	f := d.File().(*uring.Ring)
	g := &ring{Ring: f, k: t.Kernel(), enabled: p.Flags&uring.SetupDisabled == 0, pending: map[*request]struct{}{}, groups: map[uint16]*bufferGroup{},
		owners: map[*kernel.Task]struct{}{}}
	f.Requests, f.Closed = g, g.close
	if err := outStruct(t, a.Addr(1), &p); err != nil {
		d.Unref()
		return 0, err
	}
	return installNew(t, d, true)
}

func ringOf(t *kernel.Task, fd int) (*vfs.Description, error) {
	d, err := t.FDs().Get(fd)
	if err != nil {
		return nil, err
	}
	if _, ok := d.File().(*uring.Ring); !ok {
		d.Unref()
		return nil, unix.EOPNOTSUPP
	}
	return d, nil
}

// close ends what is under way when the last descriptor has gone.
func (g *ring) close() {
	g.mu.Lock()
	g.closed = true
	files, deferred, owners := g.files, g.deferred, g.owners
	g.files, g.deferred, g.owners = nil, nil, nil
	g.mu.Unlock()
	g.cancelAll(func(*request) bool { return true })
	for _, head := range deferred {
		head.helper.Retire()
	}
	for t := range owners {
		t.NotAtEnd(g)
	}
	for _, d := range files {
		if d != nil {
			d.Unref()
		}
	}
}

const (
	enterGetevents, enterWakeup, enterSQWait, enterExtArg, enterAbsTimer = 1, 2, 4, 8, 32
)

func uringEnter(t *kernel.Task, a *Args) (uintptr, error) {
	n, least, flags := a.Uint32(1), a.Uint32(2), a.Uint32(3)
	if flags&^(enterGetevents|enterWakeup|enterSQWait|enterExtArg|enterAbsTimer) != 0 {
		return 0, unix.EINVAL
	}
	d, err := ringOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	g := d.File().(*uring.Ring).Requests.(*ring)
	g.mu.Lock()
	enabled := g.enabled
	g.mu.Unlock()
	if !enabled {
		return 0, unix.EBADFD
	}
	done := uint32(0)
	if n > 0 {
		if done, err = g.submit(t, n); done != n {
			return partial(uint64(done), err)
		}
	}
	if flags&enterGetevents != 0 {
		err = g.wait(t, a, least, flags)
	}
	return partial(uint64(done), err)
}

// wait sleeps until there are least results.
func (g *ring) wait(t *kernel.Task, a *Args, least, flags uint32) error {
	mask, maskSize := a.Addr(4), a.Size(5)
	var deadline time.Duration
	if flags&enterExtArg != 0 {
		if maskSize != 24 {
			return unix.EINVAL
		}
		var b [24]byte // struct io_uring_getevents_arg
		if err := in(t, a.Addr(4), b[:]); err != nil {
			return err
		}
		mask, maskSize = memory.Addr(le.Uint64(b[:])), uint64(le.Uint32(b[8:]))
		if le.Uint32(b[12:]) != 0 {
			return unix.EINVAL // min_wait_usec, with IORING_FEAT_MIN_TIMEOUT
		}
		if at := memory.Addr(le.Uint64(b[16:])); at != 0 {
			ts, err := inTimespec(t, at)
			if err != nil {
				return err
			}
			deadline = after(t, ts)
			if flags&enterAbsTimer != 0 {
				deadline = max(span(ts), 1)
			}
		}
	}
	if mask != 0 {
		m, err := inMask(t, mask, maskSize)
		if err != nil {
			return err
		}
		t.WithMask(m)
	}
	_, most := g.Entries()
	least = min(least, most)
	err := t.Wait(g.Queue(), vfs.EventIn, false, deadline, func() error {
		if g.Available() < least {
			return unix.EAGAIN
		}
		return nil
	})
	switch err {
	case unix.ETIMEDOUT:
		return unix.ETIME
	case kernel.ERESTARTSYS:
		return unix.EINTR
	}
	return err
}

// submit takes n requests out of the ring and begins them.
func (g *ring) submit(t *kernel.Task, n uint32) (uint32, error) {
	g.mu.Lock()
	under := len(g.pending)
	g.mu.Unlock()
	if under >= maxRequests {
		return 0, unix.EAGAIN
	}
	g.own(t)
	goOn := g.Flags&uring.SetupSubmitAll != 0
	var heads []*request
	var head, tail *request
	done := g.Submit(min(n, maxRequests), func(s uring.SQE) bool {
		r := g.newRequest(t, s, head)
		if head == nil {
			head = r
			heads = append(heads, r)
		} else {
			tail.next = r
		}
		tail = r
		if !s.Linked() {
			head = nil
		}
		return r.failed == 0 || goOn
	})
	for _, head := range heads {
		g.begin(t, head)
	}
	return done, nil
}

// own has t's requests cancelled when t ends.
func (g *ring) own(t *kernel.Task) {
	g.mu.Lock()
	_, known := g.owners[t]
	g.owners[t] = struct{}{}
	g.mu.Unlock()
	if known {
		return
	}
	t.AtEnd(g, func() {
		g.mu.Lock()
		delete(g.owners, t)
		g.mu.Unlock()
		g.cancelAll(func(r *request) bool { return r.owner == t })
	})
}

// newRequest takes an SQE apart; head is what it is linked behind, or nil.
func (g *ring) newRequest(t *kernel.Task, s uring.SQE, head *request) *request {
	r := &request{ring: g, sqe: s, owner: t}
	if int(s.Opcode) < len(ringOps) && ringOps[s.Opcode].do != nil {
		r.op = &ringOps[s.Opcode]
	}
	r.failed = r.check(head)
	if r.failed == 0 && r.op.prep != nil {
		if err := r.op.prep(t, r); err != nil {
			r.failed = r.errno(err)
		}
	}
	if r.failed == 0 && s.Flags&uring.Drain != 0 {
		r.drain = true
		if head != nil {
			head.drain = true
		}
	}
	return r
}

// check is io_uring/io_uring.c, io_init_req.
func (r *request) check(head *request) unix.Errno {
	s := &r.sqe
	switch {
	case r.op == nil, !s.Known():
		return unix.EINVAL
	case s.Flags&uring.BufferSelect != 0 && !r.op.selects:
		return unix.EOPNOTSUPP
	case s.IOPrio != 0 && !r.op.prio, s.Personality != 0:
		return unix.EINVAL
	case s.Flags&uring.FixedFile != 0 && !r.op.file:
		return unix.EBADF
	case s.Opcode == opLinkTimeout && head == nil:
		return unix.EINVAL
	}
	return 0
}

// errno is the result for err; a host's failure is logged and becomes EIO.
func (r *request) errno(err error) unix.Errno {
	e, ok := err.(unix.Errno)
	switch {
	case missingPage(err) != nil: // nobody waits here
		return unix.EFAULT
	case !ok:
		r.ring.k.Log.Error("io_uring request", "op", r.op.name, "err", err)
		return unix.EIO
	case e == kernel.ERESTARTSYS, e == kernel.ERESTARTNOHAND, e == kernel.ERESTARTNOINTR, e == kernel.ERESTART_RESTARTBLOCK:
		if r.isCancelled() {
			return unix.ECANCELED
		}
		return unix.EINTR
	}
	return e
}

func (r *request) isCancelled() bool {
	r.ring.mu.Lock()
	defer r.ring.mu.Unlock()
	return r.cancelled
}

// begin starts a chain, or lets it wait for those before.
func (g *ring) begin(t *kernel.Task, head *request) {
	for r := head; r != nil; r = r.next {
		if r.failed != 0 {
			g.drop(head)
			return
		}
	}
	g.mu.Lock()
	if len(g.deferred) > 0 || head.drain && g.running > 0 {
		if head.helper = t.Helper(); head.helper == nil {
			g.mu.Unlock()
			head.failed = unix.EAGAIN
			g.drop(head)
			return
		}
		g.deferred = append(g.deferred, head)
		g.pending[head] = struct{}{}
		g.mu.Unlock()
		return
	}
	g.running++
	g.mu.Unlock()
	head.run(t, true)
}

// drop posts the results of a chain that does not begin: what is wrong with it,
// and that the rest was cancelled.
func (g *ring) drop(r *request) {
	for ; r != nil; r = r.next {
		e := r.failed
		if e == 0 {
			e = unix.ECANCELED
		}
		g.Post(uring.CQE{UserData: r.sqe.UserData, Res: -int32(e)})
	}
}

// ended counts a chain out, and begins those that waited for it.
func (g *ring) ended() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	for len(g.deferred) > 0 && !(g.deferred[0].drain && g.running > 0) {
		head := g.deferred[0]
		g.deferred = g.deferred[1:]
		delete(g.pending, head)
		g.running++
		go head.async(head.helper)
	}
}

// run does a chain from r on. On the task that submitted it (inline) nothing
// waits: what would goes on with a helper, and the rest of its chain with it.
func (r *request) run(t *kernel.Task, inline bool) {
	for r != nil {
		r.linkTimeout()
		if inline && (r.sqe.Flags&uring.Async != 0 || r.op.waits) {
			if r.launch(t) {
				return
			}
			r = r.finish(t, -int32(unix.EAGAIN))
			continue
		}
		var res int32
		var err error
		if inline {
			t.TryOnly(func() { res, err = r.do(t) })
			if err == kernel.EWOULDWAIT {
				r.putBack()
				if r.launch(t) {
					return
				}
				err = unix.EAGAIN
			}
		} else {
			r.register(t)
			res, err = r.do(t)
		}
		if err != nil {
			res = -int32(r.errno(err))
		}
		r = r.finish(t, res)
	}
}

// do finds the file and does what the request says.
func (r *request) do(t *kernel.Task) (int32, error) {
	if r.op.file && r.file == nil {
		d, err := r.find(t, int(r.sqe.FD), r.sqe.Flags&uring.FixedFile != 0)
		if err != nil {
			return 0, err
		}
		r.file = d
	}
	return r.op.do(t, r)
}

// find gives the file of a descriptor, or of a place in the ring's table, with a
// reference.
func (r *request) find(t *kernel.Task, fd int, fixed bool) (*vfs.Description, error) {
	if !fixed {
		return t.FDs().Get(fd)
	}
	g := r.ring
	g.mu.Lock()
	defer g.mu.Unlock()
	if fd < 0 || fd >= len(g.files) || g.files[fd] == nil {
		return nil, unix.EBADF
	}
	g.files[fd].Ref()
	return g.files[fd], nil
}

// launch goes on with r on a helper of t's, if there may be another.
func (r *request) launch(t *kernel.Task) bool {
	h := t.Helper()
	if h == nil {
		return false
	}
	r.register(h)
	go r.async(h)
	return true
}

// register makes r one that can be cancelled.
func (r *request) register(h *kernel.Task) {
	g := r.ring
	g.mu.Lock()
	r.helper = h
	g.pending[r] = struct{}{}
	closed := g.closed
	g.mu.Unlock()
	if closed {
		g.cancelAll(func(x *request) bool { return x == r })
	}
	r.armLinkTimeout()
}

func (r *request) async(h *kernel.Task) {
	defer r.ring.k.Guard()
	r.run(h, false)
	h.Retire()
}

// finish posts the result and gives what is linked behind, if that is to begin.
func (r *request) finish(t *kernel.Task, res int32) *request {
	g := r.ring
	g.mu.Lock()
	delete(g.pending, r)
	cancelled := r.cancelled
	c := uring.CQE{UserData: r.sqe.UserData, Res: res}
	g.mu.Unlock()
	failed := res < 0 && !r.expired || r.short
	if res <= 0 {
		r.putBack()
	}
	if r.buffer != nil {
		c.Flags = r.buffer.flags()
	}
	if r.file != nil {
		r.file.Unref()
	}
	if failed || r.sqe.Flags&uring.SkipSuccess == 0 {
		g.Post(c)
	}
	r.disarmLinkTimeout()
	next := r.next
	if next != nil && failed && r.sqe.Flags&uring.HardLink == 0 {
		g.drop(next)
		next = nil
	}
	if next == nil {
		g.ended()
		return nil
	}
	if cancelled {
		t.Uncancel()
	}
	return next
}

// more posts a result of a request that goes on. It says whether it may.
func (r *request) more(res int32) bool {
	r.ring.mu.Lock()
	c := uring.CQE{UserData: r.sqe.UserData, Res: res, Flags: uring.CQEMore}
	r.ring.mu.Unlock()
	if r.buffer != nil {
		c.Flags |= r.buffer.flags()
		r.buffer = nil
	}
	r.ring.Post(c)
	_, most := r.ring.Entries()
	return r.ring.Available() <= most // no multishot outruns who reads its results
}

// linkTimeout takes an IORING_OP_LINK_TIMEOUT behind r out of the chain.
func (r *request) linkTimeout() {
	if lt := r.next; lt != nil && lt.sqe.Opcode == opLinkTimeout && r.timeout == nil {
		r.timeout, r.next = lt, lt.next
		if lt.sqe.Flags&(uring.Link|uring.HardLink) == 0 {
			r.next = nil
		}
	}
}

func (r *request) armLinkTimeout() {
	lt, g := r.timeout, r.ring
	if lt == nil || lt.timer != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	lt.timer = time.AfterFunc(max(lt.arg.(timeoutArg).deadline(g.k)-g.k.Clock.Monotonic(), 0), func() {
		if !lt.settle() {
			return
		}
		e := unix.ETIME
		if g.cancelAll(func(x *request) bool { return x == r }) == 0 {
			e = unix.ENOENT
		}
		g.Post(uring.CQE{UserData: lt.sqe.UserData, Res: -int32(e)})
	})
}

func (r *request) disarmLinkTimeout() {
	lt := r.timeout
	if lt == nil || !lt.settle() {
		return
	}
	if lt.timer != nil {
		lt.timer.Stop()
	}
	r.ring.Post(uring.CQE{UserData: lt.sqe.UserData, Res: -int32(unix.ECANCELED)})
}

// settle says whether the caller is the one to post a linked timeout's result.
func (r *request) settle() bool {
	r.ring.mu.Lock()
	defer r.ring.mu.Unlock()
	was := r.settled
	r.settled = true
	return !was
}

// cancelAll cancels what match says and returns how many that are.
func (g *ring) cancelAll(match func(*request) bool) int {
	g.mu.Lock()
	var drop []*request
	n := 0
	for r := range g.pending {
		if !match(r) || r.cancelled {
			continue
		}
		n++
		r.cancelled = true
		if i := slices.Index(g.deferred, r); i >= 0 {
			g.deferred = slices.Delete(g.deferred, i, i+1)
			delete(g.pending, r)
			drop = append(drop, r)
			continue
		}
		r.helper.Cancel() // with the lock, while it is still r's
	}
	g.mu.Unlock()
	for _, r := range drop {
		g.drop(r)
		r.helper.Retire()
	}
	return n
}
