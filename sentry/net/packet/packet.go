// Package packet is AF_PACKET (packet(7); net/packet/af_packet.c): frames of the
// container's devices, read and written whole or without their link's header, with a
// filter (sentry/bpf) and a ring in memory that the program maps (ring.go). Of what
// passes, inet's taps tell.
//
// Lock order: Socket.bindMu, Socket.mu, vfs.Queue.mu. A tap calls hear from the
// library's goroutines; it never waits.
package packet

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/bpf"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/inet"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Socket is one.
type Socket struct {
	net   *inet.Stack
	typ   int
	proto int // as socket(2) had it
	uid   uint32
	inode *vfs.AnonInode
	opts  *socket.Options
	queue vfs.Queue

	bindMu sync.Mutex
	tap    *inet.Tap

	mu       sync.Mutex
	index    int    // of the device that it is bound to, or 0
	protocol uint16 // ETH_P_…; 0: nothing is received
	down     bool   // the device is
	list     []frame
	size     int
	seen     uint32 // PACKET_STATISTICS
	drops    uint32
	err      unix.Errno
	filter   *bpf.Filter
	ints     map[int]int32
	ring     *ring
	arena    *memory.Arena
	dead     bool
}

// frame is one that waits.
type frame struct {
	name []byte // struct sockaddr_ll
	data []byte
	full int // bytes that it had before the filter cut it
	cost int
	when time.Time
	net  int // where the network's header is
}

// New makes a socket. packet_create.
func New(c vfs.Context, n *inet.Stack, typ, protocol int) (*Socket, error) {
	switch {
	case !socket.Capable(c, unix.CAP_NET_RAW):
		return nil, unix.EPERM
	case typ != unix.SOCK_RAW && typ != unix.SOCK_DGRAM: // nor SOCK_PACKET, which is obsolete
		return nil, unix.ESOCKTNOSUPPORT
	}
	n.Held().In(c)
	s := &Socket{net: n, typ: typ, proto: protocol, inode: socket.NewInode(c), opts: socket.NewOptions(), ints: map[int]int32{}, uid: c.Creds().FSUID}
	if m := c.Memory(); m != nil {
		s.arena = m.Arena()
	}
	n.Hold(s)
	if err := s.listen(0, network(uint16(protocol))); err != nil {
		n.LetGo(s)
		return nil, err
	}
	return s, nil
}

// Told implements inet.Holder. packet_seq_show.
func (s *Socket) Told(file string) (string, bool) {
	if file != "packet" {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	references, running := 2, 0
	if s.protocol != 0 && !s.down {
		references, running = 3, 1
	}
	return fmt.Sprintf("%016x %-6d %-4d %04x   %-5d %1d %-6d %-6d %-6d\n", 0, references, s.typ, s.protocol, s.index, running, s.size, s.uid, s.inode.Ino()), true
}

// Heard implements inet.Holder: who listens to a device that goes down is told once. packet_notifier.
func (s *Socket) Heard(e inet.Event) {
	if e.Link == nil || e.Flags&unix.IFF_UP == 0 {
		return
	}
	s.mu.Lock()
	down := e.Link.Flags&unix.IFF_UP == 0
	mine := s.index == e.Link.Index && s.protocol != 0
	if mine {
		s.down = down
	}
	if mine && down {
		s.err = unix.ENETDOWN
	}
	s.mu.Unlock()
	if mine && down {
		s.queue.Notify(vfs.EventErr)
	}
}

// network turns a number round.
func network(v uint16) uint16 { return v<<8 | v>>8 }

// listen has the socket hear of a device and a protocol, and of no other.
func (s *Socket) listen(index int, protocol uint16) error {
	s.mu.Lock()
	s.index, s.protocol, s.down = index, protocol, false
	s.mu.Unlock()
	if s.tap != nil {
		s.tap.Close()
		s.tap = nil
	}
	if protocol == 0 {
		return nil
	}
	t, err := s.net.Tap(index, protocol, s.hear)
	if err == nil {
		s.tap = t
	}
	return err
}

func (s *Socket) Kind() (family, typ, protocol int)       { return unix.AF_PACKET, s.typ, s.proto }
func (s *Socket) Inode() *vfs.AnonInode                   { return s.inode }
func (s *Socket) Queue() *vfs.Queue                       { return &s.queue }
func (s *Socket) Stream()                                 {}
func (s *Socket) Timeouts() (receive, send time.Duration) { return s.opts.Timeouts() }

func (s *Socket) Listen(socket.Caller, int) error                  { return unix.EOPNOTSUPP }
func (s *Socket) Accept(socket.Caller, int) (socket.Socket, error) { return nil, unix.EOPNOTSUPP }
func (s *Socket) Shutdown(socket.Caller, int) error                { return unix.EOPNOTSUPP }
func (s *Socket) Connect(socket.Caller, []byte) error              { return unix.EOPNOTSUPP }
func (s *Socket) Peer() ([]byte, error)                            { return nil, unix.EOPNOTSUPP }

// struct sockaddr_ll: family, protocol, index, hardware, kind, length and address.
const (
	addrSize = 20
	addrHead = 12
)

func sockaddr(l inet.Link, protocol uint16, kind uint8, from []byte) []byte {
	b := make([]byte, addrSize)
	le := binary.LittleEndian
	le.PutUint16(b, unix.AF_PACKET)
	binary.BigEndian.PutUint16(b[2:], protocol)
	le.PutUint32(b[4:], uint32(l.Index))
	le.PutUint16(b[8:], l.Type)
	b[10], b[11] = kind, uint8(copy(b[addrHead:], from))
	return b
}

// Bind is packet_bind.
func (s *Socket) Bind(_ socket.Caller, b []byte) error {
	le := binary.LittleEndian
	if len(b) < addrSize || le.Uint16(b) != unix.AF_PACKET {
		return unix.EINVAL
	}
	protocol, index := binary.BigEndian.Uint16(b[2:]), int(int32(le.Uint32(b[4:])))
	s.bindMu.Lock()
	defer s.bindMu.Unlock()
	if protocol == 0 {
		protocol = s.protocol
	}
	var l inet.Link
	if index != 0 {
		var ok bool
		if l, ok = s.net.Link(index); !ok {
			return unix.ENODEV
		}
	}
	if err := s.listen(index, protocol); err != nil {
		return err
	}
	if index != 0 && l.Flags&unix.IFF_UP == 0 && protocol != 0 {
		s.mu.Lock()
		s.down, s.err = true, unix.ENETDOWN
		s.mu.Unlock()
		s.queue.Notify(vfs.EventErr)
	}
	return nil
}

// Name is packet_getname.
func (s *Socket) Name() ([]byte, error) {
	s.mu.Lock()
	index, protocol := s.index, s.protocol
	s.mu.Unlock()
	l, _ := s.net.Link(index)
	b := sockaddr(l, protocol, 0, l.Address)
	return b[:addrHead+int(b[11])], nil
}

// hear takes a frame, if the filter lets it pass and there is room. packet_rcv, tpacket_rcv.
func (s *Socket) hear(f inet.Frame) {
	const most = 64 << 10 // what one frame may add to what an empty queue may hold
	s.mu.Lock()
	if s.dead || f.Kind == unix.PACKET_OUTGOING && s.ints[unix.PACKET_IGNORE_OUTGOING] != 0 {
		s.mu.Unlock()
		return
	}
	// Whose address it came from: of a frame without one, nobody's.
	g := frame{data: f.Data, net: inet.EthernetHeader, when: time.Now(), name: sockaddr(inet.Link{Index: f.Index, Type: f.Hardware}, f.Protocol, f.Kind, f.Data[6:12])}
	if s.typ == unix.SOCK_DGRAM {
		g.data, g.net = f.Data[inet.EthernetHeader:], 0
	}
	g.full = len(g.data)
	if s.filter != nil {
		keep := s.filter.Run(&bpf.Packet{Data: g.data, Link: f.Data, Network: f.Data[inet.EthernetHeader:], Protocol: f.Protocol,
			Kind: f.Kind, Index: uint32(f.Index), Hardware: f.Hardware})
		if keep == 0 {
			s.mu.Unlock()
			return
		}
		g.data = g.data[:min(len(g.data), int(min(keep, most*2)))]
	}
	s.seen++
	g.cost = len(f.Data) + 768 // as a struct sk_buff and its head
	switch {
	case s.ring != nil:
		if !s.ring.put(g) {
			s.drops++
		}
	case s.size+g.cost > s.opts.Receive()+most && s.size > 0, s.size >= s.opts.Receive(), s.net.Held().Add(int64(g.cost)) != nil:
		s.drops++
	default:
		s.list = append(s.list, g)
		s.size += g.cost
	}
	s.mu.Unlock()
	s.queue.Notify(vfs.EventIn | readNorm)
}

// POLLRDNORM, POLLWRNORM and POLLWRBAND (asm-generic/poll.h).
const (
	readNorm  vfs.Events = 0x40
	writeNorm vfs.Events = 0x100
	writeBand vfs.Events = 0x200
)

func (s *Socket) Ready(mask vfs.Events) vfs.Events {
	s.mu.Lock()
	defer s.mu.Unlock()
	ev := vfs.EventOut | writeNorm | writeBand
	if len(s.list) > 0 || s.ring != nil && s.ring.filled() {
		ev |= vfs.EventIn | readNorm
	}
	if s.err != 0 {
		ev |= vfs.EventErr
	}
	return ev & (mask | vfs.EventErr | vfs.EventHup)
}

func (s *Socket) takeErrorLocked() error {
	if s.err == 0 {
		return nil
	}
	err := s.err
	s.err = 0
	return err
}

// Receive is packet_recvmsg.
func (s *Socket) Receive(_ socket.Caller, m *socket.Message, flags int) (int, error) {
	const known = unix.MSG_PEEK | unix.MSG_DONTWAIT | unix.MSG_TRUNC | unix.MSG_ERRQUEUE | unix.MSG_CMSG_CLOEXEC | unix.MSG_WAITALL | unix.MSG_NOSIGNAL | unix.MSG_WAITFORONE
	if flags&^known != 0 {
		return 0, unix.EINVAL
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.takeErrorLocked(); err != nil {
		return 0, err
	}
	if len(s.list) == 0 || flags&unix.MSG_ERRQUEUE != 0 {
		return 0, unix.EAGAIN
	}
	g := s.list[0]
	if flags&unix.MSG_PEEK == 0 {
		s.list[0] = frame{}
		s.list = s.list[1:]
		s.size -= g.cost
		s.net.Held().Sub(int64(g.cost))
	}
	n := m.Data.CopyOut(g.data)
	if n < min(len(g.data), m.Data.Len()) {
		return 0, unix.EFAULT
	}
	m.Name = g.name
	if s.ints[unix.PACKET_AUXDATA] != 0 {
		m.Control.Other = append(m.Control.Other, socket.ControlMessage{Level: unix.SOL_PACKET, Type: unix.PACKET_AUXDATA, Data: aux(g)})
	}
	if n < len(g.data) {
		m.Flags |= unix.MSG_TRUNC
		if flags&unix.MSG_TRUNC != 0 {
			n = len(g.data)
		}
	}
	return n, nil
}

// aux is struct tpacket_auxdata.
func aux(g frame) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, statusUser)
	b = le.AppendUint32(le.AppendUint32(b, uint32(g.full)), uint32(len(g.data)))
	b = le.AppendUint16(le.AppendUint16(b, 0), uint16(g.net))
	return append(b, 0, 0, 0, 0) // no VLAN
}

func (s *Socket) Read(_ vfs.Context, dst memory.Buffers, _ int64) (int, error) {
	return s.Receive(nil, &socket.Message{Data: dst}, 0)
}

func (s *Socket) Write(ctx vfs.Context, src memory.Buffers, _ int64) (int, error) {
	c, ok := ctx.(socket.Caller)
	if !ok {
		return 0, unix.EINVAL
	}
	return s.Send(c, &socket.Message{Data: src}, 0)
}

// Send is packet_snd.
func (s *Socket) Send(_ socket.Caller, m *socket.Message, _ int) (int, error) {
	s.mu.Lock()
	index, protocol := s.index, s.protocol
	err := s.takeErrorLocked()
	s.mu.Unlock()
	var to []byte
	if m.Name != nil {
		b := m.Name
		if len(b) < addrHead || len(b) < addrHead+int(b[11]) || binary.LittleEndian.Uint16(b) != unix.AF_PACKET {
			return 0, unix.EINVAL
		}
		protocol, index, to = binary.BigEndian.Uint16(b[2:]), int(int32(binary.LittleEndian.Uint32(b[4:]))), b[addrHead:addrHead+int(b[11])]
	}
	l, ok := s.net.Link(index)
	switch {
	case !ok:
		return 0, unix.ENXIO
	case l.Flags&unix.IFF_UP == 0:
		return 0, unix.ENETDOWN
	case err != nil:
		return 0, err
	case s.typ == unix.SOCK_DGRAM && m.Name != nil && len(to) < len(l.Address):
		return 0, unix.EINVAL
	}
	head, size := 0, m.Data.Len()
	if s.typ == unix.SOCK_RAW {
		head = inet.EthernetHeader
	}
	if size > int(l.MTU)+head {
		return 0, unix.EMSGSIZE
	}
	if size < head {
		return 0, unix.EINVAL
	}
	b := make([]byte, size)
	if m.Data.CopyIn(b) < size {
		return 0, unix.EFAULT
	}
	if s.typ == unix.SOCK_RAW {
		return size, s.net.Transmit(index, b)
	}
	hardware := make([]byte, 6)
	copy(hardware, to)
	return size, s.net.Enclose(index, tcpip.NetworkProtocolNumber(protocol), hardware, b)
}

func (s *Socket) Release() {
	defer s.net.LetGo(s)
	s.bindMu.Lock()
	defer s.bindMu.Unlock()
	s.listen(0, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = true
	s.net.Held().Sub(int64(s.size))
	s.list, s.size = nil, 0
	s.dropRingLocked()
}

// Ioctl serves what waits, and what there is to say of devices.
func (s *Socket) Ioctl(ctx vfs.Context, cmd uint32, arg uint64) (uintptr, error) {
	if cmd != unix.TIOCINQ && cmd != unix.TIOCOUTQ {
		return 0, inet.DeviceIoctl(ctx, s.net, cmd, memory.Addr(arg))
	}
	n := 0
	s.mu.Lock()
	if cmd == unix.TIOCINQ && len(s.list) > 0 {
		n = len(s.list[0].data)
	}
	s.mu.Unlock()
	if _, err := ctx.Memory().Write(memory.Addr(arg), socket.Int(n)); err != nil {
		return 0, unix.EFAULT
	}
	return 0, nil
}

// IOReason implements vfs.Signaller.
func (*Socket) IOReason(e vfs.Events) vfs.IOReason {
	if e&vfs.EventIn != 0 {
		return vfs.IOIn
	}
	return 0
}
