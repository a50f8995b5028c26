package sandbox

import (
	"fmt"
	hostnet "net"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/agent/rpc"
	"bulkhead/virtio/net"
	"bulkhead/virtio/ratelimit"
	"bulkhead/vmm/machine"
)

// templateNetworks is how many network devices a template has. What a container has is not known yet
// when its template is looked for: engines connect it after that. So every machine has one
// at least, of which the guest makes nothing where it has no wire, and one with more boots.
const templateNetworks = 1

// networks are the machine's network devices, one for each interface that the runtime has
// taken over.
func (s *sandbox) networks() ([]machine.Device, error) {
	limit, err := ratelimit.Parse(s.config.Spec.Annotations[agent.EgressAnnotation])
	if err != nil {
		return nil, fmt.Errorf("annotation %s: %w", agent.EgressAnnotation, err)
	}
	var all []machine.Device
	for i := range max(len(s.config.Devices), templateNetworks) {
		o := net.Options{Name: fmt.Sprintf("net%d", i), Unplugged: true, SendLimit: limit, Log: s.log}
		if i < len(s.config.Devices) {
			d := s.config.Devices[i]
			if !d.Offload {
				return nil, fmt.Errorf("interface %s: the host's kernel has no PACKET_VNET_HDR, which a machine's network needs", d.Name)
			}
			mac, err := hostnet.ParseMAC(d.Ethernet)
			if err != nil {
				return nil, fmt.Errorf("interface %s: %w", d.Name, err)
			}
			o.Unplugged, o.Socket, o.MAC = false, d.FD, mac
		}
		device, err := net.New(o)
		if err != nil {
			return nil, err
		}
		if i < len(s.config.Devices) {
			s.wires = append(s.wires, device)
		}
		all = append(all, machine.Device{Name: fmt.Sprintf("net%d", i), Device: device})
	}
	return all, nil
}

// wires are the devices that have one, which are of config.Devices.
type wires []*net.Device

// traffic is what has passed them. The guest is not asked for it.
func (w wires) traffic() (all []agent.Traffic) {
	for _, d := range w {
		t := d.Stats()
		all = append(all, agent.Traffic{RxPackets: t.Received, RxBytes: t.ReceivedBytes, RxDropped: t.ReceiveDropped,
			TxPackets: t.Sent, TxBytes: t.SentBytes, TxDropped: t.SendDropped})
	}
	return all
}

// interfaces are what the guest is to make of them.
func (s *sandbox) interfaces() []*rpc.Interface {
	var all []*rpc.Interface
	for _, d := range s.config.Devices {
		mac, _ := hostnet.ParseMAC(d.Ethernet) // was parsed before
		r := &rpc.Interface{Name: d.Name, Ethernet: mac, Mtu: uint32(d.MTU)}
		for _, a := range d.Addresses {
			r.Addresses = append(r.Addresses, a.String())
		}
		for _, a := range d.Unrouted {
			r.Unrouted = append(r.Unrouted, a.String())
		}
		for _, route := range d.Routes {
			w := &rpc.Route{Destination: route.Destination.String()}
			if route.Gateway.IsValid() {
				w.Gateway = route.Gateway.String()
			}
			r.Routes = append(r.Routes, w)
		}
		all = append(all, r)
	}
	return all
}
