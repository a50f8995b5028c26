package packet

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// A ring of TPACKET_V2 (Documentation/networking/packet_mmap.rst): slots of one size,
// each with a status that says whose it is. The program writes to all of it at any
// time; of it nothing is read here but a slot's status.
type ring struct {
	shared          *memory.Shared
	block, slot     uint32 // bytes
	slots, perBlock uint32
	head, reserve   uint32
	losing          bool
}

const (
	version1, version2 = 0, 1

	headSize     = 32 // struct tpacket2_hdr
	alignment    = 16 // TPACKET_ALIGNMENT
	statusKernel = 0
	statusUser   = 1
	statusLosing = 4

	// maxRing is Sentry's memory that one ring may have; it is charged to the container.
	maxRing = 64 << 20
)

func aligned(n uint32) uint32 { return (n + alignment - 1) &^ (alignment - 1) }

// setRing takes struct tpacket_req; one of zeros ends the ring. packet_set_ring.
func (s *Socket) setRing(b []byte) error {
	if len(b) < 16 {
		return unix.EINVAL
	}
	le := binary.LittleEndian
	block, blocks, slot, slots := le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if blocks == 0 {
		if slots != 0 {
			return unix.EINVAL
		}
		s.dropRingLocked()
		return nil
	}
	reserve := uint32(s.ints[unix.PACKET_RESERVE])
	switch {
	case s.ring != nil:
		return unix.EBUSY
	case s.ints[unix.PACKET_VERSION] != version2: // TPACKET_V1's layout is that of a machine word, and served to nobody
		return unix.EINVAL
	case int32(block) <= 0 || block%memory.PageSize != 0, slot < headSize+addrSize+reserve, slot%alignment != 0, slot > block:
		return unix.EINVAL
	case uint64(block/slot)*uint64(blocks) != uint64(slots):
		return unix.EINVAL
	case uint64(block)*uint64(blocks) > maxRing || s.arena == nil:
		return unix.ENOMEM
	}
	shared, err := memory.NewShared(s.arena, uint64(block)*uint64(blocks))
	if err != nil {
		return unix.ENOMEM
	}
	s.ring = &ring{shared: shared, block: block, slot: slot, slots: slots, perBlock: block / slot, reserve: reserve}
	return nil
}

func (s *Socket) dropRingLocked() {
	if s.ring != nil {
		s.ring.shared.Close()
		s.ring = nil
	}
}

// Mappable implements vfs.Mapper. packet_mmap.
func (s *Socket) Mappable(_ vfs.Context, m memory.MapRequest) (memory.Mappable, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ring == nil || m.Offset != 0 || m.Length != s.ring.shared.Size() {
		return nil, unix.EINVAL
	}
	return s.ring.shared.Object, nil
}

func (r *ring) at(i uint32) uint32 { return i/r.perBlock*r.block + i%r.perBlock*r.slot }

// put gives the next slot to the program; false: it has all of them.
func (r *ring) put(g frame) bool {
	at := r.at(r.head)
	if r.shared.Load(at) != statusKernel {
		r.losing = true
		return false
	}
	base := uint32(headSize + addrSize)
	net := aligned(base) + 16 + r.reserve
	mac := net
	if g.net > 0 {
		net = aligned(base+max(uint32(g.net), 16)) + r.reserve
		mac = net - uint32(g.net)
	}
	data := g.data
	if mac >= r.slot {
		data = nil
	} else {
		data = data[:min(len(data), int(r.slot-mac))]
	}
	status := uint32(statusUser)
	if r.losing {
		status |= statusLosing
		r.losing = false
	}
	le := binary.LittleEndian
	h := le.AppendUint32(nil, uint32(g.full))
	h = le.AppendUint32(h, uint32(len(data)))
	h = le.AppendUint16(le.AppendUint16(h, uint16(mac)), uint16(net))
	h = le.AppendUint32(le.AppendUint32(h, uint32(g.when.Unix())), uint32(g.when.Nanosecond()))
	h = append(append(h, make([]byte, 8)...), g.name...)
	r.write(at+4, h)
	r.write(at+mac, data)
	r.shared.Store(at, status)
	r.head = (r.head + 1) % r.slots
	return true
}

// write writes across pages, and not beyond the ring.
func (r *ring) write(at uint32, b []byte) {
	for len(b) > 0 && uint64(at) < r.shared.Size() {
		n := min(len(b), int(memory.PageSize-at%memory.PageSize))
		r.shared.WriteBytes(at, b[:n])
		at, b = at+uint32(n), b[n:]
	}
}

// filled says that the slot that was filled last is still the program's.
func (r *ring) filled() bool {
	return r.shared.Load(r.at((r.head+r.slots-1)%r.slots)) != statusKernel
}

var _ socket.Asked = (*Socket)(nil)
