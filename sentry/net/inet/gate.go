package inet

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// gate lets packets from a device pass to the library, but for those that the library would fall
// over: of a packet of IPv4 in pieces it reads the header where that was before it had the one of
// the transport in a row (network/ipv4, deliverPacketLocally), which moves both where that
// one lies in more than one piece of memory. What it reads then is a buffer that was given back, and maybe
// another packet's. So the first piece has to have the whole of that header; nobody sends it otherwise who
// means well (RFC 1858 §3).
type gate struct {
	stack.NetworkDispatcher
	refused *atomic.Uint64 // packets
}

// DeliverNetworkPacket implements stack.NetworkDispatcher.
func (g gate) DeliverNetworkPacket(protocol tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	if protocol == header.IPv4ProtocolNumber && !headed(pkt) {
		g.refused.Add(1)
		g.DeliverLinkPacket(protocol, pkt) // taps hear of it
		return
	}
	g.NetworkDispatcher.DeliverNetworkPacket(protocol, pkt)
}

// headed says whether a packet of IPv4, if it is a first piece, has its transport's header, and
// has all headers in a row.
func headed(pkt *stack.PacketBuffer) bool {
	b, ok := pkt.Data().PullUp(header.IPv4MinimumSize)
	if !ok {
		return true // the library sees that itself
	}
	ip := header.IPv4(b)
	if !ip.More() || ip.FragmentOffset() != 0 {
		return true
	}
	start, end := int(ip.HeaderLength()), int(ip.TotalLength())
	inRow := func(n int) ([]byte, bool) {
		if n > end {
			return nil, false
		}
		return pkt.Data().PullUp(n)
	}
	if ip.TransportProtocol() != header.TCPProtocolNumber {
		_, ok = inRow(start + header.UDPMinimumSize) // and ICMP's
		return ok
	}
	if b, ok = inRow(start + header.TCPMinimumSize); ok {
		_, ok = inRow(start + max(header.TCPMinimumSize, int(header.TCP(b[start:]).DataOffset())))
	}
	return ok
}

// gated puts a gate between an end and its device, nil if that is.
func gated(nic stack.NetworkDispatcher, refused *atomic.Uint64) stack.NetworkDispatcher {
	if nic == nil {
		return nil
	}
	return gate{nic, refused}
}
