// Package network takes over what an engine has prepared in a network namespace: a
// packet socket on each interface, and what addresses and routes it has. The
// addresses are taken from the host's kernel, which would answer for them (a reset
// for each connection to a sandbox's port); the interface stays, and up.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent"
)

// Take takes over the interfaces of the calling thread's network namespace, all that
// are up and carry Ethernet. The devices' descriptors are the caller's to close. An
// interface whose address another sandbox has taken has none any more.
func Take() (devices []agent.Device, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("network: list the interfaces: %w", err)
	}
	defer func() {
		if err != nil {
			Close(&agent.BootConfig{Devices: devices})
			devices = nil
		}
	}()
	for _, l := range links {
		a := l.Attrs()
		if !takeable(l) {
			continue
		}
		if len(devices) == agent.MostDevices {
			return devices, fmt.Errorf("network: more than %d interfaces", agent.MostDevices)
		}
		d := agent.Device{Index: a.Index, Name: a.Name, Ethernet: a.HardwareAddr.String(), MTU: a.MTU}
		if d.FD, d.Offload, err = open(a.Index); err != nil {
			return devices, fmt.Errorf("network: interface %s: packet socket: %w", a.Name, err)
		}
		devices = append(devices, d)
		if err := take(l, &devices[len(devices)-1]); err != nil {
			return devices, fmt.Errorf("network: interface %s: %w", a.Name, err)
		}
	}
	return devices, nil
}

// takeable are interfaces that are up and carry Ethernet.
func takeable(l netlink.Link) bool {
	a := l.Attrs()
	return a.Flags&net.FlagUp != 0 && a.Flags&net.FlagLoopback == 0 && len(a.HardwareAddr) == 6
}

// Close closes what Take and NameServer have opened for a sandbox.
func Close(c *agent.BootConfig) {
	for _, fd := range c.Descriptors() {
		unix.Close(fd)
	}
}

// allProtocols is ETH_P_ALL in network order.
const allProtocols = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00

// backlog is what the kernel keeps for a sandbox that does not come to read.
const backlog = 4 << 20 // bytes

// open is a packet socket of all protocols, bound to the interface (packet(7)).
func open(index int) (fd int, offload bool, err error) {
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, false, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	// An older kernel lacks one or the other, and is slower or does without.
	offload = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1) == nil
	_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, backlog)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: index}); err != nil {
		return -1, false, os.NewSyscallError("bind", err)
	}
	return fd, offload, nil
}

// take reads addresses and routes, and removes the addresses, with which the routes go.
func take(l netlink.Link, d *agent.Device) error {
	addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list its addresses: %w", err)
	}
	up := l.Attrs().Flags&net.FlagUp != 0
	var brought []string
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: d.Index, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("list its routes: %w", err)
		}
		for _, r := range routes {
			if r.Protocol == unix.RTPROT_KERNEL || r.Type != unix.RTN_UNICAST {
				if r.Dst != nil {
					brought = append(brought, r.Dst.String())
				}
				continue // an address brings it
			}
			route, err := parseRoute(r)
			if err != nil {
				return err
			}
			d.Routes = append(d.Routes, route)
		}
	}
	for _, a := range addresses {
		p, err := prefix(a.IPNet)
		if err != nil {
			return err
		}
		d.Addresses = append(d.Addresses, p)
		if up && !p.IsSingleIP() && !slices.Contains(brought, p.Masked().String()) {
			d.Unrouted = append(d.Unrouted, p)
		}
	}
	// What others lead through first.
	slices.SortStableFunc(d.Routes, func(a, b agent.Route) int {
		switch {
		case a.Gateway.IsValid() == b.Gateway.IsValid():
			return 0
		case a.Gateway.IsValid():
			return 1
		}
		return -1
	})
	for i := range addresses {
		if err := netlink.AddrDel(l, &addresses[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) { // gone with the one before
			return fmt.Errorf("take its address %v: %w", d.Addresses[i], err)
		}
	}
	return nil
}

func parseRoute(r netlink.Route) (route agent.Route, err error) {
	zero := netip.IPv4Unspecified()
	if r.Family == netlink.FAMILY_V6 {
		zero = netip.IPv6Unspecified()
	}
	route.Destination = netip.PrefixFrom(zero, 0)
	if r.Dst != nil {
		if route.Destination, err = prefix(r.Dst); err != nil {
			return route, err
		}
	}
	if r.Gw != nil {
		gateway, ok := netip.AddrFromSlice(r.Gw)
		if !ok {
			return route, fmt.Errorf("gateway %v is no address", r.Gw)
		}
		route.Gateway = gateway.Unmap()
	}
	return route, nil
}

func prefix(n *net.IPNet) (netip.Prefix, error) {
	ones, bits := n.Mask.Size()
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok || bits == 0 {
		return netip.Prefix{}, fmt.Errorf("%v is no address with a prefix", n)
	}
	if a = a.Unmap(); bits == 128 && a.Is4() {
		a = netip.AddrFrom16([16]byte(n.IP.To16()))
	}
	return netip.PrefixFrom(a, ones), nil
}
