package virtiotest

import (
	"encoding/binary"

	"bulkhead/virtio"
)

// Desc is a descriptor as a driver writes it (§2.7.5).
type Desc struct {
	Addr  virtio.Addr
	Len   uint32
	Flags uint16
	Next  uint16
}

// Flags of a Desc.
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

const (
	descSize    = 16 // bytes
	ringIndex   = 2
	ringEntries = 4
	usedEntry   = 8
)

// Ring is the driver's side of a split virtqueue, without any care: what it is
// told to write it writes. Its owner serializes the calls.
type Ring struct {
	virtio.Layout
	eventIdx          bool
	desc, avail, used []byte
	avails, seen      uint16 // the next entry of each ring
}

// NewRing lays a queue of size entries out in mem.
func NewRing(mem *Memory, size uint16, features uint64) *Ring {
	n := int(size)
	r := &Ring{eventIdx: features&virtio.FeatureEventIdx != 0}
	r.Layout = virtio.Layout{Size: size, Desc: mem.Alloc(n * descSize), Avail: mem.Alloc(n*2 + 8), Used: mem.Alloc(n*usedEntry + 8)}
	r.desc = mem.Bytes(r.Desc, n*descSize)
	r.avail = mem.Bytes(r.Avail, n*2+8)
	r.used = mem.Bytes(r.Used, n*usedEntry+8)
	for _, part := range [][]byte{r.desc, r.avail, r.used} {
		clear(part)
	}
	return r
}

// SetDesc writes entry i of the descriptor table.
func (r *Ring) SetDesc(i uint16, d Desc) { d.put(r.desc[int(i)*descSize:]) }

func (d Desc) put(b []byte) {
	binary.LittleEndian.PutUint64(b[0:], uint64(d.Addr))
	binary.LittleEndian.PutUint32(b[8:], d.Len)
	binary.LittleEndian.PutUint16(b[12:], d.Flags)
	binary.LittleEndian.PutUint16(b[14:], d.Next)
}

// Table is an indirect table of descs.
func Table(descs ...Desc) []byte {
	b := make([]byte, len(descs)*descSize)
	for i, d := range descs {
		d.put(b[i*descSize:])
	}
	return b
}

// Offer makes the chains at heads available and tells whether the device
// wants to hear of it.
func (r *Ring) Offer(heads ...uint16) (ring bool) {
	for i, head := range heads {
		slot := int(r.avails+uint16(i)) & int(r.Size-1)
		binary.LittleEndian.PutUint16(r.avail[ringEntries+slot*2:], head)
	}
	from := r.avails
	r.Jump(r.avails + uint16(len(heads)))
	if r.eventIdx {
		event := virtio.LoadIndex(r.used, ringEntries+int(r.Size)*usedEntry)
		return r.avails-event-1 < r.avails-from
	}
	return virtio.LoadIndex(r.used, 0)&1 == 0
}

// Jump sets the index of the available ring, whatever its entries are.
func (r *Ring) Jump(index uint16) {
	r.avails = index
	virtio.StoreIndex(r.avail, ringIndex, index)
}

// Reap is the next entry of the used ring.
func (r *Ring) Reap() (head uint32, written int, ok bool) {
	if virtio.LoadIndex(r.used, ringIndex) == r.seen {
		return 0, 0, false
	}
	entry := r.used[ringEntries+int(r.seen&(r.Size-1))*usedEntry:]
	r.seen++
	return binary.LittleEndian.Uint32(entry), int(binary.LittleEndian.Uint32(entry[4:])), true
}

// Arm asks for an interrupt at the next used entry. Look once more after it.
func (r *Ring) Arm() {
	if r.eventIdx {
		virtio.StoreIndex(r.avail, ringEntries+int(r.Size)*2, r.seen)
		return
	}
	virtio.StoreIndex(r.avail, 0, 0)
}

// Mute asks for none.
func (r *Ring) Mute() {
	if !r.eventIdx { // an event index stays behind by itself
		virtio.StoreIndex(r.avail, 0, 1)
	}
}
