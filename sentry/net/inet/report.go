package inet

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Report is a socket as /proc/net and sock_diag show it.
type Report struct {
	Family, Type, Protocol int
	State                  int // TCP_…
	Local, Remote          tcpip.FullAddress
	UID                    uint32
	Inode                  uint64 // 0: nobody's, or nobody's yet
	In, Out                int    // bytes that wait
	Drops                  uint32
	Backlog                int // of a listener
	V6Only                 bool
	Shut                   uint8
	Device                 int32
}

// Reports are of all sockets, and of connections that none of them has: those that
// wait for accept(2) and those in TCP_TIME_WAIT.
func (n *Stack) Reports() []Report {
	if !n.Started() {
		return nil
	}
	var all []Report
	owned := map[tcpip.Endpoint]bool{}
	for _, s := range n.Sockets() {
		r, ep := s.report()
		owned[ep] = true
		all = append(all, r)
	}
	for _, e := range slices.Concat(n.lib.RegisteredEndpoints(), n.lib.CleanupEndpoints()) {
		ep, ok := e.(*tcp.Endpoint)
		if !ok || owned[ep] {
			continue
		}
		owned[ep] = true
		st := ep.EndpointState()
		if !underWay(st) && st != tcp.StateSynRecv {
			continue
		}
		id := ep.Info().(*stack.TransportEndpointInfo).ID
		family := unix.AF_INET
		if id.LocalAddress.Len() == 16 {
			family = unix.AF_INET6
		}
		all = append(all, Report{Family: family, Type: unix.SOCK_STREAM, Protocol: unix.IPPROTO_TCP, State: int(st),
			Local:  tcpip.FullAddress{Addr: id.LocalAddress, Port: id.LocalPort},
			Remote: tcpip.FullAddress{Addr: id.RemoteAddress, Port: id.RemotePort}})
	}
	slices.SortStableFunc(all, func(a, b Report) int {
		return cmp.Or(cmp.Compare(b2i(b.State == int(tcp.StateListen)), b2i(a.State == int(tcp.StateListen))), cmp.Compare(a.Inode, b.Inode))
	})
	return all
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (s *Socket) report() (Report, tcpip.Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := Report{Family: s.family, Type: s.typ, Protocol: s.protocol, UID: s.uid, Inode: s.inode.Ino(), Shut: uint8(s.shut & bothDown),
		V6Only: s.ep.SocketOptions().GetV6Only(), Device: s.ep.SocketOptions().GetBindToDevice()}
	if local, err := parseName(s.nameLocked(), s.family); err == nil {
		r.Local = local
	}
	if s.typ == unix.SOCK_STREAM {
		s.settleLocked()
		r.State = s.tcpStateLocked()
		switch s.phase {
		case connected:
			r.Remote = s.shown(s.peerSaid)
			r.In, r.Out = s.waitingLocked()
		case listening:
			r.Backlog = s.backlog
			if s.ep.Readiness(1)&1 != 0 {
				r.In = 1
			}
		}
		return r, s.ep
	}
	r.State = int(tcp.StateClose)
	if s.connName != nil {
		r.State = int(tcp.StateEstablished)
		if a, err := parseName(s.connName, s.family); err == nil {
			r.Remote = a
		}
	}
	s.grams.mu.Lock()
	r.In, r.Drops = s.grams.size, s.grams.drops
	s.grams.mu.Unlock()
	return r, s.ep
}

// Bytes6 is an address as AF_INET6 has it.
func Bytes6(a tcpip.Address) [16]byte { return bytes6(a) }

// Link is a device, as rtnetlink shows it.
type Link struct {
	Index              int
	Name               string
	Type               uint16 // ARPHRD_…
	Flags              uint32 // IFF_…
	MTU                uint32
	LeastMTU, MostMTU  uint32 // bounds of it; MostMTU 0: none
	Queue              uint32
	State              uint8 // IF_OPER_…
	Promiscuity        uint32
	Address, Broadcast []byte
	Qdisc              string
	Stats              LinkStats
}

// LinkStats count what a device has carried, with the headers of its link.
type LinkStats struct {
	RxPackets, TxPackets, RxBytes, TxBytes uint64
	RxDropped                              uint64 // of a protocol that nobody has, or refused
	RxMissed                               uint64 // that found no room in the device's socket on the host
	TxDropped                              uint64 // that found no room there or in the queue of a limit
}

// Addr is an address of a device.
type Addr struct {
	Link      int
	IP        []byte
	Prefix    uint8
	Scope     uint8 // RT_SCOPE_…
	Label     string
	Broadcast []byte // nil: none
	Flags     uint32 // IFA_F_…
	Metric    uint32 // of the route that it brings; 0: the usual
	AnyPrefix bool   // of one that is looked for: Prefix does not count
}

// Route is one of the tables'.
type Route struct {
	Family   int
	Table    uint8 // RT_TABLE_…
	Type     uint8 // RTN_…
	Protocol uint8 // RTPROT_…
	Scope    uint8
	Link     int
	IP       []byte
	Prefix   uint8
	Source   []byte
	Gateway  []byte
	Priority uint32
	OnLink   bool // RTNH_F_ONLINK
}

// stats are what a device has carried.
func (n *Stack) stats(d nic) (s LinkStats) {
	if !n.Started() {
		return
	}
	info, ok := n.lib.SingleNICInfo(tcpip.NICID(d.index))
	if !ok {
		return
	}
	s = LinkStats{RxPackets: info.Stats.Rx.Packets.Value(), TxPackets: info.Stats.Tx.Packets.Value(), RxBytes: info.Stats.Rx.Bytes.Value(), TxBytes: info.Stats.Tx.Bytes.Value()}
	for _, protocol := range info.Stats.UnknownL3ProtocolRcvdPacketCounts.Keys() {
		if c, ok := info.Stats.UnknownL3ProtocolRcvdPacketCounts.Get(protocol); ok {
			s.RxDropped += c.Value()
		}
	}
	if d.loopback() {
		packets, size := n.carried.packets.Load(), n.carried.bytes.Load()
		s.RxPackets, s.TxPackets, s.RxBytes, s.TxBytes = s.RxPackets+packets, s.TxPackets+packets, s.RxBytes+size, s.TxBytes+size
		return s
	}
	s.RxBytes += EthernetHeader * s.RxPackets // the library counts it on the way out alone
	if d.limited {
		s.TxDropped = info.Stats.TxPacketsDroppedNoBufferSpace.Value()
	}
	s.TxDropped += d.end.lost.Load()
	s.RxDropped += d.end.refused.Load()
	s.RxMissed = d.end.missed()
	return s
}
