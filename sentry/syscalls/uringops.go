package syscalls

import (
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/pipe"
	"bulkhead/sentry/fs/uring"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// ringOp is what an opcode does. prep reads what the SQE points to, while it is
// submitted; do may be tried more than once, until it does not wait.
type ringOp struct {
	name    string
	file    bool // SQE.FD is a file to work on
	selects bool // takes a buffer of a group
	prio    bool // IOPrio has a meaning
	waits   bool // is not tried first: it has many results
	prep    func(t *kernel.Task, r *request) error
	do      func(t *kernel.Task, r *request) (int32, error)
}

const (
	opTimeout     = 11
	opLinkTimeout = 15
)

// ringOps is indexed by opcode (include/uapi/linux/io_uring.h, enum io_uring_op).
var ringOps = [56]ringOp{
	0:  {name: "NOP", prio: true, do: func(*kernel.Task, *request) (int32, error) { return 0, nil }},
	1:  {name: "READV", file: true, selects: true, prio: true, prep: prepVector, do: ringRead},
	2:  {name: "WRITEV", file: true, prio: true, prep: prepVector, do: ringWrite},
	3:  {name: "FSYNC", file: true, prep: prepFsync, do: ringFsync},
	4:  {name: "READ_FIXED", file: true, prio: true, prep: prepFixed, do: ringRead},
	5:  {name: "WRITE_FIXED", file: true, prio: true, prep: prepFixed, do: ringWrite},
	6:  {name: "POLL_ADD", file: true, prep: prepPoll, do: ringPoll},
	7:  {name: "POLL_REMOVE", do: ringPollRemove},
	8:  {name: "SYNC_FILE_RANGE", file: true, do: withFile(syncFileRange, func(s *uring.SQE) Args { return Args{0, s.Off, uint64(s.Len), uint64(s.OpFlags)} })},
	9:  {name: "SENDMSG", file: true, prio: true, prep: prepSendmsg, do: ringSend},
	10: {name: "RECVMSG", file: true, selects: true, prio: true, prep: prepRecvmsg, do: ringReceive},
	11: {name: "TIMEOUT", prep: prepTimeout, do: ringTimeout},
	12: {name: "TIMEOUT_REMOVE", prep: prepTimeoutRemove, do: ringTimeoutRemove},
	13: {name: "ACCEPT", file: true, prio: true, prep: prepAccept, do: ringAccept},
	14: {name: "ASYNC_CANCEL", do: ringCancel},
	15: {name: "LINK_TIMEOUT", prep: prepTimeout, do: func(*kernel.Task, *request) (int32, error) { return 0, unix.EINVAL }},
	16: {name: "CONNECT", file: true, prep: prepName, do: ringConnect},
	17: {name: "FALLOCATE", file: true, do: withFile(fallocate, func(s *uring.SQE) Args { return Args{0, uint64(s.Len), s.Off, s.Addr} })},
	18: {name: "OPENAT", do: ringOpen(func(s *uring.SQE) (Handler, Args) {
		return openat, Args{uint64(s.FD), s.Addr, uint64(s.OpFlags), uint64(s.Len)}
	})},
	19: {name: "CLOSE", do: ringClose},
	20: {name: "FILES_UPDATE", do: ringFilesUpdate},
	21: {name: "STATX", do: call(statx, func(s *uring.SQE) Args {
		return Args{uint64(s.FD), s.Addr, uint64(s.OpFlags), uint64(s.Len), s.Off}
	})},
	22: {name: "READ", file: true, selects: true, prio: true, prep: prepOne, do: ringRead},
	23: {name: "WRITE", file: true, prio: true, prep: prepOne, do: ringWrite},
	24: {name: "FADVISE", file: true, do: withFile(fadvise, func(s *uring.SQE) Args { return Args{0, s.Off, longer(s.Addr, s.Len), uint64(s.OpFlags)} })},
	25: {name: "MADVISE", do: call(madvise, func(s *uring.SQE) Args { return Args{s.Addr, longer(s.Off, s.Len), uint64(s.OpFlags)} })},
	26: {name: "SEND", file: true, prio: true, prep: prepSend, do: ringSend},
	27: {name: "RECV", file: true, selects: true, prio: true, prep: prepRecv, do: ringReceive},
	28: {name: "OPENAT2", do: ringOpen(func(s *uring.SQE) (Handler, Args) {
		return openat2, Args{uint64(s.FD), s.Addr, s.Off, uint64(s.Len)}
	})},
	29: {name: "EPOLL_CTL", do: call(epollCtl, func(s *uring.SQE) Args { return Args{uint64(s.FD), uint64(s.Len), s.Off, s.Addr} })},
	30: {name: "SPLICE", file: true, do: ringSplice},
	31: {name: "PROVIDE_BUFFERS", do: ringProvide},
	32: {name: "REMOVE_BUFFERS", do: ringRemoveBuffers},
	33: {name: "TEE", file: true, do: ringTee},
	34: {name: "SHUTDOWN", file: true, do: withFile(shutdown, func(s *uring.SQE) Args { return Args{0, uint64(s.Len)} })},
	35: {name: "RENAMEAT", do: call(renameat2, func(s *uring.SQE) Args {
		return Args{uint64(s.FD), s.Addr, uint64(s.Len), s.Off, uint64(s.OpFlags)}
	})},
	36: {name: "UNLINKAT", do: call(unlinkat, func(s *uring.SQE) Args { return Args{uint64(s.FD), s.Addr, uint64(s.OpFlags)} })},
	37: {name: "MKDIRAT", do: call(mkdirat, func(s *uring.SQE) Args { return Args{uint64(s.FD), s.Addr, uint64(s.Len)} })},
	38: {name: "SYMLINKAT", do: call(symlinkat, func(s *uring.SQE) Args { return Args{s.Addr, uint64(s.FD), s.Off} })},
	39: {name: "LINKAT", do: call(linkat, func(s *uring.SQE) Args {
		return Args{uint64(s.FD), s.Addr, uint64(s.Len), s.Off, uint64(s.OpFlags)}
	})},
	45: {name: "SOCKET", do: ringOpen(func(s *uring.SQE) (Handler, Args) {
		return socketCall, Args{uint64(s.FD), s.Off, uint64(s.Len)}
	})},
	55: {name: "FTRUNCATE", file: true, do: withFile(ftruncate, func(s *uring.SQE) Args { return Args{0, s.Off} })},
}

func longer(long uint64, short uint32) uint64 {
	if long != 0 {
		return long
	}
	return uint64(short)
}

// call is an operation that a system call does, without a file of its own.
func call(h Handler, args func(*uring.SQE) Args) func(*kernel.Task, *request) (int32, error) {
	return func(t *kernel.Task, r *request) (int32, error) {
		a := args(&r.sqe)
		n, err := h(t, &a)
		return int32(n), err
	}
}

// withFile is an operation that a system call does on descriptor 0, which is the
// request's file for that time.
func withFile(h Handler, args func(*uring.SQE) Args) func(*kernel.Task, *request) (int32, error) {
	return func(t *kernel.Task, r *request) (n int32, err error) {
		fds := vfs.NewFDTable()
		if _, err := fds.Install(r.file, 0, false, 1); err != nil {
			return 0, err
		}
		a := args(&r.sqe)
		t.WithFDs(fds, func() {
			var v uintptr
			v, err = h(t, &a)
			n = int32(v)
		})
		return n, err
	}
}

// Reads and writes.

type rwArg struct {
	pieces []piece
	flags  uint32
}

const rwfKnown = unix.RWF_HIPRI | unix.RWF_DSYNC | unix.RWF_SYNC | unix.RWF_NOWAIT | unix.RWF_APPEND

func prepVector(t *kernel.Task, r *request) error {
	s := &r.sqe
	pieces, err := inIovec(t, memory.Addr(s.Addr), uint64(s.Len))
	if err == nil && s.Flags&uring.BufferSelect != 0 && len(pieces) != 1 {
		err = unix.EINVAL
	}
	r.arg = rwArg{pieces, s.OpFlags}
	return err
}

func prepOne(_ *kernel.Task, r *request) error {
	s := &r.sqe
	p := piece{memory.Addr(s.Addr), uint64(min(s.Len, maxRW))}
	if s.Flags&uring.BufferSelect == 0 && p.n > 0 && (p.at >= taskSize || uint64(taskSize-p.at) < p.n) {
		return unix.EFAULT
	}
	r.arg = rwArg{[]piece{p}, s.OpFlags}
	return nil
}

func prepFixed(_ *kernel.Task, r *request) error {
	s, g := &r.sqe, r.ring
	g.mu.Lock()
	defer g.mu.Unlock()
	if int(s.Buf) >= len(g.buffers) {
		return unix.EFAULT
	}
	b := g.buffers[s.Buf]
	at, n := memory.Addr(s.Addr), uint64(s.Len)
	if at < b.at || uint64(at-b.at) > b.n || n > b.n-uint64(at-b.at) {
		return unix.EFAULT
	}
	r.arg = rwArg{[]piece{{at, n}}, s.OpFlags}
	return nil
}

func ringRead(t *kernel.Task, r *request) (int32, error)  { return r.move(t, false) }
func ringWrite(t *kernel.Task, r *request) (int32, error) { return r.move(t, true) }

func (r *request) move(t *kernel.Task, write bool) (int32, error) {
	a := r.arg.(rwArg)
	if a.flags&^rwfKnown != 0 {
		return 0, unix.EOPNOTSUPP
	}
	x := transfer{d: r.file, pos: -1, write: write, nonblock: a.flags&unix.RWF_NOWAIT != 0}
	if write && !x.d.Writable() || !write && !x.d.Readable() {
		return 0, unix.EBADF
	}
	if off := int64(r.sqe.Off); x.regular() && off != -1 {
		if off < 0 {
			return 0, unix.EINVAL
		}
		x.pos = off
	}
	if write && a.flags&unix.RWF_APPEND != 0 {
		x.toEnd(t)
	}
	pieces, err := r.pick(a.pieces)
	if err != nil {
		return 0, err
	}
	n, err := x.pieces(t, pieces)
	if err == unix.ESPIPE && x.pos >= 0 { // a device without positions
		x.pos = -1
		n, err = x.pieces(t, pieces)
	}
	if err == nil && write && a.flags&(unix.RWF_DSYNC|unix.RWF_SYNC) != 0 {
		err = x.d.Sync(t, a.flags&unix.RWF_SYNC == 0)
	}
	r.short = err == nil && uint64(n) < total(pieces)
	return int32(n), err
}

func total(pieces []piece) (n uint64) {
	for _, p := range pieces {
		n += p.n
	}
	return n
}

// pieces moves bytes between the file and pieces of memory; one may be longer
// than what is pinned at a time.
func (x *transfer) pieces(t *kernel.Task, pieces []piece) (uintptr, error) {
	if len(pieces) == 1 {
		return x.do(t, pieces[0].at, pieces[0].n)
	}
	return x.vector(t, pieces)
}

func prepFsync(_ *kernel.Task, r *request) error {
	if r.sqe.OpFlags&^1 != 0 { // IORING_FSYNC_DATASYNC
		return unix.EINVAL
	}
	return nil
}

func ringFsync(t *kernel.Task, r *request) (int32, error) {
	return 0, r.file.Sync(t, r.sqe.OpFlags&1 != 0)
}

// Poll.

const pollMulti, pollUpdateEvents, pollUpdateData, pollLevel = 1, 2, 4, 8

func prepPoll(_ *kernel.Task, r *request) error {
	if r.sqe.Len&^(pollMulti|pollLevel) != 0 {
		return unix.EINVAL
	}
	r.fire = make(chan struct{}, 1)
	return nil
}

func ringPoll(t *kernel.Task, r *request) (int32, error) {
	d, q := r.file, r.file.Queue()
	multi := r.sqe.Len&pollMulti != 0 && q != nil
	mask := r.pollMask()
	if got := d.Ready(mask) & mask; got != 0 && !multi {
		return int32(got), nil
	}
	w := t.Waiter(mask, r.fire)
	if q != nil {
		q.Add(w)
		defer func() { q.Remove(w) }()
	}
	for {
		if now := r.pollMask(); now != mask { // changed by POLL_REMOVE
			mask = now
			q.Remove(w)
			w = t.Waiter(mask, r.fire)
			q.Add(w)
		}
		if got := d.Ready(mask) & mask; got != 0 {
			if !multi || got&(vfs.EventErr|vfs.EventHup) != 0 || !r.more(int32(got)) {
				return int32(got), nil
			}
		}
		if err := t.BlockOn(r.fire, 0); err != nil {
			return 0, err
		}
	}
}

func (r *request) pollMask() vfs.Events {
	r.ring.mu.Lock()
	defer r.ring.mu.Unlock()
	return vfs.Events(r.sqe.OpFlags&0xffff) | vfs.EventErr | vfs.EventHup
}

// ringPollRemove removes a poll, or changes what it asks for or is known by.
func ringPollRemove(_ *kernel.Task, r *request) (int32, error) {
	s, g := &r.sqe, r.ring
	const update = pollUpdateEvents | pollUpdateData
	if s.Len&^(pollMulti|update) != 0 || s.Buf != 0 || s.Index != 0 || s.Len&update == 0 && (s.Len != 0 || s.OpFlags != 0) ||
		s.Off != 0 && s.Len&pollUpdateData == 0 || s.OpFlags != 0 && s.Len&pollUpdateEvents == 0 {
		return 0, unix.EINVAL
	}
	isIt := func(x *request) bool { return x.op.name == "POLL_ADD" && x.sqe.UserData == s.Addr }
	if s.Len&update == 0 {
		if g.cancelAll(isIt) == 0 {
			return 0, unix.ENOENT
		}
		return 0, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for x := range g.pending {
		if !isIt(x) || x.cancelled {
			continue
		}
		if s.Len&pollUpdateEvents != 0 {
			x.sqe.OpFlags = s.OpFlags
		}
		if s.Len&pollUpdateData != 0 {
			x.sqe.UserData = s.Off
		}
		x.wake()
		return 0, nil
	}
	return 0, unix.ENOENT
}

// Cancelling.

const cancelAll, cancelFD, cancelAny, cancelFixed, cancelUser, cancelOp = 1, 2, 4, 8, 16, 32

func ringCancel(t *kernel.Task, r *request) (int32, error) {
	s := &r.sqe
	if s.Off != 0 || s.Index != 0 || s.OpFlags&^(cancelAll|cancelFD|cancelAny|cancelFixed|cancelUser|cancelOp) != 0 {
		return 0, unix.EINVAL
	}
	n, err := r.ring.cancel(t, r, s.Addr, s.FD, s.OpFlags, uint8(s.Len))
	return int32(n), err
}

// cancel is ASYNC_CANCEL: it says how many requests matched, for ALL and ANY.
func (g *ring) cancel(t *kernel.Task, by *request, data uint64, fd int32, flags uint32, op uint8) (int, error) {
	var file *vfs.Description
	if flags&cancelFD != 0 {
		if flags&cancelAny != 0 {
			return 0, unix.EINVAL
		}
		var err error
		finder := request{ring: g}
		if file, err = finder.find(t, int(fd), flags&cancelFixed != 0); err != nil {
			return 0, err
		}
		defer file.Unref()
	}
	byData := flags&(cancelFD|cancelAny|cancelOp) == 0 || flags&cancelUser != 0
	one := flags&(cancelAll|cancelAny) == 0
	found := false
	n := g.cancelAll(func(x *request) bool {
		switch {
		case x == by, one && found, flags&cancelFD != 0 && x.file != file, byData && x.sqe.UserData != data,
			flags&cancelOp != 0 && x.sqe.Opcode != op:
			return false
		}
		found = true
		return true
	})
	switch {
	case !one:
		return n, nil
	case n == 0:
		return 0, unix.ENOENT
	}
	return 0, nil
}

// Timeouts.

const timeoutAbs, timeoutUpdate, timeoutBoot, timeoutReal, timeoutLinkUpdate, timeoutSuccess, timeoutMulti = 1, 2, 4, 8, 16, 32, 64

// timeoutArg is a time on a clock, or from when it is armed.
type timeoutArg struct {
	ts    unix.Timespec
	flags uint32
}

func (a timeoutArg) deadline(k *kernel.Kernel) time.Duration {
	switch {
	case a.flags&timeoutAbs == 0:
		return max(k.Clock.Monotonic()+span(a.ts), 1)
	case a.flags&timeoutReal != 0:
		return max(k.Clock.MonotonicOf(int64(span(a.ts))), 1)
	case a.flags&timeoutBoot != 0:
		return max(span(a.ts)-(k.Clock.Boottime()-k.Clock.Monotonic()), 1)
	}
	return max(span(a.ts), 1)
}

func inTimeoutArg(t *kernel.Task, at, flags uint64, known uint32) (a timeoutArg, err error) {
	a.flags = uint32(flags)
	const clocks = timeoutBoot | timeoutReal
	if a.flags&^known != 0 || a.flags&clocks == clocks {
		return a, unix.EINVAL
	}
	if a.ts, err = inTimespec(t, memory.Addr(at)); err == nil && (a.ts.Sec < 0 || a.ts.Nsec < 0) {
		err = unix.EINVAL
	}
	return a, err
}

func prepTimeout(t *kernel.Task, r *request) (err error) {
	s := &r.sqe
	known := uint32(timeoutAbs | timeoutBoot | timeoutReal | timeoutSuccess)
	if s.Opcode == opTimeout {
		known |= timeoutMulti
	}
	if s.Len != 1 || s.Buf != 0 || s.Index != 0 || s.Opcode == opLinkTimeout && s.Off != 0 {
		return unix.EINVAL
	}
	if s.OpFlags&timeoutMulti != 0 && s.OpFlags&timeoutAbs != 0 {
		return unix.EINVAL
	}
	r.arg, err = inTimeoutArg(t, s.Addr, uint64(s.OpFlags), known)
	r.fire = make(chan struct{}, 1)
	return err
}

func ringTimeout(t *kernel.Task, r *request) (int32, error) {
	s, g, a := &r.sqe, r.ring, r.arg.(timeoutArg)
	g.mu.Lock()
	if r.deadline == 0 {
		r.deadline = a.deadline(g.k)
		if s.Off != 0 && a.flags&timeoutMulti == 0 {
			r.counts, r.target = true, g.Posted()+uint32(s.Off)
		}
	}
	g.mu.Unlock()
	if r.counts {
		// What is posted between here and being on the list of those that count is
		// seen by the look after.
		g.countTimeouts()
	}
	left := s.Off
	for {
		g.mu.Lock()
		deadline, reached := r.deadline, r.reached || r.counts && int32(g.Posted()-r.target) >= 0
		g.mu.Unlock()
		if reached {
			return 0, nil
		}
		switch err := t.BlockUntil(r.fire, deadline); err {
		case nil:
		case unix.ETIMEDOUT:
			if a.flags&timeoutMulti != 0 && left != 1 {
				if left > 0 {
					left--
				}
				g.mu.Lock()
				r.deadline += span(a.ts)
				g.mu.Unlock()
				if r.more(-int32(unix.ETIME)) {
					continue
				}
			}
			if a.flags&timeoutSuccess != 0 {
				// The result is the same, but what is linked behind goes on.
				r.expired = true
			}
			return 0, unix.ETIME
		default:
			return 0, err
		}
	}
}

// countTimeouts has the timeouts that count results told of each.
func (g *ring) countTimeouts() {
	g.OnPost(func(uint32) {
		g.mu.Lock()
		defer g.mu.Unlock()
		for r := range g.pending {
			if r.counts && int32(g.Posted()-r.target) >= 0 {
				r.reached = true
				r.wake()
			}
		}
	})
}

func (r *request) wake() {
	select {
	case r.fire <- struct{}{}:
	default:
	}
}

func prepTimeoutRemove(t *kernel.Task, r *request) (err error) {
	s := &r.sqe
	if s.Len != 0 || s.Buf != 0 || s.Index != 0 {
		return unix.EINVAL
	}
	if s.OpFlags&(timeoutUpdate|timeoutLinkUpdate) == 0 {
		if s.OpFlags != 0 {
			return unix.EINVAL
		}
		return nil
	}
	r.arg, err = inTimeoutArg(t, s.Off, uint64(s.OpFlags), timeoutAbs|timeoutBoot|timeoutReal|timeoutUpdate|timeoutLinkUpdate)
	return err
}

func ringTimeoutRemove(_ *kernel.Task, r *request) (int32, error) {
	s, g := &r.sqe, r.ring
	isIt := func(x *request) bool { return x.sqe.Opcode == opTimeout && x.sqe.UserData == s.Addr }
	if r.arg == nil {
		if g.cancelAll(isIt) == 0 {
			return 0, unix.ENOENT
		}
		return 0, nil
	}
	a := r.arg.(timeoutArg)
	g.mu.Lock()
	defer g.mu.Unlock()
	for x := range g.pending {
		if a.flags&timeoutLinkUpdate != 0 {
			if lt := x.timeout; lt != nil && lt.sqe.UserData == s.Addr && lt.timer != nil && !lt.settled {
				lt.timer.Reset(max(a.deadline(g.k)-g.k.Clock.Monotonic(), 0))
				return 0, nil
			}
			continue
		}
		if isIt(x) && !x.cancelled {
			x.deadline = a.deadline(g.k)
			x.wake()
			return 0, nil
		}
	}
	return 0, unix.ENOENT
}

// Sockets.

func (r *request) socket() (sock, error) {
	s, ok := r.file.File().(socket.Socket)
	if !ok || r.file.Flags()&unix.O_PATH != 0 {
		return sock{}, unix.ENOTSOCK
	}
	return sock{Socket: s, d: r.file}, nil
}

func prepName(t *kernel.Task, r *request) error {
	name, err := sockName(t, memory.Addr(r.sqe.Addr), uint32(r.sqe.Off))
	r.arg = name
	return err
}

func ringConnect(t *kernel.Task, r *request) (int32, error) {
	s, err := r.socket()
	if err != nil {
		return 0, err
	}
	return 0, s.connect(t, r.arg.([]byte))
}

const acceptMulti, recvMulti = 1, 2

func prepAccept(_ *kernel.Task, r *request) error {
	s := &r.sqe
	if s.Len != 0 || s.Buf != 0 || s.OpFlags&^sockFlags != 0 || s.IOPrio&^(acceptMulti|2|4) != 0 {
		return unix.EINVAL
	}
	if s.IOPrio&acceptMulti != 0 && s.Index != 0 && s.Index != indexAlloc {
		return unix.EINVAL
	}
	return nil
}

func ringAccept(t *kernel.Task, r *request) (int32, error) {
	s, err := r.socket()
	if err != nil {
		return 0, err
	}
	for {
		d, err := s.accept(t, int(r.sqe.OpFlags), memory.Addr(r.sqe.Addr), memory.Addr(r.sqe.Off))
		if err != nil {
			return 0, err
		}
		fd, err := r.install(t, d, r.sqe.OpFlags&unix.SOCK_CLOEXEC != 0)
		d.Unref()
		if err != nil || r.sqe.IOPrio&acceptMulti == 0 || !r.more(fd) {
			return fd, err
		}
	}
}

type sendArg struct {
	p     outgoing
	flags int
}

func prepSend(t *kernel.Task, r *request) (err error) {
	s := &r.sqe
	if s.IOPrio&^1 != 0 { // IORING_RECVSEND_POLL_FIRST
		return unix.EINVAL
	}
	a := sendArg{flags: int(s.OpFlags) | unix.MSG_NOSIGNAL}
	a.p.pieces = []piece{{memory.Addr(s.Addr), uint64(min(s.Len, maxRW))}}
	if s.Off != 0 {
		if a.p.name, err = sockName(t, memory.Addr(s.Off), s.Index&0xffff); err != nil {
			return err
		}
	}
	r.arg = a
	return nil
}

func prepSendmsg(t *kernel.Task, r *request) (err error) {
	if r.sqe.IOPrio&^1 != 0 {
		return unix.EINVAL
	}
	a := sendArg{flags: int(r.sqe.OpFlags) | unix.MSG_NOSIGNAL}
	a.p, err = inOutgoing(t, memory.Addr(r.sqe.Addr))
	r.arg = a
	return err
}

func ringSend(t *kernel.Task, r *request) (int32, error) {
	s, err := r.socket()
	if err != nil {
		return 0, err
	}
	a := r.arg.(sendArg)
	n, err := s.sendOut(t, &a.p, a.flags)
	r.short = err == nil && a.flags&unix.MSG_WAITALL != 0 && uint64(n) < total(a.p.pieces)
	return int32(n), err
}

type recvArg struct {
	in    incoming
	at    memory.Addr // of the msghdr; 0 for RECV
	flags int
}

func prepRecv(_ *kernel.Task, r *request) error {
	s := &r.sqe
	if s.IOPrio&^(1|recvMulti) != 0 {
		return unix.EINVAL
	}
	if s.IOPrio&recvMulti != 0 && (s.Flags&uring.BufferSelect == 0 || s.OpFlags&unix.MSG_WAITALL != 0 || s.Len != 0) {
		return unix.EINVAL
	}
	r.arg = recvArg{in: incoming{pieces: []piece{{memory.Addr(s.Addr), uint64(min(s.Len, maxRW))}}}, flags: int(s.OpFlags)}
	return nil
}

func prepRecvmsg(t *kernel.Task, r *request) (err error) {
	s := &r.sqe
	if s.IOPrio&^1 != 0 { // no multishot
		return unix.EINVAL
	}
	a := recvArg{at: memory.Addr(s.Addr), flags: int(s.OpFlags)}
	a.in, err = inIncoming(t, a.at)
	r.arg = a
	return err
}

func ringReceive(t *kernel.Task, r *request) (int32, error) {
	s, err := r.socket()
	if err != nil {
		return 0, err
	}
	a := r.arg.(recvArg)
	for {
		in := a.in
		if in.pieces, err = r.pick(a.in.pieces); err != nil {
			return 0, err
		}
		n, err := s.receiveInto(t, a.at, &in, a.flags)
		if err != nil {
			r.putBack()
			return 0, err
		}
		r.short = a.flags&unix.MSG_WAITALL != 0 && uint64(n) < total(in.pieces)
		if r.sqe.IOPrio&recvMulti == 0 || n == 0 || !r.more(int32(n)) {
			return int32(n), nil
		}
	}
}

// Files.

// indexAlloc asks for any free place of the ring's table.
const indexAlloc = ^uint32(0)

// ringOpen is an operation whose result is a new descriptor, or with SQE.Index a
// place of the ring's table.
func ringOpen(how func(*uring.SQE) (Handler, Args)) func(*kernel.Task, *request) (int32, error) {
	return func(t *kernel.Task, r *request) (int32, error) {
		h, a := how(&r.sqe)
		if r.sqe.Index == 0 {
			n, err := h(t, &a)
			return int32(n), err
		}
		// The descriptor lives for a moment in a table of nobody's.
		var d *vfs.Description
		fds := t.FDs().Clone()
		var err error
		t.WithFDs(fds, func() {
			var fd uintptr
			if fd, err = h(t, &a); err == nil {
				d, err = fds.Get(int(fd))
			}
		})
		if err != nil {
			return 0, err
		}
		defer d.Unref()
		return r.install(t, d, false)
	}
}

// install gives d a descriptor, or a place of the ring's table.
func (r *request) install(t *kernel.Task, d *vfs.Description, cloexec bool) (int32, error) {
	g, index := r.ring, r.sqe.Index
	if index == 0 {
		fd, err := install(t, d, 0, cloexec)
		return int32(fd), err
	}
	g.mu.Lock()
	if g.files == nil {
		g.mu.Unlock()
		return 0, unix.ENXIO
	}
	at := int(index) - 1
	result := int32(0)
	if index == indexAlloc {
		at = -1
		for i, f := range g.files {
			if f == nil {
				at = i
				break
			}
		}
		if at < 0 {
			g.mu.Unlock()
			return 0, unix.ENFILE
		}
		result = int32(at)
	}
	if at >= len(g.files) {
		g.mu.Unlock()
		return 0, unix.EINVAL
	}
	old := g.files[at]
	d.Ref()
	g.files[at] = d
	g.mu.Unlock()
	if old != nil {
		old.Unref()
	}
	return result, nil
}

func ringClose(t *kernel.Task, r *request) (int32, error) {
	s, g := &r.sqe, r.ring
	if s.Off != 0 || s.Addr != 0 || s.Len != 0 || s.OpFlags != 0 || s.Buf != 0 || s.Index != 0 && s.FD != 0 {
		return 0, unix.EINVAL
	}
	if s.Index != 0 {
		g.mu.Lock()
		at := int(s.Index) - 1
		if g.files == nil {
			g.mu.Unlock()
			return 0, unix.ENXIO
		}
		if at >= len(g.files) {
			g.mu.Unlock()
			return 0, unix.EINVAL
		}
		old := g.files[at]
		g.files[at] = nil
		g.mu.Unlock()
		if old == nil {
			return 0, unix.EBADF
		}
		old.Unref()
		return 0, nil
	}
	if d, err := ringOf(t, int(s.FD)); err == nil { // io_uring/openclose.c, io_close
		d.Unref()
		return 0, unix.EBADF
	}
	return 0, t.FDs().Close(int(s.FD))
}

func ringFilesUpdate(t *kernel.Task, r *request) (int32, error) {
	s := &r.sqe
	n, err := r.ring.updateFiles(t, memory.Addr(s.Addr), uint32(s.Off), s.Len)
	return int32(n), err
}

const spliceFDFixed = 1 << 31

// spliceSource is the file of SPLICE and TEE that SQE.Index names.
func (r *request) spliceSource(t *kernel.Task) (*vfs.Description, error) {
	if r.sqe.OpFlags&^(spliceFlags|spliceFDFixed) != 0 {
		return nil, unix.EINVAL
	}
	return r.find(t, int(int32(r.sqe.Index)), r.sqe.OpFlags&spliceFDFixed != 0)
}

func ringSplice(t *kernel.Task, r *request) (int32, error) {
	s, dst := &r.sqe, r.file
	src, err := r.spliceSource(t)
	if err != nil || s.Len == 0 {
		if err == nil {
			src.Unref()
		}
		return 0, err
	}
	defer src.Unref()
	var offs [2]*int64
	for i, off := range []int64{int64(s.Addr), int64(s.Off)} {
		if off != -1 {
			offs[i] = &off
		}
	}
	if offs[0] != nil && pipe.Is(src) || offs[1] != nil && pipe.Is(dst) {
		return 0, unix.ESPIPE
	}
	n, err := moveBetween(t, src, dst, uint64(s.Len), s.OpFlags&unix.SPLICE_F_NONBLOCK != 0, false, func(n int) (int, error) {
		return pipe.Splice(t, src, offs[0], dst, offs[1], n)
	})
	r.short = err == nil && uint32(n) != s.Len
	return int32(n), err
}

func ringTee(t *kernel.Task, r *request) (int32, error) {
	s, dst := &r.sqe, r.file
	src, err := r.spliceSource(t)
	if err != nil {
		return 0, err
	}
	defer src.Unref()
	if s.Off != 0 || s.Addr != 0 {
		return 0, unix.EINVAL
	}
	if s.Len == 0 {
		return 0, nil
	}
	n, err := moveBetween(t, src, dst, uint64(s.Len), s.OpFlags&unix.SPLICE_F_NONBLOCK != 0, false, func(n int) (int, error) {
		return pipe.Tee(src, dst, n)
	})
	r.short = err == nil && uint32(n) != s.Len
	return int32(n), err
}
