package inet

import (
	"io"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// stateLocked is the connection's, as the library sees it.
func (s *Socket) stateLocked() tcp.EndpointState { return tcp.EndpointState(s.ep.State()) }

// underWay says that a connection is there or has been.
func underWay(st tcp.EndpointState) bool {
	switch st {
	case tcp.StateEstablished, tcp.StateFinWait1, tcp.StateFinWait2, tcp.StateTimeWait, tcp.StateCloseWait, tcp.StateLastAck, tcp.StateClosing:
		return true
	}
	return false
}

func over(st tcp.EndpointState) bool { return st == tcp.StateError || st == tcp.StateClose }

// settleLocked takes note of what became of a connection.
func (s *Socket) settleLocked() {
	st := s.stateLocked()
	switch s.phase {
	case connecting:
		switch {
		case underWay(st):
			s.establishedLocked()
		case over(st):
			s.phase, s.shut = failed, bothDown // tcp_done
			s.err = s.connectError()
			if s.err == unix.ECONNREFUSED || s.err == unix.ETIMEDOUT { // the library counts what ICMP ends, and a listener's
				s.net.failed.Add(1)
			}
		}
	case connected:
		if st == tcp.StateError {
			s.tornByLibraryLocked()
		}
	}
	s.hearResetLocked()
}

// tornByLibraryLocked hears of a reset by a peer beyond this stack, or by a
// listener of it that ended with the connection not accepted.
func (s *Socket) tornByLibraryLocked() {
	if s.link == nil {
		if err, ok := errno(s.ep.LastError()).(unix.Errno); ok {
			s.err, s.shut = err, bothDown
		}
		return
	}
	if in := s.inflow().state(); !in.fin && !in.reset {
		s.ep.LastError()
		s.inflow().kill()
		s.outflow().kill()
	}
}

// hearResetLocked makes an error of a torn link, once. tcp_reset.
func (s *Socket) hearResetLocked() {
	if s.link == nil || s.shut&resetHeard != 0 {
		return
	}
	if in := s.inflow().state(); in.reset {
		s.resetLocked(in.fin)
	}
}

func (s *Socket) resetLocked(afterEnd bool) {
	s.err = unix.ECONNRESET
	if afterEnd {
		s.err = unix.EPIPE // in TCP_CLOSE_WAIT
	}
	s.shut = bothDown | resetHeard
}

// resetHeard marks, in shut, a reset that became the socket's error.
const resetHeard = 4

func (s *Socket) tornLocked() bool {
	return s.shut&resetHeard != 0 || s.link == nil && over(s.stateLocked())
}

func (s *Socket) inflow() *flow  { return &s.link.to[s.side] }
func (s *Socket) outflow() *flow { return &s.link.to[s.other] }

// establishedLocked follows a handshake.
func (s *Socket) establishedLocked() {
	s.phase = connected
	id := s.ep.Info().(*stack.TransportEndpointInfo).ID
	s.peerSaid = tcpip.FullAddress{Addr: id.RemoteAddress, Port: id.RemotePort}
	s.opts.Grow(streamConnected, 0)
	if !s.net.local(id.RemoteAddress) || s.net.relayed(id.RemoteAddress, id.RemotePort) {
		return
	}
	local, remote := endpoint{id.LocalAddress, id.LocalPort}, endpoint{id.RemoteAddress, id.RemotePort}
	s.link, s.side = s.net.join(local, remote)
	s.other = 1 - s.side
	if local == remote { // its own peer: both flows are one
		s.other = s.side
	}
	in, out := s.inflow(), s.outflow()
	in.mu.Lock()
	in.reader, in.options = &s.queue, s.opts
	in.mu.Unlock()
	out.mu.Lock()
	out.writer = &s.queue
	out.mu.Unlock()
	s.resizeLocked()
}

// resizeLocked tells the link how large the socket's buffers are.
func (s *Socket) resizeLocked() {
	if s.link == nil {
		return
	}
	in, out := s.inflow(), s.outflow()
	in.mu.Lock()
	in.recv = s.opts.Receive()
	if in.send == 0 {
		in.send = streamConnected
	}
	in.mu.Unlock()
	out.mu.Lock()
	out.send = s.opts.Send()
	if out.recv == 0 {
		out.recv = streamReceive
	}
	out.mu.Unlock()
}

// patience is how long connect(2) watches a handshake within the stack. Linux
// finishes one before connect returns, also one that fails, and programs find
// socket and listener ready at once; here it takes two goroutines some 100 µs.
const patience = 20 * time.Millisecond

// connectStream is __inet_stream_connect. EINPROGRESS and EALREADY are a waiting
// caller's cue for Connected.
func (s *Socket) connectStream(_ socket.Caller, name []byte) error {
	if len(name) < 2 {
		return unix.EINVAL
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if familyOf(name) == unix.AF_UNSPEC {
		return s.disconnectLocked()
	}
	s.settleLocked()
	switch s.phase {
	case connected:
		if s.told {
			return unix.EISCONN
		}
		s.told = true
		return nil
	case connecting:
		return unix.EALREADY
	case listening:
		return unix.EISCONN
	case failed:
		return s.failedLocked()
	}
	if s.family == unix.AF_INET6 && familyOf(name) == unix.AF_INET {
		return unix.EAFNOSUPPORT
	}
	a, err := parseName(name, s.family)
	if err != nil {
		return err
	}
	if multicast(a.Addr) {
		return unix.ENETUNREACH
	}
	s.err, s.shut = 0, 0
	a.Addr = s.anyIsHereLocked(a.Addr)
	if over(s.stateLocked()) {
		if err := s.rebindLocked(); err != nil {
			return err
		}
	}
	if err := s.ep.Connect(a); err != nil {
		if _, ok := err.(*tcpip.ErrConnectStarted); !ok {
			return unreachable(errno(err))
		}
	}
	s.phase, s.told = connecting, false
	s.watchLocked(a.Addr)
	return unix.EINPROGRESS
}

// watchLocked waits a moment for a handshake that needs nobody but us.
func (s *Socket) watchLocked(to tcpip.Address) {
	if !s.net.local(plain(to)) {
		return
	}
	heard := make(chan struct{}, 1)
	w := vfs.NewWaiter(vfs.EventOut|vfs.EventIn|vfs.EventErr|vfs.EventHup, heard)
	s.queue.Add(w)
	defer s.queue.Remove(w)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		switch st := s.stateLocked(); {
		case over(st):
			return
		case underWay(st):
			s.watchPeerLocked()
			return
		}
		select {
		case <-heard:
		case <-timer.C:
			return
		}
	}
}

// watchPeerLocked waits until the other end of an established connection is in its
// listener's queue, which is one segment later.
func (s *Socket) watchPeerLocked() {
	id := s.ep.Info().(*stack.TransportEndpointInfo).ID
	other := stack.TransportEndpointID{LocalAddress: id.RemoteAddress, LocalPort: id.RemotePort, RemoteAddress: id.LocalAddress, RemotePort: id.LocalPort}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Microsecond) {
		ep, ok := s.net.lib.FindTransportEndpoint(protocolOf(other.LocalAddress), tcp.ProtocolNumber, other, 0).(*tcp.Endpoint)
		if !ok {
			return
		}
		ep.LockUser() // a segment under way holds it
		st := ep.EndpointState()
		ep.UnlockUser()
		if st != tcp.StateSynRecv {
			return
		}
	}
}

// unreachable is what Linux says where there is no route.
func unreachable(err error) error {
	if err == unix.EHOSTUNREACH {
		return unix.ENETUNREACH
	}
	return err
}

// anyIsHereLocked is the address that connecting or sending to "any" means: the
// socket's own, or the loopback's (ip_route_output_key_hash_rcu).
func (s *Socket) anyIsHereLocked(a tcpip.Address) tcpip.Address {
	if a.Len() != 0 && !plain(a).Unspecified() {
		return a
	}
	mapped := a.Len() == 16 && a.To4().Len() == 4
	if local, err := s.ep.GetLocalAddress(); err == nil && local.Addr.Len() != 0 && !local.Addr.Unspecified() && !multicast(local.Addr) {
		return local.Addr
	}
	switch {
	case s.family == unix.AF_INET:
		return loopback4
	case mapped:
		return tcpip.AddrFrom16(bytes6(loopback4))
	}
	return loopback6
}

// failedLocked tells of an attempt that failed, and makes the socket fit for
// another.
func (s *Socket) failedLocked() error {
	err := s.takeErrorLocked()
	if err == nil {
		err = unix.ECONNABORTED
	}
	s.phase, s.shut = idle, 0
	return err
}

// rebindLocked gives an idle socket a fresh endpoint, bound as the old one was.
func (s *Socket) rebindLocked() error {
	if err := s.renew(); err != nil {
		return err
	}
	if s.bound == nil {
		return nil
	}
	a, err := parseName(s.bound, s.family)
	if err != nil {
		return err
	}
	return s.bindLocked(a)
}

// Connected ends a connect(2) that waits: EAGAIN until there is an outcome.
func (s *Socket) Connected() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	switch s.phase {
	case connecting:
		return unix.EAGAIN
	case connected:
		s.told = true
		return nil
	}
	return s.failedLocked()
}

// disconnectLocked is connect(2) with AF_UNSPEC. tcp_disconnect.
func (s *Socket) disconnectLocked() error {
	s.settleLocked()
	if s.phase == idle {
		return nil
	}
	s.err = 0
	if s.phase == connected {
		if !s.tornLocked() {
			s.err = unix.ECONNRESET
		}
		s.partLocked(true)
	} else {
		s.ep.Close()
	}
	s.phase, s.shut, s.told = idle, 0, false
	err := s.rebindLocked()
	s.queue.Notify(vfs.EventHup | vfs.EventOut | vfs.EventIn)
	return err
}

// Listen is listen(2). inet_listen.
func (s *Socket) Listen(_ socket.Caller, backlog int) error {
	s.bindMu.Lock()
	defer s.bindMu.Unlock()
	if s.typ != unix.SOCK_STREAM {
		return unix.EOPNOTSUPP
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	if s.phase == failed {
		s.failedLocked()
	}
	if s.phase != idle && s.phase != listening {
		return unix.EINVAL
	}
	if backlog < 0 || backlog > maxBacklog {
		backlog = maxBacklog
	}
	s.backlog = backlog
	if over(s.stateLocked()) {
		if err := s.rebindLocked(); err != nil {
			return err
		}
	}
	// Linux takes one more than it is told (sk_acceptq_is_full).
	if err := s.ep.Listen(s.toListen(backlog) + 1); err != nil {
		if _, ok := err.(*tcpip.ErrInvalidEndpointState); ok && s.phase == listening {
			return nil // a smaller one than wait already
		}
		return errno(err)
	}
	s.phase, s.shut = listening, 0
	return nil
}

// maxBacklog is net.core.somaxconn.
const maxBacklog = 4096

// Accept is accept(2). inet_csk_accept.
func (s *Socket) Accept(c socket.Caller, flags int) (socket.Socket, error) {
	if s.typ != unix.SOCK_STREAM {
		return nil, unix.EOPNOTSUPP
	}
	s.mu.Lock()
	if s.phase != listening {
		s.mu.Unlock()
		return nil, unix.EINVAL
	}
	ep, wq, err := s.ep.Accept(nil)
	if err != nil {
		s.mu.Unlock()
		return nil, errno(err)
	}
	n := s.net.newSocket(c, s.family, s.typ, s.protocol)
	n.set = append([]setting(nil), s.set...)
	n.opts.Inherit(s.opts)
	for o, v := range s.extra {
		n.keep(o, v)
	}
	s.mu.Unlock()
	n.mu.Lock()
	n.adopt(ep, wq)
	n.told = true
	n.establishedLocked()
	n.mu.Unlock()
	s.net.add(n)
	return n, nil
}

// shutdownStream is inet_shutdown.
func (s *Socket) shutdownStream(how int) error {
	s.mu.Lock()
	s.settleLocked()
	var err error
	switch s.phase {
	case listening:
		if how&readDown != 0 {
			s.ep.Shutdown(tcpip.ShutdownRead)
			s.phase = idle
			// The port stays the socket's, and what waited is reset.
			s.sweepLocked()
		}
	case connecting:
		s.ep.Close()
		s.phase, s.err = idle, unix.ECONNRESET
		err = s.rebindLocked()
	case connected:
		s.shut |= how
		s.halfLocked(how)
	default:
		s.shut |= how
		err = unix.ENOTCONN
	}
	s.mu.Unlock()
	s.queue.Notify(vfs.EventIn | readNorm | vfs.EventOut | writeNorm | vfs.EventHup | vfs.EventRdHup)
	return err
}

func (s *Socket) halfLocked(how int) {
	if s.link == nil {
		s.ep.Shutdown(tcpip.ShutdownFlags(how))
		return
	}
	if how&writeDown != 0 {
		s.outflow().finish()
		s.ep.Shutdown(tcpip.ShutdownWrite)
	}
}

// releaseStream is the last close(2). tcp_close.
func (s *Socket) releaseStream() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	if s.phase == connected {
		s.partLocked(false)
		s.dead = true
		s.wq.EventUnregister(&s.wake)
		return
	}
	listened := s.phase == listening
	s.closeLocked()
	if listened {
		s.sweepLocked()
	}
}

// partLocked ends a connection: with a reset if something was not read, or if
// SO_LINGER or abort says so.
func (s *Socket) partLocked(abort bool) {
	if on, after := s.opts.Linger(); on && after == 0 {
		abort = true
	}
	if s.link != nil {
		in, out := s.inflow(), s.outflow()
		self := in == out
		unread := in.abandon()
		switch {
		case self:
		case abort || unread > 0:
			abort = true
			out.kill()
		default:
			out.finish()
		}
		out.leave()
		s.link = nil
	}
	if abort {
		s.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: true})
	} else {
		s.ep.SocketOptions().SetLinger(tcpip.LingerOption{})
	}
	s.ep.Close()
}

// sweepLocked forgets the links of connections that s did not accept.
func (s *Socket) sweepLocked() {
	name, err := parseName(s.nameLocked(), s.family)
	if err != nil {
		return
	}
	lib := s.net.lib
	s.net.sweep(func(here, there endpoint) bool {
		if here.port != name.Port {
			return false
		}
		id := stack.TransportEndpointID{LocalPort: here.port, LocalAddress: here.addr, RemotePort: there.port, RemoteAddress: there.addr}
		found := lib.FindTransportEndpoint(protocolOf(here.addr), tcp.ProtocolNumber, id, 0)
		ep, ok := found.(*tcp.Endpoint)
		return !ok || !underWay(ep.EndpointState())
	})
}

// sendStream is tcp_sendmsg.
func (s *Socket) sendStream(_ socket.Caller, m *socket.Message, flags int) (int, error) {
	urgent := flags&unix.MSG_OOB != 0
	s.mu.Lock()
	s.settleLocked()
	switch {
	case s.phase == connecting:
		s.mu.Unlock()
		return 0, unix.EAGAIN
	case s.err != 0:
		defer s.mu.Unlock()
		return 0, s.takeErrorLocked()
	case s.phase != connected, s.shut&writeDown != 0:
		s.mu.Unlock()
		return 0, unix.EPIPE
	}
	if s.link == nil {
		ep := s.ep
		s.mu.Unlock()
		if urgent {
			return 0, unix.EOPNOTSUPP
		}
		n, err := ep.Write(&payload{m.Data}, tcpip.WriteOptions{More: flags&unix.MSG_MORE != 0})
		return int(n), errno(err)
	}
	out := s.outflow()
	s.mu.Unlock()
	if m.Data.Len() == 0 {
		return 0, nil
	}
	n, gone, fault, err := out.write(m.Data, urgent)
	switch {
	case err != nil:
		return 0, err
	case gone:
		// The data meets nobody: a reset comes back, and the next call hears of it.
		s.mu.Lock()
		if s.link != nil && s.shut&resetHeard == 0 {
			s.resetLocked(s.inflow().state().fin)
		}
		s.mu.Unlock()
		s.queue.Notify(vfs.EventIn | vfs.EventOut | vfs.EventErr | vfs.EventHup | vfs.EventRdHup)
		return min(m.Data.Len(), s.opts.Send()), nil
	case n > 0:
		return n, nil
	case fault:
		return 0, unix.EFAULT
	}
	return 0, unix.EAGAIN
}

// receiveStream is tcp_recvmsg.
func (s *Socket) receiveStream(m *socket.Message, flags int) (int, error) {
	if flags&unix.MSG_OOB != 0 {
		return s.receiveUrgent(m, flags&unix.MSG_PEEK != 0)
	}
	s.mu.Lock()
	s.settleLocked()
	switch {
	case s.phase == connecting:
		s.mu.Unlock()
		return 0, unix.EAGAIN
	case s.phase != connected:
		defer s.mu.Unlock()
		if s.err != 0 {
			return 0, s.takeErrorLocked()
		}
		if s.shut&readDown != 0 && s.phase != listening {
			return 0, nil
		}
		return 0, unix.ENOTCONN
	}
	if s.link == nil {
		ep := s.ep
		s.mu.Unlock()
		return s.receiveSegments(ep, m, flags)
	}
	in := s.inflow()
	s.mu.Unlock()
	peek := flags&unix.MSG_PEEK != 0
	dst := m.Data
	if dst.Len() > 0 {
		n, mark, fault := in.read(dst, peek)
		m.Mark = mark
		if n > 0 {
			return n, nil
		}
		if fault {
			return 0, unix.EFAULT
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := in.state()
	switch {
	case dst.Len() == 0 && st.size > 0:
		return 0, nil
	case st.size > 0:
		return 0, unix.EAGAIN // came this moment
	case st.fin:
		return 0, nil // SOCK_DONE comes before sk_err
	case s.err != 0:
		return 0, s.takeErrorLocked()
	case s.shut&readDown != 0:
		return 0, nil
	}
	return 0, unix.EAGAIN
}

// segments takes no more than there is room for; the library keeps the rest.
type segments struct{ to memory.Buffers }

func (w *segments) Write(b []byte) (int, error) {
	n := w.to.CopyOut(b)
	w.to = w.to.Skip(n)
	if n < len(b) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// receiveSegments reads from a peer beyond this stack.
func (s *Socket) receiveSegments(ep tcpip.Endpoint, m *socket.Message, flags int) (int, error) {
	if m.Data.Len() == 0 {
		return 0, nil
	}
	r, err := ep.Read(&segments{m.Data}, tcpip.ReadOptions{Peek: flags&unix.MSG_PEEK != 0})
	if err == nil {
		ep.ModerateRecvBuf(r.Count)
		return r.Count, nil
	}
	if _, ok := err.(*tcpip.ErrClosedForReceive); !ok {
		return 0, errno(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return 0, s.takeErrorLocked()
}

// readyStream is tcp_poll.
func (s *Socket) readyStream() (ev vfs.Events) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	if s.err != 0 {
		ev |= vfs.EventErr
	}
	switch s.phase {
	case listening:
		if s.ep.Readiness(1)&1 != 0 {
			ev |= vfs.EventIn | readNorm
		}
		return ev
	case connecting:
		return ev
	case failed:
		return ev | vfs.EventHup | vfs.EventIn | readNorm | vfs.EventRdHup | vfs.EventOut | writeNorm
	case idle:
		if s.shut&readDown != 0 {
			ev |= vfs.EventIn | readNorm | vfs.EventRdHup
		}
		return ev | vfs.EventHup | vfs.EventOut | writeNorm
	}
	var in, out flowState
	shut := s.shut
	if s.link != nil {
		in, out = s.inflow().state(), s.outflow().state()
		if in.fin {
			shut |= readDown
		}
	} else {
		in, out, shut = s.segmentsLocked(shut)
	}
	if shut&readDown != 0 {
		ev |= vfs.EventIn | readNorm | vfs.EventRdHup
	}
	if in.urgent.there && !in.urgent.taken {
		ev |= vfs.EventPri
	}
	if in.atMark() && !in.inline {
		in.size-- // a read does not find it
	}
	if in.size >= s.opts.LowWater() {
		ev |= vfs.EventIn | readNorm
	}
	if shut&writeDown != 0 || out.writable || out.gone {
		ev |= vfs.EventOut | writeNorm
	}
	if shut&bothDown == bothDown {
		ev |= vfs.EventHup
	}
	return ev
}

// segmentsLocked is what the library says of a connection beyond this stack.
func (s *Socket) segmentsLocked(shut int) (in, out flowState, down int) {
	switch s.stateLocked() {
	case tcp.StateCloseWait, tcp.StateLastAck, tcp.StateClosing:
		shut |= readDown
	case tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
		shut |= bothDown
	}
	const readable, writable = 1, 4
	events := s.events.Load()
	queued := func() int {
		n, _ := s.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
		return n
	}
	in.size = queued()
	// The library tells of the peer's FIN before its state does: who is woken by that and
	// looks at the state alone would sleep for ever. What can be read though there is
	// nothing is the end, if nothing came meanwhile that somebody else has read.
	if in.size == 0 && s.ep.Readiness(readable)&readable != 0 && queued() == 0 && s.events.Load() == events {
		shut |= readDown
	}
	out.writable = s.ep.Readiness(writable)&writable != 0
	return in, out, shut
}

// waitingLocked is how much was not read, and not acknowledged.
func (s *Socket) waitingLocked() (in, out int) {
	if s.link == nil {
		n, _ := s.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
		return n, 0
	}
	return s.inflow().state().size, s.outflow().state().unacknowledged
}
