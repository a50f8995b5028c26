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

// drivers is where virtio_net lets go of a device, or takes one (sysfs-bus-driver).
const drivers = "/sys/bus/virtio/drivers/virtio_net/"

// letGo parts the network devices from their driver, but for the first n. They are no
// interfaces then.
func letGo(n int) error {
	devices, err := networkDevices()
	if err != nil {
		return err
	}
	for _, d := range devices[min(n, len(devices)):] {
		if d.name == "" {
			continue
		}
		if err := os.WriteFile(drivers+"unbind", []byte(d.device), 0); err != nil {
			return fmt.Errorf("let go of the network device %s: %w", d.name, err)
		}
	}
	return nil
}

// setNetwork makes the machine's network devices the interfaces that the host has for
// them. The others have no wire and are nobody's.
func setNetwork(interfaces []*rpc.Interface) error {
	if err := letGo(len(interfaces)); err != nil {
		return err
	}
	links, err := take(len(interfaces))
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

// take has the driver take the first n devices, if it has not yet, and gives them names
// that are not among those that come next.
func take(n int) ([]netlink.Link, error) {
	if n == 0 {
		return nil, nil
	}
	devices, err := networkDevices()
	if err != nil {
		return nil, err
	}
	if n > len(devices) {
		return nil, fmt.Errorf("%d interfaces for a machine with %d network devices", n, len(devices))
	}
	for _, d := range devices[:n] {
		if d.name != "" {
			continue
		}
		if err := os.WriteFile(drivers+"bind", []byte(d.device), 0); err != nil {
			return nil, fmt.Errorf("network device %s: %w", d.device, err)
		}
	}
	if devices, err = networkDevices(); err != nil {
		return nil, err
	}
	links := make([]netlink.Link, n)
	for i, d := range devices[:n] {
		if links[i], err = netlink.LinkByName(d.name); err != nil {
			return nil, fmt.Errorf("network device %s: %w", d.device, err)
		}
		if err := netlink.LinkSetName(links[i], "bulkhead"+strconv.Itoa(i)); err != nil {
			return nil, fmt.Errorf("network device %s: %w", d.device, err)
		}
	}
	return links, nil
}

// device is a network device of the machine's.
type device struct {
	device string // its name on the bus, as virtio3
	number int    // on the bus: the order of the machine's devices
	name   string // of the interface, as eth0; "" without a driver
}

// networkDevices are all that are on the virtio bus, in the machine's order.
func networkDevices() ([]device, error) {
	paths, err := filepath.Glob("/sys/bus/virtio/devices/*")
	if err != nil {
		return nil, err
	}
	var devices []device
	for _, path := range paths {
		kind, err := os.ReadFile(path + "/device")
		if err != nil {
			return nil, err
		}
		if id, err := strconv.ParseUint(strings.TrimSpace(string(kind)), 0, 32); err != nil || id != networkID {
			continue
		}
		d := device{device: filepath.Base(path)}
		if d.number, err = strconv.Atoi(strings.TrimPrefix(d.device, "virtio")); err != nil {
			return nil, err
		}
		if names, err := os.ReadDir(path + "/net"); err == nil && len(names) > 0 {
			d.name = names[0].Name()
		}
		devices = append(devices, d)
	}
	slices.SortFunc(devices, func(a, b device) int { return cmp.Compare(a.number, b.number) })
	return devices, nil
}

// networkID is a network card's among virtio's devices (virtio 1.3 §5).
const networkID = 1

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
