package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/eventfd"
	"bulkhead/sentry/fs/uring"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// Operations of io_uring_register(2).
const (
	registerBuffers, unregisterBuffers       = 0, 1
	registerFiles, unregisterFiles           = 2, 3
	registerEventfd, unregisterEventfd       = 4, 5
	registerFilesUpdate                      = 6
	registerEventfdAsync                     = 7
	registerProbe                            = 8
	registerEnable                           = 12
	registerFiles2                           = 13
	registerBuffers2                         = 15
	registerMaxWorkers                       = 19
	registerBufferRing, unregisterBufferRing = 22, 23
	registerSyncCancel                       = 24

	maxFixedFiles   = 1 << 15
	maxFixedBuffers = 1 << 14
	maxFixedBuffer  = 1 << 30 // bytes
)

func uringRegister(t *kernel.Task, a *Args) (uintptr, error) {
	op, at, n := a.Uint32(1), a.Addr(2), a.Uint32(3)
	d, err := ringOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	g := d.File().(*uring.Ring).Requests.(*ring)
	if at == 0 && (op == registerBuffers || op == registerFiles) {
		return 0, unix.EFAULT
	}
	switch op {
	case registerBuffers:
		return 0, g.registerBuffers(t, at, n)
	case registerBuffers2:
		n, iov, tags, sparse, err := inRsrc(t, at, n)
		if err != nil || tags {
			return 0, orInvalid(err)
		}
		if sparse {
			return 0, g.setBuffers(make([]piece, n), n)
		}
		return 0, g.registerBuffers(t, iov, n)
	case unregisterBuffers:
		g.mu.Lock()
		defer g.mu.Unlock()
		if at != 0 || n != 0 {
			return 0, unix.EINVAL
		}
		if g.buffers == nil {
			return 0, unix.ENXIO
		}
		g.buffers = nil
		return 0, nil
	case registerFiles:
		return 0, g.registerFiles(t, at, n, false)
	case registerFiles2:
		n, fds, tags, sparse, err := inRsrc(t, at, n)
		if err != nil || tags {
			return 0, orInvalid(err)
		}
		return 0, g.registerFiles(t, fds, n, sparse)
	case unregisterFiles:
		if at != 0 || n != 0 {
			return 0, unix.EINVAL
		}
		return 0, g.dropFiles()
	case registerFilesUpdate:
		var b [16]byte // struct io_uring_rsrc_update
		if err := in(t, at, b[:]); err != nil {
			return 0, err
		}
		if le.Uint32(b[4:]) != 0 {
			return 0, unix.EINVAL
		}
		return g.updateFiles(t, memory.Addr(le.Uint64(b[8:])), le.Uint32(b[:]), n)
	case registerEventfd, registerEventfdAsync:
		return 0, g.registerEvent(t, at, n)
	case unregisterEventfd:
		if at != 0 || n != 0 {
			return 0, unix.EINVAL
		}
		if !g.SetEvent(nil) {
			return 0, unix.ENXIO
		}
		return 0, nil
	case registerProbe:
		return 0, probeRing(t, at, n)
	case registerEnable:
		g.mu.Lock()
		defer g.mu.Unlock()
		if at != 0 || n != 0 {
			return 0, unix.EINVAL
		}
		if g.enabled {
			return 0, unix.EBADFD
		}
		g.enabled = true
		return 0, nil
	case registerMaxWorkers:
		if n != 2 {
			return 0, unix.EINVAL
		}
		return 0, outStruct(t, at, &[2]uint32{maxRequests, maxRequests})
	case registerBufferRing, unregisterBufferRing:
		return 0, g.registerBufferRing(t, at, n, op == registerBufferRing)
	case registerSyncCancel:
		return 0, g.syncCancel(t, at, n)
	}
	return 0, unix.EINVAL
}

func orInvalid(err error) error {
	if err != nil {
		return err
	}
	return unix.EINVAL
}

// inRsrc reads a struct io_uring_rsrc_register.
func inRsrc(t *kernel.Task, at memory.Addr, size uint32) (n uint32, data memory.Addr, tags, sparse bool, err error) {
	var b [32]byte
	if size != uint32(len(b)) {
		return 0, 0, false, false, unix.EINVAL
	}
	if err = in(t, at, b[:]); err != nil {
		return
	}
	n, flags := le.Uint32(b[:]), le.Uint32(b[4:])
	data, sparse = memory.Addr(le.Uint64(b[16:])), flags&1 != 0
	if n == 0 || le.Uint64(b[8:]) != 0 || flags&^1 != 0 || sparse && data != 0 {
		err = unix.EINVAL
	}
	return n, data, le.Uint64(b[24:]) != 0, sparse, err
}

// registerBuffers notes where buffers lie. Their pages are looked up whenever they
// are used, and so need not be kept.
func (g *ring) registerBuffers(t *kernel.Task, at memory.Addr, n uint32) error {
	if n == 0 || n > maxFixedBuffers {
		return unix.EINVAL
	}
	b := make([]byte, 16*n)
	if err := in(t, at, b); err != nil {
		return err
	}
	buffers := make([]piece, n)
	sum := uint64(0)
	for i := range buffers {
		p := piece{memory.Addr(le.Uint64(b[16*i:])), le.Uint64(b[16*i+8:])}
		if p.at == 0 && p.n == 0 {
			continue
		}
		if p.at == 0 || p.n == 0 || p.n > maxFixedBuffer || p.at >= taskSize || uint64(taskSize-p.at) < p.n {
			return unix.EFAULT
		}
		_, release, err := t.MM().Pin(p.at, 1, access(unix.PROT_WRITE))
		if err != nil {
			return unix.EFAULT
		}
		release()
		buffers[i] = p
		sum += p.n
	}
	if sum > t.Limit(unix.RLIMIT_MEMLOCK) && !t.Creds().Has(unix.CAP_IPC_LOCK) {
		return unix.ENOMEM
	}
	return g.setBuffers(buffers, n)
}

func (g *ring) setBuffers(buffers []piece, n uint32) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.buffers != nil {
		return unix.EBUSY
	}
	if n > maxFixedBuffers {
		return unix.EINVAL
	}
	g.buffers = buffers
	return nil
}

func (g *ring) registerFiles(t *kernel.Task, at memory.Addr, n uint32, sparse bool) error {
	if n == 0 {
		return unix.EINVAL
	}
	if n > maxFixedFiles || uint64(n) > t.Limit(unix.RLIMIT_NOFILE) {
		return unix.EMFILE
	}
	files := make([]*vfs.Description, n)
	if !sparse {
		b := make([]byte, 4*n)
		if err := in(t, at, b); err != nil {
			return err
		}
		for i := range files {
			d, err := registrable(t, int(int32(le.Uint32(b[4*i:]))))
			if err != nil {
				dropAll(files)
				return err
			}
			files[i] = d
		}
	}
	g.mu.Lock()
	busy := g.files != nil || g.closed
	if !busy {
		g.files = files
	}
	g.mu.Unlock()
	if busy {
		dropAll(files)
		return unix.EBUSY
	}
	return nil
}

// registrable is the file of fd for a ring's table; nil for -1. A ring is none: it
// would keep itself.
func registrable(t *kernel.Task, fd int) (*vfs.Description, error) {
	if fd == -1 {
		return nil, nil
	}
	d, err := t.FDs().Get(fd)
	if err != nil {
		return nil, unix.EBADF
	}
	if _, ring := d.File().(*uring.Ring); ring {
		d.Unref()
		return nil, unix.EBADF
	}
	return d, nil
}

func dropAll(files []*vfs.Description) {
	for _, d := range files {
		if d != nil {
			d.Unref()
		}
	}
}

func (g *ring) dropFiles() error {
	g.mu.Lock()
	files := g.files
	g.files = nil
	g.mu.Unlock()
	if files == nil {
		return unix.ENXIO
	}
	dropAll(files)
	return nil
}

// updateFiles puts descriptors into the table from place first on; -1 empties a
// place, -2 leaves it.
func (g *ring) updateFiles(t *kernel.Task, at memory.Addr, first, n uint32) (uintptr, error) {
	const skip = -2 // IORING_REGISTER_FILES_SKIP
	g.mu.Lock()
	have := uint32(len(g.files))
	g.mu.Unlock()
	switch {
	case have == 0:
		return 0, unix.ENXIO
	case n == 0 || first > have || n > have-first:
		return 0, unix.EINVAL
	}
	for i := range n {
		v, err := in32(t, at+memory.Addr(4*i))
		if err != nil {
			return partial(uint64(i), err)
		}
		if int32(v) == skip {
			continue
		}
		d, err := registrable(t, int(int32(v)))
		if err != nil {
			return partial(uint64(i), err)
		}
		g.mu.Lock()
		if int(first+i) < len(g.files) {
			g.files[first+i], d = d, g.files[first+i]
		}
		g.mu.Unlock()
		if d != nil {
			d.Unref()
		}
	}
	return uintptr(n), nil
}

func (g *ring) registerEvent(t *kernel.Task, at memory.Addr, n uint32) error {
	if n != 1 {
		return unix.EINVAL
	}
	fd, err := in32(t, at)
	if err != nil {
		return err
	}
	d, err := eventOf(t, int(int32(fd)))
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.HasEvent() {
		d.Unref()
		return unix.EBUSY
	}
	g.SetEvent(d)
	return nil
}

// eventOf is the eventfd behind a descriptor.
func eventOf(t *kernel.Task, fd int) (*vfs.Description, error) {
	d, err := t.FDs().Get(fd)
	if err != nil {
		return nil, err
	}
	if _, ok := d.File().(*eventfd.File); !ok {
		d.Unref()
		return nil, unix.EINVAL
	}
	return d, nil
}

// probeRing tells which operations there are.
func probeRing(t *kernel.Task, at memory.Addr, n uint32) error {
	if n > 256 {
		return unix.EINVAL
	}
	b := make([]byte, 16+8*n)
	if err := in(t, at, b); err != nil {
		return err
	}
	for _, x := range b {
		if x != 0 {
			return unix.EINVAL
		}
	}
	b[0], b[1] = byte(len(ringOps)-1), byte(min(int(n), len(ringOps)))
	for i := range int(b[1]) {
		b[16+8*i] = byte(i)
		if ringOps[i].do != nil {
			b[16+8*i+2] = 1 // IO_URING_OP_SUPPORTED
		}
	}
	return out(t, at, b)
}

// syncCancel cancels and waits until what matched has ended.
func (g *ring) syncCancel(t *kernel.Task, at memory.Addr, n uint32) error {
	var b [64]byte // struct io_uring_sync_cancel_reg
	if n != 1 {
		return unix.EINVAL
	}
	if err := in(t, at, b[:]); err != nil {
		return err
	}
	data, fd, flags := le.Uint64(b[:]), int32(le.Uint32(b[8:])), le.Uint32(b[12:])
	if flags&^(cancelAll|cancelFD|cancelAny|cancelFixed|cancelUser|cancelOp) != 0 {
		return unix.EINVAL
	}
	_, err := g.cancel(t, nil, data, fd, flags, b[32])
	return err
}

// Buffers that a request takes from a group (IOSQE_BUFFER_SELECT).

// bufferGroup are the buffers of one group: given one by one by
// IORING_OP_PROVIDE_BUFFERS, or in a ring in the program's memory.
type bufferGroup struct {
	list []ringBuffer

	ring    memory.Addr // 0: there is none
	mm      *memory.Space
	entries uint32
	head    uint32
}

// ringBuffer is a buffer, while a request has it.
type ringBuffer struct {
	piece
	id    uint16
	group uint16
}

func (b *ringBuffer) flags() uint32 { return uring.CQEBuffer | uint32(b.id)<<16 }

const maxGroupBuffers = 1 << 16

// pick gives the pieces that a request moves: its own, or a buffer of its group.
func (r *request) pick(own []piece) ([]piece, error) {
	s, g := &r.sqe, r.ring
	if s.Flags&uring.BufferSelect == 0 {
		return own, nil
	}
	if r.buffer == nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		group := g.groups[s.Buf]
		if group == nil {
			return nil, unix.ENOBUFS
		}
		b, err := group.take()
		if err != nil {
			return nil, err
		}
		b.group = s.Buf
		r.buffer = &b
	}
	p := r.buffer.piece
	if len(own) == 1 && own[0].n > 0 {
		p.n = min(p.n, own[0].n)
	}
	return []piece{p}, nil
}

// putBack gives the buffer back that a request did not use.
func (r *request) putBack() {
	g, b := r.ring, r.buffer
	if b == nil {
		return
	}
	r.buffer = nil
	g.mu.Lock()
	defer g.mu.Unlock()
	if group := g.groups[b.group]; group != nil {
		if group.ring != 0 {
			group.head--
			return
		}
		group.list = append([]ringBuffer{*b}, group.list...)
	}
}

// take is called with ring.mu held. A ring's memory is the program's: its tail
// and its entries are read once each, and the entry is checked as any buffer is
// when it is used.
func (b *bufferGroup) take() (ringBuffer, error) {
	if b.ring == 0 {
		if len(b.list) == 0 {
			return ringBuffer{}, unix.ENOBUFS
		}
		x := b.list[0]
		b.list = b.list[1:]
		return x, nil
	}
	var e [16]byte
	if n, _ := b.mm.Read(b.ring+14, e[:2]); n < 2 {
		return ringBuffer{}, unix.EFAULT
	}
	if le.Uint16(e[:]) == uint16(b.head) {
		return ringBuffer{}, unix.ENOBUFS
	}
	if n, _ := b.mm.Read(b.ring+memory.Addr(16*(b.head&(b.entries-1))), e[:]); n < len(e) {
		return ringBuffer{}, unix.EFAULT
	}
	b.head++
	return ringBuffer{piece: piece{memory.Addr(le.Uint64(e[:])), uint64(min(le.Uint32(e[8:]), maxRW))}, id: le.Uint16(e[12:])}, nil
}

func ringProvide(_ *kernel.Task, r *request) (int32, error) {
	s, g := &r.sqe, r.ring
	n := uint64(uint32(s.FD))
	switch {
	case s.OpFlags != 0 || s.Index != 0 || n == 0 || n > maxGroupBuffers || s.Len == 0:
		return 0, unix.EINVAL
	case s.Off > 0xffff:
		return 0, unix.E2BIG
	case s.Off+n > 1<<16:
		return 0, unix.EINVAL
	case s.Addr >= uint64(taskSize) || n*uint64(s.Len) > uint64(taskSize)-s.Addr:
		return 0, unix.EFAULT
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	group := g.groups[s.Buf]
	if group == nil {
		group = &bufferGroup{}
		g.groups[s.Buf] = group
	}
	if group.ring != 0 {
		return 0, unix.EINVAL
	}
	if len(group.list)+int(n) > maxGroupBuffers {
		return 0, unix.ENOMEM
	}
	for i := range n {
		group.list = append(group.list, ringBuffer{piece: piece{memory.Addr(s.Addr + i*uint64(s.Len)), uint64(s.Len)}, id: uint16(s.Off + i)})
	}
	return 0, nil
}

func ringRemoveBuffers(_ *kernel.Task, r *request) (int32, error) {
	s, g := &r.sqe, r.ring
	n := int64(s.FD)
	if s.OpFlags != 0 || s.Addr != 0 || s.Len != 0 || s.Off != 0 || s.Index != 0 || n <= 0 || n > maxGroupBuffers {
		return 0, unix.EINVAL
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	group := g.groups[s.Buf]
	if group == nil {
		return 0, unix.ENOENT
	}
	if group.ring != 0 {
		return 0, unix.EINVAL
	}
	n = min(n, int64(len(group.list)))
	group.list = group.list[n:]
	return int32(n), nil
}

// registerBufferRing takes (or gives up) a ring of buffers in the program's memory.
func (g *ring) registerBufferRing(t *kernel.Task, at memory.Addr, n uint32, on bool) error {
	var b [40]byte // struct io_uring_buf_reg
	if n != 1 {
		return unix.EINVAL
	}
	if err := in(t, at, b[:]); err != nil {
		return err
	}
	ring, entries, id, flags := memory.Addr(le.Uint64(b[:])), le.Uint32(b[8:]), le.Uint16(b[12:]), le.Uint16(b[14:])
	g.mu.Lock()
	defer g.mu.Unlock()
	group := g.groups[id]
	if !on {
		switch {
		case group == nil:
			return unix.ENOENT
		case group.ring == 0:
			return unix.EINVAL
		}
		delete(g.groups, id)
		return nil
	}
	switch {
	case flags != 0, ring == 0, entries == 0 || entries&(entries-1) != 0 || entries >= 1<<16:
		return unix.EINVAL
	case ring%pageSize != 0 || ring >= taskSize:
		return unix.EINVAL
	case group != nil && (group.ring != 0 || len(group.list) > 0):
		return unix.EEXIST
	}
	g.groups[id] = &bufferGroup{ring: ring, mm: t.MM(), entries: entries}
	return nil
}
