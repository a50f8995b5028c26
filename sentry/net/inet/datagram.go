package inet

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// datagrams are what a socket received and nobody read.
type datagrams struct {
	draining sync.Mutex // one goroutine takes from the library at a time, in order

	mu    sync.Mutex
	list  []*datagram
	size  int // as sk_rmem_alloc
	drops uint32

	err atomic.Uint32 // an ICMP error that came for the socket
}

// datagram is one, with what its control messages tell.
type datagram struct {
	data []byte
	from tcpip.FullAddress
	tell tcpip.ReceivableControlMessages
	cost int
}

// truesize is what a datagram of n bytes costs its receiver (__alloc_skb): a
// struct sk_buff, and a head with room for headers and struct skb_shared_info,
// from a cache for small ones or of powers of two.
func truesize(n int) int {
	const buff, headers, info, small = 256, 66, 320, 704
	need := n + headers + info
	if need <= small {
		return buff + small
	}
	size := 1024
	for size < need {
		size *= 2
	}
	return buff + size
}

// sink takes what the library has.
type sink struct{ data []byte }

func (w *sink) Write(b []byte) (int, error) {
	w.data = append(w.data, b...)
	return len(b), nil
}

// drain takes over what has come. The library calls it as it delivers.
func (s *Socket) drain() {
	d := &s.grams
	d.draining.Lock()
	defer d.draining.Unlock()
	for s.ep.SocketOptions().DequeueErr() != nil { // in errs, by undelivered
	}
	for {
		var w sink
		r, err := s.ep.Read(&w, tcpip.ReadOptions{NeedRemoteAddr: true})
		switch err.(type) {
		case nil:
			s.keepDatagram(&datagram{data: w.data, from: r.RemoteAddr, tell: r.ControlMessages})
		case *tcpip.ErrWouldBlock, *tcpip.ErrClosedForReceive:
			s.hearError(s.ep.LastError())
			return
		default:
			s.hearError(err)
		}
	}
}

// hearError keeps an error that arrived for the next call.
func (s *Socket) hearError(err tcpip.Error) {
	if e, ok := errno(err).(unix.Errno); ok {
		s.grams.err.Store(uint32(e))
	}
}

// keepDatagram queues g, or drops it where the buffer is full. __udp_enqueue_schedule_skb.
func (s *Socket) keepDatagram(g *datagram) {
	d := &s.grams
	g.cost = truesize(len(g.data))
	d.mu.Lock()
	defer d.mu.Unlock()
	most := s.opts.Receive()
	if s.net.queued.Load() > plenty {
		most = min(most, scarce)
	}
	if d.size > most || s.filtered(g) || s.net.queued.Add(int64(g.cost)) != nil {
		d.drops++
		return
	}
	d.list = append(d.list, g)
	d.size += g.cost
}

// filtered applies ICMP_FILTER (raw_rcv) to what a raw socket received; the
// library applies ICMP6_FILTER.
func (s *Socket) filtered(g *datagram) bool {
	if s.typ != unix.SOCK_RAW || s.protocol != unix.IPPROTO_ICMP || len(g.data) < header.IPv4MinimumSize {
		return false
	}
	at := int(header.IPv4(g.data).HeaderLength())
	if at >= len(g.data) {
		return false
	}
	kind := g.data[at]
	return kind < 32 && atomic.LoadUint32(&s.filter[0])&(1<<kind) != 0
}

// takeDatagramErrorLocked is sock_error.
func (s *Socket) takeDatagramErrorLocked() error {
	if e := s.grams.err.Swap(0); e != 0 {
		return unix.Errno(e)
	}
	return s.takeErrorLocked()
}

// connectDatagrams is __ip4_datagram_connect, __ip6_datagram_connect.
func (s *Socket) connectDatagrams(_ socket.Caller, name []byte) error {
	if len(name) < 2 {
		return unix.EINVAL
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if familyOf(name) == unix.AF_UNSPEC {
		return s.forgetPeerLocked()
	}
	a, err := s.destination(name)
	if err != nil {
		return err
	}
	a.Addr = s.anyIsHereLocked(a.Addr)
	if s.typ == unix.SOCK_RAW {
		a.Port = 0
	}
	if err := s.ep.Connect(a); err != nil {
		if _, ok := err.(*tcpip.ErrBroadcastDisabled); ok {
			return unix.EACCES
		}
		return unreachable(errno(err))
	}
	s.connName = sockaddr(s.shown(a), s.family)
	return nil
}

// destination reads a name to send to. A socket of AF_INET6 takes AF_INET's too.
func (s *Socket) destination(name []byte) (tcpip.FullAddress, error) {
	if s.family == unix.AF_INET6 && familyOf(name) == unix.AF_INET {
		if s.ep.SocketOptions().GetV6Only() {
			return tcpip.FullAddress{}, unix.EAFNOSUPPORT
		}
		a, err := parseName(name, unix.AF_INET)
		if a.Addr.Len() == 0 {
			a.Addr = loopback4
		}
		a.Addr = tcpip.AddrFrom16(bytes6(a.Addr))
		return a, err
	}
	a, err := parseName(name, s.family)
	if err == nil && s.family == unix.AF_INET6 && a.Addr.To4().Len() == 4 && s.ep.SocketOptions().GetV6Only() {
		err = unix.ENETUNREACH
	}
	return a, err
}

// forgetPeerLocked is connect(2) with AF_UNSPEC. __udp_disconnect.
func (s *Socket) forgetPeerLocked() error {
	if s.connName == nil {
		return nil
	}
	s.connName = nil
	s.shut = 0
	return errno(s.ep.Disconnect())
}

// shutdownDatagrams is inet_shutdown: it works also where it fails.
func (s *Socket) shutdownDatagrams(how int) error {
	s.mu.Lock()
	s.shut |= how
	peer := s.connName
	s.mu.Unlock()
	s.queue.Notify(vfs.EventIn | readNorm | vfs.EventOut | vfs.EventHup | vfs.EventRdHup)
	if peer == nil {
		return unix.ENOTCONN
	}
	return nil
}

func (s *Socket) releaseDatagrams() {
	s.mu.Lock()
	s.closeLocked()
	s.mu.Unlock()
	s.grams.mu.Lock()
	s.net.queued.Sub(int64(s.grams.size))
	s.grams.list, s.grams.size = nil, 0
	s.grams.mu.Unlock()
}

// The most bytes that one datagram carries.
const (
	most4 = 65535 - header.IPv4MinimumSize
	most6 = 65535
)

// sendDatagram is udp_sendmsg, raw_sendmsg, ping_v4_sendmsg and their like of IPv6.
func (s *Socket) sendDatagram(_ socket.Caller, m *socket.Message, flags int) (int, error) {
	if flags&unix.MSG_OOB != 0 {
		return 0, unix.EOPNOTSUPP
	}
	size := m.Data.Len()
	if size > 0xffff {
		return 0, unix.EMSGSIZE
	}
	s.mu.Lock()
	to, o, err := s.toLocked(m)
	if err == nil {
		err = s.takeDatagramErrorLocked()
	}
	if err == nil && s.shut&writeDown != 0 {
		err = unix.EPIPE
	}
	ep := s.ep
	more := s.user() && (flags&unix.MSG_MORE != 0 || s.flagLocked(unix.SOL_UDP, unix.UDP_CORK))
	if err == nil && (more || s.corked != nil) {
		defer s.mu.Unlock()
		return s.corkLocked(m, o, more)
	}
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if size > s.mostBytes(to, ep) {
		return 0, unix.EMSGSIZE
	}
	n, terr := ep.Write(&payload{m.Data}, o)
	if _, long := terr.(*tcpip.ErrMessageTooLong); long {
		if all, err, sent := s.sendPieces(ep, m, o); sent {
			n, terr = int64(all), err
		}
	}
	if terr != nil {
		return 0, s.sendError(terr)
	}
	s.countEcho(m)
	return int(n), nil
}

// countEcho counts a question that a raw socket sends, as ip_output.c, __ip_make_skb, does; those of ping
// sockets the library counts.
func (s *Socket) countEcho(m *socket.Message) {
	kind := make([]byte, 1)
	if s.typ != unix.SOCK_RAW || m.Data.CopyIn(kind) == 0 {
		return
	}
	switch {
	case s.protocol == unix.IPPROTO_ICMP && kind[0] == byte(header.ICMPv4Echo):
		s.net.echoes[0].Add(1)
	case s.protocol == unix.IPPROTO_ICMPV6 && kind[0] == byte(header.ICMPv6EchoRequest):
		s.net.echoes[1].Add(1)
	}
}

// mostBytes is how long a message may be.
func (s *Socket) mostBytes(to *tcpip.FullAddress, ep tcpip.Endpoint) int {
	n := most4
	v4 := s.family == unix.AF_INET
	if !v4 {
		peer := tcpip.FullAddress{}
		if to != nil {
			peer = *to
		} else if r, err := ep.GetRemoteAddress(); err == nil {
			peer = r
		}
		v4 = peer.Addr.To4().Len() == 4
	}
	if !v4 {
		n = most6
	}
	if s.user() {
		n -= header.UDPMinimumSize
	}
	if s.typ == unix.SOCK_RAW && s.includes(ep) {
		n = 0xffff
	}
	return n
}

func (s *Socket) includes(ep tcpip.Endpoint) bool {
	return s.protocol == unix.IPPROTO_RAW || ep.SocketOptions().GetHeaderIncluded()
}

func (s *Socket) sendError(err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrInvalidEndpointState:
		return unix.EINVAL
	case *tcpip.ErrBadLocalAddress:
		return unix.EINVAL
	}
	return unreachable(errno(err))
}

// corkLocked adds to a datagram that is not complete, or sends it.
func (s *Socket) corkLocked(m *socket.Message, o tcpip.WriteOptions, more bool) (int, error) {
	b := make([]byte, m.Data.Len())
	if m.Data.CopyIn(b) < len(b) {
		return 0, unix.EFAULT
	}
	if len(s.corked)+len(b) > s.mostBytes(o.To, s.ep) {
		return 0, unix.EMSGSIZE
	}
	if s.corked == nil {
		s.corked, s.corkedTo = []byte{}, m.Name
	}
	s.corked = append(s.corked, b...)
	if more {
		return len(b), nil
	}
	return len(b), s.uncorkLocked()
}

// uncorkLocked sends what MSG_MORE and UDP_CORK kept back.
func (s *Socket) uncorkLocked() error {
	if s.corked == nil {
		return nil
	}
	b, m := s.corked, socket.Message{Name: s.corkedTo}
	s.corked, s.corkedTo = nil, nil
	_, o, err := s.toLocked(&m)
	if err != nil {
		return err
	}
	if _, err := s.ep.Write(&payload{memory.Buffers{b}}, o); err != nil {
		return s.sendError(err)
	}
	return nil
}

// toLocked is where a message goes; nil: to the socket's peer.
func (s *Socket) toLocked(m *socket.Message) (to *tcpip.FullAddress, o tcpip.WriteOptions, err error) {
	if err := parseSendControl(m.Control.Other, &o.ControlMessages); err != nil {
		return nil, o, err
	}
	if len(m.Name) == 0 {
		if s.connName == nil && !(s.typ == unix.SOCK_RAW && s.includes(s.ep) && s.family == unix.AF_INET) {
			return nil, o, unix.EDESTADDRREQ
		}
		return nil, o, nil
	}
	name := m.Name
	if familyOf(name) == unix.AF_UNSPEC && len(name) >= size4 {
		if s.family == unix.AF_INET6 {
			if s.connName == nil {
				return nil, o, unix.EDESTADDRREQ
			}
			return nil, o, nil
		}
		name = append([]byte{unix.AF_INET, 0}, name[2:]...)
	}
	a, err := s.destination(name)
	if err != nil {
		return nil, o, err
	}
	if a.Port == 0 && s.user() {
		return nil, o, unix.EINVAL
	}
	a.Addr = s.anyIsHereLocked(a.Addr)
	if c := &o.ControlMessages; a.NIC == 0 && !c.HasIPv6PacketInfo && s.ep.SocketOptions().GetBindToDevice() == 0 &&
		!(multicast(a.Addr) && (s.extra[multicastIf] != nil || s.extra[multicastIf6Opt] != nil)) {
		a.NIC = s.home
	}
	o.To = &a
	return &a, o, nil
}

// receiveDatagram is udp_recvmsg and the like.
func (s *Socket) receiveDatagram(m *socket.Message, flags int) (int, error) {
	if flags&unix.MSG_OOB != 0 && s.typ != unix.SOCK_DGRAM {
		return 0, unix.EOPNOTSUPP
	}
	if s.grams.err.Load() != 0 || s.err != 0 {
		s.mu.Lock()
		err := s.takeDatagramErrorLocked()
		s.mu.Unlock()
		if err != nil {
			return 0, err
		}
	}
	d := &s.grams
	d.mu.Lock()
	if len(d.list) == 0 {
		d.mu.Unlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.shut&readDown != 0 && flags&unix.MSG_DONTWAIT == 0 {
			return 0, nil
		}
		return 0, unix.EAGAIN
	}
	g := d.list[0]
	if flags&unix.MSG_PEEK == 0 {
		d.list[0] = nil
		d.list = d.list[1:]
		d.size -= g.cost
		s.net.queued.Sub(int64(g.cost))
	}
	drops := d.drops
	d.mu.Unlock()
	n := m.Data.CopyOut(g.data)
	if n < min(len(g.data), m.Data.Len()) {
		return 0, unix.EFAULT
	}
	m.Name = sockaddr(s.shown(s.sender(g)), s.family)
	s.tellLocked(m, g, drops)
	if n < len(g.data) {
		m.Flags |= unix.MSG_TRUNC
		if flags&unix.MSG_TRUNC != 0 {
			n = len(g.data)
		}
	}
	return n, nil
}

// sender is what recvfrom(2) names: ping and raw sockets have no ports.
func (s *Socket) sender(g *datagram) tcpip.FullAddress {
	a := g.from
	if !s.user() {
		a.Port = 0
	}
	return a
}

// readyDatagrams is datagram_poll.
func (s *Socket) readyDatagrams() (ev vfs.Events) {
	s.mu.Lock()
	shut, err := s.shut, s.err != 0 || s.grams.err.Load() != 0 || !s.errs.empty()
	s.mu.Unlock()
	if err {
		ev |= vfs.EventErr
	}
	if shut&readDown != 0 {
		ev |= vfs.EventIn | readNorm | vfs.EventRdHup
	}
	if shut == bothDown {
		ev |= vfs.EventHup
	}
	s.grams.mu.Lock()
	if len(s.grams.list) > 0 {
		ev |= vfs.EventIn | readNorm
	}
	s.grams.mu.Unlock()
	return ev | vfs.EventOut | writeNorm | writeBand
}

// firstDatagram is the length of the next one, for FIONREAD.
func (s *Socket) firstDatagram() int {
	s.grams.mu.Lock()
	defer s.grams.mu.Unlock()
	if len(s.grams.list) == 0 {
		return 0
	}
	return len(s.grams.list[0].data)
}

// receiveError is recvmsg(2) with MSG_ERRQUEUE. ip_recv_error.
func (s *Socket) receiveError(m *socket.Message) (int, error) {
	e, left := s.errs.take()
	if s.typ == unix.SOCK_STREAM {
		e = s.ep.SocketOptions().DequeueErr()
		left = b2i(s.ep.SocketOptions().PeekErr() != nil)
	}
	if e == nil {
		return 0, unix.EAGAIN
	}
	n := 0
	if e.Payload != nil {
		b := e.Payload.AsSlice()
		if n = m.Data.CopyOut(b); n < len(b) {
			m.Flags |= unix.MSG_TRUNC
		}
	}
	m.Flags |= unix.MSG_ERRQUEUE
	if left == 0 { // sock_dequeue_err_skb
		s.ep.LastError()
		s.mu.Lock()
		s.takeDatagramErrorLocked()
		s.mu.Unlock()
	}
	m.Name = sockaddr(s.shown(e.Dst), s.family)
	le := binary.LittleEndian
	code, _ := errno(e.Err).(unix.Errno)
	// struct sock_extended_err, and who sent the error.
	b := le.AppendUint32(nil, uint32(code))
	b = append(b, originOf(e), e.Cause.Type(), e.Cause.Code(), 0)
	b = le.AppendUint32(le.AppendUint32(b, e.Cause.Info()), 0)
	offender := tcpip.FullAddress{Addr: e.Offender.Addr}
	level, typ := int32(unix.SOL_IP), int32(unix.IP_RECVERR)
	family := s.family
	if family == unix.AF_INET6 {
		level, typ = unix.SOL_IPV6, unix.IPV6_RECVERR
	}
	m.Control.Other = append(m.Control.Other, socket.ControlMessage{Level: level, Type: typ,
		Data: append(b, sockaddr(s.shown(offender), family)...)})
	return n, nil
}

func originOf(e *tcpip.SockError) byte {
	switch e.Cause.Origin() {
	case tcpip.SockExtErrorOriginLocal:
		return unix.SO_EE_ORIGIN_LOCAL
	case tcpip.SockExtErrorOriginICMP:
		return unix.SO_EE_ORIGIN_ICMP
	case tcpip.SockExtErrorOriginICMP6:
		return unix.SO_EE_ORIGIN_ICMP6
	}
	return unix.SO_EE_ORIGIN_NONE
}

// tellLocked adds the control messages that the socket asked for
// (sock_recv_cmsgs, ip_cmsg_recv, ip6_datagram_recv_ctl).
func (s *Socket) tellLocked(m *socket.Message, g *datagram, drops uint32) {
	le := binary.LittleEndian
	add := func(level, typ int, data []byte) {
		m.Control.Other = append(m.Control.Other, socket.ControlMessage{Level: int32(level), Type: int32(typ), Data: data})
	}
	t := &g.tell
	if t.HasTimestamp {
		s.mu.Lock()
		s.stamp = t.Timestamp
		s.mu.Unlock()
		switch s.opts.Stamp() {
		case socket.StampMicro:
			add(unix.SOL_SOCKET, unix.SO_TIMESTAMP_OLD, stamp(t.Timestamp, time.Microsecond))
		case socket.StampMicroNew:
			add(unix.SOL_SOCKET, unix.SO_TIMESTAMP_NEW, stamp(t.Timestamp, time.Microsecond))
		case socket.StampNano:
			add(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_OLD, stamp(t.Timestamp, time.Nanosecond))
		case socket.StampNanoNew:
			add(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, stamp(t.Timestamp, time.Nanosecond))
		}
	}
	if s.opts.Drops() && drops > 0 {
		add(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, le.AppendUint32(nil, drops))
	}
	if t.HasIPPacketInfo && s.family == unix.AF_INET {
		b := le.AppendUint32(nil, uint32(t.PacketInfo.NIC))
		local := t.PacketInfo.LocalAddr.To4()
		dst := t.PacketInfo.DestinationAddr.To4()
		b = append(append(b, local.AsSlice()...), dst.AsSlice()...)
		add(unix.SOL_IP, unix.IP_PKTINFO, b)
	}
	if t.HasIPv6PacketInfo || t.HasIPPacketInfo && s.family == unix.AF_INET6 {
		addr, nic := t.IPv6PacketInfo.Addr, t.IPv6PacketInfo.NIC
		if !t.HasIPv6PacketInfo {
			addr, nic = t.PacketInfo.DestinationAddr, t.PacketInfo.NIC
		}
		v6 := bytes6(addr)
		add(unix.SOL_IPV6, unix.IPV6_PKTINFO, le.AppendUint32(v6[:], uint32(nic)))
	}
	if t.HasTTL {
		add(unix.SOL_IP, unix.IP_TTL, socket.Int(int(t.TTL)))
	}
	if t.HasTOS {
		add(unix.SOL_IP, unix.IP_TOS, []byte{t.TOS})
	}
	if t.HasHopLimit {
		add(unix.SOL_IPV6, unix.IPV6_HOPLIMIT, socket.Int(int(t.HopLimit)))
	}
	if t.HasTClass {
		add(unix.SOL_IPV6, unix.IPV6_TCLASS, socket.Int(int(t.TClass)))
	}
	if t.HasOriginalDstAddress {
		if s.family == unix.AF_INET {
			add(unix.SOL_IP, unix.IP_RECVORIGDSTADDR, sockaddr(t.OriginalDstAddress, s.family))
		} else {
			add(unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, sockaddr(s.shown(t.OriginalDstAddress), s.family))
		}
	}
}

// stamp is a struct timeval or timespec.
func stamp(t time.Time, unit time.Duration) []byte {
	le := binary.LittleEndian
	return le.AppendUint64(le.AppendUint64(nil, uint64(t.Unix())), uint64(time.Duration(t.Nanosecond())/unit))
}

// parseSendControl reads the control messages of sendmsg(2). ip_cmsg_send,
// ip6_datagram_send_ctl.
func parseSendControl(list []socket.ControlMessage, to *tcpip.SendableControlMessages) error {
	for _, c := range list {
		v, err := socket.ParseInt(c.Data)
		switch {
		case c.Level == unix.SOL_IP && c.Type == unix.IP_TTL:
			if err != nil || v < 1 || v > 255 {
				return unix.EINVAL
			}
			to.HasTTL, to.TTL = true, uint8(v)
		case c.Level == unix.SOL_IP && c.Type == unix.IP_TOS:
			if len(c.Data) < 1 {
				return unix.EINVAL
			}
		case c.Level == unix.SOL_IP && c.Type == unix.IP_PKTINFO:
			if len(c.Data) != unix.SizeofInet4Pktinfo {
				return unix.EINVAL
			}
		case c.Level == unix.SOL_IPV6 && c.Type == unix.IPV6_PKTINFO:
			if len(c.Data) < unix.SizeofInet6Pktinfo {
				return unix.EINVAL
			}
			to.HasIPv6PacketInfo = true
			to.IPv6PacketInfo.Addr = tcpip.AddrFrom16([16]byte(c.Data))
			to.IPv6PacketInfo.NIC = tcpip.NICID(binary.LittleEndian.Uint32(c.Data[16:]))
			if to.IPv6PacketInfo.Addr.Unspecified() {
				to.IPv6PacketInfo.Addr = tcpip.Address{}
			}
		case c.Level == unix.SOL_IPV6 && c.Type == unix.IPV6_HOPLIMIT:
			if err != nil || v < -1 || v > 255 {
				return unix.EINVAL
			}
			to.HasHopLimit, to.HopLimit = v >= 0, uint8(v)
		case c.Level == unix.SOL_IPV6 && c.Type == unix.IPV6_TCLASS:
			if err != nil || v < -1 || v > 255 {
				return unix.EINVAL
			}
		case c.Level == unix.SOL_IP || c.Level == unix.SOL_IPV6:
			return unix.EINVAL
		}
	}
	return nil
}
