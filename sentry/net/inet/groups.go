package inet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// membership is a group that sockets have joined on a device.
type membership struct {
	group
	users int
}

// enlist and part keep the book of what sockets join and leave.
func (n *Stack) enlist(g group) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i := slices.IndexFunc(n.joined, func(m membership) bool { return m.group == g }); i >= 0 {
		n.joined[i].users++
		return
	}
	n.joined = slices.Insert(n.joined, 0, membership{g, 1})
}

func (n *Stack) part(g group) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.joined, func(m membership) bool { return m.group == g })
	if n.joined[i].users--; n.joined[i].users == 0 {
		n.joined = slices.Delete(n.joined, i, i+1)
	}
}

// Groups that a device is in by itself: of IPv4 while it is up (ip_mc_up), of IPv6 for good (ipv6_add_dev).
var (
	allHosts   = tcpip.AddrFrom4([4]byte{224, 0, 0, 1})
	allNodes   = tcpip.AddrFrom16([16]byte{0: 0xff, 1: 2, 15: 1})
	allNodesIf = tcpip.AddrFrom16([16]byte{0: 0xff, 1: 1, 15: 1})
)

// solicited is the group that an address of IPv6 is asked for in (RFC 4291 §2.7.1).
func solicited(a netip.Addr) tcpip.Address {
	b := a.As16()
	return tcpip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// memberships are a device's groups of one version of IP, the newest first: what sockets have joined,
// then what its addresses have it join, then its own.
func (n *Stack) memberships(c *config, d *nic, v6 bool) []membership {
	var own []membership
	add := func(a tcpip.Address) {
		g := group{a, tcpip.NICID(d.index)}
		if i := slices.IndexFunc(own, func(m membership) bool { return m.group == g }); i >= 0 {
			own[i].users++
			return
		}
		own = append(own, membership{g, 1})
	}
	switch {
	case v6:
		for _, a := range c.addrs {
			if a.index == d.index && a.net.Addr().Is6() && !d.loopback() {
				add(solicited(a.net.Addr()))
			}
		}
		add(allNodes)
		add(allNodesIf)
	case d.up:
		add(allHosts)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []membership
	for _, m := range n.joined {
		if m.nic != tcpip.NICID(d.index) || (m.addr.Len() == 16) != v6 {
			continue
		}
		if i := slices.IndexFunc(own, func(o membership) bool { return o.group == m.group }); i >= 0 {
			own[i].users += m.users
			continue
		}
		all = append(all, m)
	}
	return append(all, own...)
}

// procGroups is /proc/net/igmp (net/ipv4/igmp.c, igmp_mc_seq_show).
func (n *Stack) procGroups(b *bytes.Buffer) {
	b.WriteString("Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n")
	c := n.config.Load()
	for i := range c.nics {
		d := &c.nics[i]
		list := n.memberships(c, d, false)
		for j, m := range list {
			if j == 0 {
				fmt.Fprintf(b, "%d\t%-10s: %5d %7s\n", d.index, d.name, len(list), "V3")
			}
			four := m.addr.As4()
			fmt.Fprintf(b, "\t\t\t\t%08X %5d %d:%08X\t\t%d\n", binary.LittleEndian.Uint32(four[:]), m.users, 0, 0, 0)
		}
	}
}

// What is done for a group of IPv6 (include/net/if_inet6.h).
const (
	mafLoaded   = 4 // the device listens for it
	mafNoReport = 8 // nobody is told that it does
)

// procGroups6 is /proc/net/igmp6 (net/ipv6/mcast.c, igmp6_mc_seq_show).
func (n *Stack) procGroups6(b *bytes.Buffer) {
	c := n.config.Load()
	for i := range c.nics {
		d := &c.nics[i]
		for _, m := range n.memberships(c, d, true) {
			flags := 0
			if m.addr == allNodes || m.addr == allNodesIf {
				flags |= mafNoReport
			}
			if d.wasUp6() && outside(m.addr) {
				flags |= mafLoaded
			}
			fmt.Fprintf(b, "%-4d %-15s %x %5d %08X %d\n", d.index, d.name, m.addr.As16(), m.users, flags, 0)
		}
	}
}

// outside says that a group of IPv6 is of more than the host itself, so that a device has to listen for it.
func outside(a tcpip.Address) bool { return a.As16()[1]&15 >= 2 }

// wasUp6 says whether a device listens for groups of IPv6: from its making on until it goes down (ipv6_mc_down).
func (d *nic) wasUp6() bool { return d.up || !d.was }

// procDeviceGroups is /proc/net/dev_mcast (net/core/dev_addr_lists.c, dev_mc_seq_show): groups as an Ethernet has them.
func (n *Stack) procDeviceGroups(b *bytes.Buffer) {
	c := n.config.Load()
	for i := range c.nics {
		d := &c.nics[i]
		if d.loopback() {
			continue
		}
		row := func(hardware []byte) {
			fmt.Fprintf(b, "%-4d %-15s %-5d %-5d %x\n", d.index, d.name, 1, 0, hardware)
		}
		// In the order in which they were joined, as far as that is known: all nodes, all hosts, the rest.
		six, four := n.memberships(c, d, true), n.memberships(c, d, false)
		slices.Reverse(six)
		slices.Reverse(four)
		rows6 := func(which func(tcpip.Address) bool) {
			for _, m := range six {
				if ip := m.addr.As16(); outside(m.addr) && d.wasUp6() && which(m.addr) {
					row(append([]byte{0x33, 0x33}, ip[12:]...))
				}
			}
		}
		rows6(func(a tcpip.Address) bool { return a == allNodes })
		for _, m := range four {
			if ip := m.addr.As4(); d.up {
				row([]byte{0x01, 0x00, 0x5e, ip[1] & 0x7f, ip[2], ip[3]})
			}
		}
		rows6(func(a tcpip.Address) bool { return a != allNodes })
	}
}
