package inet

import (
	"encoding/binary"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"bulkhead/sentry/vfs"
)

// unreach hears of ICMP's errors beside the library, which counts most of them and tells no socket:
// of IPv6 it passes on two codes, of IPv4 none that a router's patience has ended
// (traceroute lives on those), and to datagrams a missing port alone. It stands where raw sockets do,
// so that it has whole packets of IP that were for this stack.
type unreach struct {
	net     *Stack
	lib     *stack.Stack
	network tcpip.NetworkProtocolNumber
}

// register has a library's stack tell of the errors of ICMP.
func (n *Stack) register(lib *stack.Stack) {
	lib.RegisterRawTransportEndpoint(header.IPv4ProtocolNumber, header.ICMPv4ProtocolNumber, unreach{n, lib, header.IPv4ProtocolNumber})
	lib.RegisterRawTransportEndpoint(header.IPv6ProtocolNumber, header.ICMPv6ProtocolNumber, unreach{n, lib, header.IPv6ProtocolNumber})
}

// verdict is what an error of ICMP is to a socket.
type verdict struct {
	err  tcpip.Error
	hard bool // a datagram's socket that is connected hears of it unasked
	// kind is how the library names it to a connection under way; passed: it did so itself.
	kind   stack.TransportErrorKind
	passed bool
	heard  bool // of the library, by a datagram's socket that is connected
}

var (
	noPort     = verdict{err: &tcpip.ErrConnectionRefused{}, hard: true, passed: true, heard: true}
	noNet      = verdict{err: &tcpip.ErrNetworkUnreachable{}, passed: true}
	noHost     = verdict{err: &tcpip.ErrHostUnreachable{}, passed: true}
	beyond     = verdict{err: &tcpip.ErrHostUnreachable{}, kind: stack.DestinationHostUnreachableTransportError}
	prohibited = verdict{err: &tcpip.ErrBroadcastDisabled{}, hard: true, kind: prohibitedKind}
)

// prohibitedKind stands for EACCES, which the library has no error for that a connection
// could have: ENONET does not come of IPv6 otherwise (settleLocked).
const prohibitedKind = stack.SourceHostIsolatedTransportError

func hard(v verdict) verdict { v.hard = true; return v }

// verdicts6 and verdicts4 are net/ipv6/icmp.c, tab_unreach, and net/ipv4/icmp.c, icmp_err_convert, by code. A packet too big
// is the library's business.
var (
	verdicts6 = map[header.ICMPv6Code]verdict{
		header.ICMPv6NetworkUnreachable: noNet, header.ICMPv6Prohibited: prohibited, header.ICMPv6BeyondScope: beyond,
		header.ICMPv6AddressUnreachable: beyond, header.ICMPv6Policy: prohibited, header.ICMPv6RejectRoute: prohibited,
		header.ICMPv6PortUnreachable: noPort,
	}
	verdicts4 = map[header.ICMPv4Code]verdict{
		header.ICMPv4NetUnreachable: noNet, header.ICMPv4HostUnreachable: noHost, header.ICMPv4PortUnreachable: noPort,
		header.ICMPv4ProtoUnreachable:          {err: &tcpip.ErrUnknownProtocolOption{}, hard: true, passed: true},
		header.ICMPv4SourceRouteFailed:         {err: &tcpip.ErrNotSupported{}, passed: true},
		header.ICMPv4DestinationNetworkUnknown: hard(noNet),
		header.ICMPv4DestinationHostUnknown:    {err: &tcpip.ErrHostDown{}, hard: true, passed: true},
		header.ICMPv4SourceHostIsolated:        {err: &tcpip.ErrNoNet{}, hard: true, passed: true},
		header.ICMPv4NetProhibited:             hard(noNet), header.ICMPv4HostProhibited: hard(noHost),
		header.ICMPv4NetUnreachableForTos: noNet, header.ICMPv4HostUnreachableForTos: noHost,
		header.ICMPv4AdminProhibited: hard(noHost), header.ICMPv4HostPrecedenceViolation: hard(noHost), header.ICMPv4PrecedenceCutInEffect: hard(noHost),
	}
)

// HandlePacket implements stack.RawTransportEndpoint.
func (u unreach) HandlePacket(pkt *stack.PacketBuffer) {
	h := pkt.TransportHeader().Slice()
	if len(h) < header.ICMPv4MinimumSize {
		return
	}
	v, ok := u.judge(h[0], h[1])
	if !ok || !u.whole(h, pkt) {
		return
	}
	about := pkt.Data().AsRange().ToSlice() // the packet that came to nothing, or its beginning
	id, protocol, at := u.origin(about)
	if at < 0 || u.lib.CheckLocalAddress(0, u.network, id.LocalAddress) == 0 {
		return
	}
	why := cause{u.network, h[0], h[1], v.kind}
	told := func(after int, port uint16) *tcpip.SockError {
		return &tcpip.SockError{Err: v.err, Cause: why, Payload: buffer.NewViewWithData(about[after:]), NetProto: u.network,
			Dst: tcpip.FullAddress{Addr: id.RemoteAddress, Port: port}, Offender: tcpip.FullAddress{Addr: pkt.Network().SourceAddress()}}
	}
	if u.net.raws.Load() > 0 {
		u.net.datagrams.Range(func(ep, s any) bool {
			if s := s.(*Socket); s.typ == unix.SOCK_RAW && s.family == familyOfNetwork(u.network) && s.protocol == int(protocol) {
				s.undelivered(ep.(tcpip.Endpoint), v, told(at, 0))
			}
			return true
		})
	}
	ep := u.lib.FindTransportEndpoint(u.network, protocol, id, pkt.NICID)
	if t, ok := ep.(*tcp.Endpoint); ok {
		switch st := t.EndpointState(); {
		case v.passed:
		case st == tcp.StateConnecting, st == tcp.StateSynSent, st == tcp.StateSynRecv:
			t.HandleError(why, pkt)
		}
		return
	}
	if s, ok := u.net.datagrams.Load(ep); ok {
		after := at
		if protocol == header.UDPProtocolNumber {
			after += header.UDPMinimumSize // what __udp4_lib_err gives, and ping_err more
		}
		s.(*Socket).undelivered(ep.(tcpip.Endpoint), v, told(after, id.RemotePort))
	}
}

func familyOfNetwork(network tcpip.NetworkProtocolNumber) int {
	if network == header.IPv6ProtocolNumber {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func (u unreach) judge(typ, code byte) (v verdict, ok bool) {
	if u.network == header.IPv6ProtocolNumber {
		switch header.ICMPv6Type(typ) {
		case header.ICMPv6DstUnreachable:
			v, ok = verdicts6[header.ICMPv6Code(code)]
		case header.ICMPv6TimeExceeded:
			v, ok = beyond, true
		}
		return v, ok
	}
	switch header.ICMPv4Type(typ) {
	case header.ICMPv4DstUnreachable:
		v, ok = verdicts4[header.ICMPv4Code(code)]
	case header.ICMPv4TimeExceeded:
		v, ok = beyond, true
	}
	return v, ok
}

// whole says whether a message's checksum is right.
func (u unreach) whole(h []byte, pkt *stack.PacketBuffer) bool {
	if u.network == header.IPv4ProtocolNumber {
		return checksum.Checksum(h, pkt.Data().Checksum()) == 0xffff
	}
	ip := pkt.Network()
	return header.ICMPv6(h).Checksum() == header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: h, Src: ip.SourceAddress(),
		Dst: ip.DestinationAddress(), PayloadCsum: pkt.Data().Checksum(), PayloadLen: pkt.Data().Size()})
}

// origin is the socket that has sent a packet, as the library names it, and where the packet's own bytes begin; at is
// negative if that cannot be told.
func (u unreach) origin(b []byte) (id stack.TransportEndpointID, protocol tcpip.TransportProtocolNumber, at int) {
	none := func() (stack.TransportEndpointID, tcpip.TransportProtocolNumber, int) { return id, 0, -1 }
	if u.network == header.IPv4ProtocolNumber {
		ip := header.IPv4(b)
		if len(b) < header.IPv4MinimumSize || ip.FragmentOffset() != 0 {
			return none()
		}
		id.LocalAddress, id.RemoteAddress = ip.SourceAddress(), ip.DestinationAddress()
		protocol, at = ip.TransportProtocol(), max(header.IPv4MinimumSize, int(ip.HeaderLength()))
	} else {
		if len(b) < header.IPv6MinimumSize {
			return none()
		}
		ip := header.IPv6(b)
		id.LocalAddress, id.RemoteAddress = ip.SourceAddress(), ip.DestinationAddress()
		protocol, at = tcpip.TransportProtocolNumber(ip.NextHeader()), header.IPv6MinimumSize
		if protocol == header.IPv6FragmentHeader && len(b) >= at+header.IPv6FragmentHeaderSize {
			f := header.IPv6Fragment(b[at:])
			if f.FragmentOffset() != 0 {
				return none()
			}
			protocol, at = f.TransportProtocol(), at+header.IPv6FragmentHeaderSize
		}
	}
	const ports = 8 // bytes that a message has of the transport at least (RFC 792)
	if len(b)-at < ports {
		return none()
	}
	switch t := b[at:]; protocol {
	case header.TCPProtocolNumber, header.UDPProtocolNumber:
		id.LocalPort, id.RemotePort = binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
	case header.ICMPv4ProtocolNumber, header.ICMPv6ProtocolNumber: // of a question; its number is a port
		id.LocalPort = binary.BigEndian.Uint16(t[4:])
	}
	return id, protocol, at
}

// cause is an error of ICMP as the library's sockets have it.
type cause struct {
	network   tcpip.NetworkProtocolNumber
	typ, code byte
	kind      stack.TransportErrorKind
}

func (c cause) Origin() tcpip.SockErrOrigin {
	if c.network == header.IPv4ProtocolNumber {
		return tcpip.SockExtErrorOriginICMP
	}
	return tcpip.SockExtErrorOriginICMP6
}

func (c cause) Type() uint8                    { return c.typ }
func (c cause) Code() uint8                    { return c.code }
func (c cause) Info() uint32                   { return 0 }
func (c cause) Kind() stack.TransportErrorKind { return c.kind }

// errorQueue has the errors that a socket of datagrams asked for (IP_RECVERR). The library has such a queue, too, without
// an end, in which it calls the socket the offender.
type errorQueue struct {
	mu   sync.Mutex
	list []*tcpip.SockError
}

// mostErrors is how many wait. Linux has as many as the socket's buffer holds.
const mostErrors = 64

func (q *errorQueue) put(e *tcpip.SockError) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) < mostErrors {
		q.list = append(q.list, e)
	}
}

// take is the oldest, or nil, and how many are left.
func (q *errorQueue) take() (e *tcpip.SockError, left int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) == 0 {
		return nil, 0
	}
	e, q.list = q.list[0], q.list[1:]
	return e, len(q.list)
}

func (q *errorQueue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.list) == 0
}

// undelivered tells a socket that a datagram of its came to nothing. __udp4_lib_err, __udp6_lib_err,
// ping_err, raw_err. It may be called with the socket's locks held, on the way out by loopback, and takes
// none of them but the queue's.
func (s *Socket) undelivered(ep tcpip.Endpoint, v verdict, e *tcpip.SockError) {
	o, v6 := ep.SocketOptions(), e.NetProto == header.IPv6ProtocolNumber
	connected := transport.DatagramEndpointState(ep.State()) == transport.DatagramEndpointStateConnected
	switch {
	case v6 && o.GetIPv6RecvError(), !v6 && o.GetIPv4RecvError():
		s.errs.put(e)
	case !v.hard || !connected || s.typ == unix.SOCK_RAW:
		return
	}
	if !v.heard || !connected {
		s.hearError(e.Err)
	}
	s.queue.Notify(vfs.EventErr)
}

// connectError is why a connection was not made.
func (s *Socket) connectError() unix.Errno {
	err := s.ep.LastError()
	if _, ok := err.(*tcpip.ErrNoNet); ok && s.family == unix.AF_INET6 {
		if id := s.ep.Info().(*stack.TransportEndpointInfo).ID; id.RemoteAddress.Len() == 16 {
			return unix.EACCES // prohibitedKind
		}
	}
	if e, ok := errno(err).(unix.Errno); ok {
		return e
	}
	return unix.ECONNREFUSED
}
