package inet

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// most and least are how many bytes a connection with a peer beyond may have wait in the library, each way: as
// many as net.ipv4.tcp_wmem grows to, and as it begins with.
const (
	mostShare  = tcp.MaxBufferSize
	leastShare = scarce
)

// shareOut has connections to come, and those that would grow, hold the less the more there are (tcp_mem): what peers do not
// read and programs do not read is in the library, which would hold a MiB of each connection, each way,
// without asking anybody, and a container's memory would end with the sandbox. All in all it is some times the
// budget, for those that came first keep what they were given.
func (n *Stack) shareOut() {
	share := min(mostShare, max(leastShare, n.budget()/max(1, n.lib.Stats().TCP.CurrentConnected.Value())))
	if was := n.share.Swap(share); was == share {
		return
	}
	size, first := int(share), int(min(share, tcp.DefaultSendBufferSize))
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: first, Max: size}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: first, Max: size}
	n.lib.SetTransportProtocolOption(tcp.ProtocolNumber, &send)
	n.lib.SetTransportProtocolOption(tcp.ProtocolNumber, &receive)
}

// budget is some of a container's memory, bytes: Go's collector lets the library have half as much again, and
// both directions have one.
func (n *Stack) budget() uint64 {
	if limit := n.queued.Limit(); limit > 0 {
		return min(plenty, limit/32)
	}
	return plenty
}

// toListen has connections that a listener gets begin with what tcp_rmem says, or less where memory is little, and as many wait
// to be accepted as that has room for: the library gives each what the listener had (accept.go, createConnectingEndpoint), and
// a peer fills that with nobody looking. Whoever reads gets more, up to his share.
func (s *Socket) toListen(backlog int) int {
	budget := s.net.budget()
	first := min(streamReceive, max(leastShare, budget/128))
	s.ep.SocketOptions().SetReceiveBufferSize(int64(first), false)
	return min(backlog, int(8*budget/first))
}
