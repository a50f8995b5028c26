package boot

import (
	"context"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"bulkhead/jail/seccomp"
	"bulkhead/runtime/agent"
	"bulkhead/sentry/net/inet"
	"bulkhead/sentry/syscalls"
	"bulkhead/sentry/vfs"
	"bulkhead/virtio/ratelimit"
)

// attachNetwork makes the interfaces that the runtime took over the container's own.
func (s *sandbox) attachNetwork() error {
	limit, err := ratelimit.Parse(s.config.Spec.Annotations[agent.EgressAnnotation])
	if err != nil {
		return fmt.Errorf("annotation %s: %w", agent.EgressAnnotation, err)
	}
	var devices []inet.Device
	for _, d := range s.config.Devices {
		ethernet, err := net.ParseMAC(d.Ethernet)
		if err != nil {
			return fmt.Errorf("interface %s: %w", d.Name, err)
		}
		r := inet.Device{Index: d.Index, Name: d.Name, Ethernet: ethernet, MTU: uint32(d.MTU), FD: d.FD, Offload: d.Offload, Addresses: d.Addresses, Unrouted: d.Unrouted, Limit: limit}
		for _, route := range d.Routes {
			r.Routes = append(r.Routes, inet.DeviceRoute{Destination: route.Destination, Gateway: route.Gateway})
		}
		devices = append(devices, r)
	}
	stack := syscalls.NetOf(s.kernel, vfs.SentryContext())
	stack.Held().Of(s.arena)
	if err := stack.Attach(devices); err != nil {
		return err
	}
	if d := s.config.NameServer; d != nil {
		return stack.Relay(inet.NameServer{At: d.Address, Server: d.Address, Packets: d.Packets, Streams: d.Streams})
	}
	return nil
}

// traffic is what the interfaces have carried that attachNetwork attached.
func (s *sandbox) traffic() []agent.Traffic {
	all := make([]agent.Traffic, len(s.config.Devices))
	for _, l := range syscalls.NetOf(s.kernel, vfs.SentryContext()).Links() {
		for i, d := range s.config.Devices {
			if d.Index == l.Index {
				all[i] = agent.Traffic{RxPackets: l.Stats.RxPackets, RxBytes: l.Stats.RxBytes, RxDropped: l.Stats.RxDropped + l.Stats.RxMissed,
					TxPackets: l.Stats.TxPackets, TxBytes: l.Stats.TxBytes, TxDropped: l.Stats.TxDropped}
			}
		}
	}
	return all
}

// nameServerCalls are those of a name server's relay: its sockets, and no other, connect.
func (s *sandbox) nameServerCalls() (rows []seccomp.Row) {
	if d := s.config.NameServer; d != nil {
		for _, fd := range d.Streams {
			rows = append(rows, seccomp.Row{NR: unix.SYS_CONNECT, Name: "connect", Why: "the name server, once a message", When: seccomp.Is(0, uint64(fd))})
		}
	}
	return rows
}

// networkCalls are those of interfaces beside loopback.
var networkCalls = []seccomp.Row{
	{NR: unix.SYS_RECVMMSG, Name: "recvmmsg", Why: "frames in"},
	{NR: unix.SYS_SENDMMSG, Name: "sendmmsg", Why: "frames out"},
	{NR: unix.SYS_EVENTFD2, Name: "eventfd2", Why: "to stop who waits for frames"},
}

// Forward implements agent.Forwarding.
func (s *sandbox) Forward(ctx context.Context, r *agent.ForwardRequest, conn *os.File) error {
	return syscalls.NetOf(s.kernel, vfs.SentryContext()).Forward(ctx, r.Port, conn)
}
