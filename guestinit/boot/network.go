package boot

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"bulkhead/guestinit/config"
)

func (g *guest) setNetwork() error {
	err := setUp("lo")
	if err != nil && len(g.config.Network.Interfaces) == 0 {
		return nil // a kernel without a network, and nobody asked for one
	}
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	for _, i := range g.config.Network.Interfaces {
		if err := configureInterface(i); err != nil {
			return fmt.Errorf("interface %s: %w", describe(i), err)
		}
	}
	return nil
}

// setUp is netdevice(7)'s way, which most guests need and no more: netlink is
// a library to page in and several answers to parse.
func setUp(name string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request); err != nil {
		return err
	}
	request.SetUint16(request.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

func describe(i config.Interface) string {
	return strings.TrimSpace(i.Name + " " + i.MAC)
}

func configureInterface(i config.Interface) error {
	link, err := findLink(i)
	if err != nil {
		return err
	}
	if i.Name != "" && link.Attrs().Name != i.Name {
		if err := netlink.LinkSetName(link, i.Name); err != nil {
			return fmt.Errorf("rename %s: %w", link.Attrs().Name, err)
		}
	}
	if i.MTU != 0 {
		if err := netlink.LinkSetMTU(link, i.MTU); err != nil {
			return fmt.Errorf("set an MTU of %d: %w", i.MTU, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring it up: %w", err)
	}
	for _, prefix := range i.Addresses {
		if err := addAddress(link, prefix); err != nil {
			return fmt.Errorf("add the address %v: %w", prefix, err)
		}
	}
	for _, route := range i.Routes {
		if err := addRoute(link, route); err != nil {
			return fmt.Errorf("add a route to %v by %v: %w", route.Destination, route.Gateway, err)
		}
	}
	return nil
}

// findLink finds by MAC first: the kernel's names depend on the order of probing.
func findLink(i config.Interface) (netlink.Link, error) {
	if i.MAC == "" {
		return netlink.LinkByName(i.Name)
	}
	want, err := net.ParseMAC(i.MAC)
	if err != nil {
		return nil, err
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		if bytes.Equal(link.Attrs().HardwareAddr, want) {
			return link, nil
		}
	}
	return nil, errors.New("the machine has no network device with this MAC")
}

// addAddress skips IPv6's detection of duplicates, which would keep the address
// unusable for a second: host and guest are alone on the wire.
func addAddress(link netlink.Link, prefix netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(prefix)}
	if prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return netlink.AddrReplace(link, addr)
}

func addRoute(link netlink.Link, r config.Route) error {
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: r.Gateway.AsSlice()}
	if r.Destination.IsValid() {
		route.Dst = ipNet(r.Destination.Masked())
	}
	if r.Gateway.IsValid() {
		route.Flags = int(netlink.FLAG_ONLINK) // a gateway outside of our prefix is on the wire as well
	} else {
		route.Scope = netlink.SCOPE_LINK
	}
	return netlink.RouteReplace(route)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// writeNames writes the resolver's files, in the root that the command will see.
// What nobody configured stays as it is.
func (g *guest) writeNames() error {
	for file, text := range nameFiles(g.config) {
		if text == "" {
			continue
		}
		err := os.MkdirAll("/etc", 0o755)
		if err == nil {
			err = os.WriteFile(file, []byte(text), 0o644)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
	}
	return nil
}

func nameFiles(c *config.Config) map[string]string {
	var resolv, hosts strings.Builder
	for _, addr := range c.Network.Nameservers {
		fmt.Fprintf(&resolv, "nameserver %v\n", addr)
	}
	if len(c.Network.Search) > 0 {
		fmt.Fprintf(&resolv, "search %s\n", strings.Join(c.Network.Search, " "))
	}
	if len(c.Network.Hosts) > 0 {
		fmt.Fprintf(&hosts, "127.0.0.1 localhost\n::1 localhost\n")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Network.Hosts)) {
		fmt.Fprintf(&hosts, "%v %s\n", c.Network.Hosts[name], name)
	}
	return map[string]string{"/etc/resolv.conf": resolv.String(), "/etc/hosts": hosts.String()}
}
