package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"bulkhead/guestinit/config"
	"bulkhead/guestinit/link"
	"bulkhead/runtime/agent/rpc"
)

// device is a network device of the machine's.
type device struct {
	name   string // the kernel's, as eth0
	number int    // on the virtio bus: the order of the machine's devices
}

// setNetwork makes the machine's network devices the interfaces that the host has for
// them, and takes away those that have no wire.
func setNetwork(interfaces []*rpc.Interface) error {
	devices, err := networkDevices()
	if err != nil {
		return err
	}
	if len(interfaces) > len(devices) {
		return fmt.Errorf("%d interfaces for a machine with %d network devices", len(interfaces), len(devices))
	}
	for _, d := range devices[len(interfaces):] {
		if err := os.WriteFile("/sys/bus/virtio/drivers/virtio_net/unbind", fmt.Appendf(nil, "virtio%d", d.number), 0); err != nil {
			return fmt.Errorf("take %s away, which has no wire: %w", d.name, err)
		}
	}
	links := make([]netlink.Link, len(interfaces))
	for i := range interfaces {
		if links[i], err = netlink.LinkByName(devices[i].name); err != nil {
			return fmt.Errorf("network device %s: %w", devices[i].name, err)
		}
		// None of the names that are given next is then another's still.
		if err := netlink.LinkSetName(links[i], "bulkhead"+strconv.Itoa(i)); err != nil {
			return fmt.Errorf("network device %s: %w", devices[i].name, err)
		}
	}
	for i, r := range interfaces {
		if err := configure(links[i], r); err != nil {
			return fmt.Errorf("interface %q: %w", r.Name, err)
		}
	}
	return nil
}

// networkDevices are all that are on the virtio bus, in the machine's order.
func networkDevices() ([]device, error) {
	paths, err := filepath.Glob("/sys/class/net/*/device")
	if err != nil {
		return nil, err
	}
	var devices []device
	for _, path := range paths {
		target, err := os.Readlink(path)
		if err != nil {
			return nil, err
		}
		number, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(target), "virtio"))
		if err != nil {
			continue // another bus's
		}
		devices = append(devices, device{filepath.Base(filepath.Dir(path)), number})
	}
	slices.SortFunc(devices, func(a, b device) int { return cmp.Compare(a.number, b.number) })
	return devices, nil
}

func configure(l netlink.Link, r *rpc.Interface) error {
	c := config.Interface{MTU: int(r.Mtu)}
	for _, a := range r.Addresses {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			return err
		}
		c.Addresses = append(c.Addresses, p)
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
