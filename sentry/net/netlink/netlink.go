// Package netlink is AF_NETLINK as far as programs ask about the network: what
// devices, addresses, routes, rules and neighbours there are (NETLINK_ROUTE, man 7
// rtnetlink), and what sockets (NETLINK_SOCK_DIAG, man 7 sock_diag). Devices that there
// are, addresses, routes of the main table and neighbours can be changed by who has
// CAP_NET_ADMIN (change.go), and members of the groups of those hear of it; what the
// stack does not have is refused. Other protocols are EPROTONOSUPPORT.
//
// Lock order: the stack's configuration (inet), Socket.mu.
package netlink

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/inet"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// Socket is a socket to the kernel.
type Socket struct {
	net   *inet.Stack
	typ   int
	proto int
	inode *vfs.AnonInode
	opts  *socket.Options
	queue vfs.Queue
	admin bool // who made it might change things (__netlink_ns_capable)

	mu     sync.Mutex
	port   uint32 // 0: not bound
	groups uint64
	flags  map[int]int32
	inbox
}

// lastPort counts down, as netlink_autobind does for ports that are not a
// process's id.
var lastPort atomic.Uint32

// New makes one.
func New(c vfs.Context, net *inet.Stack, typ, protocol int) (*Socket, error) {
	if typ != unix.SOCK_RAW && typ != unix.SOCK_DGRAM {
		return nil, unix.ESOCKTNOSUPPORT
	}
	if protocol != unix.NETLINK_ROUTE && protocol != unix.NETLINK_SOCK_DIAG {
		return nil, unix.EPROTONOSUPPORT
	}
	s := &Socket{net: net, typ: typ, proto: protocol, inode: socket.NewInode(c), opts: socket.NewOptions(), flags: map[int]int32{}, admin: net.Administers(c)}
	net.Hold(s)
	return s, nil
}

// Told implements inet.Holder. netlink_native_seq_show.
func (s *Socket) Told(file string) (string, bool) {
	if file != "netlink" {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dumps := 0
	if s.dump != nil {
		dumps = 1
	}
	return fmt.Sprintf("%016x %-3d %-10d %08x %-8d %-8d %-5d %-8d %-8d %-8d\n", 0, s.proto, s.port, uint32(s.groups), s.charged, 0, dumps, 2, s.drops, s.inode.Ino()), true
}

func (s *Socket) Kind() (family, typ, protocol int) {
	return unix.AF_NETLINK, s.typ, s.proto
}
func (s *Socket) Inode() *vfs.AnonInode                   { return s.inode }
func (s *Socket) Queue() *vfs.Queue                       { return &s.queue }
func (s *Socket) Stream()                                 {}
func (s *Socket) Release()                                { s.net.LetGo(s) }
func (s *Socket) Timeouts() (receive, send time.Duration) { return s.opts.Timeouts() }

func (s *Socket) Listen(socket.Caller, int) error                  { return unix.EOPNOTSUPP }
func (s *Socket) Accept(socket.Caller, int) (socket.Socket, error) { return nil, unix.EOPNOTSUPP }
func (s *Socket) Shutdown(socket.Caller, int) error                { return unix.EOPNOTSUPP }

func (s *Socket) Ioctl(vfs.Context, uint32, uint64) (uintptr, error) { return 0, unix.ENOTTY }

// sockaddr_nl: family, padding, port, groups.
const addrSize = 12

func parseName(b []byte) (port, groups uint32, err error) {
	if len(b) < addrSize || binary.LittleEndian.Uint16(b) != unix.AF_NETLINK {
		return 0, 0, unix.EINVAL
	}
	return binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:]), nil
}

func sockaddr(port, groups uint32) []byte {
	le := binary.LittleEndian
	b := le.AppendUint16(nil, unix.AF_NETLINK)
	b = le.AppendUint16(b, 0)
	return le.AppendUint32(le.AppendUint32(b, port), groups)
}

// Bind takes a port: the given one, or one that is free. Ports of other sockets
// are not compared: nobody can send to them.
func (s *Socket) Bind(c socket.Caller, b []byte) error {
	port, groups, err := parseName(b)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.port != 0 && port != 0 && port != s.port {
		return unix.EINVAL
	}
	s.groups = s.groups&^0xffffffff | uint64(groups)
	s.bindLocked(c, port)
	return nil
}

func (s *Socket) bindLocked(c socket.Caller, port uint32) {
	switch {
	case s.port != 0:
	case port != 0:
		s.port = port
	case lastPort.Load() == 0 && lastPort.CompareAndSwap(0, ^uint32(4095)):
		s.port = uint32(c.PID())
	default:
		s.port = lastPort.Add(^uint32(0))
	}
}

// Connect sets where messages go, which can only be the kernel.
func (s *Socket) Connect(c socket.Caller, b []byte) error {
	if len(b) >= 2 && binary.LittleEndian.Uint16(b) == unix.AF_UNSPEC {
		return nil
	}
	port, groups, err := parseName(b)
	if err != nil {
		return err
	}
	if port != 0 || groups != 0 {
		return unix.EPERM
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bindLocked(c, 0)
	return nil
}

func (s *Socket) Name() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sockaddr(s.port, uint32(s.groups)), nil
}

func (s *Socket) Peer() ([]byte, error) { return sockaddr(0, 0), nil }

// Send hands requests to the kernel, which answers at once, as far as there is room.
func (s *Socket) Send(c socket.Caller, m *socket.Message, flags int) (int, error) {
	if flags&unix.MSG_OOB != 0 {
		return 0, unix.EOPNOTSUPP
	}
	if m.Name != nil {
		port, groups, err := parseName(m.Name)
		if err != nil {
			return 0, err
		}
		if groups != 0 {
			return 0, unix.EPERM
		}
		if port != 0 {
			return 0, unix.ECONNREFUSED
		}
	}
	size := m.Data.Len()
	if size > s.opts.Send()-32 {
		return 0, unix.EMSGSIZE
	}
	b := make([]byte, size)
	if m.Data.CopyIn(b) < size {
		return 0, unix.EFAULT
	}
	s.mu.Lock()
	s.bindLocked(c, 0)
	bound := s.port
	s.mu.Unlock()
	s.answer(c, bound, b)
	s.queue.Notify(vfs.EventIn)
	return size, nil
}

// Deliver gives the socket a datagram that nobody asked for.
func (s *Socket) Deliver(b []byte) {
	s.mu.Lock()
	s.putLocked(slices.Clone(b), 0)
	s.mu.Unlock()
	s.queue.Notify(vfs.EventIn)
}

// Receive takes one datagram, and so makes room for the next part of a dump. ENOBUFS
// says, once, that answers were lost.
func (s *Socket) Receive(_ socket.Caller, m *socket.Message, flags int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.takeError(); err != nil {
		return 0, err
	}
	if len(s.in) == 0 {
		return 0, unix.EAGAIN
	}
	b, group := s.in[0].data, s.in[0].group
	s.part = min(max(s.part, m.Data.Len()), partMost)
	n := m.Data.CopyOut(b)
	if flags&unix.MSG_PEEK == 0 {
		s.dropLocked()
	}
	if s.dump != nil && s.charged <= s.opts.Receive()/2 {
		s.continueLocked()
	}
	m.Name = sockaddr(0, 0)
	if group > 0 && group <= 32 {
		m.Name = sockaddr(0, 1<<(group-1)) // netlink_group_mask
	}
	if n < len(b) {
		m.Flags |= unix.MSG_TRUNC
		if flags&unix.MSG_TRUNC != 0 {
			n = len(b)
		}
	}
	return n, nil
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

func (s *Socket) Ready(mask vfs.Events) vfs.Events {
	s.mu.Lock()
	defer s.mu.Unlock()
	const readNorm, writeNorm, writeBand vfs.Events = 0x40, 0x100, 0x200
	ev := vfs.EventOut | writeNorm | writeBand
	if len(s.in) > 0 {
		ev |= vfs.EventIn | readNorm
	}
	if s.lost {
		return ev&mask | vfs.EventErr
	}
	return ev & mask
}

// options of SOL_NETLINK that are flags. But for NETLINK_NO_ENOBUFS and
// NETLINK_GET_STRICT_CHK they change what errors and events look like that never come.
var netlinkFlags = map[int]bool{unix.NETLINK_PKTINFO: true, unix.NETLINK_BROADCAST_ERROR: true, unix.NETLINK_NO_ENOBUFS: true,
	unix.NETLINK_LISTEN_ALL_NSID: true, unix.NETLINK_CAP_ACK: true, unix.NETLINK_EXT_ACK: true, unix.NETLINK_GET_STRICT_CHK: true}

func (s *Socket) SetOption(c socket.Caller, level, name int, value []byte) error {
	if level == unix.SOL_SOCKET {
		return s.opts.Set(c, name, value)
	}
	if level != unix.SOL_NETLINK {
		return unix.ENOPROTOOPT
	}
	v, err := socket.ParseInt(value)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case name == unix.NETLINK_ADD_MEMBERSHIP || name == unix.NETLINK_DROP_MEMBERSHIP:
		if v <= 0 || v > 39 { // __RTNLGRP_MAX
			return unix.EINVAL
		}
		if bit := uint64(1) << (v - 1); name == unix.NETLINK_ADD_MEMBERSHIP {
			s.groups |= bit
		} else {
			s.groups &^= bit
		}
	case netlinkFlags[name]:
		s.flags[name] = min(v, 1)
		if name == unix.NETLINK_NO_ENOBUFS && v != 0 {
			s.congested = false
		}
	default:
		return unix.ENOPROTOOPT
	}
	return nil
}

func (s *Socket) GetOption(_ socket.Caller, level, name, size int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b []byte
	var err error
	switch {
	case level == unix.SOL_NETLINK && netlinkFlags[name]:
		b = socket.Int(int(s.flags[name]))
	case level != unix.SOL_SOCKET:
		err = unix.ENOPROTOOPT
	case name == unix.SO_TYPE:
		b = socket.Int(s.typ)
	case name == unix.SO_DOMAIN:
		b = socket.Int(unix.AF_NETLINK)
	case name == unix.SO_PROTOCOL:
		b = socket.Int(s.proto)
	case name == unix.SO_ERROR:
		b = socket.Int(0)
		if s.takeError() != nil {
			b = socket.Int(int(unix.ENOBUFS))
		}
	case name == unix.SO_ACCEPTCONN:
		b = socket.Int(0)
	default:
		b, err = s.opts.Get(name)
	}
	return socket.Cut(b, size), err
}

// IOReason implements vfs.Signaller.
func (*Socket) IOReason(e vfs.Events) vfs.IOReason {
	if e&vfs.EventIn != 0 {
		return vfs.IOIn
	}
	return 0
}
