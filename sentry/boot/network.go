package boot

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"bulkhead/jail/seccomp"
	"bulkhead/sentry/net/inet"
	"bulkhead/sentry/syscalls"
	"bulkhead/sentry/vfs"
)

// attachNetwork makes the interfaces that the runtime took over the container's own.
func (s *sandbox) attachNetwork() error {
	var devices []inet.Device
	for _, d := range s.config.Devices {
		ethernet, err := net.ParseMAC(d.Ethernet)
		if err != nil {
			return fmt.Errorf("interface %s: %w", d.Name, err)
		}
		r := inet.Device{Index: d.Index, Name: d.Name, Ethernet: ethernet, MTU: uint32(d.MTU), FD: d.FD, Offload: d.Offload, Addresses: d.Addresses}
		for _, route := range d.Routes {
			r.Routes = append(r.Routes, inet.DeviceRoute{Destination: route.Destination, Gateway: route.Gateway})
		}
		devices = append(devices, r)
	}
	return syscalls.NetOf(s.kernel, vfs.SentryContext()).Attach(devices)
}

// networkCalls are those of interfaces beside loopback.
var networkCalls = []seccomp.Row{
	{NR: unix.SYS_RECVMMSG, Name: "recvmmsg", Why: "frames in"},
	{NR: unix.SYS_SENDMMSG, Name: "sendmmsg", Why: "frames out"},
	{NR: unix.SYS_EVENTFD2, Name: "eventfd2", Why: "to stop who waits for frames"},
}
