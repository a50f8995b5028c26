// Package pipe is pipe(2) and FIFOs, and what splice(2) and its like do with
// them. Behaviour follows fs/pipe.c and fs/splice.c, except that room is counted
// in bytes and not in pages.
//
// Lock order: Pipe.mu, of two the one with the lower number first, then the locks
// of what is spliced from or to.
package pipe

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

const (
	atomicSize  = 4096 // PIPE_BUF: a write that is not larger is not torn
	defaultSize = 16 * 4096
	maxSize     = 1 << 20 // fs.pipe-max-size
)

// Pipe is the buffer between the ends.
type Pipe struct {
	id    uint64
	uid   uint32        // whose room it is
	arena *memory.Arena // whose memory; nil: nobody counts it

	mu       sync.Mutex
	ring     []byte // its length is 0 or a power of two; grows up to size
	head, n  int    // where the data begin, and how many they are
	size     int
	charged  int64 // pages that the ring counts as
	packets  []int // lengths of O_DIRECT writes; a stream in front has none
	loose    int   // bytes in front of packets that belong to none
	readers  int
	writers  int
	rOpens   uint64 // how many readers have ever opened it
	wOpens   uint64
	released func()

	queue vfs.Queue // of both ends
}

var lastID atomic.Uint64

// File is an open end of a pipe, or both.
type File struct {
	vfs.NoFile
	p           *Pipe
	read, write bool
	direct      atomic.Bool // O_DIRECT: packets
	// What the other side's count was at the open. For a FIFO opened for reading
	// without a writer that says when the first one came (POLLHUP, Opened).
	seen uint64
	anon bool
}

// New makes a pipe with its two ends. flags are O_NONBLOCK and O_DIRECT. ENFILE is for
// users past Limits.Hard.
func New(ctx vfs.Context, flags int) (r, w *vfs.Description, err error) {
	p := newPipe(ctx)
	if p == nil {
		return nil, nil, unix.ENFILE
	}
	p.readers, p.writers, p.rOpens, p.wOpens = 1, 1, 1, 1
	i := vfs.NewAnonInode(ctx, unix.S_IFIFO|0o600, func(_ vfs.Context, _ vfs.Path, flags int) (vfs.File, error) {
		return p.open(flags, true)
	})
	name := vfs.AnonName("pipe", i.Ino())
	flags &= unix.O_NONBLOCK | unix.O_DIRECT
	in, out := &File{p: p, read: true, anon: true}, &File{p: p, write: true, anon: true}
	in.SetFlags(flags)
	out.SetFlags(flags)
	return vfs.NewAnonymousOn(i, in, name, unix.O_RDONLY|flags), vfs.NewAnonymousOn(i, out, name, unix.O_WRONLY|flags), nil
}

// fifos are the pipes of FIFOs that are open.
var fifos = struct {
	mu sync.Mutex
	of map[any]*Pipe // by vfs.Identity
}{of: make(map[any]*Pipe)}

// Open opens a FIFO; it is for vfs.HandleFIFO.
func Open(ctx vfs.Context, at vfs.Path, flags int) (vfs.File, error) {
	i := vfs.Identity(at.Inode())
	fifos.mu.Lock()
	defer fifos.mu.Unlock()
	p, fresh := fifos.of[i], false
	if p == nil {
		if p, fresh = newPipe(ctx), true; p == nil {
			return nil, unix.ENOMEM
		}
	}
	f, err := p.open(flags, false)
	if err == nil {
		fifos.of[i] = p
		p.released = func() { delete(fifos.of, i) }
	} else if fresh {
		account(p.uid, -pages(p.size))
	}
	return f, err
}

// open is fifo_open (fs/pipe.c). anon: opening a pipe again through
// /proc/PID/fd waits for nobody.
func (p *Pipe) open(flags int, anon bool) (*File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := &File{p: p, anon: anon}
	switch flags & unix.O_ACCMODE {
	case unix.O_RDONLY:
		f.read, f.seen = true, p.wOpens
		if p.writers > 0 || anon {
			f.seen-- // somebody is or was there
		}
	case unix.O_WRONLY:
		if p.readers == 0 && flags&unix.O_NONBLOCK != 0 && !anon {
			return nil, unix.ENXIO
		}
		f.write, f.seen = true, p.rOpens
		if p.readers > 0 {
			f.seen--
		}
	case unix.O_RDWR:
		f.read, f.write = true, true
	default:
		return nil, unix.EINVAL
	}
	if f.read {
		p.readers++
		p.rOpens++
	}
	if f.write {
		p.writers++
		p.wOpens++
	}
	f.SetFlags(flags)
	p.queue.Notify(vfs.EventIn | vfs.EventOut)
	return f, nil
}

// Opened implements vfs.SlowOpen: the other end has been opened since.
func (f *File) Opened() bool {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	return f.anon || f.read && f.write || f.read && f.p.wOpens != f.seen || f.write && f.p.rOpens != f.seen
}

// Stream implements vfs.Stream.
func (f *File) Stream() {}

// SetFlags implements vfs.FlagSetter.
func (f *File) SetFlags(flags int) { f.direct.Store(flags&unix.O_DIRECT != 0) }

// Release implements vfs.File.
func (f *File) Release() {
	fifos.mu.Lock() // Open finds a pipe either with its ends or not at all
	defer fifos.mu.Unlock()
	p := f.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.read {
		p.readers--
	}
	if f.write {
		p.writers--
	}
	if p.readers+p.writers == 0 {
		p.closeLocked()
		if p.released != nil {
			p.released()
		}
		return
	}
	if p.readers == 0 || p.writers == 0 {
		p.queue.Notify(vfs.EventIn | vfs.EventOut | vfs.EventErr | vfs.EventHup)
	}
}

// Queue implements vfs.File.
func (f *File) Queue() *vfs.Queue { return &f.p.queue }

// Ready implements vfs.File.
func (f *File) Ready(mask vfs.Events) (e vfs.Events) {
	p := f.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.read {
		if p.n > 0 {
			e |= vfs.EventIn
		}
		if p.writers == 0 && p.wOpens != f.seen {
			e |= vfs.EventHup
		}
	}
	if f.write {
		if p.size-p.n >= atomicSize {
			e |= vfs.EventOut
		}
		if p.readers == 0 {
			e |= vfs.EventErr
		}
	}
	return e & (mask | vfs.EventErr | vfs.EventHup)
}

// Read implements vfs.File.
func (f *File) Read(_ vfs.Context, dst memory.Buffers, _ int64) (int, error) {
	if !f.read {
		return 0, unix.EBADF
	}
	want := dst.Len()
	if want == 0 {
		return 0, nil
	}
	p := f.p
	p.mu.Lock()
	if err := p.emptyLocked(); err != nil || p.n == 0 {
		p.mu.Unlock()
		return 0, err
	}
	room := p.size - p.n
	n, drop := p.chunkLocked(want)
	got := 0
	for _, part := range p.dataLocked(n) {
		m := dst.CopyOut(part)
		got += m
		if got == n || m < len(part) {
			break
		}
		dst = dst.Skip(m)
	}
	if got == 0 {
		p.mu.Unlock()
		return 0, unix.EFAULT
	}
	if got == n {
		p.takeLocked(got + drop)
	} else {
		p.takeLocked(got)
	}
	p.mu.Unlock()
	if room < atomicSize {
		p.queue.Notify(vfs.EventOut)
	}
	return got, nil
}

// emptyLocked is EAGAIN if nothing is to be read now, and nil if there is or
// never will be.
func (p *Pipe) emptyLocked() error {
	if p.n == 0 && p.writers > 0 {
		return unix.EAGAIN
	}
	return nil
}

// chunkLocked is how much one read that has room for want takes, and what it
// throws away behind that, the rest of a packet.
func (p *Pipe) chunkLocked(want int) (n, drop int) {
	limit := p.n
	switch {
	case p.loose > 0:
		limit = p.loose
	case len(p.packets) > 0:
		limit = p.packets[0]
		drop = max(0, limit-want)
	}
	return min(want, limit), drop
}

// dataLocked are the first n bytes.
func (p *Pipe) dataLocked(n int) [2][]byte {
	end := min(p.head+n, len(p.ring))
	return [2][]byte{p.ring[p.head:end], p.ring[:n-(end-p.head)]}
}

// takeLocked removes n bytes from the front, which do not pass a packet's end.
func (p *Pipe) takeLocked(n int) {
	p.n -= n
	if p.n == 0 {
		p.head = 0
	} else {
		p.head = (p.head + n) & (len(p.ring) - 1)
	}
	switch {
	case p.loose > 0:
		p.loose -= n
	case len(p.packets) > 0:
		if p.packets[0] -= n; p.packets[0] == 0 {
			p.packets = p.packets[1:]
		}
	}
}

// Write implements vfs.File.
func (f *File) Write(_ vfs.Context, src memory.Buffers, _ int64) (int, error) {
	if !f.write {
		return 0, unix.EBADF
	}
	for try := 0; ; try++ {
		n, err := f.put(src)
		if f.p.arena == nil || !f.p.arena.Relieve(err, try) {
			return n, memory.Errno(err)
		}
	}
}

func (f *File) put(src memory.Buffers) (int, error) {
	want := src.Len()
	if want == 0 {
		return 0, nil
	}
	p := f.p
	p.mu.Lock()
	if p.readers == 0 {
		p.mu.Unlock()
		return 0, unix.EPIPE
	}
	n := min(want, p.size-p.n)
	if n < want && (want <= atomicSize || n == 0) {
		p.mu.Unlock()
		return 0, unix.EAGAIN
	}
	got := 0
	room, err := p.roomLocked(n)
	if err != nil {
		p.mu.Unlock()
		return 0, err
	}
	for _, part := range room {
		m := src.CopyIn(part)
		got += m
		if got == n || m < len(part) {
			break
		}
		src = src.Skip(m)
	}
	p.putLocked(got, f.direct.Load())
	p.mu.Unlock()
	if got == 0 {
		return 0, unix.EFAULT
	}
	p.queue.Notify(vfs.EventIn)
	return got, nil
}

// roomLocked is where the next n bytes go, which fit into size.
func (p *Pipe) roomLocked(n int) (room [2][]byte, err error) {
	if p.n+n > len(p.ring) {
		if err := p.growLocked(p.n + n); err != nil {
			return room, err
		}
	}
	from := (p.head + p.n) & (len(p.ring) - 1)
	end := min(from+n, len(p.ring))
	return [2][]byte{p.ring[from:end], p.ring[:n-(end-from)]}, nil
}

// growLocked makes the ring one for n bytes.
func (p *Pipe) growLocked(n int) error {
	size := 1 << bits.Len(uint(max(n, 4096)-1))
	if err := p.chargeLocked(size); err != nil {
		return err
	}
	ring := make([]byte, size)
	at := 0
	for _, part := range p.dataLocked(p.n) {
		at += copy(ring[at:], part)
	}
	p.ring, p.head = ring, 0
	return nil
}

// putLocked says that n bytes have been put into roomLocked.
func (p *Pipe) putLocked(n int, packet bool) {
	if n == 0 {
		return
	}
	p.n += n
	for ; packet && n > 0; n -= min(n, atomicSize) { // a packet is a page at most
		if len(p.packets) == 0 {
			p.loose = p.n - n
		}
		p.packets = append(p.packets, min(n, atomicSize))
	}
	if !packet && len(p.packets) > 0 {
		p.packets = append(p.packets, n) // a stream behind packets is read like one
	}
}

// Ioctl implements vfs.File.
func (f *File) Ioctl(ctx vfs.Context, cmd uint32, arg uint64) (uintptr, error) {
	if cmd != unix.TIOCINQ {
		return 0, unix.ENOTTY
	}
	f.p.mu.Lock()
	n := f.p.n
	f.p.mu.Unlock()
	b := [4]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
	_, err := ctx.Memory().Write(memory.Addr(arg), b[:])
	return 0, err
}

// Fcntl serves F_GETPIPE_SZ and F_SETPIPE_SZ.
func (f *File) Fcntl(ctx vfs.Context, cmd int, arg uint64) (uintptr, error) {
	p := f.p
	p.mu.Lock()
	defer p.mu.Unlock()
	switch cmd {
	case unix.F_GETPIPE_SZ:
		return uintptr(p.size), nil
	case unix.F_SETPIPE_SZ:
	default:
		return 0, unix.EINVAL
	}
	if arg > 1<<31 {
		return 0, unix.EINVAL
	}
	size := 1 << bits.Len(uint(max(arg, 4096)-1))
	switch {
	case size > p.size && size > maxSize && !ctx.Creds().Has(unix.CAP_SYS_RESOURCE):
		return 0, unix.EPERM
	case size > 64*maxSize:
		return 0, unix.ENOMEM
	case size < p.n:
		return 0, unix.EBUSY
	}
	if err := p.resizeLocked(ctx, size); err != nil {
		return 0, err
	}
	if size < len(p.ring) {
		p.growLocked(max(p.n, 1)) // less is never refused
	}
	p.queue.Notify(vfs.EventOut)
	return uintptr(size), nil
}

// IOReason implements vfs.Signaller. The end of the other side is input or room as any
// other, its opening is nothing (fs/pipe.c, pipe_release and fifo_open).
func (f *File) IOReason(e vfs.Events) vfs.IOReason {
	const both = vfs.EventIn | vfs.EventOut
	switch {
	case e&(both|vfs.EventErr|vfs.EventHup) == both:
	case f.read && e&vfs.EventIn != 0:
		return vfs.IOIn
	case f.write && e&vfs.EventOut != 0:
		return vfs.IOOut
	}
	return 0
}
