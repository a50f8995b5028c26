package inet

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"bulkhead/virtio/ratelimit"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/qdisc/fifo"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Device is a network interface of the host's that is this stack's alone: whoever
// took it over has left the host's kernel no address on it.
type Device struct {
	Index     int // that it had, above Loopback
	Name      string
	Ethernet  net.HardwareAddr
	MTU       uint32
	FD        int  // a packet socket bound to it (packet(7)); the stack's for good
	Offload   bool // frames carry a struct virtio_net_hdr (PACKET_VNET_HDR), and may be of 64 KiB
	Addresses []netip.Prefix
	Routes    []DeviceRoute    // but for those that the addresses bring
	Limit     ratelimit.Limits // of what is sent
}

// DeviceRoute is a way to a destination.
type DeviceRoute struct {
	Destination netip.Prefix
	Gateway     netip.Addr // invalid: the destination is on the link
}

// Attach gives the stack devices, before it has any socket. Unlike loopback's, their
// frames need an answer also while there is no socket (ARP, echo), so that the
// library's stack starts with them.
func (n *Stack) Attach(devices []Device) error {
	for _, d := range devices {
		end, err := newCable(d)
		if err != nil {
			return fmt.Errorf("inet: device %s: %w", d.Name, err)
		}
		n.devices = append(n.devices, device{d, end})
	}
	if len(devices) > 0 {
		n.tcpip()
	}
	return nil
}

// limitedQueue is how many packets, of up to 64 KiB, wait for their turn where what is sent is
// limited. What comes beyond is lost, as in a router that has no more room, and TCP sends slower.
const limitedQueue = 32

// device is one with its end in the library.
type device struct {
	Device
	end *cable
}

// connect makes the devices known to the library.
func (n *Stack) connect(s *stack.Stack) {
	for _, d := range n.devices {
		o := stack.NICOptions{Name: d.Name, DeliverLinkPackets: true}
		if d.Limit != (ratelimit.Limits{}) {
			o.QDisc = fifo.New(d.end, 1, limitedQueue)
		}
		if err := s.CreateNICWithOptions(tcpip.NICID(d.Index), d.end, o); err != nil {
			panic("inet: make " + d.Name + ": " + err.String())
		}
		for _, a := range d.Addresses {
			p := tcpip.ProtocolAddress{AddressWithPrefix: tcpip.AddressWithPrefix{Address: addressOf(a.Addr()), PrefixLen: a.Bits()}}
			p.Protocol = protocolOf(p.AddressWithPrefix.Address)
			// No duplicate address detection: the address has been the interface's.
			s.AddProtocolAddress(tcpip.NICID(d.Index), p, stack.AddressProperties{})
			// What the stack sends to itself goes by loopback, which answers an echo for
			// addresses of its own alone.
			p.AddressWithPrefix.PrefixLen = a.Addr().BitLen()
			s.AddProtocolAddress(Loopback, p, stack.AddressProperties{PEB: stack.NeverPrimaryEndpoint})
		}
	}
}

// deviceRoutes are the devices', the narrowest first, as the library looks for one.
func (n *Stack) deviceRoutes() (table []tcpip.Route) {
	for _, d := range n.devices {
		id := tcpip.NICID(d.Index)
		for _, a := range d.Addresses {
			table = append(table, tcpip.Route{Destination: subnet(a), NIC: id})
		}
		for _, r := range d.Routes {
			table = append(table, tcpip.Route{Destination: subnet(r.Destination), Gateway: addressOf(r.Gateway), NIC: id})
		}
	}
	slices.SortStableFunc(table, func(a, b tcpip.Route) int { return cmp.Compare(b.Destination.Prefix(), a.Destination.Prefix()) })
	return table
}

func addressOf(a netip.Addr) tcpip.Address {
	switch {
	case a.Is4():
		return tcpip.AddrFrom4(a.As4())
	case a.Is6():
		return tcpip.AddrFrom16(a.As16())
	}
	return tcpip.Address{}
}

func subnet(p netip.Prefix) tcpip.Subnet {
	return tcpip.AddressWithPrefix{Address: addressOf(p.Masked().Addr()), PrefixLen: p.Bits()}.Subnet()
}

// at is the device with an address, 0 if there is none.
func (n *Stack) at(a netip.Addr) int {
	for _, d := range n.devices {
		if slices.ContainsFunc(d.Addresses, func(p netip.Prefix) bool { return p.Addr() == a }) {
			return d.Index
		}
	}
	if a.IsLoopback() {
		return Loopback
	}
	return 0
}

// known says whether there is a device of this number.
func (n *Stack) known(index int) bool {
	return index == Loopback || slices.ContainsFunc(n.devices, func(d device) bool { return d.Index == index })
}

const deviceFlags = unix.IFF_UP | unix.IFF_BROADCAST | unix.IFF_RUNNING | unix.IFF_MULTICAST | unix.IFF_LOWER_UP

// deviceLinks, deviceAddrs and deviceTables are what Links, Addrs and Routes tell.
func (n *Stack) deviceLinks() (list []Link) {
	for _, d := range n.devices {
		l := Link{Index: d.Index, Name: d.Name, Type: unix.ARPHRD_ETHER, Flags: deviceFlags, MTU: d.MTU, Queue: 1000,
			Address: d.Ethernet, Broadcast: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, Qdisc: "noqueue"}
		if info, ok := n.lib.SingleNICInfo(tcpip.NICID(d.Index)); ok {
			l.Stats = LinkStats{info.Stats.Rx.Packets.Value(), info.Stats.Tx.Packets.Value(), info.Stats.Rx.Bytes.Value(), info.Stats.Tx.Bytes.Value()}
		}
		list = append(list, l)
	}
	return list
}

func (n *Stack) deviceAddrs() (list []Addr) {
	for _, d := range n.devices {
		for _, a := range d.Addresses {
			r := Addr{Link: d.Index, IP: a.Addr().AsSlice(), Prefix: uint8(a.Bits()), Scope: scopeOf(a.Addr())}
			if a.Addr().Is4() {
				r.Label = d.Name
				if a.Bits() < 31 {
					whole := subnet(a)
					last := whole.Broadcast()
					r.Broadcast = last.AsSlice()
				}
			}
			list = append(list, r)
		}
	}
	return list
}

func scopeOf(a netip.Addr) uint8 {
	if a.IsLinkLocalUnicast() && a.Is6() {
		return unix.RT_SCOPE_LINK
	}
	return unix.RT_SCOPE_UNIVERSE
}

func familyOfAddr(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (n *Stack) deviceTables() (list []Route) {
	const metric6 = 256 // IP6_RT_PRIO_KERN
	for _, d := range n.devices {
		for _, r := range d.Routes {
			row := Route{Family: familyOfAddr(r.Destination.Addr()), Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_BOOT,
				Scope: unix.RT_SCOPE_LINK, Link: d.Index, Prefix: uint8(r.Destination.Bits())}
			if r.Destination.Bits() > 0 {
				row.IP = r.Destination.Masked().Addr().AsSlice()
			}
			if r.Gateway.IsValid() {
				row.Scope, row.Gateway = unix.RT_SCOPE_UNIVERSE, r.Gateway.AsSlice()
			}
			if row.Family == unix.AF_INET6 {
				row.Scope, row.Priority = unix.RT_SCOPE_UNIVERSE, 1024
			}
			list = append(list, row)
		}
		for _, a := range d.Addresses {
			row := Route{Family: familyOfAddr(a.Addr()), Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_KERNEL,
				Scope: unix.RT_SCOPE_LINK, Link: d.Index, IP: a.Masked().Addr().AsSlice(), Prefix: uint8(a.Bits()), Source: a.Addr().AsSlice()}
			own := Route{Family: row.Family, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Protocol: unix.RTPROT_KERNEL,
				Scope: unix.RT_SCOPE_HOST, Link: d.Index, IP: a.Addr().AsSlice(), Prefix: uint8(a.Addr().BitLen()), Source: a.Addr().AsSlice()}
			if row.Family == unix.AF_INET6 {
				row.Scope, row.Source, row.Priority = unix.RT_SCOPE_UNIVERSE, nil, metric6
				own.Scope, own.Source = unix.RT_SCOPE_UNIVERSE, nil
			}
			list = append(list, row, own)
		}
		if slices.ContainsFunc(d.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
			list = append(list, Route{Family: unix.AF_INET6, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_MULTICAST, Protocol: unix.RTPROT_KERNEL,
				Link: d.Index, IP: append([]byte{0xff}, make([]byte, 15)...), Prefix: 8, Priority: metric6})
		}
	}
	// As the kernel's trie has them.
	slices.SortStableFunc(list, func(a, b Route) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), bytes.Compare(a.IP, b.IP), cmp.Compare(b.Prefix, a.Prefix))
	})
	return list
}

func (n *Stack) nameOf(index int) string {
	for _, d := range n.devices {
		if d.Index == index {
			return d.Name
		}
	}
	return deviceName
}

// Neighbour is an address on a link that the stack has asked about.
type Neighbour struct {
	Link      int
	IP        []byte
	Ethernet  net.HardwareAddr // nil: not known
	Reachable bool             // lately
}

// Neighbours are those of the devices.
func (n *Stack) Neighbours() (list []Neighbour) {
	for _, d := range n.devices {
		for _, p := range []tcpip.NetworkProtocolNumber{header.IPv4ProtocolNumber, header.IPv6ProtocolNumber} {
			entries, err := n.lib.Neighbors(tcpip.NICID(d.Index), p)
			if err != nil {
				continue
			}
			for _, e := range entries {
				r := Neighbour{Link: d.Index, IP: e.Addr.AsSlice(), Reachable: e.State == stack.Reachable}
				if e.LinkAddr != "" {
					r.Ethernet = net.HardwareAddr(e.LinkAddr)
				}
				list = append(list, r)
			}
		}
	}
	return list
}
