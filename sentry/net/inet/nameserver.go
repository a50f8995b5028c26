package inet

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/ports"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// NameServer is a server of names that an engine runs in the network namespace, for
// the container alone, at an address of loopback (docker's is 127.0.0.11:53). The
// stack relays messages, and nothing else of the namespace's loopback.
type NameServer struct {
	At      netip.AddrPort // where programs find it, an IPv4 address of loopback's
	Server  netip.AddrPort // where the sockets lead
	Packets int            // a datagram socket that is connected to it; the stack's for good
	Streams []int          // idle stream sockets, not blocking, of which each can be connected to it
}

// Bounds on what programs can have under way. A question is forgotten when so many came
// behind it; docker's server answers 1024 at once.
const (
	mostAsked       = 1024
	mostConnections = 64
	nameIdle        = 10 * time.Second // between messages of a connection, and for an answer
)

// nameRelay takes datagrams that nobody has bound a socket to receive: it stands among the
// library's endpoints, but holds no port. A program may have a name server of its own
// on "any", as it may beside docker's, whose address is translated before a socket is looked for.
type nameRelay struct {
	stack   *stack.Stack
	at      tcpip.FullAddress
	id      stack.TransportEndpointID
	server  unix.SockaddrInet4
	packets *os.File
	raw     int      // of packets
	idle    chan int // streams
	open    atomic.Int32

	mu    sync.Mutex
	next  uint16
	asked [mostAsked]question // by the low bits of an identification
}

// question is one under way: all go by one socket, each with an identification of ours
// (RFC 1035 §4.1.1), so that answers find who asked.
type question struct {
	from     tcpip.FullAddress
	id, ours uint16
	waits    bool
}

// Relay makes a name server known, before the stack has any socket.
func (n *Stack) Relay(d NameServer) error {
	if err := unix.SetNonblock(d.Packets, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	s := n.tcpip()
	at := tcpip.FullAddress{Addr: addressOf(d.At.Addr()), Port: d.At.Port()}
	r := &nameRelay{stack: s, at: at, id: stack.TransportEndpointID{LocalAddress: at.Addr, LocalPort: at.Port},
		server: unix.SockaddrInet4{Addr: d.Server.Addr().As4(), Port: int(d.Server.Port())}, raw: d.Packets,
		packets: os.NewFile(uintptr(d.Packets), "name server"), idle: make(chan int, len(d.Streams))}
	for _, fd := range d.Streams {
		r.idle <- fd
	}
	protocols := []tcpip.NetworkProtocolNumber{header.IPv4ProtocolNumber}
	if err := s.RegisterTransportEndpoint(protocols, udp.ProtocolNumber, r.id, r, ports.Flags{}, 0); err != nil {
		return errno(err)
	}
	f := tcp.NewForwarder(s, 0, mostConnections, r.accept)
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		return id.LocalAddress == at.Addr && id.LocalPort == at.Port && f.HandlePacket(id, pkt)
	})
	n.relay = r
	go r.answers()
	return nil
}

// relayed says that an address and port are the name server's, or of a connection that comes
// from outside (Forward): though the address is this stack's, the other end of a connection
// to it is not one of its sockets.
func (n *Stack) relayed(a tcpip.Address, port uint16) bool {
	if _, guest := n.guests.Load(endpoint{a, port}); guest {
		return true
	}
	return n.relay != nil && port == n.relay.at.Port && plain(a) == n.relay.at.Addr
}

// The methods below make r a stack.TransportEndpoint.

func (r *nameRelay) HandleError(stack.TransportError, *stack.PacketBuffer) {}
func (r *nameRelay) Abort()                                                {}
func (r *nameRelay) Wait()                                                 {}

// UniqueID implements stack.TransportEndpoint.
func (r *nameRelay) UniqueID() uint64 { return 0 }

// HandlePacket takes a question.
func (r *nameRelay) HandlePacket(id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	h := header.UDP(pkt.TransportHeader().Slice())
	whole, sound := header.UDPValid(h, func() uint16 { return pkt.Data().Checksum() }, uint16(pkt.Data().Size()),
		pkt.NetworkProtocolNumber, id.RemoteAddress, id.LocalAddress, pkt.RXChecksumValidated)
	if !whole || !sound {
		return
	}
	b := pkt.Data().AsRange().ToSlice()
	b = b[:min(len(b), int(h.Length())-header.UDPMinimumSize)]
	if len(b) < nameHeader {
		return
	}
	q := question{from: tcpip.FullAddress{Addr: id.RemoteAddress, Port: id.RemotePort}, id: binary.BigEndian.Uint16(b)}
	r.mu.Lock()
	r.next++
	q.ours, q.waits = r.next, true
	r.asked[r.next%mostAsked] = q
	r.mu.Unlock()
	binary.BigEndian.PutUint16(b, q.ours)
	_, err := unix.Write(r.raw, b)
	if err == unix.ECONNREFUSED { // of a question before this one
		_, err = unix.Write(r.raw, b)
	}
	if err != nil {
		r.answer(refusal(b))
	}
}

// nameHeader is the least that a message has (RFC 1035 §4.1.1).
const nameHeader = 12 // bytes

// refusal turns a question into the answer that its server could not be asked.
func refusal(b []byte) []byte {
	const response, recursion, failure = 0x80, 0x80, 2 // QR, RA, SERVFAIL
	b[2] |= response
	b[3] = recursion | failure
	return b
}

// answers brings back what the server says, until the stack's owner has gone.
func (r *nameRelay) answers() {
	b := make([]byte, 64<<10)
	for {
		n, err := r.packets.Read(b)
		switch {
		case err == nil:
			r.answer(b[:n])
		case !isRefusal(err):
			return
		}
	}
}

// isRefusal: nobody listens there at present, of which a connected socket hears.
func isRefusal(err error) bool {
	e, ok := err.(*os.PathError)
	return ok && e.Err == unix.ECONNREFUSED
}

// answer finds who asked and gives it the answer, with the identification of its question.
func (r *nameRelay) answer(b []byte) {
	if len(b) < nameHeader {
		return
	}
	ours := binary.BigEndian.Uint16(b)
	r.mu.Lock()
	q := &r.asked[ours%mostAsked]
	if !q.waits || q.ours != ours {
		r.mu.Unlock()
		return
	}
	q.waits = false
	from, id := q.from, q.id
	r.mu.Unlock()
	binary.BigEndian.PutUint16(b, id)
	r.deliver(from, b)
}

// deliver sends a datagram from the server's address to one of this stack's sockets.
func (r *nameRelay) deliver(to tcpip.FullAddress, b []byte) {
	if r.stack.CheckLocalAddress(0, header.IPv4ProtocolNumber, to.Addr) == 0 {
		return // a raw socket has asked in another's name
	}
	route, err := r.stack.FindRoute(0, r.at.Addr, to.Addr, header.IPv4ProtocolNumber, false)
	if err != nil {
		return
	}
	defer route.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.UDPMinimumSize + int(route.MaxHeaderLength()), Payload: buffer.MakeWithData(b)})
	defer pkt.DecRef()
	pkt.TransportProtocolNumber = udp.ProtocolNumber
	h := header.UDP(pkt.TransportHeader().Push(header.UDPMinimumSize))
	size := uint16(pkt.Size())
	h.Encode(&header.UDPFields{SrcPort: r.at.Port, DstPort: to.Port, Length: size})
	sum := checksum.Combine(route.PseudoHeaderChecksum(udp.ProtocolNumber, size), pkt.Data().Checksum())
	h.SetChecksum(^h.CalculateChecksum(sum))
	route.WritePacket(stack.NetworkHeaderParams{Protocol: udp.ProtocolNumber, TTL: 64}, pkt)
}

// accept is a connection to the server's address, on a goroutine of its own. Messages
// follow one another there, each behind its length (RFC 1035 §4.2.2); each goes by a
// connection of its own, so that who keeps one open holds nothing outside.
func (r *nameRelay) accept(request *tcp.ForwarderRequest) {
	defer r.open.Add(-1)
	if r.open.Add(1) > mostConnections || cap(r.idle) == 0 {
		request.Complete(true)
		return
	}
	var wq waiter.Queue
	ep, err := request.CreateEndpoint(&wq)
	if err != nil {
		request.Complete(true)
		return
	}
	request.Complete(false)
	conn := gonet.NewTCPConn(&wq, ep)
	defer conn.Close()
	for {
		conn.SetDeadline(time.Now().Add(nameIdle))
		query, err := readName(conn)
		if err != nil {
			return
		}
		reply, err := r.exchange(query)
		if err != nil {
			reply = append(query[:2:2], refusal(query[2:])...)
		}
		conn.SetDeadline(time.Now().Add(nameIdle))
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}

// readName reads a message and gives it with its length before it.
func readName(r io.Reader) ([]byte, error) {
	b := make([]byte, 2, 512)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(b))
	if size < nameHeader {
		return nil, net.ErrClosed
	}
	b = append(b, make([]byte, size)...)
	_, err := io.ReadFull(r, b[2:])
	return b, err
}

// exchange asks the server by a stream.
func (r *nameRelay) exchange(query []byte) (reply []byte, err error) {
	fd := <-r.idle
	defer func() {
		disconnect(fd)
		r.idle <- fd
	}()
	s := hostStream{fd, time.Now().Add(nameIdle)}
	if err := s.connect(&r.server); err != nil {
		return nil, err
	}
	if _, err := s.Write(query); err != nil {
		return nil, err
	}
	return readName(s)
}

// hostStream is a socket of the host's, for one exchange.
type hostStream struct {
	fd    int
	until time.Time
}

// wait waits for events. It is poll(2) and not Go's poller, which does not follow a
// socket from one connection to the next.
func (s hostStream) wait(events int16) error {
	for {
		left := time.Until(s.until)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: events}}, int(left/time.Millisecond)+1)
		switch {
		case n > 0:
			return nil
		case err != nil && err != unix.EINTR:
			return err
		}
	}
}

func (s hostStream) connect(to unix.Sockaddr) error {
	err := unix.Connect(s.fd, to)
	if err != unix.EINPROGRESS && err != unix.EINTR {
		return err
	}
	if err := s.wait(unix.POLLOUT); err != nil {
		return err
	}
	e, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && e != 0 {
		err = unix.Errno(e)
	}
	return err
}

func (s hostStream) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(s.fd, b)
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			return 0, io.EOF
		case err == unix.EAGAIN:
			err = s.wait(unix.POLLIN)
		}
		if err != nil && err != unix.EINTR {
			return 0, err
		}
	}
}

func (s hostStream) Write(b []byte) (done int, err error) {
	for done < len(b) {
		n, err := unix.Write(s.fd, b[done:])
		done += max(n, 0)
		if err == unix.EAGAIN {
			err = s.wait(unix.POLLOUT)
		}
		if err != nil && err != unix.EINTR {
			return done, err
		}
	}
	return done, nil
}
