package e2e

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// cabled is a network namespace as an engine makes one for a container, by a path: eth0 is
// 10.77.0.2 and fd77::2, and at the other end of its cable, in a namespace that nobody is in either, are
// 10.77.0.1 and fd77::1.
func cabled(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "net")
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread is not one for others any more
		made <- cable(t, path)
	}()
	must(t, <-made)
	return path
}

// cable makes both namespaces from the calling thread, and leaves it in the far one.
func cable(t *testing.T, path string) error {
	near, err := netns.New()
	if err != nil {
		return os.NewSyscallError("unshare", err)
	}
	t.Cleanup(func() { near.Close() })
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	far, err := netns.New()
	if err != nil {
		return os.NewSyscallError("unshare", err)
	}
	t.Cleanup(func() { far.Close() }) // and with it the far end
	a := netlink.NewLinkAttrs()
	a.Name = "far"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "eth0", PeerNamespace: netlink.NsFd(near)}); err != nil {
		return os.NewSyscallError("veth", err)
	}
	for _, end := range []struct {
		ns   netns.NsHandle
		name string
		last byte
	}{{far, "far", 1}, {near, "eth0", 2}} {
		if err := address(end.ns, end.name, end.last); err != nil {
			return os.NewSyscallError(end.name, err)
		}
	}
	return nil
}

// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE (linux/if_link.h).
const addrGenModeNone = 1

// address gives one end its addresses, and the near one a way to everywhere.
func address(ns netns.NsHandle, name string, last byte) error {
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	// No address of the kernel's own making: it would be there at one time and not yet at another.
	if err := h.LinkSetIP6AddrGenMode(link, addrGenModeNone); err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	for _, a := range []*netlink.Addr{
		{IPNet: &net.IPNet{IP: net.IPv4(10, 77, 0, last), Mask: net.CIDRMask(24, 32)}, Broadcast: net.IPv4(10, 77, 0, 255)},
		{IPNet: &net.IPNet{IP: net.IP{0: 0xfd, 1: 0x77, 15: last}, Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD},
	} {
		if err := h.AddrAdd(link, a); err != nil {
			return err
		}
	}
	if last == 1 {
		return nil
	}
	return h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IPv4(10, 77, 0, 1)})
}
