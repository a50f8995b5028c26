package inet

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// phase is where a stream stands (enum socket_state, and TCP_LISTEN).
type phase uint8

const (
	idle phase = iota // SS_UNCONNECTED
	listening
	connecting
	connected
	failed // a connection attempt did, and connect(2) was not told yet
)

// Socket is a socket of AF_INET or AF_INET6.
type Socket struct {
	net      *Stack
	family   int
	typ      int
	protocol int
	inode    *vfs.AnonInode
	uid      uint32
	opts     *socket.Options
	queue    vfs.Queue

	ops   *operations // of the type
	wake  waiter.Entry
	grams datagrams

	bindMu sync.Mutex // one bind, connect or listen at a time

	mu       sync.Mutex
	ep       tcpip.Endpoint
	wq       *waiter.Queue
	phase    phase
	told     bool // connect(2) of the connection
	dead     bool
	shut     int // readDown, writeDown
	err      unix.Errno
	bound    []byte      // the name that bind(2) got
	home     tcpip.NICID // of the address in it, or 0
	connName []byte      // datagrams: where connect(2) said
	backlog  int
	set      []setting      // options, to be set again on another endpoint
	extra    map[opt][]byte // options that are kept and shown, and no more
	corked   []byte         // datagrams: what MSG_MORE keeps back
	corkedTo []byte         //
	groups   map[group]bool // multicast memberships
	link     *link          // streams, if the other end is in this stack
	side     int            // of the link, and the other's
	other    int
	filter   [8]uint32         // ICMP_FILTER and ICMP6_FILTER: types that do not pass
	stamp    time.Time         // of the last datagram, for SIOCGSTAMP
	peerSaid tcpip.FullAddress // the other end of a stream, kept beyond its end

	errs   errorQueue
	events atomic.Uint32 // notifications, for who waits without a queue
}

const (
	readDown  = 1 // RCV_SHUTDOWN
	writeDown = 2
	bothDown  = readDown | writeDown
)

// operations are what differs between streams and datagrams.
type operations struct {
	connect  func(*Socket, socket.Caller, []byte) error
	shutdown func(*Socket, int) error
	send     func(*Socket, socket.Caller, *socket.Message, int) (int, error)
	receive  func(*Socket, *socket.Message, int) (int, error)
	ready    func(*Socket) vfs.Events
	release  func(*Socket)
}

var (
	streams = operations{connect: (*Socket).connectStream, shutdown: (*Socket).shutdownStream, send: (*Socket).sendStream,
		receive: (*Socket).receiveStream, ready: (*Socket).readyStream, release: (*Socket).releaseStream}
	packets = operations{connect: (*Socket).connectDatagrams, shutdown: (*Socket).shutdownDatagrams, send: (*Socket).sendDatagram,
		receive: (*Socket).receiveDatagram, ready: (*Socket).readyDatagrams, release: (*Socket).releaseDatagrams}
)

// maxProtocol is IPPROTO_MAX - 1.
const maxProtocol = 262

// Socket makes a socket. inet_create.
func (n *Stack) Socket(c socket.Caller, family, typ, protocol int) (*Socket, error) {
	if protocol < 0 || protocol > maxProtocol {
		return nil, unix.EINVAL
	}
	icmpProtocol := unix.IPPROTO_ICMP
	if family == unix.AF_INET6 {
		icmpProtocol = unix.IPPROTO_ICMPV6
	}
	switch typ {
	case unix.SOCK_STREAM:
		if protocol != 0 && protocol != unix.IPPROTO_TCP {
			return nil, unix.EPROTONOSUPPORT
		}
		protocol = unix.IPPROTO_TCP
	case unix.SOCK_DGRAM:
		switch protocol {
		case 0, unix.IPPROTO_UDP:
			protocol = unix.IPPROTO_UDP
		case unix.IPPROTO_UDPLITE:
		case icmpProtocol:
			if !n.mayPing(c) {
				return nil, unix.EACCES
			}
		default:
			return nil, unix.EPROTONOSUPPORT
		}
	case unix.SOCK_RAW:
		if protocol == 0 {
			return nil, unix.EPROTONOSUPPORT
		}
		if !socket.Capable(c, unix.CAP_NET_RAW) {
			return nil, unix.EPERM
		}
	default:
		return nil, unix.ESOCKTNOSUPPORT
	}
	s := n.newSocket(c, family, typ, protocol)
	if err := s.renew(); err != nil {
		return nil, err
	}
	if family == unix.AF_INET6 && n.sysctls.v6Only.Load() != 0 {
		s.SetOption(c, unix.SOL_IPV6, unix.IPV6_V6ONLY, socket.Int(1))
	}
	if typ == unix.SOCK_RAW || protocol == icmpProtocol { // INET_PROTOSW_REUSE
		s.SetOption(c, unix.SOL_SOCKET, unix.SO_REUSEADDR, socket.Int(1))
	}
	n.add(s)
	return s, nil
}

// mayPing compares a caller's groups with ping_group_range. ping_init_sock.
func (n *Stack) mayPing(c socket.Caller) bool {
	first, last := n.sysctls.pingFirst.Load(), n.sysctls.pingLast.Load()
	k := c.Creds()
	for _, g := range append([]uint32{k.EGID}, k.Groups...) {
		if first <= g && g <= last {
			return true
		}
	}
	return false
}

func (n *Stack) newSocket(c vfs.Context, family, typ, protocol int) *Socket {
	n.queued.In(c)
	s := &Socket{net: n, family: family, typ: typ, protocol: protocol, inode: socket.NewInode(c), uid: c.Creds().FSUID}
	s.ops = &packets
	s.opts = socket.NewOptions()
	if typ == unix.SOCK_STREAM {
		s.ops = &streams
		s.opts = socket.NewOptionsOf(streamSend, streamReceive)
	}
	s.wake.Init(listener{s}, waiter.EventMask(^uint64(0)))
	return s
}

// What tcp_wmem and tcp_rmem say a new stream has, and what it grows to.
const (
	streamSend      = 16384
	streamReceive   = 131072
	streamConnected = 2626560 // tcp_init_buffer_space, of a loopback connection
)

// networkOf is the library's number of a family.
func networkOf(family int) tcpip.NetworkProtocolNumber {
	if family == unix.AF_INET6 {
		return header.IPv6ProtocolNumber
	}
	return header.IPv4ProtocolNumber
}

// newEndpoint makes the library's side of the socket.
func (s *Socket) newEndpoint(wq *waiter.Queue) (tcpip.Endpoint, tcpip.Error) {
	lib, network := s.net.tcpip(), networkOf(s.family)
	transport := tcpip.TransportProtocolNumber(s.protocol)
	switch {
	case s.typ == unix.SOCK_STREAM:
		s.net.shareOut()
		return lib.NewEndpoint(tcp.ProtocolNumber, network, wq)
	case s.typ == unix.SOCK_RAW && s.protocol == unix.IPPROTO_RAW:
		return lib.NewRawEndpoint(transport, network, wq, false)
	case s.typ == unix.SOCK_RAW:
		return lib.NewRawEndpoint(transport, network, wq, true)
	case s.protocol == unix.IPPROTO_ICMP:
		return lib.NewEndpoint(icmp.ProtocolNumber4, network, wq)
	case s.protocol == unix.IPPROTO_ICMPV6:
		return lib.NewEndpoint(icmp.ProtocolNumber6, network, wq)
	}
	return s.lib().NewEndpoint(udp.ProtocolNumber, network, wq)
}

// lib is the library's stack that the socket is on.
func (s *Socket) lib() *stack.Stack {
	if s.protocol == unix.IPPROTO_UDPLITE {
		return s.net.udpLite()
	}
	return s.net.tcpip()
}

// user says that the socket speaks UDP or UDP-Lite.
func (s *Socket) user() bool {
	return s.typ == unix.SOCK_DGRAM && (s.protocol == unix.IPPROTO_UDP || s.protocol == unix.IPPROTO_UDPLITE)
}

// renew gives the socket an endpoint, or another one with the options of the old:
// the library's cannot be connected a second time.
func (s *Socket) renew() error {
	wq := &waiter.Queue{}
	ep, err := s.newEndpoint(wq)
	if err != nil {
		return errno(err)
	}
	s.adopt(ep, wq)
	return nil
}

// adopt makes ep the socket's endpoint.
func (s *Socket) adopt(ep tcpip.Endpoint, wq *waiter.Queue) {
	if s.wq != nil {
		s.wq.EventUnregister(&s.wake)
	}
	if s.typ != unix.SOCK_STREAM {
		s.net.datagrams.Delete(s.ep)
		s.net.datagrams.Store(ep, s)
	}
	s.ep, s.wq = ep, wq
	wq.EventRegister(&s.wake)
	if s.typ != unix.SOCK_STREAM {
		// The limit is ours (datagrams); the library's must not come first.
		ep.SocketOptions().SetReceiveBufferSize(1<<30, false)
		ep.SocketOptions().SetSendBufferSize(1<<30, false)
	}
	for _, o := range s.set {
		s.apply(o.opt, o.value)
	}
}

// listener hears what the library has to tell.
type listener struct{ s *Socket }

// NotifyEvent is called with locks of the library held.
func (l listener) NotifyEvent(mask waiter.EventMask) {
	s := l.s
	s.events.Add(1)
	if s.typ != unix.SOCK_STREAM {
		s.drain()
	} else {
		s.net.shareOut()
	}
	events := vfs.Events(mask) & 0xffff
	if events&vfs.EventIn != 0 {
		events |= readNorm | vfs.EventRdHup
	}
	if events&vfs.EventOut != 0 {
		events |= writeNorm
	}
	s.queue.Notify(events)
}

func (s *Socket) Kind() (family, typ, protocol int)       { return s.family, s.typ, s.protocol }
func (s *Socket) Inode() *vfs.AnonInode                   { return s.inode }
func (s *Socket) Queue() *vfs.Queue                       { return &s.queue }
func (s *Socket) Stream()                                 {}
func (s *Socket) Timeouts() (receive, send time.Duration) { return s.opts.Timeouts() }
func (s *Socket) Stack() *Stack                           { return s.net }

func (s *Socket) Connect(c socket.Caller, name []byte) error {
	s.bindMu.Lock()
	defer s.bindMu.Unlock()
	return s.ops.connect(s, c, name)
}

func (s *Socket) Shutdown(_ socket.Caller, how int) error {
	s.bindMu.Lock()
	defer s.bindMu.Unlock()
	return s.ops.shutdown(s, how+1)
}

func (s *Socket) Send(c socket.Caller, m *socket.Message, flags int) (int, error) {
	return s.ops.send(s, c, m, flags)
}

func (s *Socket) Receive(_ socket.Caller, m *socket.Message, flags int) (int, error) {
	if flags&unix.MSG_ERRQUEUE != 0 {
		return s.receiveError(m)
	}
	return s.ops.receive(s, m, flags)
}

// Read is recv(2) without flags. Whether the caller waits it cannot know, which
// matters to nothing but a datagram socket that was shut down.
func (s *Socket) Read(_ vfs.Context, dst memory.Buffers, _ int64) (int, error) {
	return s.ops.receive(s, &socket.Message{Data: dst}, unix.MSG_DONTWAIT)
}

func (s *Socket) Write(ctx vfs.Context, src memory.Buffers, _ int64) (int, error) {
	c, ok := ctx.(socket.Caller)
	if !ok {
		return 0, unix.EINVAL
	}
	return s.ops.send(s, c, &socket.Message{Data: src}, 0)
}

func (s *Socket) Ready(mask vfs.Events) vfs.Events {
	ev := s.ops.ready(s)
	return ev & (mask | vfs.EventErr | vfs.EventHup)
}

func (s *Socket) Release() {
	last := s.net.remove(s)
	s.ops.release(s)
	if s.typ == unix.SOCK_RAW {
		s.net.raws.Add(-1)
	}
	for g := range s.groups {
		s.net.part(g)
	}
	if last {
		s.net.destroy()
	}
}

// close is the end of the library's side.
func (s *Socket) closeLocked() {
	s.dead = true
	s.wq.EventUnregister(&s.wake)
	s.net.datagrams.Delete(s.ep)
	s.ep.Close()
}

// Bind is bind(2). inet_bind, __inet6_bind.
func (s *Socket) Bind(c socket.Caller, name []byte) error {
	s.bindMu.Lock()
	defer s.bindMu.Unlock()
	if s.family == unix.AF_INET && familyOf(name) == unix.AF_UNSPEC && len(name) >= size4 && string(name[4:8]) == "\x00\x00\x00\x00" {
		name = append([]byte{unix.AF_INET, 0}, name[2:]...) // what old programs do
	}
	a, err := parseName(name, s.family)
	if err != nil {
		return err
	}
	if port := uint32(a.Port); port != 0 && port < s.net.sysctls.unprivilegedPort.Load() && s.typ != unix.SOCK_RAW &&
		(s.protocol == unix.IPPROTO_TCP || s.user()) && !socket.Capable(c, unix.CAP_NET_BIND_SERVICE) {
		return unix.EACCES
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bound != nil || s.phase != idle || s.connName != nil {
		return unix.EINVAL
	}
	return s.bindLocked(a)
}

// homeOf is the device with an address, or 0. The library takes any that has it, and the address of
// a device is loopback's besides (config.library): what goes elsewhere has no way out there.
func (s *Socket) homeOf(a tcpip.FullAddress) tcpip.NICID {
	where := plain(a.Addr)
	ip, ok := netip.AddrFromSlice(where.AsSlice())
	if !ok || a.NIC != 0 || s.ep.SocketOptions().GetBindToDevice() != 0 {
		return 0
	}
	return tcpip.NICID(s.net.at(ip))
}

func (s *Socket) bindLocked(a tcpip.FullAddress) error {
	if s.family == unix.AF_INET6 && a.Addr.To4().Len() == 4 && s.ep.SocketOptions().GetV6Only() {
		return unix.EINVAL
	}
	port := a.Port
	if s.typ == unix.SOCK_RAW {
		a.Port = 0
	}
	s.home = s.homeOf(a)
	to := a
	if s.typ == unix.SOCK_STREAM && s.home != 0 {
		to.NIC = s.home
	}
	if err := s.ep.Bind(to); err != nil {
		switch err.(type) {
		case *tcpip.ErrNoPortAvailable:
			return unix.EADDRINUSE
		case *tcpip.ErrInvalidEndpointState:
			return unix.EINVAL
		}
		return errno(err)
	}
	if local, err := s.ep.GetLocalAddress(); err == nil && s.typ != unix.SOCK_RAW {
		port = local.Port
	}
	a.Port = port
	s.bound = sockaddr(a, s.family)
	return nil
}

// Name is getsockname(2).
func (s *Socket) Name() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nameLocked(), nil
}

func (s *Socket) nameLocked() []byte {
	local, err := s.ep.GetLocalAddress()
	if err != nil {
		local = tcpip.FullAddress{}
	}
	if s.typ == unix.SOCK_RAW {
		local.Port = uint16(s.protocol)
	}
	local = s.shown(local)
	if s.typ == unix.SOCK_STREAM && s.phase != connected && over(s.stateLocked()) { // a connection failed
		if s.bound != nil {
			return s.bound
		}
		local.Addr = tcpip.Address{}
	}
	return sockaddr(local, s.family)
}

// shown is a as the family has it: an address of AF_INET on a socket of AF_INET6
// is mapped.
func (s *Socket) shown(a tcpip.FullAddress) tcpip.FullAddress {
	if s.family == unix.AF_INET6 && a.Addr.Len() == 4 {
		a.Addr = tcpip.AddrFrom16(bytes6(a.Addr))
	}
	return a
}

// Peer is getpeername(2).
func (s *Socket) Peer() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.typ != unix.SOCK_STREAM {
		if s.connName == nil {
			return nil, unix.ENOTCONN
		}
		return s.connName, nil
	}
	s.settleLocked()
	if s.phase != connected || s.tornLocked() {
		return nil, unix.ENOTCONN
	}
	return sockaddr(s.shown(s.peerSaid), s.family), nil
}

// AcceptedFrom is the name that accept(2) tells, whatever has become of the
// connection since.
func (s *Socket) AcceptedFrom() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sockaddr(s.shown(s.peerSaid), s.family)
}

// takeErrorLocked is sock_error: an error is told once.
func (s *Socket) takeErrorLocked() error {
	if s.err == 0 {
		return nil
	}
	err := s.err
	s.err = 0
	return err
}

// payload is a message's data for the library to read.
type payload struct{ b memory.Buffers }

func (p *payload) Len() int { return p.b.Len() }

func (p *payload) Read(to []byte) (int, error) {
	n := p.b.CopyIn(to)
	p.b = p.b.Skip(n)
	if n == 0 && len(to) > 0 {
		return 0, unix.EFAULT
	}
	return n, nil
}

// IOReason implements vfs.Signaller: one side's end is input, both sides' a hang-up
// (net/ipv4/tcp_input.c, tcp_fin).
func (*Socket) IOReason(e vfs.Events) vfs.IOReason {
	switch {
	case e&vfs.EventHup != 0 && e&(vfs.EventOut|vfs.EventErr) != 0:
		return vfs.IOHangup
	case e&vfs.EventErr != 0:
		return vfs.IOError
	case e&vfs.EventPri != 0:
		return vfs.IOUrgent
	case e&vfs.EventIn != 0:
		return vfs.IOIn
	case e&vfs.EventOut != 0:
		return vfs.IOOut
	}
	return 0
}
