package net

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// packet is an interface of the host's network by a packet socket that is bound to it
// (packet(7)). What arrives there comes to the guest, and what the guest sends leaves there;
// the host's own kernel must have no address on it, or would answer as well. Beside
// a TAP and a redirection between that and the interface (tc-mirred(8)), a frame takes a
// device less on its way, and no module of the kernel's is needed.
type packet struct {
	name string
	can  atomic.Uint64 // of guestOffloads
}

// packetHeader is struct virtio_net_hdr without num_buffers, which PACKET_VNET_HDR
// puts before each frame (net/packet/af_packet.c).
const packetHeader = 10 // bytes

// newPacket takes the socket over.
func newPacket(o Options) (*packet, port, error) {
	fd := o.Socket
	if on, err := unix.GetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR); err != nil {
		return nil, noPort, fmt.Errorf("network %s: descriptor %d is no packet socket: %w", o.Name, fd, err)
	} else if on == 0 {
		return nil, noPort, fmt.Errorf("network %s: a packet socket without PACKET_VNET_HDR", o.Name)
	}
	p, err := newPort(fd, o.Name)
	return &packet{name: o.Name}, p, err
}

func (p *packet) offload(features uint64) error { p.can.Store(features); return nil }
func (*packet) attach(int, bool) error          { return nil }
func (*packet) header() int                     { return packetHeader }

// lacks: nobody cuts a frame that a guest would not take any more, so it cannot choose while it
// runs; and the MTU is the interface's, as whoever configures the guest has it.
func (*packet) lacks() uint64 { return FeatureGuestOffloads | FeatureMTU }

// admits: what another sent unfinished comes so, be there a driver that can finish it or
// none. Linux's can.
func (p *packet) admits(h *header) bool {
	can := p.can.Load()
	if h[0]&needsCsum != 0 && can&FeatureGuestCsum == 0 {
		return false
	}
	need := uint64(0)
	switch h[1] &^ gsoECN {
	case gsoNone:
		return h[1] == gsoNone
	case gsoTCP4:
		need = FeatureGuestTSO4
	case gsoTCP6:
		need = FeatureGuestTSO6
	default:
		return false
	}
	if h[1]&gsoECN != 0 {
		need |= FeatureGuestECN
	}
	return can&need == need
}

func (p *packet) String() string { return p.name }

// unplugged is an interface without a wire.
type unplugged struct{ name string }

func (unplugged) offload(uint64) error   { return nil }
func (unplugged) attach(int, bool) error { return nil }
func (unplugged) header() int            { return packetHeader }
func (unplugged) lacks() uint64          { return FeatureGuestOffloads | FeatureMTU } // as packet, whose template it is
func (unplugged) admits(*header) bool    { return false }
func (u unplugged) String() string       { return u.name }
