package netlink

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/net/inet"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// change serves requests that change something. What the stack has not is EOPNOTSUPP, and
// nothing of such a request is done.
func (s *Socket) change(c socket.Caller, h header, request []byte) [][]byte {
	body := request[headerSize:]
	if !s.net.Administers(c) || !s.admin {
		return h.failed(unix.EPERM, request)
	}
	by := inet.Asker{Seq: h.seq, Port: h.port}
	serve := map[uint16]func(inet.Asker, header, []byte) error{
		unix.RTM_NEWLINK: s.setLink, unix.RTM_SETLINK: s.setLink, unix.RTM_DELLINK: s.deleteLink,
		unix.RTM_NEWADDR: s.changeAddress, unix.RTM_DELADDR: s.changeAddress,
		unix.RTM_NEWROUTE: s.changeRoute, unix.RTM_DELROUTE: s.changeRoute,
		unix.RTM_NEWNEIGH: s.changeNeighbour, unix.RTM_DELNEIGH: s.changeNeighbour,
	}[h.typ]
	if serve == nil {
		return h.failed(unix.EOPNOTSUPP, request)
	}
	if err := serve(by, h, body); err != nil {
		e, ok := err.(unix.Errno)
		if !ok {
			e = unix.EIO
		}
		return h.failed(e, request)
	}
	return h.acknowledged(request)
}

// given are attributes, each of which is to be asked for: what is left is refused.
type given map[uint16][]byte

func (g given) take(typ uint16) []byte {
	b := g[typ]
	delete(g, typ)
	return b
}

// word is one of four bytes; ok is false where there is none of that size.
func (g given) word(typ uint16) (v uint32, ok bool) {
	if b := g.take(typ); len(b) >= 4 {
		return binary.LittleEndian.Uint32(b), true
	}
	return 0, false
}

func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

// setLink is do_setlink.
func (s *Socket) setLink(_ inet.Asker, h header, body []byte) error {
	if len(body) < unix.SizeofIfInfomsg {
		return unix.EINVAL
	}
	l, ok := s.wanted(body)
	if !ok {
		if h.typ == unix.RTM_NEWLINK && h.flags&unix.NLM_F_CREATE != 0 {
			return unix.EOPNOTSUPP // of a kind that there is none of
		}
		return unix.ENODEV
	}
	if h.typ == unix.RTM_NEWLINK && h.flags&unix.NLM_F_EXCL != 0 {
		return unix.EEXIST
	}
	le := binary.LittleEndian
	flags, mask := le.Uint32(body[8:]), le.Uint32(body[12:])
	if mask == 0 && flags != 0 { // rtnl_dev_combine_flags
		mask = ^uint32(0)
	}
	var ch inet.LinkChange
	const fixed = unix.IFF_NOARP | unix.IFF_ALLMULTI | unix.IFF_MULTICAST | unix.IFF_DYNAMIC | unix.IFF_DEBUG | unix.IFF_NOTRAILERS
	if (l.Flags^flags)&mask&fixed != 0 && mask != ^uint32(0) {
		return unix.EOPNOTSUPP
	}
	if mask&unix.IFF_UP != 0 {
		up := flags&unix.IFF_UP != 0
		ch.Up = &up
	}
	if mask&unix.IFF_PROMISC != 0 {
		promiscuous := flags&unix.IFF_PROMISC != 0
		ch.Promiscuous = &promiscuous
	}
	g := given(parseAttributes(body[unix.SizeofIfInfomsg:]))
	if name := g.take(unix.IFLA_IFNAME); name != nil {
		to := text(name)
		if index := le.Uint32(body[4:]); index != 0 {
			ch.Name = &to
		}
	}
	if mtu, ok := g.word(unix.IFLA_MTU); ok {
		ch.MTU = &mtu
	}
	if queue, ok := g.word(unix.IFLA_TXQLEN); ok {
		ch.Queue = &queue
	}
	if a := g.take(unix.IFLA_ADDRESS); a != nil {
		if len(a) < 6 {
			return unix.EINVAL
		}
		ch.Ethernet = a[:6]
	}
	g.take(unix.IFLA_EXT_MASK)
	if len(g) > 0 {
		return unix.EOPNOTSUPP
	}
	return s.net.ChangeLink(l.Index, ch)
}

// deleteLink: no device here was made here.
func (s *Socket) deleteLink(_ inet.Asker, _ header, body []byte) error {
	if len(body) < unix.SizeofIfInfomsg {
		return unix.EINVAL
	}
	if _, ok := s.wanted(body); !ok {
		return unix.ENODEV
	}
	return unix.EOPNOTSUPP
}

// sizeOf is how many bytes an address of a family has, 0 of others than those of IP.
func sizeOf(family byte) int {
	switch family {
	case unix.AF_INET:
		return 4
	case unix.AF_INET6:
		return 16
	}
	return 0
}

const ifaProto = 11 // IFA_PROTO: who made it, which is not kept

// changeAddress is inet_rtm_newaddr and inet6_rtm_newaddr, and what deletes.
func (s *Socket) changeAddress(by inet.Asker, h header, body []byte) error {
	if len(body) < unix.SizeofIfAddrmsg {
		return unix.EINVAL
	}
	family, size := body[0], sizeOf(body[0])
	if size == 0 {
		return unix.EOPNOTSUPP
	}
	a := inet.Addr{Link: int(int32(binary.LittleEndian.Uint32(body[4:]))), Prefix: body[1], Flags: uint32(body[2]), Scope: body[3]}
	g := given(parseAttributes(body[unix.SizeofIfAddrmsg:]))
	local, peer := g.take(unix.IFA_LOCAL), g.take(unix.IFA_ADDRESS)
	if a.IP = local; local == nil && (family == unix.AF_INET6 || h.typ == unix.RTM_DELADDR) {
		a.IP = peer
	}
	if len(a.IP) != size || int(a.Prefix) > 8*size {
		return unix.EINVAL
	}
	if _, ok := s.net.Link(a.Link); !ok {
		return unix.ENODEV
	}
	a.Label = text(g.take(unix.IFA_LABEL))
	if h.typ == unix.RTM_DELADDR {
		// IFA_ADDRESS is the net of it; without that any prefix is meant.
		a.AnyPrefix = family == unix.AF_INET && peer == nil
		return s.net.DeleteAddr(by, a)
	}
	if peer != nil && local != nil && !bytes.Equal(local, peer) {
		return unix.EOPNOTSUPP // the far end of a line
	}
	if b := g.take(unix.IFA_BROADCAST); b != nil {
		if len(b) != size {
			return unix.EINVAL
		}
		a.Broadcast = b
	}
	if flags, ok := g.word(unix.IFA_FLAGS); ok {
		a.Flags = flags
	}
	if metric, ok := g.word(unix.IFA_RT_PRIORITY); ok {
		a.Metric = metric
	}
	const heeded = unix.IFA_F_PERMANENT | unix.IFA_F_SECONDARY | unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
	if c := g.take(unix.IFA_CACHEINFO); c != nil {
		if len(c) < 8 || binary.LittleEndian.Uint64(c) != ^uint64(0) {
			return unix.EOPNOTSUPP // an address that ends
		}
	}
	g.take(ifaProto)
	if len(g) > 0 || a.Flags&^heeded != 0 {
		return unix.EOPNOTSUPP
	}
	return s.net.AddAddr(by, a, h.flags&unix.NLM_F_REPLACE != 0 && h.flags&unix.NLM_F_EXCL == 0)
}

// changeRoute is inet_rtm_newroute, inet6_rtm_newroute, and what deletes.
func (s *Socket) changeRoute(by inet.Asker, h header, body []byte) error {
	if len(body) < unix.SizeofRtMsg {
		return unix.EINVAL
	}
	size := sizeOf(body[0])
	if size == 0 {
		return unix.EOPNOTSUPP
	}
	r := inet.Route{Family: int(body[0]), Prefix: body[1], Table: body[4], Protocol: body[5], Scope: body[6], Type: body[7]}
	flags := binary.LittleEndian.Uint32(body[8:])
	g := given(parseAttributes(body[unix.SizeofRtMsg:]))
	for typ, to := range map[uint16]*[]byte{unix.RTA_DST: &r.IP, unix.RTA_GATEWAY: &r.Gateway, unix.RTA_PREFSRC: &r.Source} {
		if b := g.take(typ); b != nil {
			if len(b) != size {
				return unix.EINVAL
			}
			*to = b
		}
	}
	if link, ok := g.word(unix.RTA_OIF); ok {
		r.Link = int(int32(link))
	}
	if metric, ok := g.word(unix.RTA_PRIORITY); ok {
		r.Priority = metric
	}
	if table, ok := g.word(unix.RTA_TABLE); ok {
		if table > unix.RT_TABLE_LOCAL {
			return unix.EOPNOTSUPP
		}
		r.Table = uint8(table)
	}
	if r.Type > unix.RTN_XRESOLVE {
		return unix.EINVAL
	}
	if pref := g.take(unix.RTA_PREF); len(pref) > 0 && pref[0] != 0 {
		return unix.EOPNOTSUPP
	}
	r.OnLink = flags&unix.RTNH_F_ONLINK != 0
	if flags&^(unix.RTNH_F_ONLINK|unix.RTNH_F_LINKDOWN|unix.RTNH_F_DEAD) != 0 || len(g) > 0 || body[2] != 0 || body[3] != 0 {
		return unix.EOPNOTSUPP // several ways, sizes of its own, a kind of service, a source
	}
	if h.typ == unix.RTM_DELROUTE {
		return s.net.DeleteRoute(by, r)
	}
	return s.net.AddRoute(by, r, inet.How(h.flags))
}

// changeNeighbour is neigh_add and neigh_delete; what is added is there for good.
func (s *Socket) changeNeighbour(by inet.Asker, h header, body []byte) error {
	if len(body) < unix.SizeofNdMsg {
		return unix.EINVAL
	}
	size := sizeOf(body[0])
	if size == 0 {
		return unix.EAFNOSUPPORT
	}
	g := given(parseAttributes(body[unix.SizeofNdMsg:]))
	e := inet.Neighbour{Link: int(int32(binary.LittleEndian.Uint32(body[4:]))), IP: g.take(unix.NDA_DST)}
	if len(e.IP) != size {
		return unix.EINVAL
	}
	if h.typ == unix.RTM_DELNEIGH {
		return s.net.DeleteNeighbour(by, e)
	}
	lladdr := g.take(unix.NDA_LLADDR)
	if _, ok := s.net.Link(e.Link); ok && lladdr != nil && len(lladdr) < 6 {
		return unix.EINVAL
	}
	state := binary.LittleEndian.Uint16(body[8:])
	if state&(unix.NUD_PERMANENT|unix.NUD_NOARP) == 0 || len(lladdr) < 6 || len(g) > 0 || body[10]&unix.NTF_PROXY != 0 {
		return unix.EOPNOTSUPP // what is learnt, the library learns
	}
	e.Ethernet = bytes.Clone(lladdr[:6])
	return s.net.SetNeighbour(by, e, inet.How(h.flags))
}

// Heard implements inet.Holder: a member of a group gets what happened.
func (s *Socket) Heard(e inet.Event) {
	group, typ := 0, uint16(0)
	switch {
	case e.Link != nil:
		group, typ = unix.RTNLGRP_LINK, unix.RTM_NEWLINK
	case e.Addr != nil:
		group, typ = unix.RTNLGRP_IPV4_IFADDR, unix.RTM_NEWADDR
		if len(e.Addr.IP) == 16 {
			group = unix.RTNLGRP_IPV6_IFADDR
		}
	case e.Route != nil:
		group, typ = unix.RTNLGRP_IPV4_ROUTE, unix.RTM_NEWROUTE
		if e.Route.Family == unix.AF_INET6 {
			group = unix.RTNLGRP_IPV6_ROUTE
		}
	case e.Near != nil:
		group, typ = unix.RTNLGRP_NEIGH, unix.RTM_NEWNEIGH
	}
	if e.Gone {
		typ++ // RTM_DEL…
	}
	s.mu.Lock()
	if s.proto != unix.NETLINK_ROUTE || s.groups&(1<<(group-1)) == 0 {
		s.mu.Unlock()
		return
	}
	var body []byte
	switch {
	case e.Link != nil:
		body = link(*e.Link, e.Flags)
	case e.Addr != nil:
		body = address(*e.Addr)
	case e.Route != nil:
		body = route(*e.Route, 0)
	case e.Near != nil:
		body = neighbour(familyOf(e.Near.IP), *e.Near)
	}
	flags := uint16(0)
	if e.Replaced {
		flags = unix.NLM_F_REPLACE
	}
	s.putLocked(header{typ, flags, e.By.Seq, e.By.Port}.message(body), group)
	s.mu.Unlock()
	s.queue.Notify(vfs.EventIn)
}
