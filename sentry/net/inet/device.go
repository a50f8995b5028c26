package inet

import (
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
	Unrouted  []netip.Prefix   // those of them that bring no route to their network
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
	n.configMu.Lock()
	c := n.config.Load().clone()
	for _, d := range devices {
		end, err := newCable(d)
		if err != nil {
			n.configMu.Unlock()
			return fmt.Errorf("inet: device %s: %w", d.Name, err)
		}
		c.attach(d, end)
	}
	c.log = nil // nobody listens yet
	n.config.Store(c)
	n.configMu.Unlock()
	if len(devices) > 0 {
		n.tcpip()
	}
	return nil
}

// attach adds a device as it was prepared.
func (c *config) attach(d Device, end *cable) {
	c.nics = append(c.nics, nic{index: d.Index, name: d.Name, up: true, was: true, mtu: d.MTU, least: leastEthernet, most: d.MTU, queue: 1000,
		ethernet: d.Ethernet, end: end, limited: d.Limit != (ratelimit.Limits{})})
	it := &c.nics[len(c.nics)-1]
	for _, p := range d.Addresses {
		a := address{index: d.Index, net: p, scope: scopeOf(p.Addr())}
		if slices.Contains(d.Unrouted, p) {
			a.flags = unix.IFA_F_NOPREFIXROUTE
		}
		if p.Addr().Is4() {
			a.label = d.Name
			if p.Bits() < 31 {
				a.broadcast = lastOf(p)
			}
			a.secondary = slices.ContainsFunc(c.addrs, func(o address) bool { return o.index == a.index && o.net.Masked() == p.Masked() })
		}
		it.auto = it.auto || len(d.Ethernet) == 6 && a.net == linkLocal(it).net
		c.addrs = append(c.addrs, a)
	}
	for _, a := range c.addrs {
		if a.index == d.Index {
			c.bring(it, a)
		}
	}
	for _, r := range d.Routes {
		w := row{index: d.Index, table: unix.RT_TABLE_MAIN, typ: unix.RTN_UNICAST, protocol: unix.RTPROT_BOOT, dst: r.Destination.Masked(), gateway: r.Gateway}
		switch {
		case r.Destination.Addr().Is6():
			w.metric = metricByHand6
		case !r.Gateway.IsValid():
			w.scope = unix.RT_SCOPE_LINK
		}
		c.learn(w)
	}
}

// limitedQueue is how many packets, of up to 64 KiB, wait for their turn where what is sent is
// limited. What comes beyond is lost, as in a router that has no more room, and TCP sends slower.
const limitedQueue = 32

// connect makes the devices known to the library.
func (c *config) connect(s *stack.Stack) {
	for _, d := range c.nics {
		if d.loopback() {
			continue
		}
		o := stack.NICOptions{Name: d.name, DeliverLinkPackets: true}
		if d.limited {
			o.QDisc = fifo.New(d.end, 1, limitedQueue)
		}
		if err := s.CreateNICWithOptions(tcpip.NICID(d.index), d.end, o); err != nil {
			panic("inet: make " + d.name + ": " + err.String())
		}
	}
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
	for _, o := range n.config.Load().addrs {
		if o.net.Addr() == a {
			return o.index
		}
	}
	if a.IsLoopback() {
		return Loopback
	}
	return 0
}

// known says whether there is a device of this number.
func (n *Stack) known(index int) bool { return n.config.Load().nic(index) != nil }

func scopeOf(a netip.Addr) uint8 {
	if a.IsLoopback() {
		return unix.RT_SCOPE_HOST
	}
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

func (n *Stack) nameOf(index int) string {
	if d := n.config.Load().nic(index); d != nil {
		return d.name
	}
	return deviceName
}

// Neighbour is an address on a link that the stack has asked about.
type Neighbour struct {
	Link      int
	IP        []byte
	Ethernet  net.HardwareAddr // nil: not known
	Reachable bool             // lately
	Permanent bool             // made known by hand
}

// Neighbours are those of the devices.
func (n *Stack) Neighbours() (list []Neighbour) {
	for _, d := range n.config.Load().nics {
		if d.loopback() || !n.Started() {
			continue
		}
		for _, p := range []tcpip.NetworkProtocolNumber{header.IPv4ProtocolNumber, header.IPv6ProtocolNumber} {
			entries, err := n.lib.Neighbors(tcpip.NICID(d.index), p)
			if err != nil {
				continue
			}
			for _, e := range entries {
				r := Neighbour{Link: d.index, IP: e.Addr.AsSlice(), Reachable: e.State == stack.Reachable, Permanent: e.State == stack.Static}
				if e.LinkAddr != "" {
					r.Ethernet = net.HardwareAddr(e.LinkAddr)
				}
				list = append(list, r)
			}
		}
	}
	return list
}
