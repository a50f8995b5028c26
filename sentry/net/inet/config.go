package inet

import (
	"bytes"
	"cmp"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// config is what devices, addresses and routes a stack has. One is never changed: a
// change (change.go) makes another from a copy, so that who looks needs no lock.
type config struct {
	nics   []nic     // loopback first
	addrs  []address // of one device and family in its order
	routes []row

	log []Event // of the change that makes it
	by  Asker   // whose that is
}

// nic is a device.
type nic struct {
	index       int
	name        string
	up, was     bool   // was: it has been up
	promiscuous bool   // as asked for: of frames for others a device gives its taps all there are
	mtu         uint32 // bytes
	least, most uint32 // bounds of it; most 0: none
	queue       uint32
	ethernet    net.HardwareAddr // nil: loopback's
	auto        bool             // it has an address of IPv6 on its link when it is up
	end         *cable           // nil: loopback's
	limited     bool             // in what it sends
}

// address is one of a device's.
type address struct {
	index     int
	net       netip.Prefix // with the address's own bits
	scope     uint8
	label     string
	broadcast netip.Addr
	secondary bool
	flags     uint32 // IFA_F_NODAD, IFA_F_NOPREFIXROUTE
	metric    uint32 // of the route that it brings; 0: the usual
}

// row is a route.
type row struct {
	index           int
	table, typ      uint8
	protocol, scope uint8
	dst             netip.Prefix
	gateway, source netip.Addr
	metric          uint32
	onlink          bool
	of              netip.Prefix // of an address of the same device, which brought it
}

const (
	metric6       = 256  // IP6_RT_PRIO_ADDRCONF
	metricByHand6 = 1024 // IP6_RT_PRIO_USER
	loopbackMTU   = 65536
	leastEthernet = 68   // ETH_MIN_MTU
	leastMTU4     = 68   // IPV4_MIN_MTU
	leastMTU6     = 1280 // IPV6_MIN_MTU
	mostAddresses = 1024
	mostRoutes    = 4096
)

var (
	first4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 8)
	first6 = netip.PrefixFrom(netip.IPv6Loopback(), 128)
)

func newConfig(up bool) *config {
	c := &config{nics: []nic{{index: Loopback, name: deviceName, mtu: loopbackMTU, queue: 1000}}}
	if up {
		c.setUp(&c.nics[0], true)
		c.log = nil
	}
	return c
}

func (c *config) clone() *config {
	return &config{nics: slices.Clone(c.nics), addrs: slices.Clone(c.addrs), routes: slices.Clone(c.routes)}
}

// nic is the device of a number, or nil.
func (c *config) nic(index int) *nic {
	for i := range c.nics {
		if c.nics[i].index == index {
			return &c.nics[i]
		}
	}
	return nil
}

func (c *config) named(name string) *nic {
	for i := range c.nics {
		if c.nics[i].name == name {
			return &c.nics[i]
		}
	}
	return nil
}

func (d *nic) loopback() bool { return d.index == Loopback }

// setUp is what net/ipv4/devinet.c, inetdev_event, and net/ipv6/addrconf.c,
// addrconf_notify, do of it.
func (c *config) setUp(d *nic, up bool) {
	if d.up == up {
		return
	}
	if d.up = up; !up {
		// Addresses of IPv4 stay, and what leads to them.
		c.forget(false, func(r row) bool { return r.index == d.index && r.dst.Addr().Is4() && r.typ != unix.RTN_LOCAL })
		c.without6(d)
		return
	}
	d.was = true
	if d.loopback() && d.mtu >= leastMTU4 && !c.has(d.index, first4.Addr()) {
		a := address{index: d.index, net: first4, scope: unix.RT_SCOPE_HOST, label: d.name}
		a.secondary = slices.ContainsFunc(c.addrs, func(o address) bool { return o.index == d.index && o.net.Masked() == first4.Masked() })
		c.insert(a)
	}
	if d.loopback() && d.mtu >= leastMTU6 {
		c.insert(address{index: d.index, net: first6, scope: unix.RT_SCOPE_HOST})
	}
	for _, a := range c.addrs {
		if a.index == d.index {
			c.bring(d, a)
		}
	}
	if d.auto && d.mtu >= leastMTU6 {
		if a := linkLocal(d); !c.has(d.index, a.net.Addr()) {
			c.insert(a)
			c.bring(d, a)
		}
	}
	c.multicast(d)
}

// without6 takes IPv6 from a device (addrconf_ifdown).
func (c *config) without6(d *nic) {
	c.forget(true, func(r row) bool { return r.index == d.index && r.dst.Addr().Is6() })
	c.addrs = slices.DeleteFunc(c.addrs, func(a address) bool {
		gone := a.index == d.index && a.net.Addr().Is6()
		if gone {
			c.tell(Event{Gone: true, Addr: a.told()})
		}
		return gone
	})
}

// tell takes note of what becomes of the change. Of addresses of IPv4 it is said who asked.
func (c *config) tell(e Event) {
	if e.Addr != nil && len(e.Addr.IP) == 4 {
		e.By = c.by
	}
	c.log = append(c.log, e)
}

// linkLocal is the address that a device makes of its Ethernet address (RFC 4862 §5.3,
// RFC 4291 appendix A).
func linkLocal(d *nic) address {
	m := d.ethernet
	ip := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
	return address{index: d.index, net: netip.PrefixFrom(ip, 64), scope: unix.RT_SCOPE_LINK}
}

// multicast is the way of groups of IPv6, which every device has that is up, once it has an
// address (addrconf_add_mroute).
func (c *config) multicast(d *nic) {
	if d.loopback() || !d.up || !slices.ContainsFunc(c.addrs, func(a address) bool { return a.index == d.index && a.net.Addr().Is6() }) {
		return
	}
	c.learn(row{index: d.index, table: unix.RT_TABLE_LOCAL, typ: unix.RTN_MULTICAST, protocol: unix.RTPROT_KERNEL,
		dst: netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff}), 8), metric: metric6})
}

func (c *config) has(index int, ip netip.Addr) bool {
	return slices.ContainsFunc(c.addrs, func(a address) bool { return a.index == index && a.net.Addr() == ip })
}

// insert puts an address where its device has it: of IPv4 primary ones by scope, then
// secondary ones (inet_insert_ifa); of IPv6 the newest of a scope first (ipv6_link_dev_addr).
func (c *config) insert(a address) {
	same := func(b address) bool { return b.index == a.index && b.net.Addr().Is4() == a.net.Addr().Is4() }
	at := len(c.addrs)
	if a.net.Addr().Is4() {
		if !a.secondary {
			at = 0
			for i, b := range c.addrs {
				if same(b) && !b.secondary && a.scope <= b.scope {
					at = i + 1
				}
			}
		}
	} else {
		for i, b := range c.addrs {
			if same(b) && b.scope >= a.scope {
				at = i
				break
			}
		}
	}
	c.addrs = slices.Insert(c.addrs, at, a)
	c.tell(Event{Addr: a.told()})
}

// bring adds the routes that an address brings: fib_add_ifaddr, and of IPv6 addrconf_prefix_route.
func (c *config) bring(d *nic, a address) {
	if !d.up {
		if a.net.Addr().Is4() { // it is this host's all the same
			c.learn(c.own(a))
		}
		return
	}
	c.learn(c.own(a))
	whole := row{index: a.index, table: unix.RT_TABLE_MAIN, typ: unix.RTN_UNICAST, protocol: unix.RTPROT_KERNEL, dst: a.net.Masked(), metric: a.metric, of: a.net}
	if a.net.Addr().Is6() {
		if whole.metric == 0 {
			whole.metric = metric6
		}
		if a.flags&unix.IFA_F_NOPREFIXROUTE == 0 && !(d.loopback() && a.net.IsSingleIP()) {
			c.learn(whole)
		}
		c.multicast(d)
		return
	}
	whole.scope, whole.source = unix.RT_SCOPE_LINK, a.net.Addr()
	if d.loopback() {
		whole.table, whole.typ, whole.scope = unix.RT_TABLE_LOCAL, unix.RTN_LOCAL, unix.RT_SCOPE_HOST
	}
	broadcast := row{index: a.index, table: unix.RT_TABLE_LOCAL, typ: unix.RTN_BROADCAST, protocol: unix.RTPROT_KERNEL, scope: unix.RT_SCOPE_LINK,
		source: c.primaryOf(a).Addr(), of: a.net}
	everyone := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if a.broadcast.IsValid() && a.broadcast != everyone {
		broadcast.dst = netip.PrefixFrom(a.broadcast, 32)
		c.learn(broadcast)
	}
	if !a.secondary && a.net.Masked().Addr().As4()[0] != 0 && !(a.net.Bits() == 32 && a.net.IsSingleIP()) {
		if a.flags&unix.IFA_F_NOPREFIXROUTE == 0 {
			c.learn(whole)
		}
		if a.net.Bits() < 31 {
			broadcast.dst = netip.PrefixFrom(lastOf(a.net), 32)
			c.learn(broadcast)
		}
	}
}

// own is the route to the address itself.
func (c *config) own(a address) row {
	r := row{index: a.index, table: unix.RT_TABLE_LOCAL, typ: unix.RTN_LOCAL, protocol: unix.RTPROT_KERNEL,
		dst: netip.PrefixFrom(a.net.Addr(), a.net.Addr().BitLen()), of: a.net}
	if a.net.Addr().Is4() {
		r.scope, r.source = unix.RT_SCOPE_HOST, c.primaryOf(a).Addr()
	}
	return r
}

// primaryOf is the address whose net a secondary one is in.
func (c *config) primaryOf(a address) netip.Prefix {
	for _, b := range c.addrs {
		if a.secondary && b.index == a.index && !b.secondary && b.net.Masked() == a.net.Masked() {
			return b.net
		}
	}
	return a.net
}

// lastOf is the address of a net of IPv4 whose own bits are all ones.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i, m := range net.CIDRMask(p.Bits(), 32) {
		b[i] |= ^m
	}
	return netip.AddrFrom4(b)
}

// learn adds a route unless there is that one.
func (c *config) learn(r row) {
	if !slices.ContainsFunc(c.routes, func(o row) bool { o.of = r.of; return o == r }) {
		c.routes = append(c.routes, r)
		c.tell(Event{Route: r.told()})
	}
}

// forget takes routes away; aloud, members of the group hear of it.
func (c *config) forget(aloud bool, which func(row) bool) {
	c.routes = slices.DeleteFunc(c.routes, func(r row) bool {
		gone := which(r)
		if gone && aloud {
			c.tell(Event{Gone: true, Route: r.told()})
		}
		return gone
	})
}

// remove takes an address away, with what it brought and what goes out under its name; of
// IPv4 with the secondary ones of its net (net.ipv4.conf.*.promote_secondaries is 0).
func (c *config) remove(a address) {
	if a.net.Addr().Is4() && !a.secondary {
		for _, b := range slices.Clone(c.addrs) {
			if b.index == a.index && b.secondary && b.net.Masked() == a.net.Masked() {
				c.remove(b)
			}
		}
	}
	at := slices.Index(c.addrs, a)
	if at < 0 {
		return
	}
	c.addrs = slices.Delete(c.addrs, at, at+1)
	c.tell(Event{Gone: true, Addr: a.told()})
	// What another address of the device brings as well stays (fib_del_ifaddr).
	still := &config{nics: c.nics, addrs: c.addrs}
	if d := c.nic(a.index); d != nil {
		for _, b := range c.addrs {
			if b.index == a.index && b.net.Masked() == a.net.Masked() {
				still.bring(d, b)
			}
		}
	}
	for _, typ := range []uint8{unix.RTN_UNICAST, unix.RTN_BROADCAST, unix.RTN_LOCAL} {
		for _, whole := range []bool{true, false} {
			c.forget(true, func(r row) bool {
				if r.index != a.index || r.of != a.net || r.typ != typ || whole == r.dst.IsSingleIP() && typ != unix.RTN_BROADCAST {
					return false
				}
				return !slices.ContainsFunc(still.routes, func(o row) bool { o.of = r.of; return o == r })
			})
			if typ == unix.RTN_UNICAST && whole { // loopback's net, which is local
				c.forget(true, func(r row) bool {
					return r.index == a.index && r.of == a.net && r.typ == unix.RTN_LOCAL && !r.dst.IsSingleIP()
				})
			}
		}
	}
	for i, r := range c.routes { // which has become the other's
		if j := slices.IndexFunc(still.routes, func(o row) bool { o.of = r.of; return o == r }); r.index == a.index && r.of == a.net && j >= 0 {
			c.routes[i].of = still.routes[j].of
		}
	}
	if a.net.Addr().Is6() {
		return
	}
	last := !slices.ContainsFunc(c.addrs, func(b address) bool { return b.index == a.index && b.net.Addr().Is4() })
	c.forget(true, func(r row) bool { return r.source == a.net.Addr() && !r.of.IsValid() })       // fib_sync_down_addr
	c.forget(false, func(r row) bool { return last && r.dst.Addr().Is4() && r.index == a.index }) // fib_disable_ip
}

// Links, Addrs and Routes are what there is, in Linux's order.
func (n *Stack) Links() (list []Link) {
	for _, d := range n.config.Load().nics {
		list = append(list, n.shown(d))
	}
	return list
}

func (n *Stack) shown(d nic) Link {
	l := Link{Index: d.index, Name: d.name, Type: unix.ARPHRD_LOOPBACK, Flags: unix.IFF_LOOPBACK, MTU: d.mtu, LeastMTU: d.least, MostMTU: d.most,
		Queue: d.queue, Address: make([]byte, 6), Broadcast: make([]byte, 6), Qdisc: "noqueue", State: operUnknown, Stats: n.stats(d)}
	if !d.loopback() {
		l.Type, l.Flags, l.Address, l.Broadcast, l.State = unix.ARPHRD_ETHER, unix.IFF_BROADCAST|unix.IFF_MULTICAST, d.ethernet, everyEthernet, operUp
	}
	if d.up {
		l.Flags |= unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOWER_UP
	} else {
		l.State = operDown
	}
	if d.promiscuous {
		l.Flags |= unix.IFF_PROMISC
		l.Promiscuity = 1
	}
	if !d.was {
		l.Qdisc = "noop"
	}
	return l
}

var everyEthernet = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Operational states (RFC 2863, include/uapi/linux/if.h).
const (
	operUnknown = 0
	operDown    = 2
	operUp      = 6
)

func (n *Stack) Addrs() []Addr { return n.config.Load().addresses() }

func (c *config) addresses() (list []Addr) {
	for _, a := range c.addrs {
		list = append(list, a.shown())
	}
	slices.SortStableFunc(list, func(a, b Addr) int { return cmp.Or(cmp.Compare(len(a.IP), len(b.IP)), cmp.Compare(a.Link, b.Link)) })
	return list
}

func (a address) shown() Addr {
	r := Addr{Link: a.index, IP: a.net.Addr().AsSlice(), Prefix: uint8(a.net.Bits()), Scope: a.scope, Label: a.label,
		Flags: unix.IFA_F_PERMANENT | a.flags, Metric: a.metric}
	if a.broadcast.IsValid() {
		r.Broadcast = a.broadcast.AsSlice()
	}
	if a.secondary {
		r.Flags |= unix.IFA_F_SECONDARY
	}
	return r
}

func (a address) told() *Addr { s := a.shown(); return &s }
func (r row) told() *Route    { s := r.shown(); return &s }

func (n *Stack) Routes() []Route { return n.config.Load().tables() }

func (c *config) tables() (list []Route) {
	for _, r := range c.routes {
		list = append(list, r.shown())
	}
	// As the kernel's tries have them: of IPv6 what is within a network before it (fib6_walk_continue).
	slices.SortStableFunc(list, func(a, b Route) int {
		order := cmp.Or(bytes.Compare(a.IP, b.IP), cmp.Compare(b.Prefix, a.Prefix))
		if a.Family == unix.AF_INET6 && b.Family == unix.AF_INET6 {
			order = cmp.Or(bytes.Compare(a.end6(), b.end6()), cmp.Compare(b.Prefix, a.Prefix))
		}
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Table, b.Table), order, cmp.Compare(a.Priority, b.Priority))
	})
	return list
}

// end6 is the last address of a network of IPv6.
func (r Route) end6() []byte {
	b := make([]byte, 16)
	copy(b, r.IP)
	for i, m := range net.CIDRMask(int(r.Prefix), 128) {
		b[i] |= ^m
	}
	return b
}

func (r row) shown() Route {
	s := Route{Family: familyOfAddr(r.dst.Addr()), Table: r.table, Type: r.typ, Protocol: r.protocol, Scope: r.scope, Link: r.index,
		Prefix: uint8(r.dst.Bits()), Priority: r.metric, OnLink: r.onlink}
	if r.dst.Bits() > 0 {
		s.IP = r.dst.Addr().AsSlice()
	}
	if r.source.IsValid() {
		s.Source = r.source.AsSlice()
	}
	if r.gateway.IsValid() {
		s.Gateway = r.gateway.AsSlice()
	}
	return s
}

// held is an address as the library has it.
type held struct {
	nic     tcpip.NICID
	address tcpip.AddressWithPrefix
	never   bool // to be a source
}

// library is what the library is to have of a configuration; of alone, of loopback alone.
func (c *config) library(alone bool) (addresses []held, routes []tcpip.Route) {
	seen := map[held]bool{}
	add := func(h held) {
		key := held{nic: h.nic, address: tcpip.AddressWithPrefix{Address: h.address.Address}}
		if !seen[key] {
			seen[key] = true
			addresses = append(addresses, h)
		}
	}
	whole := func(p netip.Prefix) tcpip.AddressWithPrefix {
		return tcpip.AddressWithPrefix{Address: addressOf(p.Addr()), PrefixLen: p.Bits()}
	}
	for _, a := range c.addrs {
		if a.index == Loopback && c.nics[0].up || a.index != Loopback && !alone {
			add(held{tcpip.NICID(a.index), whole(a.net), false})
		}
	}
	for _, a := range c.addrs {
		if a.index != Loopback && !alone {
			// What the stack sends to itself goes by loopback, which answers an echo for
			// addresses of its own alone.
			add(held{Loopback, whole(netip.PrefixFrom(a.net.Addr(), a.net.Addr().BitLen())), true})
		}
	}
	for _, r := range c.ordered() {
		d := c.nic(r.index)
		if d == nil || !d.up || alone && !d.loopback() || r.typ != unix.RTN_UNICAST && !(r.typ == unix.RTN_LOCAL && d.loopback()) {
			continue
		}
		route := tcpip.Route{Destination: subnet(r.dst), Gateway: addressOf(r.gateway), NIC: tcpip.NICID(r.index)}
		if r.source.IsValid() {
			route.SourceHint = addressOf(r.source)
		}
		routes = append(routes, route)
	}
	return addresses, routes
}

// ordered are the routes, the narrowest first and then the cheapest, as the library looks for one.
func (c *config) ordered() []row {
	list := slices.Clone(c.routes)
	slices.SortStableFunc(list, func(a, b row) int {
		return cmp.Or(cmp.Compare(b.dst.Bits(), a.dst.Bits()), cmp.Compare(a.metric, b.metric))
	})
	return list
}

// apply has a library's stack be as the configuration to is, which was as from (nil: as a
// new one is).
func apply(s *stack.Stack, from, to *config, alone bool) {
	var had []held
	if from == nil {
		from = &config{}
	} else {
		had, _ = from.library(alone)
	}
	want, routes := to.library(alone)
	for _, d := range to.nics {
		if alone && !d.loopback() {
			continue
		}
		id, old := tcpip.NICID(d.index), from.nic(d.index)
		if !d.loopback() && (old == nil && !d.up || old != nil && old.up && !d.up) {
			s.DisableNIC(id)
		}
		if old != nil && old.mtu != d.mtu || old == nil && d.loopback() {
			s.SetNICMTU(id, d.mtu)
		}
		if old != nil && !bytes.Equal(old.ethernet, d.ethernet) {
			s.SetNICAddress(id, tcpip.LinkAddress(d.ethernet))
			// Who is asked anew learns of it (neigh_changeaddr).
			s.ClearNeighbors(id, header.IPv4ProtocolNumber)
			s.ClearNeighbors(id, header.IPv6ProtocolNumber)
		}
		if old != nil && old.name != d.name {
			s.SetNICName(id, d.name)
		}
	}
	for _, h := range had {
		if !slices.Contains(want, h) {
			s.RemoveAddress(h.nic, h.address.Address)
		}
	}
	for _, h := range want {
		if slices.Contains(had, h) {
			continue
		}
		// No duplicate address detection: of an address that was the interface's it was done,
		// and of one that is made inside there would be nobody to tell.
		properties := stack.AddressProperties{}
		if h.never {
			properties.PEB = stack.NeverPrimaryEndpoint
		}
		s.AddProtocolAddress(h.nic, tcpip.ProtocolAddress{Protocol: protocolOf(h.address.Address), AddressWithPrefix: h.address}, properties)
	}
	s.SetRouteTable(routes)
	for _, d := range to.nics {
		if old := from.nic(d.index); !d.loopback() && !alone && old != nil && !old.up && d.up {
			s.EnableNIC(tcpip.NICID(d.index))
		}
	}
}
