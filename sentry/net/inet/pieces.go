package inet

import (
	"bytes"
	"math/rand/v2"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/waiter"

	"bulkhead/sentry/net/socket"
)

// sendPieces sends a raw socket's message of IPv4 that is larger than the packets of its way, which
// the library refuses (transport/raw, "if p.Len() > int(ctx.MTU())"): ping -s 2000. Each piece is a packet with a header of ours.
// net/ipv4/raw.c, raw_sendmsg, by ip_append_data. false: that is refused on Linux, too.
func (s *Socket) sendPieces(ep tcpip.Endpoint, m *socket.Message, o tcpip.WriteOptions) (int, tcpip.Error, bool) {
	s.mu.Lock()
	discover, err := socket.ParseInt(s.extra[opt{unix.SOL_IP, unix.IP_MTU_DISCOVER}])
	s.mu.Unlock()
	if s.typ != unix.SOCK_RAW || s.family != unix.AF_INET || s.includes(ep) || err == nil && (discover == unix.IP_PMTUDISC_DO || discover == unix.IP_PMTUDISC_PROBE) {
		return 0, nil, false
	}
	to := tcpip.FullAddress{}
	if o.To != nil {
		to = *o.To
	} else if peer, err := ep.GetRemoteAddress(); err == nil {
		to = peer
	}
	local, _ := ep.GetLocalAddress()
	route, terr := s.lib().FindRoute(to.NIC, local.Addr, to.Addr, header.IPv4ProtocolNumber, false)
	if terr != nil {
		return 0, terr, true
	}
	defer route.Release()
	ttl, _ := ep.GetSockOptInt(tcpip.IPv4TTLOption)
	tos, _ := ep.GetSockOptInt(tcpip.IPv4TOSOption)
	if o.ControlMessages.HasTTL {
		ttl = int(o.ControlMessages.TTL)
	}
	if ttl <= 0 {
		ttl = int(route.DefaultTTL())
	}
	out, terr := s.lib().NewRawEndpoint(tcpip.TransportProtocolNumber(s.protocol), header.IPv4ProtocolNumber, &waiter.Queue{}, false)
	if terr != nil {
		return 0, terr, true
	}
	defer out.Close()
	data := make([]byte, m.Data.Len())
	if m.Data.CopyIn(data) < len(data) {
		return 0, &tcpip.ErrBadBuffer{}, true
	}
	id := uint16(1 + rand.N(0xffff))
	// A piece's place is told in eights. The library counts our header as if there came another before it.
	size := (int(route.MTU()) - header.IPv4MinimumSize) &^ 7
	for at := 0; at < len(data); at += size {
		piece, flags := data[at:min(len(data), at+size)], uint8(header.IPv4FlagMoreFragments)
		if at+len(piece) == len(data) {
			flags = 0
		}
		b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(piece))
		header.IPv4(b).Encode(&header.IPv4Fields{TOS: uint8(tos), TotalLength: uint16(cap(b)), ID: id, Flags: flags, FragmentOffset: uint16(at),
			TTL: uint8(ttl), Protocol: uint8(s.protocol), SrcAddr: route.LocalAddress(), DstAddr: to.Addr})
		if _, terr := out.Write(bytes.NewReader(append(b, piece...)), tcpip.WriteOptions{To: &to}); terr != nil {
			return 0, terr, true
		}
	}
	return len(data), nil, true
}
