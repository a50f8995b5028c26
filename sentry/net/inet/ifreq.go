package inet

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"net/netip"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// deviceSets are requests that change a device, named in a struct ifreq; b is its union.
// name has the alias that was asked for. net/core/dev_ioctl.c, dev_ifsioc, and
// net/ipv4/devinet.c, devinet_ioctl.
var deviceSets = map[uint32]func(n *Stack, d owned, name string, b []byte) error{
	unix.SIOCSIFFLAGS: setFlags,
	unix.SIOCSIFMTU: func(n *Stack, d owned, _ string, b []byte) error {
		mtu := binary.LittleEndian.Uint32(b)
		return n.ChangeLink(d.Index, LinkChange{MTU: &mtu})
	},
	unix.SIOCSIFTXQLEN: func(n *Stack, d owned, _ string, b []byte) error {
		queue := binary.LittleEndian.Uint32(b)
		if int32(queue) < 0 {
			return unix.EINVAL
		}
		return n.ChangeLink(d.Index, LinkChange{Queue: &queue})
	},
	unix.SIOCSIFNAME: func(n *Stack, d owned, _ string, b []byte) error {
		name, _, _ := bytes.Cut(b[:unix.IFNAMSIZ-1], []byte{0})
		to := string(name)
		return n.ChangeLink(d.Index, LinkChange{Name: &to})
	},
	unix.SIOCSIFHWADDR: func(n *Stack, d owned, _ string, b []byte) error {
		if binary.LittleEndian.Uint16(b) != d.Type {
			return unix.EINVAL
		}
		return n.ChangeLink(d.Index, LinkChange{Ethernet: bytes.Clone(b[2:8])})
	},
	unix.SIOCSIFADDR: func(n *Stack, d owned, name string, b []byte) error {
		ip, err := in4(b)
		if err != nil {
			return err
		}
		size, ok := classOf(ip)
		if !ok {
			return unix.EINVAL
		}
		return n.replace4(d, name, func(a *address) error {
			*a = address{index: d.Index, net: netip.PrefixFrom(ip, size), label: name}
			if d.Link.Flags&unix.IFF_BROADCAST != 0 && size < 31 {
				a.broadcast = lastOf(a.net)
			}
			return nil
		})
	},
	unix.SIOCSIFNETMASK: func(n *Stack, d owned, name string, b []byte) error {
		mask, err := in4(b)
		if err != nil {
			return err
		}
		size, ok := maskBits(mask)
		if !ok {
			return unix.EINVAL
		}
		return n.replace4(d, name, func(a *address) error {
			if !a.net.IsValid() {
				return unix.EADDRNOTAVAIL
			}
			old := a.net
			a.net = netip.PrefixFrom(old.Addr(), size)
			if d.Link.Flags&unix.IFF_BROADCAST != 0 && old.Bits() < 31 && a.broadcast == lastOf(old) {
				a.broadcast = lastOf(a.net)
			}
			return nil
		})
	},
	unix.SIOCSIFBRDADDR: func(n *Stack, d owned, name string, b []byte) error {
		ip, err := in4(b)
		if err != nil {
			return err
		}
		return n.replace4(d, name, func(a *address) error {
			if !a.net.IsValid() {
				return unix.EADDRNOTAVAIL
			}
			a.broadcast = ip
			return nil
		})
	},
}

func setFlags(n *Stack, d owned, name string, b []byte) error {
	flags := uint32(binary.LittleEndian.Uint16(b))
	if name != d.Name { // an alias can only go
		if flags&unix.IFF_UP != 0 {
			return nil
		}
		return n.replace4(d, name, func(a *address) error {
			if !a.net.IsValid() {
				return unix.EADDRNOTAVAIL
			}
			*a = address{}
			return nil
		})
	}
	up, promiscuous := flags&unix.IFF_UP != 0, flags&unix.IFF_PROMISC != 0
	return n.ChangeLink(d.Index, LinkChange{Up: &up, Promiscuous: &promiscuous})
}

// in4 reads a struct sockaddr_in.
func in4(b []byte) (netip.Addr, error) {
	if binary.LittleEndian.Uint16(b) != unix.AF_INET {
		return netip.Addr{}, unix.EINVAL
	}
	return netip.AddrFrom4([4]byte(b[4:8])), nil
}

// classOf is how long an address's net was before nets had masks (inet_abc_len).
func classOf(ip netip.Addr) (bits int, ok bool) {
	b := ip.As4()
	switch {
	case b == [4]byte{255, 255, 255, 255} || b[0] == 0:
		return 0, true
	case b[0] < 128:
		return 8, true
	case b[0] < 192:
		return 16, true
	case b[0] < 224:
		return 24, true
	case b[0] >= 240:
		return 32, true
	}
	return 0, false
}

// maskBits is how many ones a mask begins with; false: it has others.
func maskBits(mask netip.Addr) (int, bool) {
	b := mask.As4()
	v := binary.BigEndian.Uint32(b[:])
	n := bits.LeadingZeros32(^v)
	return n, v<<n == 0
}

// replace4 changes the address of IPv4 that has a label, the first of them: f gets it, or one
// that is not valid, and what it makes of it takes its place. One without an address goes.
func (n *Stack) replace4(d owned, label string, f func(*address) error) error {
	return n.change(Asker{}, func(c *config) error {
		it := c.nic(d.Index)
		if it == nil {
			return unix.ENODEV
		}
		var old, a address
		for _, o := range c.addrs {
			if o.index == d.Index && o.net.Addr().Is4() && o.label == label {
				old, a = o, o
				break
			}
		}
		if err := f(&a); err != nil {
			return err
		}
		if old.net.IsValid() {
			if a == old {
				return nil
			}
			c.remove(old)
		}
		if !a.net.IsValid() || a.net.Addr().IsUnspecified() {
			return nil
		}
		if a.net.Addr().IsLoopback() {
			a.scope = unix.RT_SCOPE_HOST
		}
		return c.addAddr(it, a.shown(), false)
	})
}

// struct rtentry, as far as it is heeded (include/uapi/linux/route.h).
const (
	rtSize    = 120
	rtDst     = 8
	rtGateway = 24
	rtMask    = 40
	rtFlags   = 56
	rtMetric  = 80
	rtDev     = 88

	rtfGateway = 2
	rtfHost    = 4
	rtfReject  = 0x200
)

// alterRoute is SIOCADDRT and SIOCDELRT (fib_frontend.c, rtentry_to_fib_config).
func (n *Stack) alterRoute(ctx vfs.Context, cmd uint32, at memory.Addr) error {
	if !n.Administers(ctx) {
		return unix.EPERM
	}
	var b [rtSize]byte
	if err := in(ctx, at, b[:]); err != nil {
		return err
	}
	le := binary.LittleEndian
	if le.Uint16(b[rtDst:]) != unix.AF_INET {
		return unix.EAFNOSUPPORT
	}
	flags := le.Uint16(b[rtFlags:])
	r := Route{Family: unix.AF_INET, IP: bytes.Clone(b[rtDst+4 : rtDst+8]), Prefix: 32, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Scope: unix.RT_SCOPE_NOWHERE}
	if flags&rtfHost == 0 {
		mask := netip.AddrFrom4([4]byte(b[rtMask+4 : rtMask+8]))
		if family := le.Uint16(b[rtMask:]); family != unix.AF_INET && (family != 0 || !mask.IsUnspecified()) {
			return unix.EAFNOSUPPORT
		}
		size, ok := maskBits(mask)
		if !ok {
			return unix.EINVAL
		}
		r.Prefix = uint8(size)
	}
	if netip.PrefixFrom(netip.AddrFrom4([4]byte(r.IP)), int(r.Prefix)).Masked().Addr() != netip.AddrFrom4([4]byte(r.IP)) {
		return unix.EINVAL
	}
	if metric := int16(le.Uint16(b[rtMetric:])); metric != 0 {
		r.Priority = uint32(int32(metric) - 1)
	}
	if flags&rtfReject != 0 {
		return unix.EOPNOTSUPP
	}
	if dev := memory.Addr(le.Uint64(b[rtDev:])); dev != 0 {
		var name [unix.IFNAMSIZ]byte
		if err := in(ctx, dev, name[:unix.IFNAMSIZ-1]); err != nil {
			return err
		}
		to, _, _ := bytes.Cut(name[:], []byte{0})
		d := n.config.Load().named(string(to))
		if d == nil {
			return unix.ENODEV
		}
		r.Link = d.index
	}
	gateway := netip.AddrFrom4([4]byte(b[rtGateway+4 : rtGateway+8]))
	if le.Uint16(b[rtGateway:]) == unix.AF_INET && !gateway.IsUnspecified() {
		r.Gateway = gateway.AsSlice()
		if flags&rtfGateway != 0 {
			r.Scope = unix.RT_SCOPE_UNIVERSE
		}
	}
	if cmd == unix.SIOCDELRT {
		return n.DeleteRoute(Asker{}, r)
	}
	if flags&rtfGateway != 0 && r.Gateway == nil {
		return unix.EINVAL
	}
	if r.Scope == unix.RT_SCOPE_NOWHERE {
		r.Scope = unix.RT_SCOPE_LINK
	}
	r.Protocol = unix.RTPROT_BOOT
	return n.AddRoute(Asker{}, r, unix.NLM_F_CREATE)
}

// alterAddress6 takes struct in6_ifreq (include/uapi/linux/ipv6.h).
func (n *Stack) alterAddress6(ctx vfs.Context, cmd uint32, at memory.Addr) error {
	if !n.Administers(ctx) {
		return unix.EPERM
	}
	var b [24]byte
	if err := in(ctx, at, b[:]); err != nil {
		return err
	}
	prefix := binary.LittleEndian.Uint32(b[16:])
	if prefix > 128 {
		return unix.EINVAL
	}
	a := Addr{Link: int(int32(binary.LittleEndian.Uint32(b[20:]))), IP: bytes.Clone(b[:16]), Prefix: uint8(prefix)}
	if cmd == unix.SIOCDIFADDR {
		return n.DeleteAddr(Asker{}, a)
	}
	return n.AddAddr(Asker{}, a, false)
}

// alterRoute6 takes struct in6_rtmsg (include/uapi/linux/ipv6_route.h).
func (n *Stack) alterRoute6(ctx vfs.Context, cmd uint32, at memory.Addr) error {
	if !n.Administers(ctx) {
		return unix.EPERM
	}
	var b [80]byte
	if err := in(ctx, at, b[:]); err != nil {
		return err
	}
	le := binary.LittleEndian
	r := Route{Family: unix.AF_INET6, Table: unix.RT_TABLE_MAIN, IP: bytes.Clone(b[:16]), Prefix: uint8(min(le.Uint16(b[52:]), 255)),
		Priority: le.Uint32(b[56:]), Link: int(int32(le.Uint32(b[76:])))}
	flags := le.Uint32(b[72:])
	if le.Uint16(b[54:]) != 0 || flags&rtfReject != 0 {
		return unix.EOPNOTSUPP
	}
	if flags&rtfGateway != 0 {
		r.Gateway = bytes.Clone(b[32:48])
	}
	if cmd == unix.SIOCDELRT {
		return n.DeleteRoute(Asker{}, r)
	}
	r.Type, r.Protocol = unix.RTN_UNICAST, unix.RTPROT_BOOT
	return n.AddRoute(Asker{}, r, unix.NLM_F_CREATE)
}
