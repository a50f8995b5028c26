package inet

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"

	"bulkhead/sentry/net/socket"
)

// group is a multicast membership.
type group struct {
	addr tcpip.Address
	nic  tcpip.NICID
}

// member joins a group or leaves it. ip_mc_join_group, ipv6_sock_mc_join.
func (s *Socket) member(join bool, g group) error {
	if !multicast(g.addr) {
		return unix.EINVAL
	}
	if s.typ == unix.SOCK_STREAM {
		return unix.EPROTO
	}
	if !join {
		if !s.groups[g] {
			return unix.EADDRNOTAVAIL
		}
		delete(s.groups, g)
		s.net.part(g)
		return errno(s.ep.SetSockOpt(&tcpip.RemoveMembershipOption{NIC: g.nic, MulticastAddr: g.addr}))
	}
	if s.groups[g] {
		return unix.EADDRINUSE
	}
	if err := s.ep.SetSockOpt(&tcpip.AddMembershipOption{NIC: g.nic, MulticastAddr: g.addr}); err != nil {
		return errno(err)
	}
	if s.groups == nil {
		s.groups = map[group]bool{}
	}
	s.groups[g] = true
	s.net.enlist(g)
	return nil
}

// deviceAt finds a device by index, or by an address of it; neither: by the route
// to the group, which there is none of. ip_mc_find_dev.
func (s *Socket) deviceAt(index int32, addr [4]byte) (tcpip.NICID, bool) {
	switch {
	case index > 0 && s.net.known(int(index)):
		return tcpip.NICID(index), true
	case index != 0:
		return 0, false
	case addr != [4]byte{}:
		nic := tcpip.NICID(s.net.at(netip.AddrFrom4(addr)))
		return nic, nic != 0
	}
	for _, d := range s.net.config.Load().nics { // where the default route leads
		if !d.loopback() && d.up {
			return tcpip.NICID(d.index), true
		}
	}
	return 0, false
}

// member4 takes struct ip_mreq and ip_mreqn.
func member4(join bool) func(*Socket, socket.Caller, []byte) error {
	return func(s *Socket, _ socket.Caller, b []byte) error {
		if len(b) < 8 {
			return unix.EINVAL
		}
		if s.typ == unix.SOCK_STREAM {
			return unix.EPROTO
		}
		var index int32
		if len(b) >= 12 {
			index = int32(binary.LittleEndian.Uint32(b[8:]))
		}
		addr := tcpip.AddrFrom4([4]byte(b))
		if !multicast(addr) {
			return unix.EINVAL
		}
		nic, ok := s.deviceAt(index, [4]byte(b[4:8]))
		if !ok {
			if !join && index == 0 {
				nic = Loopback
				if [4]byte(b[4:8]) == [4]byte{} && s.groups[group{addr, nic}] {
					return s.member(join, group{addr, nic})
				}
			}
			return unix.ENODEV
		}
		return s.member(join, group{addr, nic})
	}
}

// member6 takes struct ipv6_mreq.
func member6(join bool) func(*Socket, socket.Caller, []byte) error {
	return func(s *Socket, _ socket.Caller, b []byte) error {
		if len(b) < unix.SizeofIPv6Mreq {
			return unix.EINVAL
		}
		if s.typ == unix.SOCK_STREAM {
			return unix.EPROTO
		}
		addr := tcpip.AddrFrom16([16]byte(b))
		if !multicast(addr) {
			return unix.EINVAL
		}
		nic, ok := s.deviceAt(int32(binary.LittleEndian.Uint32(b[16:])), [4]byte{})
		if !ok {
			return unix.ENODEV
		}
		return s.member(join, group{addr, nic})
	}
}

// memberAny takes struct group_req.
func memberAny(join bool) func(*Socket, socket.Caller, []byte) error {
	return func(s *Socket, _ socket.Caller, b []byte) error {
		const size = 136
		if len(b) < size {
			return unix.EINVAL
		}
		a, err := parseName(b[8:], s.family)
		if err != nil {
			return unix.EINVAL
		}
		if s.typ == unix.SOCK_STREAM {
			return unix.EPROTO
		}
		if !multicast(a.Addr) {
			return unix.EINVAL
		}
		nic, ok := s.deviceAt(int32(binary.LittleEndian.Uint32(b)), [4]byte{})
		if !ok {
			return unix.ENODEV
		}
		return s.member(join, group{a.Addr, nic})
	}
}

var multicastIf = opt{unix.SOL_IP, unix.IP_MULTICAST_IF}

func (s *Socket) multicastIf4(int) ([]byte, error) {
	if v := s.extra[multicastIf]; v != nil {
		return v, nil
	}
	return make([]byte, 4), nil
}

// setMulticastIf4 takes struct in_addr, ip_mreq and ip_mreqn.
func (s *Socket) setMulticastIf4(_ socket.Caller, b []byte) error {
	if s.typ == unix.SOCK_STREAM || len(b) < 4 {
		return unix.EINVAL
	}
	var index int32
	addr := [4]byte(b)
	if len(b) >= 8 {
		addr = [4]byte(b[4:8])
	}
	if len(b) >= 12 {
		index = int32(binary.LittleEndian.Uint32(b[8:]))
	}
	o := tcpip.MulticastInterfaceOption{}
	if index != 0 || addr != [4]byte{} {
		nic, ok := s.deviceAt(index, addr)
		if !ok {
			return unix.EADDRNOTAVAIL
		}
		o.NIC = nic
		if addr != [4]byte{} {
			o.InterfaceAddr = tcpip.AddrFrom4(addr)
		}
	}
	if err := s.ep.SetSockOpt(&o); err != nil {
		return errno(err)
	}
	s.keep(multicastIf, addr[:])
	return nil
}

var multicastIf6Opt = opt{unix.SOL_IPV6, unix.IPV6_MULTICAST_IF}

func (s *Socket) multicastIf6(int) ([]byte, error) {
	if v := s.extra[multicastIf6Opt]; v != nil {
		return v, nil
	}
	return socket.Int(0), nil
}

func (s *Socket) setMulticastIf6(_ socket.Caller, b []byte) error {
	v, err := socket.ParseInt(b)
	switch {
	case err != nil:
		return err
	case s.typ == unix.SOCK_STREAM:
		return unix.ENOPROTOOPT
	case v != 0 && !s.net.known(int(v)):
		return unix.ENODEV
	}
	if err := s.ep.SetSockOptInt(tcpip.IPv6MulticastInterfaceOption, int(v)); err != nil {
		return errno(err)
	}
	s.keep(multicastIf6Opt, socket.Int(int(v)))
	return nil
}

// icmpFilter is ICMP_FILTER of a raw socket for ICMP.
func (s *Socket) icmpFilter(int) ([]byte, error) {
	if s.family != unix.AF_INET || s.protocol != unix.IPPROTO_ICMP {
		return nil, unix.EOPNOTSUPP
	}
	return socket.Int(int(atomic.LoadUint32(&s.filter[0]))), nil
}

func (s *Socket) setICMPFilter(_ socket.Caller, b []byte) error {
	if s.family != unix.AF_INET || s.protocol != unix.IPPROTO_ICMP {
		return unix.EOPNOTSUPP
	}
	var four [4]byte
	copy(four[:], b)
	atomic.StoreUint32(&s.filter[0], binary.LittleEndian.Uint32(four[:]))
	return nil
}

// icmp6Filter is ICMPV6_FILTER: types that do not pass.
func (s *Socket) icmp6Filter(int) ([]byte, error) {
	var b []byte
	for _, w := range s.filter {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b, nil
}

func (s *Socket) setICMP6Filter(_ socket.Caller, b []byte) error {
	if s.family != unix.AF_INET6 || s.protocol != unix.IPPROTO_ICMPV6 {
		return unix.EOPNOTSUPP
	}
	for i := 0; i < len(s.filter) && len(b) >= 4*i+4; i++ {
		s.filter[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return errno(s.ep.SetSockOpt(&tcpip.ICMPv6Filter{DenyType: s.filter}))
}
