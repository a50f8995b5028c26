package boot

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"bulkhead/guestinit/config"
	"bulkhead/guestinit/link"
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
	l, err := findLink(i)
	if err != nil {
		return err
	}
	if i.Name != "" && l.Attrs().Name != i.Name {
		if err := netlink.LinkSetName(l, i.Name); err != nil {
			return fmt.Errorf("rename %s: %w", l.Attrs().Name, err)
		}
	}
	return link.Configure(l, i)
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
