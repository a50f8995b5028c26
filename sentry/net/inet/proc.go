package inet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// procFiles write the files of /proc/net that are not the same always, in the
// formats of net/ipv4/{tcp_ipv4,udp,raw,proc}.c and their like of IPv6.
var procFiles = map[string]func(n *Stack, b *bytes.Buffer){
	"tcp":        func(n *Stack, b *bytes.Buffer) { n.table(b, unix.AF_INET, unix.IPPROTO_TCP, tcpRow) },
	"tcp6":       func(n *Stack, b *bytes.Buffer) { n.table(b, unix.AF_INET6, unix.IPPROTO_TCP, tcpRow) },
	"udp":        func(n *Stack, b *bytes.Buffer) { n.table(b, unix.AF_INET, unix.IPPROTO_UDP, udpRow) },
	"udp6":       func(n *Stack, b *bytes.Buffer) { n.table(b, unix.AF_INET6, unix.IPPROTO_UDP, udpRow) },
	"raw":        func(n *Stack, b *bytes.Buffer) { n.table(b, unix.AF_INET, unix.IPPROTO_RAW, udpRow) },
	"raw6":       func(n *Stack, b *bytes.Buffer) { n.table(b, unix.AF_INET6, unix.IPPROTO_RAW, udpRow) },
	"icmp":       func(n *Stack, b *bytes.Buffer) { n.table(b, unix.AF_INET, unix.IPPROTO_ICMP, udpRow) },
	"icmp6":      func(n *Stack, b *bytes.Buffer) { n.table(b, unix.AF_INET6, unix.IPPROTO_ICMPV6, udpRow) },
	"dev":        (*Stack).procDevices,
	"if_inet6":   (*Stack).procAddresses6,
	"route":      (*Stack).procRoutes4,
	"arp":        (*Stack).procNeighbours,
	"ipv6_route": (*Stack).procRoutes6,
	"igmp":       (*Stack).procGroups,
	"igmp6":      (*Stack).procGroups6,
	"dev_mcast":  (*Stack).procDeviceGroups,
	"sockstat":   (*Stack).procSockets,
	"sockstat6":  (*Stack).procSockets6,
	"snmp":       (*Stack).procCounters,
	"snmp6":      (*Stack).procCounters6,
	"netstat":    (*Stack).procExtended,
	"packet":     func(n *Stack, b *bytes.Buffer) { n.procHolders(b, "packet") },
	"netlink":    func(n *Stack, b *bytes.Buffer) { n.procHolders(b, "netlink") },
}

// Proc is the content of /proc/net/NAME; false if it is the same always.
func (n *Stack) Proc(name string) ([]byte, bool) {
	f := procFiles[name]
	if f == nil {
		return nil, false
	}
	var b bytes.Buffer
	f(n, &b)
	return b.Bytes(), true
}

// holderHeads are the tables' of sockets of other families (net/packet/af_packet.c,
// net/netlink/af_netlink.c).
var holderHeads = map[string]string{
	"packet":  "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n",
	"netlink": "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n",
}

func (n *Stack) procHolders(b *bytes.Buffer, file string) {
	b.WriteString(holderHeads[file])
	n.mu.Lock()
	all := slices.Clone(n.holders)
	n.mu.Unlock()
	for _, h := range all {
		if row, ok := h.Told(file); ok {
			b.WriteString(row)
		}
	}
}

// heads of the tables of sockets, by protocol and family; they are as wide as the
// rows.
func head(b *bytes.Buffer, family, protocol int) {
	six := "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
	four := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
	switch {
	case family == unix.AF_INET6 && protocol == unix.IPPROTO_TCP:
		fmt.Fprintf(b, "%s\n", six)
	case family == unix.AF_INET6:
		fmt.Fprintf(b, "%s ref pointer drops\n", six)
	case protocol == unix.IPPROTO_TCP:
		fmt.Fprintf(b, "%-149s\n", four)
	case protocol == unix.IPPROTO_RAW:
		fmt.Fprintf(b, "%s ref pointer drops\n", four)
	default:
		fmt.Fprintf(b, "%-127s\n", " "+four+" ref pointer drops")
	}
}

func (n *Stack) table(b *bytes.Buffer, family, protocol int, row func(int, Report) string) {
	head(b, family, protocol)
	i := 0
	for _, r := range n.Reports() {
		raw := r.Type == unix.SOCK_RAW
		if r.Family != family || raw != (protocol == unix.IPPROTO_RAW) || !raw && r.Protocol != protocol {
			continue
		}
		unbound := r.Local.Port == 0
		if !raw && unbound {
			continue // not hashed
		}
		text := row(i, r)
		width := 149
		if protocol != unix.IPPROTO_TCP {
			width = 127
		}
		if family == unix.AF_INET6 || raw {
			width = 0
		}
		fmt.Fprintf(b, "%-*s\n", width, text)
		i++
	}
}

// hex is an address and a port: words as the machine has them.
func hex(family int, a tcpip.FullAddress) string {
	if family == unix.AF_INET {
		var four [4]byte
		if v4 := a.Addr.To4(); v4.Len() == 4 {
			four = v4.As4()
		}
		return fmt.Sprintf("%08X:%04X", binary.LittleEndian.Uint32(four[:]), a.Port)
	}
	six := bytes6(a.Addr)
	le := binary.LittleEndian
	return fmt.Sprintf("%08X%08X%08X%08X:%04X", le.Uint32(six[0:]), le.Uint32(six[4:]), le.Uint32(six[8:]), le.Uint32(six[12:]), a.Port)
}

func tcpRow(i int, r Report) string {
	text := fmt.Sprintf("%4d: %s %s %02X %08X:%08X %02X:%08X %08X %5d %8d %d %d %016x", i, hex(r.Family, r.Local), hex(r.Family, r.Remote),
		r.State, r.Out, r.In, 0, 0, 0, r.UID, 0, r.Inode, 1, 0)
	switch {
	case r.State == int(tcp.StateTimeWait):
		return text
	case r.State == int(tcp.StateListen):
		return text + " 100 0 0 10 0"
	}
	return text + " 20 4 30 10 -1"
}

func udpRow(i int, r Report) string {
	width := 5
	if r.Type == unix.SOCK_RAW && r.Family == unix.AF_INET {
		width = 4
	}
	return fmt.Sprintf("%*d: %s %s %02X %08X:%08X %02X:%08X %08X %5d %8d %d %d %016x %d", width, i, hex(r.Family, r.Local), hex(r.Family, r.Remote),
		r.State, r.Out, r.In, 0, 0, 0, r.UID, 0, r.Inode, 2, 0, r.Drops)
}

func (n *Stack) procDevices(b *bytes.Buffer) {
	b.WriteString("Inter-|   Receive                                                |  Transmit\n" +
		" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n")
	for _, l := range n.Links() {
		s := l.Stats
		fmt.Fprintf(b, "%6s: %7d %7d %4d %4d %4d %5d %10d %9d %8d %7d %4d %4d %4d %5d %7d %10d\n", l.Name,
			s.RxBytes, s.RxPackets, 0, s.RxDropped+s.RxMissed, 0, 0, 0, 0, s.TxBytes, s.TxPackets, 0, s.TxDropped, 0, 0, 0, 0)
	}
}

// scope6 is ipv6_addr_scope's of an address's scope.
var scope6 = map[uint8]int{unix.RT_SCOPE_HOST: 0x10, unix.RT_SCOPE_LINK: 0x20, unix.RT_SCOPE_UNIVERSE: 0}

func (n *Stack) procAddresses6(b *bytes.Buffer) {
	for _, a := range n.Addrs() {
		if len(a.IP) == 16 {
			fmt.Fprintf(b, "%x %02x %02x %02x %02x %8s\n", a.IP, a.Link, a.Prefix, scope6[a.Scope], unix.IFA_F_PERMANENT, n.nameOf(a.Link))
		}
	}
}

func (n *Stack) procRoutes6(b *bytes.Buffer) {
	const reject, nextless, up, gateway, local = 0x200, 0x200000, 0x1, 0x2, 0x80000000
	zero := make([]byte, 16)
	row := func(r Route, refs, flags uint32) {
		next := zero
		if r.IP == nil {
			r.IP = zero
		}
		if r.Gateway != nil {
			next = r.Gateway
			flags |= gateway
		}
		fmt.Fprintf(b, "%x %02x %x 00 %x %08x %08x %08x %08x %8s\n", r.IP, r.Prefix, zero, next, r.Priority, refs, 0, flags, n.nameOf(r.Link))
	}
	nowhere := Route{Link: Loopback, Priority: ^uint32(0)}
	row(nowhere, 1, reject|nextless)
	for _, r := range n.Routes() {
		switch {
		case r.Family != unix.AF_INET6:
		case r.Type == unix.RTN_MULTICAST:
			row(r, 3, up)
		case r.Type == unix.RTN_LOCAL:
			row(r, 2, up|nextless|local)
		default:
			row(r, 1, up)
		}
	}
	row(nowhere, 1, reject|nextless)
}

// procRoutes4 is /proc/net/route (net/ipv4/fib_trie.c, fib_route_seq_show).
func (n *Stack) procRoutes4(b *bytes.Buffer) {
	const up, gateway, host = 1, 2, 4
	le := binary.LittleEndian
	word := func(ip []byte) uint32 {
		if len(ip) != 4 {
			return 0
		}
		return le.Uint32(ip)
	}
	fmt.Fprintf(b, "%-127s\n", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT")
	for _, r := range n.Routes() {
		if r.Family != unix.AF_INET || r.Table != unix.RT_TABLE_MAIN {
			continue
		}
		flags := up
		if r.Gateway != nil {
			flags |= gateway
		}
		if r.Prefix == 32 {
			flags |= host
		}
		mask := le.Uint32(net.CIDRMask(int(r.Prefix), 32))
		fmt.Fprintf(b, "%-127s\n", fmt.Sprintf("%s\t%08X\t%08X\t%04X\t%d\t%d\t%d\t%08X\t%d\t%d\t%d",
			n.nameOf(r.Link), word(r.IP), word(r.Gateway), flags, 0, 0, r.Priority, mask, 0, 0, 0))
	}
}

// procNeighbours is /proc/net/arp (net/ipv4/arp.c, arp_format_neigh_entry).
func (n *Stack) procNeighbours(b *bytes.Buffer) {
	b.WriteString("IP address       HW type     Flags       HW address            Mask     Device\n")
	for _, e := range n.Neighbours() {
		if len(e.IP) == 4 && e.Ethernet != nil {
			fmt.Fprintf(b, "%-16s 0x%-10x0x%-10x%s     *        %s\n", net.IP(e.IP), unix.ARPHRD_ETHER, 2, e.Ethernet, n.nameOf(e.Link))
		}
	}
}

func (n *Stack) procSockets(b *bytes.Buffer) {
	var used, streams, waiting, datagrams, raw int
	for _, r := range n.Reports() {
		if r.Inode != 0 {
			used++
		}
		switch {
		case r.Family != unix.AF_INET:
		case r.State == int(tcp.StateTimeWait):
			waiting++
		case r.Type == unix.SOCK_RAW:
			raw++
		case r.Protocol == unix.IPPROTO_TCP:
			streams++
		case r.Protocol == unix.IPPROTO_UDP:
			datagrams++
		}
	}
	fmt.Fprintf(b, "sockets: used %d\nTCP: inuse %d orphan 0 tw %d alloc %d mem 0\nUDP: inuse %d mem 0\nUDPLITE: inuse 0\nRAW: inuse %d\nFRAG: inuse 0 memory 0\n",
		used, streams, waiting, streams, datagrams, raw)
}

func (n *Stack) procSockets6(b *bytes.Buffer) {
	var streams, datagrams, raw int
	for _, r := range n.Reports() {
		switch {
		case r.Family != unix.AF_INET6 || r.State == int(tcp.StateTimeWait):
		case r.Type == unix.SOCK_RAW:
			raw++
		case r.Protocol == unix.IPPROTO_TCP:
			streams++
		case r.Protocol == unix.IPPROTO_UDP:
			datagrams++
		}
	}
	fmt.Fprintf(b, "TCP6: inuse %d\nUDP6: inuse %d\nUDPLITE6: inuse 0\nRAW6: inuse %d\nFRAG6: inuse 0 memory 0\n", streams, datagrams, raw)
}

// counters are the library's, of all zeros while there is none.
func (n *Stack) counters() tcpip.Stats {
	if n.Started() {
		return n.lib.Stats()
	}
	return tcpip.Stats{}.FillIn()
}

// ipCounters are those of one version of IP: what the library counts for both is of each device, too.
func (n *Stack) ipCounters(protocol tcpip.NetworkProtocolNumber) (all []tcpip.IPStats) {
	if !n.Started() {
		return nil
	}
	for _, d := range n.lib.NICInfo() {
		switch s := d.NetworkStats[protocol].(type) {
		case *ipv4.Stats:
			all = append(all, s.IP)
		case *ipv6.Stats:
			all = append(all, s.IP)
		}
	}
	return all
}

func total(all []tcpip.IPStats, of func(tcpip.IPStats) *tcpip.StatCounter) (v uint64) {
	for _, s := range all {
		v += of(s).Value()
	}
	return v
}

// rows writes counters as /proc/net/snmp has them: names, then values.
func rows(b *bytes.Buffer, protocol, names string, values ...uint64) {
	fmt.Fprintf(b, "%s: %s\n%s:", protocol, names, protocol)
	for _, v := range values {
		fmt.Fprintf(b, " %d", int64(v))
	}
	b.WriteByte('\n')
}

// procCounters is /proc/net/snmp (net/ipv4/proc.c, snmp_seq_show). Bytes between
// two sockets of the stack travel in no segment and are not counted.
func (n *Stack) procCounters(b *bytes.Buffer) {
	s, ip := n.counters(), n.ipCounters(header.IPv4ProtocolNumber)
	row := func(protocol, names string, values ...uint64) { rows(b, protocol, names, values...) }
	v := func(c *tcpip.StatCounter) uint64 { return c.Value() }
	row("Ip", "Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates OutTransmits",
		2, 64, total(ip, received), total(ip, malformed), total(ip, misdirected)+total(ip, misnamed), 0, n.unknownProtocols(), 0,
		total(ip, delivered), total(ip, sent), total(ip, unsent), 0, 0, 0, 0, total(ip, torn), 0, 0, 0, total(ip, sent))
	in, out := s.ICMP.V4.PacketsReceived, s.ICMP.V4.PacketsSent
	row("Icmp", "InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs InRedirects InEchos InEchoReps InTimestamps InTimestampReps InAddrMasks InAddrMaskReps OutMsgs OutErrors OutRateLimitGlobal OutRateLimitHost OutDestUnreachs OutTimeExcds OutParmProbs OutSrcQuenchs OutRedirects OutEchos OutEchoReps OutTimestamps OutTimestampReps OutAddrMasks OutAddrMaskReps",
		sum(in.ICMPv4PacketStats), v(in.Invalid), 0, v(in.DstUnreachable), v(in.TimeExceeded), v(in.ParamProblem),
		v(in.SrcQuench), v(in.Redirect), v(in.EchoRequest), v(in.EchoReply), v(in.Timestamp), v(in.TimestampReply), 0, 0,
		sum(out.ICMPv4PacketStats)+n.echoes[0].Load(), v(out.Dropped), v(out.RateLimited), 0, v(out.DstUnreachable), v(out.TimeExceeded),
		v(out.ParamProblem), v(out.SrcQuench), v(out.Redirect), v(out.EchoRequest)+n.echoes[0].Load(), v(out.EchoReply), v(out.Timestamp), v(out.TimestampReply), 0, 0)
	t := s.TCP
	row("Tcp", "RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors",
		1, 200, 120000, ^uint64(0), v(t.ActiveConnectionOpenings), v(t.PassiveConnectionOpenings), v(t.FailedConnectionAttempts)+n.failed.Load(), v(t.EstablishedResets),
		v(t.CurrentEstablished), v(t.ValidSegmentsReceived), v(t.SegmentsSent), v(t.Retransmits), v(t.InvalidSegmentsReceived), v(t.ResetsSent), v(t.ChecksumErrors))
	u := s.UDP
	row("Udp", "InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors",
		v(u.PacketsReceived), v(u.UnknownPortErrors), v(u.MalformedPacketsReceived), v(u.PacketsSent), v(u.ReceiveBufferErrors), v(u.PacketSendErrors), v(u.ChecksumErrors), 0, 0)
	row("UdpLite", "InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors", 0, 0, 0, 0, 0, 0, 0, 0, 0)
}

// What of a packet of IP is counted.
func received(s tcpip.IPStats) *tcpip.StatCounter    { return s.PacketsReceived }
func malformed(s tcpip.IPStats) *tcpip.StatCounter   { return s.MalformedPacketsReceived }
func misdirected(s tcpip.IPStats) *tcpip.StatCounter { return s.InvalidDestinationAddressesReceived }
func misnamed(s tcpip.IPStats) *tcpip.StatCounter    { return s.InvalidSourceAddressesReceived }
func torn(s tcpip.IPStats) *tcpip.StatCounter        { return s.MalformedFragmentsReceived }
func delivered(s tcpip.IPStats) *tcpip.StatCounter   { return s.PacketsDelivered }
func sent(s tcpip.IPStats) *tcpip.StatCounter        { return s.PacketsSent }
func unsent(s tcpip.IPStats) *tcpip.StatCounter      { return s.OutgoingPacketErrors }

// unknownProtocols is how many packets were of a transport that nobody speaks; the library counts those of both versions
// of IP together.
func (n *Stack) unknownProtocols() (v uint64) {
	of := n.counters().NICs.UnknownL4ProtocolRcvdPacketCounts
	for _, protocol := range of.Keys() {
		if c, ok := of.Get(protocol); ok {
			v += c.Value()
		}
	}
	return v
}

// sum is how many messages of ICMP there were.
func sum(s tcpip.ICMPv4PacketStats) (v uint64) {
	for _, c := range []*tcpip.StatCounter{s.EchoRequest, s.EchoReply, s.DstUnreachable, s.SrcQuench, s.Redirect, s.TimeExceeded, s.ParamProblem,
		s.Timestamp, s.TimestampReply, s.InfoRequest, s.InfoReply} {
		v += c.Value()
	}
	return v
}

// procCounters6 is /proc/net/snmp6 (net/ipv6/proc.c), of what is counted. Of UDP and TCP both versions of IP
// are counted in snmp.
func (n *Stack) procCounters6(b *bytes.Buffer) {
	s, ip := n.counters(), n.ipCounters(header.IPv6ProtocolNumber)
	in, out := s.ICMP.V6.PacketsReceived, s.ICMP.V6.PacketsSent
	for _, row := range []struct {
		name  string
		value uint64
	}{
		{"Ip6InReceives", total(ip, received)}, {"Ip6InHdrErrors", total(ip, malformed)}, {"Ip6InAddrErrors", total(ip, misdirected)},
		{"Ip6InDelivers", total(ip, delivered)}, {"Ip6OutRequests", total(ip, sent)}, {"Ip6OutDiscards", total(ip, unsent)},
		{"Icmp6InErrors", in.Invalid.Value()}, {"Icmp6OutErrors", out.Dropped.Value()}, {"Icmp6OutRateLimitHost", out.RateLimited.Value()},
		{"Icmp6InDestUnreachs", in.DstUnreachable.Value()}, {"Icmp6InPktTooBigs", in.PacketTooBig.Value()}, {"Icmp6InTimeExcds", in.TimeExceeded.Value()},
		{"Icmp6InParmProblems", in.ParamProblem.Value()}, {"Icmp6InEchos", in.EchoRequest.Value()}, {"Icmp6InEchoReplies", in.EchoReply.Value()},
		{"Icmp6InRouterSolicits", in.RouterSolicit.Value()}, {"Icmp6InRouterAdvertisements", in.RouterAdvert.Value()},
		{"Icmp6InNeighborSolicits", in.NeighborSolicit.Value()}, {"Icmp6InNeighborAdvertisements", in.NeighborAdvert.Value()},
		{"Icmp6OutDestUnreachs", out.DstUnreachable.Value()}, {"Icmp6OutEchos", out.EchoRequest.Value() + n.echoes[1].Load()}, {"Icmp6OutEchoReplies", out.EchoReply.Value()},
		{"Icmp6OutRouterSolicits", out.RouterSolicit.Value()}, {"Icmp6OutNeighborSolicits", out.NeighborSolicit.Value()},
		{"Icmp6OutNeighborAdvertisements", out.NeighborAdvert.Value()},
	} {
		fmt.Fprintf(b, "%-32s\t%d\n", row.name, row.value)
	}
}

// procExtended is /proc/net/netstat (net/ipv4/proc.c, netstat_seq_show), of what is counted.
func (n *Stack) procExtended(b *bytes.Buffer) {
	t := n.counters().TCP
	v := func(c *tcpip.StatCounter) uint64 { return c.Value() }
	rows(b, "TcpExt", "SyncookiesSent SyncookiesRecv SyncookiesFailed ListenOverflows ListenDrops TCPSackRecovery TCPLossProbes TCPFastRetrans TCPSlowStartRetrans TCPTimeouts TCPSpuriousRTOs TCPAbortOnTimeout TCPDSACKRecvSegs",
		v(t.ListenOverflowSynCookieSent), v(t.ListenOverflowSynCookieRcvd), v(t.ListenOverflowInvalidSynCookieRcvd),
		v(t.ListenOverflowAckDrop), v(t.ListenOverflowAckDrop)+v(t.ListenOverflowSynDrop), v(t.SACKRecovery), v(t.TLPRecovery), v(t.FastRetransmit),
		v(t.SlowStartRetransmits), v(t.Timeouts), v(t.SpuriousRTORecovery), v(t.EstablishedTimedout), v(t.SegmentsAckedWithDSACK))
	var in, out uint64
	for _, l := range n.Links() {
		headers := uint64(0)
		if l.Type == unix.ARPHRD_ETHER {
			headers = EthernetHeader
		}
		in, out = in+l.Stats.RxBytes-headers*l.Stats.RxPackets, out+l.Stats.TxBytes-headers*l.Stats.TxPackets
	}
	rows(b, "IpExt", "InOctets OutOctets", in, out)
}
