package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent"
)

// Return gives interfaces of the calling thread's network namespace the addresses and
// routes again that Take took. One that is not what it was then (its name and its Ethernet
// address) is left alone: the namespace may be another's by now.
func Return(devices []agent.Device) error {
	var all []error
	for _, d := range devices {
		l, err := netlink.LinkByName(d.Name)
		if err != nil {
			continue // it has gone
		}
		ethernet, err := net.ParseMAC(d.Ethernet)
		if err != nil || l.Attrs().Index != d.Index || !bytes.Equal(l.Attrs().HardwareAddr, ethernet) {
			continue
		}
		if err := refill(l, d); err != nil {
			all = append(all, fmt.Errorf("network: interface %s: %w", d.Name, err))
		}
	}
	return errors.Join(all...)
}

func refill(l netlink.Link, d agent.Device) error {
	for _, a := range d.Addresses {
		// It was in use until now: nobody else can have come to have it.
		given := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			given.Flags = unix.IFA_F_NODAD
		}
		if slices.Contains(d.Unrouted, a) {
			given.Flags |= unix.IFA_F_NOPREFIXROUTE
		}
		if err := netlink.AddrReplace(l, given); err != nil {
			return fmt.Errorf("address %v: %w", a, err)
		}
	}
	for _, r := range d.Routes {
		route := &netlink.Route{LinkIndex: d.Index, Dst: ipNet(r.Destination), Gw: r.Gateway.AsSlice()}
		if !r.Gateway.IsValid() {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route to %v: %w", r.Destination, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
