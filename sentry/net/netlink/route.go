package netlink

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/net/inet"
	"bulkhead/sentry/net/socket"
)

// header is struct nlmsghdr.
type header struct {
	typ, flags uint16
	seq, port  uint32
}

const headerSize = unix.SizeofNlMsghdr

func align(n int) int { return (n + 3) &^ 3 } // NLMSG_ALIGN

// message puts a header before body.
func (h header) message(body []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(headerSize+len(body)))
	b = le.AppendUint16(le.AppendUint16(b, h.typ), h.flags)
	b = le.AppendUint32(le.AppendUint32(b, h.seq), h.port)
	b = append(b, body...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

// attribute is a struct rtattr.
func attribute(typ uint16, data []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint16(nil, uint16(4+len(data)))
	b = append(le.AppendUint16(b, typ), data...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

// attributes appends those with data.
func attributes(b []byte, list ...attr) []byte {
	for _, a := range list {
		if a.data != nil {
			b = append(b, attribute(a.typ, a.data)...)
		}
	}
	return b
}

type attr struct {
	typ  uint16
	data []byte
}

// parseAttributes reads the attributes behind a fixed part; the first of a kind
// counts, and what is malformed ends the list.
func parseAttributes(b []byte) map[uint16][]byte {
	const nested = 0x3fff // NLA_TYPE_MASK
	list := map[uint16][]byte{}
	for len(b) >= 4 {
		size := int(binary.LittleEndian.Uint16(b))
		if size < 4 || size > len(b) {
			break
		}
		typ := binary.LittleEndian.Uint16(b[2:]) & nested
		if _, twice := list[typ]; !twice {
			list[typ] = b[4:size]
		}
		b = b[min(align(size), len(b)):]
	}
	return list
}

func u32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

// link describes a device (net/core/rtnetlink.c, rtnl_fill_ifinfo).
// changed are the flags that an event is about.
func link(l inet.Link, changed uint32) []byte {
	le := binary.LittleEndian
	b := []byte{unix.AF_UNSPEC, 0}
	b = le.AppendUint16(b, l.Type)
	b = le.AppendUint32(b, uint32(l.Index))
	b = le.AppendUint32(b, l.Flags)
	b = le.AppendUint32(b, changed)
	carrier := byte(0)
	if l.Flags&unix.IFF_UP != 0 {
		carrier = 1
	}
	wide, narrow := make([]byte, 0, 25*8), make([]byte, 0, 24*4)
	for _, v := range linkStats(l.Stats) {
		wide, narrow = le.AppendUint64(wide, v), le.AppendUint32(narrow, uint32(v))
	}
	return attributes(b, []attr{
		{unix.IFLA_IFNAME, []byte(l.Name + "\x00")}, {unix.IFLA_TXQLEN, u32(l.Queue)}, {unix.IFLA_OPERSTATE, []byte{l.State}},
		{unix.IFLA_LINKMODE, []byte{0}}, {unix.IFLA_MTU, u32(l.MTU)}, {unix.IFLA_MIN_MTU, u32(l.LeastMTU)}, {unix.IFLA_MAX_MTU, u32(l.MostMTU)},
		{unix.IFLA_GROUP, u32(0)}, {unix.IFLA_PROMISCUITY, u32(l.Promiscuity)}, {unix.IFLA_NUM_TX_QUEUES, u32(1)},
		{unix.IFLA_GSO_MAX_SEGS, u32(65535)}, {unix.IFLA_GSO_MAX_SIZE, u32(65536)}, {unix.IFLA_NUM_RX_QUEUES, u32(1)},
		{unix.IFLA_CARRIER, []byte{carrier}}, {unix.IFLA_QDISC, []byte(l.Qdisc + "\x00")}, {unix.IFLA_CARRIER_CHANGES, u32(0)},
		{unix.IFLA_ADDRESS, l.Address}, {unix.IFLA_BROADCAST, l.Broadcast},
		{unix.IFLA_STATS64, wide[:cap(wide)]}, {unix.IFLA_STATS, narrow[:cap(narrow)]},
	}...)
}

// linkStats are the first fields of struct rtnl_link_stats64.
func linkStats(s inet.LinkStats) []uint64 {
	return []uint64{s.RxPackets, s.TxPackets, s.RxBytes, s.TxBytes, 0, 0, s.RxDropped, s.TxDropped, 0, 0, 0, 0, 0, 0, 0, s.RxMissed}
}

// address describes one (inet_fill_ifaddr, inet6_fill_ifaddr).
func address(a inet.Addr) []byte {
	family, scope := byte(unix.AF_INET), a.Scope
	if len(a.IP) == 16 {
		family = unix.AF_INET6
	}
	b := append([]byte{family, a.Prefix, byte(a.Flags), scope}, u32(uint32(a.Link))...)
	cache := append(append(u32(^uint32(0)), u32(^uint32(0))...), make([]byte, 8)...)
	list := []attr{{unix.IFA_ADDRESS, a.IP}}
	if family == unix.AF_INET {
		list = append(list, attr{unix.IFA_LOCAL, a.IP}, attr{unix.IFA_BROADCAST, a.Broadcast}, attr{unix.IFA_LABEL, []byte(a.Label + "\x00")})
	}
	if a.Metric != 0 {
		list = append(list, attr{unix.IFA_RT_PRIORITY, u32(a.Metric)})
	}
	list = append(list, attr{unix.IFA_FLAGS, u32(a.Flags)}, attr{unix.IFA_CACHEINFO, cache})
	return attributes(b, list...)
}

// route describes one (fib_dump_info, rt6_fill_node).
func route(r inet.Route, flags uint32) []byte {
	b := []byte{byte(r.Family), r.Prefix, 0, 0, r.Table, r.Protocol, r.Scope, r.Type}
	if r.OnLink {
		flags |= unix.RTNH_F_ONLINK
	}
	b = append(b, u32(flags)...)
	list := []attr{{unix.RTA_TABLE, u32(uint32(r.Table))}, {unix.RTA_DST, r.IP}}
	if r.Family == unix.AF_INET && r.Priority != 0 {
		list = append(list, attr{unix.RTA_PRIORITY, u32(r.Priority)})
	}
	list = append(list, attr{unix.RTA_PREFSRC, r.Source})
	if r.Family == unix.AF_INET6 {
		list = append(list, attr{unix.RTA_PRIORITY, u32(r.Priority)})
	}
	list = append(list, attr{unix.RTA_GATEWAY, r.Gateway}, attr{unix.RTA_OIF, u32(uint32(r.Link))})
	if r.Family == unix.AF_INET6 {
		list = append(list, attr{unix.RTA_CACHEINFO, make([]byte, 32)}, attr{unix.RTA_PREF, []byte{0}})
	}
	return attributes(b, list...)
}

func familyOf(ip []byte) int {
	if len(ip) == 16 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// neighbour describes one (net/core/neighbour.c, neigh_fill_info).
func neighbour(family int, e inet.Neighbour) []byte {
	const stale, reachable, incomplete = unix.NUD_STALE, unix.NUD_REACHABLE, unix.NUD_INCOMPLETE
	state := uint16(incomplete)
	if e.Ethernet != nil {
		state = stale
	}
	if e.Reachable {
		state = reachable
	}
	if e.Permanent {
		state = unix.NUD_PERMANENT
	}
	b := append([]byte{byte(family), 0, 0, 0}, u32(uint32(e.Link))...)
	b = binary.LittleEndian.AppendUint16(b, state)
	b = append(b, 0, unix.RTN_UNICAST)
	return attributes(b, attr{unix.NDA_DST, e.IP}, attr{unix.NDA_LLADDR, e.Ethernet})
}

// rules are those that Linux has without any policy (fib_default_rules_init).
var rules = []struct {
	priority uint32
	table    byte
	four     bool // only of IPv4
}{{0, unix.RT_TABLE_LOCAL, false}, {32766, unix.RT_TABLE_MAIN, false}, {32767, unix.RT_TABLE_DEFAULT, true}}

func rule(family, table byte, priority uint32) []byte {
	const toTable = 1 // FR_ACT_TO_TBL
	b := []byte{family, 0, 0, 0, table, 0, 0, toTable, 0, 0, 0, 0}
	const fraPriority, fraTable, fraSuppress, fraProtocol = 6, 15, 14, 21
	list := []attr{{fraTable, u32(uint32(table))}, {fraSuppress, u32(^uint32(0))}, {fraProtocol, []byte{unix.RTPROT_KERNEL}}}
	if priority != 0 {
		list = append(list, attr{fraPriority, u32(priority)})
	}
	return attributes(b, list...)
}

// answer serves the requests in b, of a socket bound to port; the replies go to the inbox. Nothing
// is held meanwhile: a change is told to all sockets, this one too.
func (s *Socket) answer(c socket.Caller, port uint32, b []byte) {
	le := binary.LittleEndian
	for len(b) >= headerSize {
		size := le.Uint32(b)
		if size < headerSize || uint64(size) > uint64(len(b)) {
			return
		}
		h := header{le.Uint16(b[4:]), le.Uint16(b[6:]), le.Uint32(b[8:]), port}
		if h.flags&unix.NLM_F_REQUEST != 0 && h.typ >= unix.NLMSG_MIN_TYPE {
			serve := s.serve
			if s.proto == unix.NETLINK_SOCK_DIAG {
				serve = s.diagnose
			}
			replies := serve(c, h, b[:size])
			s.mu.Lock()
			for _, reply := range replies {
				s.putLocked(reply, 0)
			}
			s.mu.Unlock()
		}
		b = b[min(align(int(size)), len(b)):]
	}
}

// begin starts a dump of what list has for a request's body; the reply is why not, or
// none.
func (s *Socket) begin(h header, request []byte, list func(body []byte) (uint16, [][]byte)) [][]byte {
	const most = 64 // bytes of the fixed part, which is all that a list asks for
	body := bytes.Clone(request[headerSize:min(len(request), headerSize+most)])
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.startLocked(h, func() (uint16, [][]byte) { return list(body) }); err != 0 {
		return h.failed(err, request)
	}
	return nil
}

// serve answers one request (rtnetlink_rcv_msg).
func (s *Socket) serve(c socket.Caller, h header, request []byte) [][]byte {
	body := request[headerSize:]
	family := byte(unix.AF_UNSPEC)
	if len(body) > 0 {
		family = body[0]
	}
	kind := (h.typ - unix.RTM_BASE) & 3
	switch {
	case kind != 2: // new, delete, set
		return s.change(c, h, request)
	case h.flags&unix.NLM_F_DUMP != 0:
		return s.begin(h, request, func(body []byte) (uint16, [][]byte) { return s.list(h.typ, family, body) })
	case h.typ == unix.RTM_GETLINK:
		l, ok := s.wanted(body)
		if !ok {
			return h.failed(unix.ENODEV, request)
		}
		reply := header{unix.RTM_NEWLINK, 0, h.seq, h.port}.message(link(l, 0))
		return append([][]byte{reply}, h.acknowledged(request)...)
	case h.typ == unix.RTM_GETROUTE:
		return s.lookUp(h, family, request)
	}
	return h.failed(unix.EOPNOTSUPP, request)
}

// list is what a dump has: objects of family, or of all.
func (s *Socket) list(typ uint16, family byte, body []byte) (reply uint16, objects [][]byte) {
	of := func(f int) bool { return family == unix.AF_UNSPEC || int(family) == f }
	strict := s.flags[unix.NETLINK_GET_STRICT_CHK] != 0
	switch typ {
	case unix.RTM_GETLINK:
		for _, l := range s.net.Links() {
			objects = append(objects, link(l, 0))
		}
		return unix.RTM_NEWLINK, objects
	case unix.RTM_GETADDR:
		only := uint32(0)
		if strict && len(body) >= unix.SizeofIfAddrmsg {
			only = binary.LittleEndian.Uint32(body[4:])
		}
		for _, a := range s.net.Addrs() {
			f := unix.AF_INET
			if len(a.IP) == 16 {
				f = unix.AF_INET6
			}
			if of(f) && (only == 0 || only == uint32(a.Link)) {
				objects = append(objects, address(a))
			}
		}
		return unix.RTM_NEWADDR, objects
	case unix.RTM_GETROUTE:
		for _, r := range s.net.Routes() {
			if of(r.Family) && (!strict || len(body) < unix.SizeofRtMsg || body[4] == 0 || body[4] == r.Table) {
				objects = append(objects, route(r, 0))
			}
		}
		return unix.RTM_NEWROUTE, objects
	case unix.RTM_GETRULE:
		for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
			for _, r := range rules {
				if of(f) && (!r.four || f == unix.AF_INET) {
					objects = append(objects, rule(byte(f), r.table, r.priority))
				}
			}
		}
		return unix.RTM_NEWRULE, objects
	case unix.RTM_GETNEIGH:
		for _, e := range s.net.Neighbours() {
			if f := familyOf(e.IP); of(f) {
				objects = append(objects, neighbour(f, e))
			}
		}
		return unix.RTM_NEWNEIGH, objects
	}
	return 0, nil // qdiscs and what else there is none of
}

// lookUp finds the route to an address (inet_rtm_getroute).
func (s *Socket) lookUp(h header, family byte, request []byte) [][]byte {
	body := request[headerSize:]
	if len(body) < unix.SizeofRtMsg {
		return h.failed(unix.EINVAL, request)
	}
	dst := parseAttributes(body[unix.SizeofRtMsg:])[unix.RTA_DST]
	size := 4
	if family == unix.AF_INET6 {
		size = 16
	}
	if len(dst) != size {
		return h.failed(unix.EINVAL, request)
	}
	if r, ok := s.routeTo(dst); ok {
		const cloned, localCache = 0x200, 0x80000000
		flags := uint32(cloned)
		if r.Type == unix.RTN_LOCAL {
			flags |= localCache
			r.Source, r.Link = dst, inet.Loopback
		}
		r.IP, r.Prefix, r.Scope, r.Table = dst, uint8(8*size), 0, unix.RT_TABLE_MAIN
		if size == 16 { // rt6_fill_node
			flags = 0
		}
		b := route(r, flags)
		if size == 16 {
			b = attributes(b, attr{unix.RTA_SRC, make([]byte, size)})
			b[2] = 8 * uint8(size) // rtm_src_len
		} else {
			b = attributes(b, attr{unix.RTA_UID, u32(0)})
			b[5] = unix.RTPROT_UNSPEC
		}
		return append([][]byte{header{unix.RTM_NEWROUTE, 0, h.seq, h.port}.message(b)}, h.acknowledged(request)...)
	}
	return h.failed(unix.ENETUNREACH, request)
}

// routeTo is the narrowest route to an address, and with it the source that it gives.
func (s *Socket) routeTo(dst []byte) (best inet.Route, ok bool) {
	for _, r := range s.net.Routes() {
		if r.Family != familyOf(dst) || r.Type != unix.RTN_LOCAL && r.Type != unix.RTN_UNICAST {
			continue
		}
		if r.IP != nil && !matches(dst, r.IP, int(r.Prefix)) || ok && r.Prefix <= best.Prefix {
			continue
		}
		best, ok = r, true
	}
	for _, a := range s.net.Addrs() {
		if ok && best.Source == nil && a.Link == best.Link && len(a.IP) == len(dst) && a.Scope == unix.RT_SCOPE_UNIVERSE {
			best.Source = a.IP
		}
	}
	return best, ok
}

func matches(a, net []byte, bits int) bool {
	whole := bits / 8
	if !bytes.Equal(a[:whole], net[:whole]) {
		return false
	}
	rest := bits % 8
	return rest == 0 || (a[whole]^net[whole])>>(8-rest) == 0
}

func (h header) acknowledged(request []byte) [][]byte {
	if h.flags&unix.NLM_F_ACK == 0 {
		return nil
	}
	return h.failed(0, request)
}

// failed is NLMSG_ERROR: the errno and, if there is one, the whole request.
func (h header) failed(e unix.Errno, request []byte) [][]byte {
	body := u32(uint32(-int32(e)))
	if e == 0 {
		request = request[:headerSize]
	}
	return [][]byte{header{unix.NLMSG_ERROR, 0, h.seq, h.port}.message(append(body, request...))}
}

// wanted finds a device by the index in a struct ifinfomsg, or by the name among
// its attributes.
func (s *Socket) wanted(body []byte) (inet.Link, bool) {
	if len(body) < unix.SizeofIfInfomsg {
		return inet.Link{}, false
	}
	index := binary.LittleEndian.Uint32(body[4:])
	name, _, _ := bytes.Cut(parseAttributes(body[unix.SizeofIfInfomsg:])[unix.IFLA_IFNAME], []byte{0})
	for _, l := range s.net.Links() {
		if index != 0 && uint32(l.Index) == index || index == 0 && l.Name == string(name) {
			return l, true
		}
	}
	return inet.Link{}, false
}
