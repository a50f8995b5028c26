// Package inet is AF_INET and AF_INET6: streams, datagrams, ping and raw ICMP
// sockets of one network namespace, on gVisor's tcpip as a library. The library
// has the protocols, ports and routes; what a program sees of a socket (states,
// errors, readiness, limits, options) follows Linux's net/ipv4, net/ipv6 and
// net/core here.
//
// Two things are done on this side of the library. A TCP connection both of whose
// ends are in one stack shakes hands and takes its leave there, but its bytes go
// straight from one socket's queue to the other's (link.go): a segment would pass
// two goroutines on the way, each some 40 µs from the thread that waits. And a
// datagram is taken out of the library as it arrives, because Linux counts what a
// small one costs in memory and the library does not.
//
// Devices, addresses and routes are a value that a change replaces (config.go, change.go).
//
// Lock order: Stack.configMu, Socket.bindMu, Socket.mu, link.mu, then the library's locks, then
// datagrams.mu and vfs.Queue.mu. The library calls Socket.notify with locks of
// its own held: it touches nothing but datagrams and the queue.
package inet

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/raw"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// Loopback is the index of the loopback device.
const Loopback = 1

// Stack is what a network namespace has. The library's goroutines start with the
// first socket.
type Stack struct {
	sysctls Sysctls
	owner   *vfs.UserNamespace // whose capabilities count; nil: the first
	relay   *nameRelay         // from Relay, or nil
	guests  sync.Map           // the library's ends of Forward's connections, of endpoint

	datagrams sync.Map // sockets that are no streams, by the library's ends of them
	raws      atomic.Int64

	configMu sync.Mutex // held by who changes the configuration, and who starts the library with it
	config   atomic.Pointer[config]

	start     sync.Once
	lib       *stack.Stack
	startLite sync.Once
	lite      atomic.Pointer[stack.Stack] // for UDP-Lite

	started atomic.Bool
	queued  socket.Held // bytes that sockets hold
	carried traffic
	echoes  [2]atomic.Uint64 // questions that raw sockets have sent, of IPv4 and IPv6
	share   atomic.Uint64    // shareOut's last
	failed  atomic.Uint64    // attempts of ours to connect that a peer or its silence ended

	mu      sync.Mutex
	left    bool // no task is in the namespace
	sockets map[*Socket]struct{}
	links   map[pair]*link // connections of which one end has not been looked at
	joined  []membership   // of groups, the newest first
	holders []Holder       // in the order in which they came
}

// Holder is a socket of another family that works on the stack, which is there as long as
// it is.
type Holder interface {
	// Told is its row in a file of /proc/net; ok is false of other files.
	Told(file string) (row string, ok bool)
	// Heard is called of each change of the configuration, by who makes it.
	Heard(Event)
}

// Hold and LetGo are called once each.
func (n *Stack) Hold(h Holder) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.holders = append(n.holders, h)
}

func (n *Stack) LetGo(h Holder) {
	n.mu.Lock()
	n.holders = slices.DeleteFunc(n.holders, func(o Holder) bool { return o == h })
	last := n.unusedLocked()
	n.mu.Unlock()
	if last {
		n.destroy()
	}
}

// unusedLocked says that nobody is left who could use the stack.
func (n *Stack) unusedLocked() bool { return n.left && len(n.sockets) == 0 && len(n.holders) == 0 }

// New makes a namespace with a loopback device and its addresses, 127.0.0.1/8 and
// ::1/128. A fresh one's device is down (unshare(2)); the container's own is up. owner is
// the user namespace that the network namespace belongs to, nil the first.
func New(up bool, owner *vfs.UserNamespace) *Stack {
	n := &Stack{owner: owner, sockets: map[*Socket]struct{}{}, links: map[pair]*link{}}
	n.sysctls.init()
	n.config.Store(newConfig(up))
	return n
}

// tcpip is the library's stack.
func (n *Stack) tcpip() *stack.Stack {
	n.start.Do(func() {
		n.configMu.Lock()
		defer n.configMu.Unlock()
		n.lib = n.newLib(tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6)
		c := n.config.Load()
		c.connect(n.lib)
		apply(n.lib, nil, c, false)
		n.started.Store(true)
	})
	return n.lib
}

// udpLite is another one, of loopback alone, whose UDP is UDP-Lite's ports and sockets: on a device
// that corrupts nothing the two protocols differ in their number alone.
func (n *Stack) udpLite() *stack.Stack {
	n.startLite.Do(func() {
		n.configMu.Lock()
		defer n.configMu.Unlock()
		lite := n.newLib(udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6)
		apply(lite, nil, n.config.Load(), true)
		n.lite.Store(lite)
	})
	return n.lite.Load()
}

func (n *Stack) newLib(transports ...stack.TransportProtocolFactory) *stack.Stack {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: transports,
		RawFactory:         raw.EndpointFactory{},
		HandleLocal:        true,
	})
	// Linux limits answers to other hosts, not to itself (net/ipv4/icmp.c, icmpv4_xrlim_allow).
	s.SetICMPLimit(math.MaxFloat64)
	s.SetPortRange(uint16(n.sysctls.firstPort.Load()), uint16(n.sysctls.lastPort.Load()))
	s.SetOption(tcpip.SendBufferSizeOption{Min: 1, Default: socket.BufferDefault, Max: math.MaxInt32})
	s.SetOption(tcpip.ReceiveBufferSizeOption{Min: 1, Default: socket.BufferDefault, Max: math.MaxInt32})
	sack, moderate, cubic := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true), tcpip.CongestionControlOption("cubic")
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &cubic} {
		s.SetTransportProtocolOption(tcp.ProtocolNumber, o)
	}
	lo := &inner{LinkEndpoint: loopback.New()}
	lo.SetMTU(loopbackMTU)
	if err := s.CreateNICWithOptions(Loopback, lo, stack.NICOptions{Name: "lo", DeliverLinkPackets: true}); err != nil {
		panic("inet: make the loopback device: " + err.String())
	}
	n.register(s)
	return s
}

var (
	loopback4 = tcpip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = tcpip.AddrFrom16([16]byte{15: 1})
)

// inner is the library's loopback device, with a size of packets that can be changed.
type inner struct {
	stack.LinkEndpoint
	mtu     atomic.Uint32
	refused atomic.Uint64
}

// Attach implements stack.LinkEndpoint.
func (i *inner) Attach(nic stack.NetworkDispatcher) { i.LinkEndpoint.Attach(gated(nic, &i.refused)) }

func (i *inner) MTU() uint32       { return i.mtu.Load() }
func (i *inner) SetMTU(mtu uint32) { i.mtu.Store(mtu) }

// Up says whether the loopback device is.
func (n *Stack) Up() bool { return n.config.Load().nics[0].up }

// Started says whether there ever was a socket.
func (n *Stack) Started() bool { return n.started.Load() }

// Release is called when no task is in the namespace any more. The library's
// goroutines end with the last socket.
func (n *Stack) Release() {
	n.mu.Lock()
	n.left = true
	last := n.unusedLocked()
	n.mu.Unlock()
	if last {
		n.destroy()
	}
}

func (n *Stack) destroy() {
	for _, s := range []*stack.Stack{n.lib, n.lite.Load()} {
		if s != nil {
			s.Destroy()
		}
	}
}

func (n *Stack) add(s *Socket) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sockets[s] = struct{}{}
	if s.typ == unix.SOCK_RAW {
		n.raws.Add(1)
	}
}

func (n *Stack) remove(s *Socket) (last bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.sockets, s)
	return n.unusedLocked()
}

// Sockets are those that a descriptor refers to.
func (n *Stack) Sockets() []*Socket {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]*Socket, 0, len(n.sockets))
	for s := range n.sockets {
		all = append(all, s)
	}
	return all
}

// local says that an address is one of this stack's.
func (n *Stack) local(a tcpip.Address) bool {
	return n.tcpip().CheckLocalAddress(0, protocolOf(a), a) != 0
}

func protocolOf(a tcpip.Address) tcpip.NetworkProtocolNumber {
	if a.Len() == 16 {
		return header.IPv6ProtocolNumber
	}
	return header.IPv4ProtocolNumber
}

// errno is what Linux calls one of the library's errors.
func errno(err tcpip.Error) error {
	switch err.(type) {
	case nil:
		return nil
	case *tcpip.ErrWouldBlock:
		return unix.EAGAIN
	case *tcpip.ErrConnectStarted:
		return unix.EINPROGRESS
	case *tcpip.ErrAlreadyConnecting:
		return unix.EALREADY
	case *tcpip.ErrAlreadyConnected:
		return unix.EISCONN
	case *tcpip.ErrConnectionRefused:
		return unix.ECONNREFUSED
	case *tcpip.ErrConnectionReset, *tcpip.ErrConnectionAborted:
		return unix.ECONNRESET
	case *tcpip.ErrAborted, *tcpip.ErrClosedForSend:
		return unix.EPIPE
	case *tcpip.ErrTimeout:
		return unix.ETIMEDOUT
	case *tcpip.ErrNotConnected:
		return unix.ENOTCONN
	case *tcpip.ErrDestinationRequired:
		return unix.EDESTADDRREQ
	case *tcpip.ErrPortInUse:
		return unix.EADDRINUSE
	case *tcpip.ErrBadLocalAddress:
		return unix.EADDRNOTAVAIL
	case *tcpip.ErrNoPortAvailable:
		return unix.EADDRNOTAVAIL
	case *tcpip.ErrNetworkUnreachable:
		return unix.ENETUNREACH
	case *tcpip.ErrHostUnreachable:
		return unix.EHOSTUNREACH
	case *tcpip.ErrHostDown:
		return unix.EHOSTDOWN
	case *tcpip.ErrNoNet:
		return unix.ENONET
	case *tcpip.ErrBroadcastDisabled:
		return unix.EACCES
	case *tcpip.ErrMessageTooLong:
		return unix.EMSGSIZE
	case *tcpip.ErrNoBufferSpace:
		return unix.ENOBUFS
	case *tcpip.ErrBadBuffer, *tcpip.ErrBadAddress:
		return unix.EFAULT
	case *tcpip.ErrAddressFamilyNotSupported:
		return unix.EAFNOSUPPORT
	case *tcpip.ErrUnknownProtocol:
		return unix.EPROTONOSUPPORT
	case *tcpip.ErrUnknownProtocolOption:
		return unix.ENOPROTOOPT
	case *tcpip.ErrNotSupported:
		return unix.EOPNOTSUPP
	case *tcpip.ErrNotPermitted:
		return unix.EPERM
	case *tcpip.ErrNoSuchFile:
		return unix.ENOENT
	case *tcpip.ErrUnknownDevice, *tcpip.ErrUnknownNICID, *tcpip.ErrInvalidNICID:
		return unix.ENODEV
	}
	return unix.EINVAL
}
