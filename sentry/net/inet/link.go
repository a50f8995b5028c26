package inet

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// endpoint is one end of a connection.
type endpoint struct {
	addr tcpip.Address
	port uint16
}

func (e endpoint) before(o endpoint) bool {
	if c := string(e.addr.AsSlice()); c != string(o.addr.AsSlice()) {
		return c < string(o.addr.AsSlice())
	}
	return e.port < o.port
}

// pair names a connection: the lesser end first.
type pair [2]endpoint

// link is a connection within the stack: what goes to each end.
type link struct {
	to       [2]flow
	attached [2]bool // guarded by Stack.mu
}

// join gives the socket at one end of an established connection its link, and the
// side it has there.
func (n *Stack) join(local, remote endpoint) (*link, int) {
	p, side := pair{local, remote}, 0
	if remote.before(local) {
		p, side = pair{remote, local}, 1
	}
	if local == remote { // a socket connected to itself
		return n.newLink(), 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.links[p]
	if l == nil || l.attached[side] { // of a connection long gone, whose other end never came
		l = n.newLink()
		n.links[p] = l
	}
	l.attached[side] = true
	if l.attached[1-side] {
		delete(n.links, p)
	}
	return l, side
}

func (n *Stack) newLink() *link {
	l := &link{}
	for i := range l.to {
		l.to[i].total, l.to[i].carried = &n.queued, &n.carried
	}
	return l
}

// sweep forgets connections that nobody accepted and nobody will.
func (n *Stack) sweep(dead func(listener, client endpoint) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p, l := range n.links {
		side := 0 // the end that is missing
		if l.attached[0] {
			side = 1
		}
		if dead(p[side], p[1-side]) {
			delete(n.links, p)
			l.to[1-side].kill()
			l.to[side].kill()
			l.to[side].abandon()
		}
	}
}

// flow is what goes one way.
type flow struct {
	total   *socket.Held // Stack.queued
	carried *traffic     // Stack.carried

	mu     sync.Mutex
	chunks [][]byte
	taken  int // of the first chunk
	size   int // bytes that wait
	send   int // SO_SNDBUF of who writes, SO_RCVBUF of who reads
	recv   int
	fin    bool // nothing more will come
	gone   bool // nobody will read
	hungry bool // who writes found no room, and is to be told of some
	reset  bool // the connection was torn: told to the reader once what came before is read
	urgent urgent

	reader, writer *vfs.Queue
	options        *socket.Options // of who reads
}

const (
	smallChunk = 4 << 10
	largeChunk = 64 << 10
)

var chunkPool = sync.Pool{New: func() any { return new([largeChunk]byte) }}

func newChunk(n int) []byte {
	if n <= smallChunk {
		return make([]byte, 0, smallChunk)
	}
	return chunkPool.Get().(*[largeChunk]byte)[:0]
}

func freeChunk(b []byte) {
	if cap(b) == largeChunk {
		chunkPool.Put((*[largeChunk]byte)(b[:largeChunk]))
	}
}

// traffic is what links have carried: one segment a write, with its headers, in the
// books of a device that none of it passed.
type traffic struct{ packets, bytes atomic.Uint64 }

func (t *traffic) count(n int) {
	const headers = 20 + 32 // IP, TCP with time stamps
	if n > 0 {
		t.packets.Add(1)
		t.bytes.Add(uint64(n + headers))
	}
}

// plenty is how many bytes all sockets of a stack may hold before each of them is
// held to scarce (tcp_mem's pressure): they are the Sentry's memory.
const (
	plenty = 64 << 20
	scarce = 16 << 10
)

// capacityLocked is how much may wait.
func (f *flow) capacityLocked() int {
	if f.total.Load() > plenty {
		return min(scarce, f.send+f.recv)
	}
	return f.send + f.recv
}

func (f *flow) roomLocked() int { return max(0, f.capacityLocked()-f.size) }

// write takes as much of src as there is room for; fault says that not all of
// that could be read, err that memory is short. With urgent its last byte is that.
func (f *flow) write(src memory.Buffers, urgent bool) (n int, gone, fault bool, err error) {
	f.mu.Lock()
	if f.gone || f.reset {
		f.mu.Unlock()
		return 0, true, false, nil
	}
	asked := src.Len()
	left := min(asked, f.roomLocked())
	hold := left
	if err := f.total.Add(int64(hold)); err != nil {
		if f.size == 0 {
			f.mu.Unlock()
			return 0, false, false, err
		}
		left, hold = 0, 0 // until some was read (sk_stream_wait_memory)
	}
	for left > 0 {
		last := len(f.chunks) - 1
		if last < 0 || len(f.chunks[last]) == cap(f.chunks[last]) {
			f.chunks = append(f.chunks, newChunk(left))
			last++
		}
		c := f.chunks[last]
		want := min(left, cap(c)-len(c))
		got := src.CopyIn(c[len(c) : len(c)+want])
		f.chunks[last] = c[:len(c)+got]
		f.size += got
		n += got
		if got < want {
			fault = true
			break
		}
		if left -= got; left > 0 {
			src = src.Skip(got)
		}
	}
	f.total.Sub(int64(hold - n))
	f.carried.count(n)
	f.hungry = f.hungry || !fault && n < asked
	if urgent = urgent && n > 0; urgent {
		f.markLocked(n)
	}
	reader := f.reader
	f.mu.Unlock()
	if urgent && reader != nil {
		reader.Notify(vfs.EventPri)
	}
	if n > 0 && reader != nil {
		reader.Notify(vfs.EventIn | readNorm)
	}
	return n, false, fault, nil
}

// read fills dst; peek leaves the bytes where they are. It stops before an urgent byte,
// which is the mark, and begins behind one (net/ipv4/tcp.c, tcp_recvmsg_locked).
func (f *flow) read(dst memory.Buffers, peek bool) (n int, mark, fault bool) {
	f.mu.Lock()
	for at := 0; ; {
		want := min(dst.Len(), f.size-at)
		if f.urgent.there && want > 0 {
			switch ahead := f.urgent.at - at; {
			case ahead == 0 && n > 0:
				mark, want = true, 0
			case ahead == 0 && !f.inlineLocked():
				at++
				if !peek {
					f.takeLocked(at)
					at = 0
				}
				continue
			case ahead > 0:
				want = min(want, ahead)
			}
		}
		got := f.copyLocked(dst, at, want)
		n += got
		fault = got < want
		if at += got; !peek {
			f.takeLocked(at)
			at = 0
		}
		if got == 0 || fault {
			break
		}
		dst = dst.Skip(got)
	}
	writer := f.writer
	wake := !peek && f.hungry && f.writableLocked()
	if wake {
		f.hungry = false
	}
	f.mu.Unlock()
	if wake && writer != nil {
		writer.Notify(vfs.EventOut | writeNorm)
	}
	return n, mark, fault
}

// copyLocked copies up to n of the bytes from skip on; less than n is a fault.
func (f *flow) copyLocked(dst memory.Buffers, skip, n int) (done int) {
	at := f.taken + skip
	for _, c := range f.chunks {
		if done == n {
			break
		}
		if at >= len(c) {
			at -= len(c)
			continue
		}
		piece := c[at:min(len(c), at+n-done)]
		got := dst.CopyOut(piece)
		done += got
		at = 0
		if got < len(piece) {
			break
		}
		if done < n {
			dst = dst.Skip(got)
		}
	}
	return done
}

// takeLocked is what reading n bytes leaves.
func (f *flow) takeLocked(n int) {
	f.dropLocked(n)
	f.urgent.pass(n)
}

func (f *flow) dropLocked(n int) {
	f.size -= n
	f.total.Sub(int64(n))
	for n > 0 {
		c := f.chunks[0]
		k := min(n, len(c)-f.taken)
		n -= k
		if f.taken += k; f.taken < len(c) {
			return
		}
		f.taken = 0
		if len(f.chunks) == 1 && cap(c) == smallChunk {
			f.chunks[0] = c[:0] // most conversations need no more
			return
		}
		freeChunk(c)
		f.chunks[0] = nil
		f.chunks = f.chunks[1:]
	}
	if len(f.chunks) == 0 {
		f.chunks = nil
	}
}

// writableLocked is sk_stream_is_writable: a third is free.
func (f *flow) writableLocked() bool { return f.size <= f.capacityLocked()/3*2 }

// finish says that no more will be written.
func (f *flow) finish() {
	f.mu.Lock()
	f.fin = true
	reader := f.reader
	f.mu.Unlock()
	if reader != nil {
		reader.Notify(vfs.EventIn | readNorm | vfs.EventRdHup | vfs.EventHup)
	}
}

// kill tears the flow: both sides hear of it.
func (f *flow) kill() {
	f.mu.Lock()
	if !f.fin || f.size > 0 {
		f.reset = true
	}
	f.gone = true
	reader, writer := f.reader, f.writer
	f.mu.Unlock()
	const all = vfs.EventIn | readNorm | vfs.EventOut | writeNorm | vfs.EventErr | vfs.EventHup | vfs.EventRdHup
	for _, q := range []*vfs.Queue{reader, writer} {
		if q != nil {
			q.Notify(all)
		}
	}
}

// abandon says that nobody will read, and how much nobody will.
func (f *flow) abandon() (unread int) {
	f.mu.Lock()
	unread = f.size
	f.total.Sub(int64(unread))
	for _, c := range f.chunks {
		freeChunk(c)
	}
	f.chunks, f.taken, f.size, f.gone, f.reader, f.options = nil, 0, 0, true, nil, nil
	writer := f.writer
	f.mu.Unlock()
	if writer != nil {
		writer.Notify(vfs.EventOut | writeNorm)
	}
	return unread
}

// leave forgets who writes.
func (f *flow) leave() {
	f.mu.Lock()
	f.writer = nil
	f.mu.Unlock()
}

// flowState is what a poll asks for.
type flowState struct {
	size            int
	fin, reset      bool
	gone, writable  bool
	unacknowledged  int
	receiveCapacity int
	urgent          urgent
	inline          bool
}

func (f *flow) state() flowState {
	f.mu.Lock()
	defer f.mu.Unlock()
	writable := f.writableLocked()
	f.hungry = f.hungry || !writable
	return flowState{size: f.size, fin: f.fin, reset: f.reset, gone: f.gone, writable: writable,
		unacknowledged: max(0, f.size-f.recv), receiveCapacity: f.recv, urgent: f.urgent, inline: f.inlineLocked()}
}

// POLLRDNORM, POLLWRNORM and POLLWRBAND (asm-generic/poll.h).
const (
	readNorm  vfs.Events = 0x40
	writeNorm vfs.Events = 0x100
	writeBand vfs.Events = 0x200
)
