package packet

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// script is what a fuzzer gives, read as decisions. At its end all are 0, by which frames are well formed.
type script struct{ b []byte }

func (s *script) byte() byte {
	if len(s.b) == 0 {
		return 0
	}
	c := s.b[0]
	s.b = s.b[1:]
	return c
}

func (s *script) pick(n int) int { return int(s.byte()) % n }
func (s *script) word() uint16   { return uint16(s.byte())<<8 | uint16(s.byte()) }
func (s *script) seldom() bool   { return s.byte() > 240 }

func (s *script) bytes(n int) []byte {
	n = min(n, len(s.b))
	b := s.b[:n:n]
	s.b = s.b[n:]
	return b
}

// odd is a field of so many bits: mostly what is right, else near it, at an end, or anything.
func (s *script) odd(right uint64, bits int) uint64 {
	v := right
	switch c := s.byte(); {
	case c < 216:
	case c < 232:
		v = right + uint64(c) - 224
	case c < 240:
		v = 1<<bits - 1 - uint64(c&1)
	case c < 246:
		v = 1 << (int(c) % bits)
	default:
		v = uint64(s.word())<<16 | uint64(s.word())
	}
	return v & (1<<bits - 1)
}

// flow is a conversation of TCP's as the other end of the wire knows it.
type flow struct {
	six        bool
	here, away uint16 // ports of who is on this side of the wire, and of the container
	next, ack  uint32 // that the container waits for, and that it has sent
}

// maker makes frames, as one end of the wire would.
type maker struct {
	*script
	outward bool // frames of the container's own
	flows   []flow
	last    [2][]byte // packets that the other end has sent last, of IPv4 and IPv6, for errors to speak of
	count   int       // packets made
}

const (
	ethARP = 0x0806
	eth4   = 0x0800
	eth6   = 0x86dd
)

var (
	hardware = [][]byte{{2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 0, 1}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {1, 0, 0x5e, 0, 0, 1}, {0x33, 0x33, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 9}, make([]byte, 6)}
	names4   = [][]byte{{10, 0, 0, 2}, {10, 0, 0, 1}, {10, 0, 0, 255}, {224, 0, 0, 1}, {255, 255, 255, 255}, {127, 0, 0, 1}, {10, 0, 0, 9}, {239, 1, 1, 1}, {0, 0, 0, 0}, {8, 8, 8, 8}, {169, 254, 169, 254}}
	names6   = [][]byte{six("\xfd", 2), six("\xfd", 1), six("\xff\x02", 1), six("\xff\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\xff\x00\x00", 2), six("\xfe\x80", 1), six("\xfe\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xfe\x00\x00", 2),
		six("", 1), six("", 0), six("\xff\x02", 0x16), six("\x20\x01\x0d\xb8", 9), six("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00", 2), six("\xff\x01", 1)}
	ports = []uint16{80, 53, 7000, 9, 0, 65535}
)

func six(head string, last byte) []byte {
	b := make([]byte, 16)
	copy(b, head)
	b[15] = last
	return b
}

// ends are an address to and an address from; by default those of the two ends.
func (m *maker) ends(names [][]byte) (to, from []byte) {
	to, from = names[0], names[1]
	if m.outward {
		to, from = from, to
	}
	if m.seldom() {
		to = names[m.pick(len(names))]
	}
	if m.seldom() {
		from = names[m.pick(len(names))]
	}
	return to, from
}

// frames are one, or those of a packet in pieces.
func (m *maker) frames() (all [][]byte) {
	m.count++
	protocol, packets := uint16(eth4), [][]byte(nil)
	switch m.pick(8) {
	case 0, 1, 2:
		packets = m.packets4()
	case 3, 4, 5:
		protocol, packets = eth6, m.packets6()
	case 6:
		protocol, packets = ethARP, [][]byte{m.arp()}
	default:
		return [][]byte{m.bytes(m.pick(256))}
	}
	for _, p := range packets {
		to, from := m.ends(hardware)
		f := append(append([]byte(nil), to...), from...)
		if m.seldom() {
			f = binary.BigEndian.AppendUint32(f, 0x81000000|uint32(m.word())) // VLAN
		}
		f = binary.BigEndian.AppendUint16(f, uint16(m.odd(uint64(protocol), 16)))
		f = append(f, p...)
		if m.seldom() {
			f = f[:int(m.word())%(len(f)+1)]
		}
		if m.seldom() {
			f = append(f, make([]byte, m.pick(64))...)
		}
		if m.seldom() && len(f) > 0 {
			f[int(m.word())%len(f)] ^= m.byte()
		}
		all = append(all, f)
	}
	return all
}

func (m *maker) arp() []byte {
	be := binary.BigEndian
	to, from := m.ends(names4)
	mac, own := m.ends(hardware)
	b := be.AppendUint16(nil, uint16(m.odd(1, 16)))
	b = be.AppendUint16(b, uint16(m.odd(eth4, 16)))
	b = append(b, byte(m.odd(6, 8)), byte(m.odd(4, 8)))
	b = be.AppendUint16(b, uint16(m.odd(uint64(1+m.pick(2)), 16)))
	b = append(append(append(append(b, own...), from...), mac...), to...)
	return b
}

// sum adds b to a sum of complements.
func sum(v uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		v += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) > 0 {
		v += uint32(b[0]) << 8
	}
	for v > 0xffff {
		v = v&0xffff + v>>16
	}
	return v
}

// close puts a sum into b, mostly the right one.
func (m *maker) close(b []byte, at int, v uint32) {
	if len(b) >= at+2 {
		binary.BigEndian.PutUint16(b[at:], uint16(m.odd(uint64(^sum(v, b))&0xffff, 16)))
	}
}

func pseudo(to, from []byte, protocol byte, n int) uint32 {
	return sum(sum(sum(0, to), from), []byte{0, protocol, byte(n >> 8), byte(n)})
}

// options are those of IPv4, or TCP's.
func (m *maker) options(tcp bool) (b []byte) {
	if !m.seldom() && !tcp {
		return nil
	}
	for range m.pick(6) {
		switch k := m.pick(10); {
		case k == 0:
			b = append(b, 1)
		case k == 1:
			b = append(b, 0)
		case k == 9:
			b = append(b, m.bytes(m.pick(12))...)
		default:
			kinds := []byte{7, 68, 148, 131, 137, 2, 3, 4} // record route, time stamp, router alert, source routes; and TCP's
			if tcp {
				kinds = []byte{2, 3, 4, 5, 8, 14, 30, 34} // segment size, scale, SACK, time stamps, …
			}
			data := m.bytes(m.pick(16))
			b = append(append(b, kinds[k-1&7], byte(m.odd(uint64(len(data)+2), 8))), data...)
		}
	}
	b = b[:min(len(b), 40)]
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func (m *maker) packets4() (all [][]byte) {
	be := binary.BigEndian
	to, from := m.ends(names4)
	protocol, data := m.upper(to, from, false)
	options := m.options(false)
	id := uint16(m.odd(uint64(m.count), 16))
	for _, piece := range m.pieces(data) {
		b := []byte{byte(m.odd(4, 4))<<4 | byte(m.odd(uint64(5+len(options)/4), 4)), byte(m.odd(0, 8))}
		b = be.AppendUint16(b, uint16(m.odd(uint64(20+len(options)+len(piece.data)), 16)))
		b = be.AppendUint16(b, id)
		b = be.AppendUint16(b, piece.flags4())
		b = append(b, byte(m.odd(64, 8)), byte(m.odd(uint64(protocol), 8)), 0, 0)
		b = append(append(append(b, from...), to...), options...)
		m.close(b, 10, 0)
		all = append(all, append(b, piece.data...))
	}
	return all
}

// piece is a fragment, or the whole.
type piece struct {
	data []byte
	at   int // in eights of bytes
	more bool
}

func (p piece) flags4() uint16 { return uint16(p.at)&0x1fff | uint16(b2i(p.more))<<13 }

// pieces are fragments of data: in any order, over each other, or beyond its end.
func (m *maker) pieces(data []byte) []piece {
	if !m.seldom() {
		return []piece{{data: data}}
	}
	var all []piece
	size := 8 * (1 + m.pick(32))
	for at := 0; at < len(data) && len(all) < 8; at += size {
		p := piece{data: data[at:min(len(data), at+size)], at: int(m.odd(uint64(at/8), 13)), more: at+size < len(data)}
		if m.seldom() {
			p.more = !p.more
		}
		if all = append(all, p); m.seldom() {
			all[0], all[len(all)-1] = all[len(all)-1], all[0]
		}
	}
	return all
}

func (m *maker) packets6() (all [][]byte) {
	be := binary.BigEndian
	to, from := m.ends(names6)
	next, data := m.upper(to, from, true)
	for range m.pick(64) / 48 * (1 + m.pick(3)) { // seldom any
		next, data = m.extension(next, data)
	}
	pieces := m.pieces(data)
	for _, p := range pieces {
		b, after := p.data, next
		if len(pieces) > 1 {
			after = unix.IPPROTO_FRAGMENT
			b = append(be.AppendUint32(be.AppendUint16([]byte{next, 0}, uint16(p.at)<<3|uint16(b2i(p.more))), uint32(m.count)), b...)
		}
		h := be.AppendUint32(nil, uint32(m.odd(6, 4))<<28|uint32(m.odd(0, 28)))
		h = be.AppendUint16(h, uint16(m.odd(uint64(len(b)), 16)))
		hops := uint64(64)
		if next == unix.IPPROTO_ICMPV6 {
			hops = 255 // else nobody believes what a neighbour says
		}
		h = append(h, byte(m.odd(uint64(after), 8)), byte(m.odd(hops, 8)))
		all = append(all, append(append(append(h, from...), to...), b...))
	}
	return all
}

// extension puts a header before data.
func (m *maker) extension(next byte, data []byte) (byte, []byte) {
	kind := []byte{unix.IPPROTO_HOPOPTS, unix.IPPROTO_DSTOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_FRAGMENT, unix.IPPROTO_NONE, 51, 135}[m.pick(7)]
	b := []byte{next, 0}
	for range m.pick(4) {
		option := m.bytes(m.pick(12))
		b = append(append(b, byte(m.odd(1, 8)), byte(m.odd(uint64(len(option)), 8))), option...)
	}
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	b[1] = byte(m.odd(uint64(len(b)/8-1), 8))
	return kind, append(b, data...)
}

// upper is what IP carries.
func (m *maker) upper(to, from []byte, six bool) (protocol byte, b []byte) {
	switch m.pick(8) {
	case 0, 1, 2:
		return unix.IPPROTO_TCP, m.tcp(to, from, six)
	case 3:
		return unix.IPPROTO_UDP, m.udp(to, from)
	case 4, 5:
		if six {
			return unix.IPPROTO_ICMPV6, m.icmp6(to, from)
		}
		return unix.IPPROTO_ICMP, m.icmp()
	case 6:
		if b = m.bytes(m.pick(32)); six {
			return unix.IPPROTO_NONE, b
		}
		b = append([]byte{[]byte{0x11, 0x16, 0x17, 0x22}[m.pick(4)], m.byte(), 0, 0, 239, 1, 1, 1}, b...) // IGMP
		m.close(b, 2, 0)
		return unix.IPPROTO_IGMP, b
	}
	return m.byte(), m.bytes(m.pick(64))
}

func (m *maker) data() []byte {
	n := m.pick(64)
	if m.seldom() {
		n = 1 + int(m.word())%1400
	}
	b := make([]byte, n)
	copy(b, m.bytes(min(n, 4)))
	return b
}

func (m *maker) port(right uint16) uint16 {
	if m.seldom() {
		return ports[m.pick(len(ports))]
	}
	return right
}

func (m *maker) tcp(to, from []byte, six bool) []byte {
	be := binary.BigEndian
	f := flow{here: 7000 + uint16(m.count)%1000, away: 80, next: 1000, ack: 0}
	flags := uint64(2) // SYN
	var known []flow
	for _, o := range m.flows {
		if o.six == six {
			known = append(known, o)
		}
	}
	if len(known) > 0 && m.byte() < 200 {
		f = known[m.pick(len(known))]
		flags = []uint64{0x10, 0x18, 0x11, 0x14, 0x12, 0x38, 0x04}[m.pick(7)]
	}
	b := be.AppendUint16(nil, m.port(f.here))
	b = be.AppendUint16(b, m.port(f.away))
	b = be.AppendUint32(b, uint32(m.odd(uint64(f.next), 32)))
	b = be.AppendUint32(b, uint32(m.odd(uint64(f.ack), 32)))
	options := m.options(true)
	b = append(b, byte(m.odd(uint64(5+len(options)/4), 4))<<4, byte(m.odd(flags, 8)))
	b = be.AppendUint16(b, uint16(m.odd(8192, 16)))
	b = append(append(append(b, 0, 0, byte(m.odd(0, 8)), 0), options...), m.data()...)
	m.close(b, 16, pseudo(to, from, unix.IPPROTO_TCP, len(b)))
	return b
}

func (m *maker) udp(to, from []byte) []byte {
	be := binary.BigEndian
	data := m.data()
	b := be.AppendUint16(be.AppendUint16(nil, m.port(53)), m.port(53))
	b = be.AppendUint16(b, uint16(m.odd(uint64(8+len(data)), 16)))
	b = append(append(b, 0, 0), data...)
	m.close(b, 6, pseudo(to, from, unix.IPPROTO_UDP, len(b)))
	return b
}

// about is a packet that an error speaks of.
func (m *maker) about(six bool) []byte {
	b := m.last[b2i(six)]
	if m.seldom() {
		b = m.bytes(m.pick(64))
	}
	b = append([]byte(nil), b[:min(len(b), int(m.odd(64, 8)))]...)
	if m.seldom() && len(b) > 0 {
		b[m.pick(len(b))] ^= m.byte()
	}
	return b
}

func (m *maker) icmp() []byte {
	kind := []byte{8, 0, 3, 11, 12, 5, 4, 13, 17, 9}[m.pick(10)]
	b := []byte{byte(m.odd(uint64(kind), 8)), byte(m.pick(16)), 0, 0, m.byte(), m.byte(), m.byte(), m.byte()}
	switch kind {
	case 3, 4, 5, 11, 12:
		b = append(b, m.about(false)...)
	default:
		b = append(b, m.data()...)
	}
	m.close(b, 2, 0)
	return b
}

func (m *maker) icmp6(to, from []byte) []byte {
	kind := []byte{128, 129, 1, 2, 3, 4, 133, 134, 135, 136, 137, 130, 131, 143}[m.pick(14)]
	b := []byte{byte(m.odd(uint64(kind), 8)), byte(m.odd(0, 3)), 0, 0, m.byte(), m.byte(), m.byte(), m.byte()}
	switch kind {
	case 1, 2, 3, 4:
		b = append(b, m.about(true)...)
	case 134:
		b = append(append(b, m.bytes(8)...), m.neighbourOptions()...)
	case 135, 136:
		b = append(append(b, names6[m.pick(len(names6))]...), m.neighbourOptions()...)
	case 137:
		b = append(append(append(b, names6[m.pick(len(names6))]...), names6[m.pick(len(names6))]...), m.neighbourOptions()...)
	case 130, 131, 143:
		b = append(append(b, names6[m.pick(len(names6))]...), m.bytes(m.pick(24))...)
	case 133:
		b = append(b, m.neighbourOptions()...)
	default:
		b = append(b, m.data()...)
	}
	m.close(b, 2, pseudo(to, from, unix.IPPROTO_ICMPV6, len(b)))
	return b
}

func (m *maker) neighbourOptions() (b []byte) {
	for range m.pick(4) {
		kind := []byte{1, 2, 3, 5, 14, 24, 25, 31}[m.pick(8)]
		data := append([]byte(nil), hardware[m.pick(len(hardware))]...)
		if kind > 2 {
			data = append(make([]byte, 14), six("\xfd\x01", 0)...)[:6+8*m.pick(4)]
			copy(data, m.bytes(m.pick(len(data))))
		}
		b = append(append(b, kind, byte(m.odd(uint64(len(data)+2)/8, 8))), data...)
	}
	return b
}
