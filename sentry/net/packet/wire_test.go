package packet

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/inet"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// wire is a stack with a device eth0, 10.0.0.2/24 and fd00::2/64, and the far end of its cable.
type wire struct {
	*inet.Stack
	testing.TB
	near, far int
	offload   bool // frames come with struct virtio_net_hdr before them
	programs  int
	maker     // of what comes from the far end
}

const offloadHeader = 10 // bytes

func newWire(t testing.TB, offload bool) *wire {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Stack: inet.New(true, nil), TB: t, near: fds[0], far: fds[1], offload: offload}
	err = w.Attach([]inet.Device{{Index: 2, Name: "eth0", Ethernet: net.HardwareAddr{2, 0, 0, 0, 0, 2}, MTU: 1500, FD: fds[0], Offload: offload,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("fd00::2/64")},
		Routes:    []inet.DeviceRoute{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.0.1")}}}})
	if err != nil {
		t.Fatal(err)
	}
	w.must(w.SetSysctl("net/ipv4/ping_group_range", "0 0"))
	for _, ip := range [][]byte{names4[1], names6[1]} { // what is for them goes out at once
		w.must(w.SetNeighbour(inet.Asker{}, inet.Neighbour{Link: 2, IP: ip, Ethernet: hardware[1], Permanent: true}, unix.NLM_F_CREATE))
	}
	return w
}

func (w *wire) close() {
	w.Release()
	unix.Close(w.near)
	unix.Close(w.far)
}

// put sends a frame to the stack, if there is room for it.
func (w *wire) put(f []byte) bool {
	if len(f) == 0 {
		return false // no wire has such
	}
	if w.offload {
		f = append(make([]byte, offloadHeader), f...)
	}
	err := unix.Send(w.far, f, 0)
	if err != nil && err != unix.EAGAIN {
		w.Fatalf("a frame of %d bytes: %v", len(f), err)
	}
	return err == nil
}

// asker asks for the stack's own address; the answer says that all that came before has been seen.
var asker = []byte{10, 0, 0, 254}

// settle waits until the stack has taken what was sent to it, and reads what it has sent.
func (w *wire) settle() {
	question := slices.Concat(hardware[2], []byte{2, 0, 0, 0, 0, 0xfe, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0xfe}, asker, hardware[6], names4[0])
	b := make([]byte, 128<<10)
	for asked, tries := false, 0; ; {
		asked = asked || w.put(question)
		n, err := unix.Read(w.far, b)
		switch {
		case err == unix.EAGAIN:
			p := []unix.PollFd{{Fd: int32(w.far), Events: unix.POLLIN}}
			if !asked {
				p[0].Events |= unix.POLLOUT
			}
			if n, err := unix.Poll(p, 1000); n == 0 && err == nil { // the answer found no room
				if tries++; tries > 30 {
					w.Fatal("the stack answers no more")
				}
				asked = false
			}
		case err != nil:
			w.Fatal("the wire: ", err)
		case w.heard(b[:n]):
			return
		}
	}
}

// heard is told of a frame from the stack, and says whether it is the answer that settle waits for.
func (w *wire) heard(f []byte) bool {
	if w.offload {
		f = f[min(len(f), offloadHeader):]
	}
	if len(f) < inet.EthernetHeader {
		w.Fatalf("a frame of %d bytes", len(f))
	}
	p := f[inet.EthernetHeader:]
	switch protocol := binary.BigEndian.Uint16(f[12:]); {
	case protocol == ethARP && len(p) >= 28:
		return p[7] == 2 && string(p[24:28]) == string(asker)
	case protocol == eth4 && len(p) >= 20:
		w.last[0] = append([]byte(nil), p[:min(len(p), 128)]...)
		if p[9] == unix.IPPROTO_TCP {
			w.learn(p[min(len(p), int(p[0]&15)*4):], false)
		}
	case protocol == eth6 && len(p) >= 40:
		w.last[1] = append([]byte(nil), p[:min(len(p), 128)]...)
		if p[6] == unix.IPPROTO_TCP {
			w.learn(p[40:], true)
		}
	}
	return false
}

func (w *wire) learn(b []byte, six bool) {
	be := binary.BigEndian
	if len(b) < 20 {
		return
	}
	size := uint32(len(b) - min(len(b), int(b[12]>>4)*4))
	if b[13]&2 != 0 { // SYN
		size++
	}
	if b[13]&1 != 0 { // FIN
		size++
	}
	f := flow{six: six, here: be.Uint16(b[2:]), away: be.Uint16(b), next: be.Uint32(b[8:]), ack: be.Uint32(b[4:]) + size}
	w.flows = append(slices.DeleteFunc(w.flows, func(o flow) bool { return o.six == six && o.here == f.here && o.away == f.away }), f)
	w.flows = w.flows[max(0, len(w.flows)-8):]
}

func name4(last byte, port int) []byte {
	return []byte{unix.AF_INET, 0, byte(port >> 8), byte(port), 10, 0, 0, last, 0, 0, 0, 0, 0, 0, 0, 0}
}

func name6(addr []byte, port int) []byte {
	b := make([]byte, 28)
	b[0], b[2], b[3] = unix.AF_INET6, byte(port>>8), byte(port)
	copy(b[8:], addr)
	return b
}

var self = caller{vfs.SentryContext()}

func (w *wire) must(err error) {
	if err != nil {
		w.Helper()
		w.Fatal(err)
	}
}

// inside are sockets of the container's.
type inside struct {
	all     []socket.Socket
	streams []socket.Socket // that listen
	raw     []socket.Socket // 4, 4 with headers, 6
	grams   []socket.Socket // 4, 6
	packets []socket.Socket // SOCK_RAW, SOCK_DGRAM
}

func (w *wire) open(family, typ, protocol int) socket.Socket {
	s, err := w.Socket(self, family, typ, protocol)
	w.must(err)
	return s
}

// set sets what may be set of a socket; what it has not it refuses.
func set(s socket.Socket, level int, names ...int) {
	for _, name := range names {
		s.SetOption(self, level, name, []byte{1, 0, 0, 0})
	}
}

func (w *wire) sockets() *inside {
	var i inside
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		any := [][]byte{name4(0, 80), name6(names6[7], 80)}[b2i(family == unix.AF_INET6)]
		any[4] = 0 // of IPv4 0.0.0.0
		l := w.open(family, unix.SOCK_STREAM, 0)
		set(l, unix.SOL_SOCKET, unix.SO_REUSEADDR)
		set(l, unix.SOL_IPV6, unix.IPV6_V6ONLY)
		w.must(l.Bind(self, any))
		w.must(l.Listen(self, 4))
		i.streams = append(i.streams, l)

		u := w.open(family, unix.SOCK_DGRAM, 0)
		set(u, unix.SOL_SOCKET, unix.SO_REUSEADDR, unix.SO_BROADCAST, unix.SO_TIMESTAMP)
		set(u, unix.SOL_IPV6, unix.IPV6_V6ONLY, unix.IPV6_RECVERR, unix.IPV6_RECVPKTINFO, unix.IPV6_RECVHOPLIMIT, unix.IPV6_RECVTCLASS)
		set(u, unix.SOL_IP, unix.IP_RECVERR, unix.IP_PKTINFO, unix.IP_RECVTTL, unix.IP_RECVTOS)
		any[3] = 53
		w.must(u.Bind(self, any))
		u.SetOption(self, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP, []byte{239, 1, 1, 1, 10, 0, 0, 2})
		i.grams = append(i.grams, u)
	}
	icmp, all, icmp6 := w.open(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP), w.open(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW), w.open(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)
	tcp, ping := w.open(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP), w.open(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	i.raw = []socket.Socket{icmp, all, icmp6}
	for _, typ := range []int{unix.SOCK_RAW, unix.SOCK_DGRAM} {
		s, err := New(self, w.Stack, typ, int(network(unix.ETH_P_ALL)))
		w.must(err)
		set(s, unix.SOL_PACKET, unix.PACKET_AUXDATA)
		w.must(s.Bind(self, append([]byte{unix.AF_PACKET, 0, 0, unix.ETH_P_ALL, 2}, make([]byte, 15)...)))
		i.packets = append(i.packets, s)
	}
	i.all = slices.Concat(i.streams, i.grams, i.raw, i.packets, []socket.Socket{tcp, ping})
	return &i
}

// read reads what waits everywhere, or peeks at it, and takes connections.
func (i *inside) read(flags int) {
	for _, l := range i.streams {
		if len(i.all) > 64 {
			break
		}
		if s, err := l.Accept(self, unix.MSG_DONTWAIT); err == nil {
			i.all = append(i.all, s)
		}
	}
	b := make([]byte, 2048)
	for _, s := range i.all {
		for range 16 {
			_, err := s.Receive(self, &socket.Message{Data: memory.Buffers{b}}, flags|unix.MSG_DONTWAIT)
			if err != nil || flags&unix.MSG_PEEK != 0 {
				break
			}
		}
		s.Ready(vfs.EventIn | vfs.EventOut)
	}
}

func send(s socket.Socket, b, name []byte) {
	s.Send(self, &socket.Message{Data: memory.Buffers{b}, Name: name}, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// most is how much sockets of one program may hold of the Sentry's memory at once.
const most = 16 << 20

// run does what a script says: frames come, the container sends some of its own making, and
// reads, and changes its device.
func (w *wire) run(b []byte) {
	s := &script{b}
	w.maker = maker{script: s}
	own := maker{script: s, outward: true}
	i := w.sockets()
	for range 48 {
		if len(s.b) == 0 {
			break
		}
		switch op := s.pick(16); op {
		case 8: // a packet socket
			for _, f := range own.frames() {
				send(i.packets[0], f, nil)
			}
		case 9:
			packet, protocol := own.packets4(), byte(8)
			send(i.packets[1], packet[0], append([]byte{unix.AF_PACKET, 0, protocol, 0, 2, 0, 0, 0, 0, 0, 0, byte(s.odd(6, 8))}, hardware[s.pick(len(hardware))]...))
		case 10: // raw sockets
			for _, p := range own.packets4() {
				send(i.raw[1], p, name4(byte(s.odd(1, 8)), 0))
			}
			send(i.raw[0], own.icmp(), name4(byte(s.odd(1, 8)), 0))
			send(i.raw[2], own.icmp6(names6[1], names6[0]), name6(names6[s.pick(len(names6))], 0))
		case 11:
			send(i.grams[0], own.data(), name4(byte(s.odd(1, 8)), int(s.odd(53, 16))))
			send(i.grams[1], own.data(), name6(names6[s.pick(len(names6))], int(s.odd(53, 16))))
			send(i.all[len(i.all)-1], own.icmp(), name4(1, 0))
		case 12: // a connection of its own
			c := w.open(unix.AF_INET, unix.SOCK_STREAM, 0)
			if i.all = append(i.all, c); s.pick(2) == 0 {
				c.Connect(self, name4(byte(s.odd(1, 8)), 80))
			} else {
				c.Release()
				c = w.open(unix.AF_INET6, unix.SOCK_STREAM, 0)
				i.all[len(i.all)-1] = c
				c.Connect(self, name6(names6[s.odd(1, 3)], 80))
			}
		case 13:
			for _, c := range i.all {
				if _, typ, _ := c.Kind(); typ == unix.SOCK_STREAM {
					send(c, make([]byte, 1+64*s.pick(256)), nil)
				}
			}
			if how := s.pick(16); how < 3 {
				i.all[len(i.all)-1].Shutdown(self, how)
			}
		case 14:
			i.read([]int{0, unix.MSG_PEEK, unix.MSG_TRUNC, unix.MSG_ERRQUEUE}[s.pick(4)])
		case 15:
			w.change(s)
		default:
			frames := w.frames()
			for _, f := range frames {
				w.put(f)
			}
		}
		w.settle()
		if held := w.Held().Load(); held > most || held < 0 {
			w.Fatalf("sockets hold %d bytes", held)
		}
	}
	i.read(0)
	for _, name := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6", "icmp", "packet", "snmp", "snmp6", "netstat", "dev", "arp", "route", "sockstat", "sockstat6", "igmp", "if_inet6", "ipv6_route"} {
		w.Proc(name)
	}
	for _, s := range i.all {
		s.SetOption(self, unix.SOL_SOCKET, unix.SO_LINGER, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		s.Release()
	}
	w.settle()
	if held := w.Held().Load(); held != 0 {
		w.Fatalf("%d bytes are held by no socket", held)
	}
}

// change has the device lose what it has, and gives it back.
func (w *wire) change(s *script) {
	by := inet.Asker{}
	switch s.pick(4) {
	case 0:
		a := inet.Addr{Link: 2, IP: names4[0], Prefix: 24}
		w.DeleteAddr(by, a)
		w.AddAddr(by, a, false)
	case 1:
		a := inet.Addr{Link: 2, IP: names6[0], Prefix: 64}
		w.DeleteAddr(by, a)
		w.AddAddr(by, a, false)
	case 2:
		for _, mtu := range []uint32{uint32(s.odd(1280, 11)), 1500} {
			w.ChangeLink(2, inet.LinkChange{MTU: &mtu})
		}
	default:
		for _, up := range []bool{false, true} {
			w.ChangeLink(2, inet.LinkChange{Up: &up})
		}
	}
}

// wireSeeds are one of each kind of step and frame, well formed, and programs by chance.
func wireSeeds() (seeds [][]byte) {
	for op := range byte(16) {
		for kind := range byte(8) {
			seeds = append(seeds, []byte{op, kind, kind, kind, kind})
		}
	}
	for kind := range byte(8) { // of IPv4, then of IPv6
		seeds = append(seeds, []byte{0, 0, 0, 0, kind}, []byte{0, 3, 0, 0, kind}, []byte{12, 0, 0, 0, 0, 0, 0, 0, kind, 0, 0, 0, 0, 0, 0, 0, 0, kind, 13})
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		b := make([]byte, 50+r.IntN(1000))
		for i := range b {
			// Most fields are right, or nothing gets beyond the first.
			if b[i] = byte(r.Uint32()); r.IntN(3) > 0 {
				b[i] &= 0x0f
			}
		}
		seeds = append(seeds, b)
	}
	return seeds
}

// FuzzWire: whatever comes by the wire, and whatever a container sends into it by packet and
// raw sockets, the stack goes on, answers, and holds no more than sockets may.
func FuzzWire(f *testing.F) {
	for i, b := range wireSeeds() {
		f.Add(i%2 == 1, b)
	}
	var wires [2]*wire
	f.Cleanup(func() {
		for _, w := range wires {
			if w != nil {
				w.close()
			}
		}
	})
	f.Fuzz(func(t *testing.T, offload bool, b []byte) {
		w := wires[b2i(offload)]
		if w == nil || w.programs == 64 { // each leaves connections that time ends
			if w != nil {
				w.close()
			}
			w = newWire(t, offload)
		}
		wires[b2i(offload)] = nil // if it fails
		w.TB = t
		w.programs++
		w.run(b)
		wires[b2i(offload)] = w
	})
}

// TestPieces: a segment whose header is in the first piece is put together, and one whose header is not
// is dropped, on the device and on loopback; with that one the library would read memory that is not the packet's any more.
func TestPieces(t *testing.T) {
	w := newWire(t, false)
	defer w.close()
	i := w.sockets()
	syn := func(port uint16, cuts ...int) {
		segment := tcp4(1, port, 1, 0, 2, make([]byte, 64))[inet.EthernetHeader+20:]
		segment[12] = 15 << 4 // 40 bytes of options, which end at once
		for n, at := 0, 0; n <= len(cuts); n++ {
			end, more := len(segment), uint16(0)
			if n < len(cuts) {
				end, more = cuts[n], 0x2000
			}
			w.put(ip4(1, unix.IPPROTO_TCP, more|uint16(at/8), port, segment[at:end]))
			// Another identification, or the pieces of both ways would be one packet's, as on Linux.
			f := ip4(1, unix.IPPROTO_TCP, more|uint16(at/8), port+1000, segment[at:end])
			w.must(w.Enclose(inet.Loopback, eth4, make([]byte, 6), f[inet.EthernetHeader:]))
			at = end
		}
		w.settle()
	}
	answered := func(port uint16) bool {
		return slices.ContainsFunc(w.flows, func(f flow) bool { return f.here == port })
	}
	for range 200 {
		syn(1000, 24)
		syn(1001, 8)
		syn(1002, 40)
		syn(1003, 48, 56)
	}
	syn(1004, 64, 72)
	for i := 0; i < 1000 && !answered(1004); i++ {
		w.settle() // the answer comes from another goroutine
	}
	for port, want := range map[uint16]bool{1000: false, 1001: false, 1002: false, 1003: false, 1004: true} {
		if answered(port) != want {
			t.Errorf("from port %d: answered %v, want %v", port, !want, want)
		}
	}
	for _, s := range i.all {
		s.Release()
	}
}
