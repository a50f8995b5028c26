package unix

import (
	"math/bits"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// packet is what one write put into a receiver's queue (an sk_buff).
type packet struct {
	from   *Endpoint
	data   []byte
	taken  int // bytes of a stream that have been received
	size   int64
	creds  *unix.Ucred // nil: nobody asked
	rights *rights
	urgent bool // sent with MSG_OOB; when taken it is left as a mark until it is first
}

// rights are descriptors in flight.
type rights struct {
	files []*vfs.Description
	uid   uint32
}

// flight counts descriptors in flight by user (user_struct.unix_inflight).
var flight = struct {
	sync.Mutex
	by map[uint32]int
}{by: map[uint32]int{}}

// newRights takes references to files. It refuses a user who has more in flight
// than may be open (net/unix/garbage.c; too_many_unix_fds).
func newRights(c socket.Caller, files []*vfs.Description) (*rights, error) {
	if len(files) == 0 {
		return nil, nil
	}
	k := c.Creds()
	flight.Lock()
	defer flight.Unlock()
	if uint64(flight.by[k.UID]) > c.Limit(unix.RLIMIT_NOFILE) && !k.Has(unix.CAP_SYS_RESOURCE) && !k.Has(unix.CAP_SYS_ADMIN) {
		return nil, unix.ETOOMANYREFS
	}
	flight.by[k.UID] += len(files)
	r := &rights{uid: k.UID}
	for _, d := range files {
		d.Ref()
		r.files = append(r.files, d)
	}
	return r, nil
}

// take hands the references over to a receiver.
func (r *rights) take() []*vfs.Description {
	if r == nil {
		return nil
	}
	flight.Lock()
	defer flight.Unlock()
	if flight.by[r.uid] -= len(r.files); flight.by[r.uid] <= 0 {
		delete(flight.by, r.uid)
	}
	f := r.files
	r.files = nil
	return f
}

// share gives a peeking receiver references of its own.
func (r *rights) share() (ds []*vfs.Description) {
	if r == nil {
		return nil
	}
	for _, d := range r.files {
		d.Ref()
		ds = append(ds, d)
	}
	return ds
}

// left is how much of a stream's packet has not been received.
func (p *packet) left() int { return len(p.data) - p.taken }

// free gives the sender its room back. No lock is held.
func (p *packet) free() {
	if p.from.used.Sub(p.size)+p.size > p.from.writableBelow() {
		p.from.queue.Notify(vfs.EventOut)
	}
}

// hold counts p as the sender's, until free.
func (p *packet) hold() error {
	err := p.from.used.Add(p.size)
	if err != nil {
		for _, d := range p.rights.take() {
			d.Unref()
		}
	}
	return err
}

// drop forgets p unreceived.
func (p *packet) drop() {
	for _, d := range p.rights.take() {
		d.Unref()
	}
	p.free()
}

// writableBelow is how much a socket may have sent and be called writable.
func (e *Endpoint) writableBelow() int64 { return int64(e.opts.Send() / 4) }
func (e *Endpoint) mayAllocate() bool    { return e.used.Load() < int64(e.opts.Send()) }

// Sizes of Linux's, so that a buffer holds as many writes as there.
const (
	skbSize    = 256         // sizeof(struct sk_buff), in its slab
	sharedInfo = 320         // sizeof(struct skb_shared_info)
	streamHead = 4096 - 320  // SKB_MAX_HEAD(0): what of a stream's packet is not in pages
	packetHead = 16384 - 320 // SKB_MAX_ALLOC: the same of a datagram
	streamMax  = streamHead + 32768
	maxPages   = 17 * 4096 // MAX_SKB_FRAGS
)

// cost is what n bytes in one packet count for (skb->truesize), of which head do
// not go to pages.
func cost(n, head int) int64 {
	pages := 0
	if n > head {
		pages = min((n-head+4095)&^4095, maxPages)
		n = max(n-pages, 0)
	}
	linear := (n+63)&^63 + sharedInfo
	linear = 1 << bits.Len(uint(linear-1)) // of a kmalloc bucket
	return int64(linear + skbSize + pages)
}
