package agent

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"

	"bulkhead/guestinit/config"
	"bulkhead/guestinit/link"
	"bulkhead/runtime/agent/rpc"
)

// setNetwork makes the machine's network devices the interfaces that the host has for
// them. The others have no wire and are nobody's.
func setNetwork(interfaces []*rpc.Interface) error {
	if err := networks.letGo(len(interfaces)); err != nil { // those are no interfaces then
		return err
	}
	links, err := takeLinks(len(interfaces))
	if err != nil {
		return err
	}
	for i, r := range interfaces {
		if err := configure(links[i], r); err != nil {
			return fmt.Errorf("interface %q: %w", r.Name, err)
		}
	}
	return nil
}

// takeLinks has the driver take the first n devices, and gives them names that are not
// among those that come next.
func takeLinks(n int) ([]netlink.Link, error) {
	devices, err := networks.take(n)
	if err != nil {
		return nil, err
	}
	links := make([]netlink.Link, n)
	for i, d := range devices {
		if links[i], err = netlink.LinkByName(d.name); err != nil {
			return nil, fmt.Errorf("network device %s: %w", d.device, err)
		}
		if err := netlink.LinkSetName(links[i], "bulkhead"+strconv.Itoa(i)); err != nil {
			return nil, fmt.Errorf("network device %s: %w", d.device, err)
		}
	}
	return links, nil
}

func configure(l netlink.Link, r *rpc.Interface) error {
	c := config.Interface{MTU: int(r.Mtu)}
	for _, a := range r.Addresses {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			return err
		}
		c.Addresses = append(c.Addresses, p)
		if slices.Contains(r.Unrouted, a) {
			c.Unrouted = append(c.Unrouted, p)
		}
	}
	for _, r := range r.Routes {
		route, err := parseRoute(r)
		if err != nil {
			return err
		}
		c.Routes = append(c.Routes, route)
	}
	if err := netlink.LinkSetName(l, r.Name); err != nil {
		return fmt.Errorf("name it: %w", err)
	}
	if err := netlink.LinkSetHardwareAddr(l, r.Ethernet); err != nil {
		return fmt.Errorf("set its address to % x: %w", r.Ethernet, err)
	}
	// What the engine prepared is all there is: no address of the kernel's own making.
	// Without IPv6 there is no such file.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+r.Name+"/addr_gen_mode", []byte("1"), 0)
	return link.Configure(l, c)
}

func parseRoute(r *rpc.Route) (route config.Route, err error) {
	if route.Destination, err = netip.ParsePrefix(r.Destination); err != nil {
		return route, err
	}
	if r.Gateway != "" {
		route.Gateway, err = netip.ParseAddr(r.Gateway)
	}
	return route, err
}
