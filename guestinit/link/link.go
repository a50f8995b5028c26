// Package link gives the guest's network devices what their host has for them.
package link

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"bulkhead/guestinit/config"
)

// Configure brings the device up with an MTU, addresses and routes; its name and
// hardware address are the caller's business.
func Configure(link netlink.Link, i config.Interface) error {
	if i.MTU != 0 {
		if err := netlink.LinkSetMTU(link, i.MTU); err != nil {
			return fmt.Errorf("set an MTU of %d: %w", i.MTU, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring it up: %w", err)
	}
	for _, prefix := range i.Addresses {
		if err := addAddress(link, prefix, slices.Contains(i.Unrouted, prefix)); err != nil {
			return fmt.Errorf("add the address %v: %w", prefix, err)
		}
	}
	for _, route := range i.Routes {
		if err := addRoute(link, route, i.Addresses); err != nil {
			return fmt.Errorf("add a route to %v by %v: %w", route.Destination, route.Gateway, err)
		}
	}
	return nil
}

// addAddress skips IPv6's detection of duplicates, which would keep the address
// unusable for a second: host and guest are alone on the wire.
func addAddress(link netlink.Link, prefix netip.Prefix, unrouted bool) error {
	addr := &netlink.Addr{IPNet: ipNet(prefix)}
	if prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if unrouted {
		addr.Flags |= unix.IFA_F_NOPREFIXROUTE
	}
	return netlink.AddrReplace(link, addr)
}

func addRoute(link netlink.Link, r config.Route, ours []netip.Prefix) error {
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: r.Gateway.AsSlice()}
	if r.Destination.IsValid() && r.Destination.Bits() > 0 {
		route.Dst = ipNet(r.Destination.Masked())
	}
	switch {
	case !r.Gateway.IsValid():
		route.Scope = netlink.SCOPE_LINK
	case !slices.ContainsFunc(ours, func(p netip.Prefix) bool { return p.Contains(r.Gateway) }):
		route.Flags = int(netlink.FLAG_ONLINK) // a gateway outside of our prefixes is on the wire as well
	}
	return netlink.RouteReplace(route)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
