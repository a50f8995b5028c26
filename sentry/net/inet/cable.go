package inet

import (
	"sync"
	"sync/atomic"
	"time"

	"bulkhead/virtio/ratelimit"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// cable is a device's end in the library: its own for packet sockets, but that goes deaf
// for good with the first error of its socket, of which there is one each time that the interface goes
// down (net/packet/af_packet.c, packet_notifier). When it comes up again the socket works as
// before, and another end of the library's listens to it.
type cable struct {
	stack.LinkEndpoint // speaks
	stack.GSOEndpoint

	options fdbased.Options
	limit   *ratelimit.Limiter // of what it speaks
	lost    atomic.Uint64      // packets that the socket did not take
	refused atomic.Uint64      // packets that came

	mu   sync.Mutex
	nic  stack.NetworkDispatcher // nil: it is to be silent
	ears stack.LinkEndpoint      // nil: LinkEndpoint listens itself
	miss uint64                  // frames that came and found no room, of those that the socket has told of
}

func newCable(d Device) (*cable, error) {
	c := &cable{limit: ratelimit.New(d.Limit), options: fdbased.Options{
		FDs: []int{d.FD}, MTU: d.MTU, EthernetHeader: true, Address: tcpip.LinkAddress(d.Ethernet),
		PacketDispatchMode: fdbased.RecvMMsg, PreConfigured: true, IsPacketSocket: []bool{true}, ProcessorsPerChannel: 1,
		// What another namespace of this host sends has its checksum only when it leaves
		// the host, and was never on a wire where it could be damaged.
		RXChecksumOffload: true,
	}}
	if d.Offload {
		c.options.GSOMaxSize = 65536
	}
	c.options.ClosedFunc = func(err tcpip.Error) {
		if err != nil { // else it was stopped
			go c.listen()
		}
	}
	ep, err := c.end()
	if err != nil {
		return nil, err
	}
	c.LinkEndpoint, c.GSOEndpoint = ep, ep.(stack.GSOEndpoint)
	return c, nil
}

// end makes one of the library's. It keeps its options.
func (c *cable) end() (stack.LinkEndpoint, error) {
	o := c.options
	return fdbased.New(&o)
}

// WritePackets implements stack.LinkWriter. Where there is a limit it takes as long as that wants: it is
// called by the queue then, and nobody waits.
func (c *cable) WritePackets(all stack.PacketBufferList) (int, tcpip.Error) {
	if c.limit == nil {
		return c.write(all)
	}
	for i, p := range all.AsSlice() {
		time.Sleep(c.limit.Take(p.Size()))
		var one stack.PacketBufferList
		one.PushBack(p)
		if _, err := c.write(one); err != nil {
			return i, err
		}
	}
	return all.Len(), nil
}

func (c *cable) write(all stack.PacketBufferList) (int, tcpip.Error) {
	n, err := c.LinkEndpoint.WritePackets(all)
	if err != nil {
		c.lost.Add(uint64(all.Len() - n))
	}
	return n, err
}

// missed asks the socket, which tells of each once (packet(7), PACKET_STATISTICS). A socket that is
// none of packets misses nothing.
func (c *cable) missed() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, err := unix.GetsockoptTpacketStats(c.options.FDs[0], unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
		c.miss += uint64(s.Drops)
	}
	return c.miss
}

// Attach implements stack.LinkEndpoint.
func (c *cable) Attach(nic stack.NetworkDispatcher) {
	nic = gated(nic, &c.refused)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nic = nic; nic == nil && c.ears != nil {
		c.ears.Attach(nil)
		c.ears = nil
	}
	c.LinkEndpoint.Attach(nic)
}

// listen has another end listen, where one has stopped for an error of its socket. That error is told
// once, so that this is not for ever: on a socket that works, or waits for its interface.
func (c *cable) listen() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nic == nil {
		return
	}
	ears, err := c.end()
	if err != nil {
		return // out of descriptors: the sandbox has other troubles
	}
	c.ears = ears
	ears.Attach(c.nic)
}
