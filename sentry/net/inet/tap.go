package inet

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"bulkhead/sentry/net/socket"
)

// EthernetHeader is how long a frame's is, loopback's too.
const EthernetHeader = header.EthernetMinimumSize

// Frame is one that passed a device, with its link's header.
type Frame struct {
	Index    int
	Hardware uint16 // ARPHRD_… of the device
	Kind     uint8  // PACKET_HOST, …
	Protocol uint16
	Data     []byte
}

// Tap hears the frames of a device, or of all. What two ends of a TCP connection in
// this stack say to each other passes none (link.go), nor does what arrives of a
// protocol that is neither IP nor ARP.
type Tap struct {
	net      *Stack
	index    int
	protocol uint16
	hear     func(Frame)
}

// Tap calls hear, which must not wait, for frames of a protocol (ETH_P_ALL: both
// ways) until Close. index 0 is all devices.
func (n *Stack) Tap(index int, protocol uint16, hear func(Frame)) (*Tap, error) {
	t := &Tap{n, index, protocol, hear}
	return t, errno(n.tcpip().RegisterPacketEndpoint(tcpip.NICID(index), tcpip.NetworkProtocolNumber(protocol), t))
}

func (t *Tap) Close() {
	t.net.lib.UnregisterPacketEndpoint(tcpip.NICID(t.index), tcpip.NetworkProtocolNumber(t.protocol), t)
}

// HandlePacket implements stack.PacketEndpoint.
func (t *Tap) HandlePacket(nic tcpip.NICID, protocol tcpip.NetworkProtocolNumber, p *stack.PacketBuffer) {
	// Nothing here may ask the library about the device: the library holds its list of
	// taps, and who registers one holds all of the library and waits for that list.
	f := Frame{Index: int(nic), Hardware: unix.ARPHRD_ETHER, Protocol: uint16(protocol)}
	if f.Index == Loopback {
		f.Hardware = unix.ARPHRD_LOOPBACK
	}
	v := p.ToView()
	defer v.Release()
	if len(p.LinkHeader().Slice()) == 0 {
		f.Data = make([]byte, EthernetHeader, EthernetHeader+v.Size())
		binary.BigEndian.PutUint16(f.Data[12:], f.Protocol)
	}
	f.Data = append(f.Data, v.AsSlice()...)
	if len(f.Data) < EthernetHeader {
		return
	}
	f.Kind = t.net.kindOf(f, p.PktType == tcpip.PacketOutgoing)
	t.hear(f)
}

// kindOf is eth_type_trans's.
func (n *Stack) kindOf(f Frame, outgoing bool) uint8 {
	to := f.Data[:6]
	switch {
	case outgoing:
		return unix.PACKET_OUTGOING
	case string(to) == "\xff\xff\xff\xff\xff\xff":
		return unix.PACKET_BROADCAST
	case to[0]&1 != 0:
		return unix.PACKET_MULTICAST
	}
	if d := n.config.Load().nic(f.Index); d != nil && !d.loopback() && string(to) != string(d.ethernet) {
		return unix.PACKET_OTHERHOST
	}
	return unix.PACKET_HOST
}

// Transmit sends a frame with its link's header; Enclose gives it one.
func (n *Stack) Transmit(index int, frame []byte) error {
	protocol := tcpip.NetworkProtocolNumber(binary.BigEndian.Uint16(frame[12:]))
	if index == Loopback {
		return n.Enclose(index, protocol, nil, frame[EthernetHeader:])
	}
	return errno(n.tcpip().WriteRawPacket(tcpip.NICID(index), protocol, buffer.MakeWithData(frame)))
}

// Enclose sends data in a frame of its own. To the loopback device a packet of IPv4
// from or to 127.0.0.0/8 goes nowhere, silently: one that comes without a route of the
// kernel's is martian there too (ip_route_input_slow).
func (n *Stack) Enclose(index int, protocol tcpip.NetworkProtocolNumber, to, data []byte) error {
	const loopback = 127
	if index == Loopback && protocol == header.IPv4ProtocolNumber && len(data) >= header.IPv4MinimumSize && (data[12] == loopback || data[16] == loopback) {
		return nil
	}
	return errno(n.tcpip().WritePacketToRemote(tcpip.NICID(index), tcpip.LinkAddress(to), protocol, buffer.MakeWithData(data)))
}

// Link is the device of this number.
func (n *Stack) Link(index int) (Link, bool) {
	for _, l := range n.Links() {
		if l.Index == index {
			return l, true
		}
	}
	return Link{}, false
}

// Held counts what sockets of the stack hold.
func (n *Stack) Held() *socket.Held { return &n.queued }
