package inet

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/vfs"
)

// What a container changes of its own network: it may take any address and send to any
// neighbour, as it may in a network namespace under runc (and with CAP_NET_RAW without
// any change). The engine's side of the cable is the wall against what does harm there.
//
// Errors are errnos, those of net/core/{dev,rtnetlink}.c, net/ipv4/{devinet,fib_frontend,
// fib_semantics}.c and net/ipv6/{addrconf,route}.c; EOPNOTSUPP is of what the stack has not.

// Administers says whether ctx may change the stack's configuration: by the capability in
// the user namespace that owns this network namespace, whichever ctx itself is in.
func (n *Stack) Administers(ctx vfs.Context) bool {
	if _, ok := ctx.(*kernel.Task); !ok {
		return ctx.Creds().Has(unix.CAP_NET_ADMIN)
	}
	return ctx.Creds().HasIn(n.owner, unix.CAP_NET_ADMIN)
}

// Event is a change, as members of rtnetlink's groups hear of it. One of Link, Addr and Route
// is what there is now, or what is gone.
type Event struct {
	Gone     bool
	Replaced bool
	By       Asker
	Link     *Link
	Flags    uint32 // of a link, those that changed
	Addr     *Addr
	Route    *Route
	Near     *Neighbour
}

// Asker is whose request brings a change: numbers of a message of netlink's, 0 of others.
type Asker struct{ Seq, Port uint32 }

// change makes another configuration: f gets a copy. Who hears of it must not change
// anything in turn.
func (n *Stack) change(by Asker, f func(c *config) error) error {
	n.configMu.Lock()
	defer n.configMu.Unlock()
	old := n.config.Load()
	c := old.clone()
	c.by = by
	if err := f(c); err != nil {
		return err
	}
	n.config.Store(c)
	if n.started.Load() {
		apply(n.lib, old, c, false)
	}
	if lite := n.lite.Load(); lite != nil {
		apply(lite, old, c, true)
	}
	n.announce(n.events(old, c))
	c.log = nil
	return nil
}

func (n *Stack) announce(events []Event) {
	if len(events) == 0 {
		return
	}
	n.mu.Lock()
	all := slices.Clone(n.holders)
	n.mu.Unlock()
	for _, e := range events {
		for _, h := range all {
			h.Heard(e)
		}
	}
}

// events are what was told of a change, behind what became of the devices: of those nobody is
// said to have asked (rtnetlink_event).
func (n *Stack) events(old, c *config) (list []Event) {
	for _, d := range c.nics {
		if o := old.nic(d.index); o != nil && !o.same(d) {
			was, is := n.shown(*o), n.shown(d)
			list = append(list, Event{Link: &is, Flags: was.Flags ^ is.Flags})
		}
	}
	return append(list, c.log...)
}

func (d nic) same(o nic) bool {
	return d.up == o.up && d.name == o.name && d.mtu == o.mtu && d.queue == o.queue && d.promiscuous == o.promiscuous && bytes.Equal(d.ethernet, o.ethernet)
}

// LinkChange is what is to change of a device; nil stays.
type LinkChange struct {
	Up, Promiscuous *bool
	MTU, Queue      *uint32
	Name            *string
	Ethernet        net.HardwareAddr
}

// ChangeLink changes a device (do_setlink).
func (n *Stack) ChangeLink(index int, l LinkChange) error {
	return n.change(Asker{}, func(c *config) error {
		d := c.nic(index)
		switch {
		case d == nil:
			return unix.ENODEV
		case l.Ethernet != nil && d.loopback():
			return unix.EOPNOTSUPP
		case l.Ethernet != nil && (len(l.Ethernet) != 6 || l.Ethernet[0]&1 != 0 || bytes.Equal(l.Ethernet, make([]byte, 6))):
			return unix.EADDRNOTAVAIL // eth_prepare_mac_addr_change
		case l.MTU != nil && (*l.MTU < d.least || d.most != 0 && *l.MTU > d.most || *l.MTU > 1<<31-1):
			return unix.EINVAL
		}
		if l.Name != nil && *l.Name != "" && *l.Name != d.name {
			if err := c.rename(d, *l.Name); err != nil {
				return err
			}
		}
		if l.Ethernet != nil {
			d.ethernet = slices.Clone(l.Ethernet)
		}
		if l.MTU != nil {
			c.resize(d, *l.MTU)
		}
		if l.Queue != nil {
			d.queue = *l.Queue
		}
		if l.Promiscuous != nil {
			d.promiscuous = *l.Promiscuous
		}
		if l.Up != nil {
			c.setUp(d, *l.Up)
		}
		return nil
	})
}

// resize changes the largest packet. A device whose packets are too small for a protocol has no
// addresses of it (inetdev_event and addrconf_notify, NETDEV_CHANGEMTU).
func (c *config) resize(d *nic, mtu uint32) {
	grows := d.mtu < leastMTU6 && mtu >= leastMTU6
	d.mtu = mtu
	if mtu < leastMTU4 {
		for _, a := range slices.Clone(c.addrs) {
			if a.index == d.index && a.net.Addr().Is4() {
				c.remove(a)
			}
		}
	}
	if mtu < leastMTU6 {
		c.without6(d)
	}
	if grows && d.up && d.auto {
		a := linkLocal(d)
		c.insert(a)
		c.bring(d, a)
	}
}

// rename is dev_change_name: an address's label that begins with the old name has the new one.
func (c *config) rename(d *nic, name string) error {
	switch {
	case name == "" || name == "." || name == ".." || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, "/: \t\n\v\f\r") || strings.IndexByte(name, 0xa0) >= 0:
		return unix.EINVAL
	case strings.Contains(name, "%"):
		return unix.EOPNOTSUPP // dev_alloc_name's patterns
	case c.named(name) != nil:
		return unix.EEXIST
	}
	for i := range c.addrs {
		if a := &c.addrs[i]; a.index == d.index && a.label != "" {
			_, rest, aliased := strings.Cut(a.label, ":")
			a.label = name
			if aliased && len(name)+1+len(rest) < unix.IFNAMSIZ {
				a.label += ":" + rest
			}
		}
	}
	d.name = name
	return nil
}

// AddAddr gives a device an address: EEXIST if it has it, unless that is to be replaced.
func (n *Stack) AddAddr(by Asker, a Addr, replace bool) error {
	return n.change(by, func(c *config) error {
		d := c.nic(a.Link)
		if d == nil {
			return unix.ENODEV
		}
		return c.addAddr(d, a, replace)
	})
}

func (c *config) addAddr(d *nic, a Addr, replace bool) error {
	ip, ok := netip.AddrFromSlice(a.IP)
	if !ok || int(a.Prefix) > ip.BitLen() {
		return unix.EINVAL
	}
	const keeps = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
	b := address{index: d.index, net: netip.PrefixFrom(ip, int(a.Prefix)), scope: a.Scope, label: a.Label, flags: a.Flags & keeps, metric: a.Metric}
	if ip.Is4() && ip.IsUnspecified() {
		return nil // and nothing happens
	}
	if ip.Is6() {
		if ip.IsUnspecified() || ip.IsMulticast() || d.loopback() != ip.IsLoopback() && ip.IsLoopback() {
			return unix.EADDRNOTAVAIL
		}
		b.label, b.scope = "", scopeOf(ip)
	} else {
		b.flags &^= unix.IFA_F_NODAD
		if b.label == "" {
			b.label = d.name
		}
		if last, ok := netip.AddrFromSlice(a.Broadcast); ok {
			b.broadcast = last
		}
	}
	for i, o := range c.addrs {
		switch {
		case o.index != d.index || o.net.Addr() != ip || ip.Is4() && o.net.Bits() != b.net.Bits():
		case !replace:
			return unix.EEXIST
		default: // its other properties stay
			o.metric, o.flags = b.metric, b.flags
			if was := c.addrs[i]; was.metric != o.metric || was.flags != o.flags {
				c.forget(true, func(r row) bool { return r.index == o.index && r.of == o.net && r.dst == o.net.Masked() })
				c.addrs[i] = o
				c.bring(d, o)
			}
			c.tell(Event{Addr: o.told()})
			return nil
		}
		// Not the first of its net (inet_insert_ifa).
		if o.index == d.index && ip.Is4() && o.net.Masked() == b.net.Masked() && !o.secondary {
			if o.scope != b.scope {
				return unix.EINVAL
			}
			b.secondary = true
		}
	}
	if len(c.addrs) >= mostAddresses {
		return unix.ENOBUFS
	}
	c.insert(b)
	c.bring(d, b)
	return nil
}

// DeleteAddr takes an address from a device: the first that matches what is given, nil or 0 being
// anything. inet_rtm_deladdr, inet6_addr_del.
func (n *Stack) DeleteAddr(by Asker, a Addr) error {
	return n.change(by, func(c *config) error {
		if c.nic(a.Link) == nil {
			return unix.ENODEV
		}
		for _, o := range c.addrs {
			s := o.shown()
			if s.Link == a.Link && bytes.Equal(s.IP, a.IP) && (a.Label == "" || a.Label == s.Label) && (a.AnyPrefix || a.Prefix == s.Prefix) {
				c.remove(o)
				return nil
			}
		}
		return unix.EADDRNOTAVAIL
	})
}

// How a route is added: NLM_F_CREATE, _EXCL, _REPLACE and _APPEND.
type How uint16

func parseRoute(r Route) (w row, err error) {
	zero, bits := netip.IPv4Unspecified(), 32
	if r.Family == unix.AF_INET6 {
		zero, bits = netip.IPv6Unspecified(), 128
	}
	address := func(b []byte) (a netip.Addr) {
		if b != nil && err == nil {
			var ok bool
			if a, ok = netip.AddrFromSlice(b); !ok || a.BitLen() != bits {
				err = unix.EINVAL
			}
		}
		return a
	}
	dst := address(r.IP)
	w = row{index: r.Link, table: r.Table, typ: r.Type, protocol: r.Protocol, scope: r.Scope, gateway: address(r.Gateway), source: address(r.Source), metric: r.Priority, onlink: r.OnLink}
	if !dst.IsValid() {
		dst = zero
	}
	if err == nil && int(r.Prefix) > bits {
		err = unix.EINVAL
	}
	w.dst = netip.PrefixFrom(dst, int(r.Prefix))
	if err == nil && w.dst.Masked() != w.dst {
		err = unix.EINVAL
	}
	return w, err
}

// AddRoute adds a route to the main table.
func (n *Stack) AddRoute(by Asker, r Route, how How) error {
	w, err := parseRoute(r)
	if err != nil {
		return err
	}
	return n.change(by, func(c *config) error {
		if err := c.check(&w); err != nil {
			return err
		}
		return c.addRoute(w, how)
	})
}

// check is fib_create_info and ip6_route_info_create: it completes a route, or says what is
// wrong with it.
func (c *config) check(w *row) error {
	six := w.dst.Addr().Is6()
	switch {
	case w.table != unix.RT_TABLE_MAIN && w.table != unix.RT_TABLE_UNSPEC, w.typ != unix.RTN_UNICAST && w.typ != unix.RTN_UNSPEC:
		return unix.EOPNOTSUPP // another table needs rules, and another kind the library has not
	}
	w.table, w.typ = unix.RT_TABLE_MAIN, unix.RTN_UNICAST
	d := c.nic(w.index)
	switch {
	case w.index != 0 && d == nil:
		return unix.ENODEV
	case w.gateway.IsValid() && w.gateway.IsUnspecified():
		w.gateway = netip.Addr{}
	}
	if six {
		w.scope = unix.RT_SCOPE_UNIVERSE
		if w.metric == 0 {
			w.metric = metricByHand6
		}
	} else if w.scope > unix.RT_SCOPE_LINK { // fib_props
		return unix.EINVAL
	}
	if d != nil && !d.up {
		return unix.ENETDOWN
	}
	if w.gateway.IsValid() {
		if err := c.checkGateway(w); err != nil {
			return err
		}
	} else if d == nil {
		return unix.ENODEV
	}
	if w.source.IsValid() && (six && !c.has(w.index, w.source) || !six && !c.local(w.source)) {
		return unix.EINVAL
	}
	return nil
}

// local says that an address is the stack's own, or in a net of loopback's.
func (c *config) local(ip netip.Addr) bool {
	return slices.ContainsFunc(c.routes, func(r row) bool { return r.typ == unix.RTN_LOCAL && r.dst.Contains(ip) })
}

// checkGateway finds the device that leads to a gateway: one on whose link it is, by a narrower
// scope than the route's (fib_check_nh_v4_gw, ip6_validate_gw).
func (c *config) checkGateway(w *row) error {
	six := w.gateway.Is6()
	if six && (w.gateway.IsMulticast() || c.local(w.gateway)) {
		return unix.EINVAL
	}
	if six && w.gateway.IsLinkLocalUnicast() || w.onlink {
		if w.index == 0 {
			return unix.EINVAL
		}
		return nil
	}
	for _, table := range []uint8{unix.RT_TABLE_LOCAL, unix.RT_TABLE_MAIN} {
		for _, r := range c.ordered() {
			if r.table != table || r.dst.Addr().Is6() != six || !r.dst.Contains(w.gateway) || w.index != 0 && r.index != w.index {
				continue
			}
			if six && r.gateway.IsValid() {
				return unix.EHOSTUNREACH
			}
			if !six && r.scope < max(w.scope+1, unix.RT_SCOPE_LINK) {
				continue
			}
			if r.typ != unix.RTN_UNICAST && r.typ != unix.RTN_LOCAL {
				return unix.EINVAL
			}
			w.index = r.index
			return nil
		}
	}
	if six {
		return unix.EHOSTUNREACH
	}
	return unix.ENETUNREACH
}

// addRoute is fib_table_insert and fib6_add_rt2node.
func (c *config) addRoute(w row, how How) error {
	at := -1
	for i, r := range c.routes {
		if r.table == w.table && r.dst == w.dst && r.metric == w.metric {
			at = i
			break
		}
	}
	switch {
	case at >= 0 && how&unix.NLM_F_EXCL != 0:
		return unix.EEXIST
	case at >= 0 && how&unix.NLM_F_REPLACE != 0:
		c.routes[at] = w
		c.tell(Event{By: c.by, Route: w.told(), Replaced: true})
		return nil
	case slices.ContainsFunc(c.routes, func(r row) bool { r.of = w.of; return r == w }):
		return unix.EEXIST
	case at >= 0 && w.dst.Addr().Is6():
		return unix.EOPNOTSUPP // one way of several
	case how&unix.NLM_F_CREATE == 0:
		return unix.ENOENT
	case len(c.routes) >= mostRoutes:
		return unix.ENOBUFS
	case at >= 0 && how&unix.NLM_F_APPEND == 0: // before those that are as good
		c.routes = slices.Insert(c.routes, at, w)
	default:
		c.routes = append(c.routes, w)
	}
	c.tell(Event{By: c.by, Route: w.told()})
	return nil
}

// DeleteRoute takes the first route that matches what is given (fib_table_delete,
// ip6_route_del): what is 0 or nil matches any.
func (n *Stack) DeleteRoute(by Asker, r Route) error {
	w, err := parseRoute(r)
	if err != nil {
		return err
	}
	return n.change(by, func(c *config) error {
		if w.index != 0 && c.nic(w.index) == nil {
			return unix.ENODEV
		}
		if w.table == unix.RT_TABLE_UNSPEC {
			w.table = unix.RT_TABLE_MAIN
		}
		for i, o := range c.routes {
			switch {
			case o.table != w.table || o.dst != w.dst:
			case w.metric != 0 && w.metric != o.metric, w.typ != 0 && w.typ != o.typ, w.protocol != 0 && w.protocol != o.protocol:
			case w.index != 0 && w.index != o.index, w.gateway.IsValid() && w.gateway != o.gateway, w.source.IsValid() && w.source != o.source:
			case w.dst.Addr().Is4() && w.scope != unix.RT_SCOPE_NOWHERE && w.scope != o.scope:
			default:
				c.routes = slices.Delete(c.routes, i, i+1)
				c.tell(Event{Gone: true, By: c.by, Route: o.told()})
				return nil
			}
		}
		return unix.ESRCH
	})
}

// SetNeighbour makes a neighbour known for good: an Ethernet address that nobody is asked for.
func (n *Stack) SetNeighbour(by Asker, e Neighbour, how How) error {
	n.configMu.Lock()
	defer n.configMu.Unlock()
	d := n.config.Load().nic(e.Link)
	ip, ok := netip.AddrFromSlice(e.IP)
	switch {
	case d == nil:
		return unix.ENODEV
	case !ok || len(e.Ethernet) != 6:
		return unix.EINVAL
	case d.loopback():
		return unix.EOPNOTSUPP // which has no neighbours
	case !d.up:
		return unix.ENETDOWN
	}
	there := slices.ContainsFunc(n.Neighbours(), func(o Neighbour) bool { return o.Link == e.Link && bytes.Equal(o.IP, e.IP) })
	switch {
	case there && how&unix.NLM_F_EXCL != 0:
		return unix.EEXIST
	case !there && how&unix.NLM_F_CREATE == 0:
		return unix.ENOENT
	}
	if !there && len(n.Neighbours()) >= mostStatic {
		return unix.ENOBUFS
	}
	if err := n.tcpip().AddStaticNeighbor(tcpip.NICID(e.Link), protocolOf(addressOf(ip)), addressOf(ip), tcpip.LinkAddress(e.Ethernet)); err != nil {
		return errno(err)
	}
	e.Permanent = true
	n.announce([]Event{{By: by, Near: &e}})
	return nil
}

// mostStatic bounds the neighbours that a container makes known in the library's memory.
const mostStatic = 4096

// DeleteNeighbour forgets one. neigh_delete.
func (n *Stack) DeleteNeighbour(by Asker, e Neighbour) error {
	n.configMu.Lock()
	defer n.configMu.Unlock()
	if n.config.Load().nic(e.Link) == nil {
		return unix.ENODEV
	}
	ip, ok := netip.AddrFromSlice(e.IP)
	i := slices.IndexFunc(n.Neighbours(), func(o Neighbour) bool { return o.Link == e.Link && bytes.Equal(o.IP, e.IP) })
	if !ok || i < 0 {
		return unix.ENOENT
	}
	was := n.Neighbours()[i]
	if err := n.tcpip().RemoveNeighbor(tcpip.NICID(e.Link), protocolOf(addressOf(ip)), addressOf(ip)); err != nil {
		return errno(err)
	}
	n.announce([]Event{{Gone: true, By: by, Near: &was}})
	return nil
}
