package syscalls

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/netlink"
	"bulkhead/sentry/net/packet"
	"bulkhead/sentry/net/socket"
	unixnet "bulkhead/sentry/net/unix"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

func socketCalls() []row {
	return []row{
		{unix.SYS_SOCKET, socketCall, Partial, "AF_UNIX, AF_INET, AF_INET6, AF_PACKET, NETLINK_ROUTE and NETLINK_SOCK_DIAG; other families are EAFNOSUPPORT"},
		{unix.SYS_SOCKETPAIR, socketpair, Full, ""},
		{unix.SYS_BIND, bind, Full, ""},
		{unix.SYS_LISTEN, listen, Full, ""},
		{unix.SYS_ACCEPT, accept, Full, ""},
		{unix.SYS_ACCEPT4, accept4, Full, ""},
		{unix.SYS_CONNECT, connect, Full, ""},
		{unix.SYS_SHUTDOWN, shutdown, Full, ""},
		{unix.SYS_GETSOCKNAME, getsockname, Full, ""},
		{unix.SYS_GETPEERNAME, getpeername, Full, ""},
		{unix.SYS_GETSOCKOPT, getsockopt, Full, ""},
		{unix.SYS_SETSOCKOPT, setsockopt, Full, ""},
		{unix.SYS_SENDTO, sendto, Partial, "MSG_OOB on streams of AF_UNIX and within the container: to another host tcpip has no urgent data"},
		{unix.SYS_RECVFROM, recvfrom, Full, ""},
		{unix.SYS_SENDMSG, sendmsg, Partial, "as sendto"},
		{unix.SYS_RECVMSG, recvmsg, Full, ""},
		{unix.SYS_SENDMMSG, sendmmsg, Full, ""},
		{unix.SYS_RECVMMSG, recvmmsg, Full, ""},
	}
}

const sockFlags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK

func socketCall(t *kernel.Task, a *Args) (uintptr, error) {
	family, typ := a.Int(0), a.Int(1)
	const limit = 11 // SOCK_MAX
	if typ&^(sockFlags|0xf) != 0 || typ&0xf >= limit {
		return 0, unix.EINVAL
	}
	s, err := newSocket(t, family, typ&0xf, a.Int(2))
	if err != nil {
		return 0, err
	}
	return installNew(t, socket.NewDescription(s, typ&unix.SOCK_NONBLOCK), typ&unix.SOCK_CLOEXEC != 0)
}

// newSocket makes a socket of a family that the container has.
func newSocket(t *kernel.Task, family, typ, protocol int) (socket.Socket, error) {
	switch family {
	case unix.AF_UNIX:
		return unixnet.New(t, world(t).Names, typ, protocol)
	case unix.AF_INET, unix.AF_INET6:
		return netOf(t).Socket(t, family, typ, protocol)
	case unix.AF_NETLINK:
		return netlink.New(t, netOf(t), typ, protocol)
	case unix.AF_PACKET:
		return packet.New(t, netOf(t), typ, protocol)
	}
	return nil, unix.EAFNOSUPPORT
}

func socketpair(t *kernel.Task, a *Args) (uintptr, error) {
	family, typ := a.Int(0), a.Int(1)
	if typ&^(sockFlags|0xf) != 0 {
		return 0, unix.EINVAL
	}
	switch family {
	case unix.AF_UNIX:
	case unix.AF_INET, unix.AF_INET6, unix.AF_PACKET:
		return 0, unix.EOPNOTSUPP
	default:
		return 0, unix.EAFNOSUPPORT
	}
	x, y, err := unixnet.Pair(t, world(t).Names, typ&0xf, a.Int(2))
	if err != nil {
		return 0, err
	}
	flags := typ & unix.SOCK_NONBLOCK
	return installPair(t, a.Addr(3), socket.NewDescription(x, flags), socket.NewDescription(y, flags), typ&unix.SOCK_CLOEXEC != 0)
}

// sock is a socket that a call works on.
type sock struct {
	socket.Socket
	d        *vfs.Description
	nonblock bool
}

func sockOf(t *kernel.Task, fd int) (sock, error) {
	d, err := t.FDs().Get(fd)
	if err != nil {
		return sock{}, err
	}
	s, ok := d.File().(socket.Socket)
	if !ok || d.Flags()&unix.O_PATH != 0 {
		d.Unref()
		if d.Flags()&unix.O_PATH != 0 {
			return sock{}, unix.EBADF
		}
		return sock{}, unix.ENOTSOCK
	}
	return sock{s, d, d.Flags()&unix.O_NONBLOCK != 0}, nil
}

// sockName reads a sockaddr (net/socket.c, move_addr_to_kernel).
func sockName(t *kernel.Task, at memory.Addr, size uint32) ([]byte, error) {
	const most = 128 // sizeof(struct sockaddr_storage)
	if int32(size) < 0 || size > most {
		return nil, unix.EINVAL
	}
	b := make([]byte, size)
	return b, in(t, at, b)
}

// outName writes a sockaddr and its length, cut to the room there is.
func outName(t *kernel.Task, at, sizeAt memory.Addr, name []byte) error {
	room, err := in32(t, sizeAt)
	if err != nil {
		return err
	}
	if int32(room) < 0 {
		return unix.EINVAL
	}
	if err := out(t, at, name[:min(len(name), int(room))]); err != nil {
		return err
	}
	return out32(t, sizeAt, uint32(len(name)))
}

func bind(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := sockOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer s.d.Unref()
	name, err := sockName(t, a.Addr(1), a.Uint32(2))
	if err != nil {
		return 0, err
	}
	return 0, s.Bind(t, name)
}

func listen(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := sockOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer s.d.Unref()
	return 0, s.Listen(t, a.Int(1))
}

func accept(t *kernel.Task, a *Args) (uintptr, error) { return doAccept(t, a, 0) }

func accept4(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int(3)&^sockFlags != 0 {
		return 0, unix.EINVAL
	}
	return doAccept(t, a, a.Int(3))
}

// timeout is a deadline for a socket's own SO_RCVTIMEO or SO_SNDTIMEO.
func timeout(t *kernel.Task, d time.Duration) time.Duration {
	if d == 0 {
		return 0
	}
	return t.Kernel().Clock.Monotonic() + d
}

// timedOut turns the end of such a wait into what sockets return.
func timedOut(err error, limited bool) error {
	switch {
	case err == unix.ETIMEDOUT && limited:
		return unix.EAGAIN
	case err == kernel.ERESTARTSYS && limited:
		return unix.EINTR
	}
	return err
}

func doAccept(t *kernel.Task, a *Args, flags int) (uintptr, error) {
	s, err := sockOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer s.d.Unref()
	if err := t.FDs().Full(fdLimit(t)); err != nil {
		return 0, err
	}
	d, err := s.accept(t, flags, a.Addr(1), a.Addr(2))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	return install(t, d, 0, flags&unix.SOCK_CLOEXEC != 0)
}

// accept waits for a connection, and tells who it is from.
func (s sock) accept(t *kernel.Task, flags int, nameAt, sizeAt memory.Addr) (*vfs.Description, error) {
	var n socket.Socket
	how := 0
	if s.nonblock {
		how = unix.MSG_DONTWAIT
	}
	limit, _ := s.Timeouts()
	err := t.Wait(s.Queue(), vfs.EventIn, s.nonblock, timeout(t, limit), func() (err error) {
		n, err = s.Accept(t, how)
		return err
	})
	if err != nil {
		return nil, timedOut(err, limit != 0)
	}
	d := socket.NewDescription(n, flags&unix.SOCK_NONBLOCK)
	if nameAt != 0 {
		peer, err := acceptedFrom(n)
		if err != nil {
			err = unix.ECONNABORTED
		} else {
			err = outName(t, nameAt, sizeAt, peer)
		}
		if err != nil {
			d.Unref()
			return nil, err
		}
	}
	return d, nil
}

// acceptedFrom is the other end of a connection, which may be torn already.
func acceptedFrom(n socket.Socket) ([]byte, error) {
	if a, ok := n.(interface{ AcceptedFrom() []byte }); ok {
		return a.AcceptedFrom(), nil
	}
	return n.Peer()
}

func connect(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := sockOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer s.d.Unref()
	name, err := sockName(t, a.Addr(1), a.Uint32(2))
	if err != nil {
		return 0, err
	}
	return 0, s.connect(t, name)
}

func (s sock) connect(t *kernel.Task, name []byte) error {
	_, limit := s.Timeouts()
	deadline := timeout(t, limit)
	err := t.Wait(s.Queue(), vfs.EventOut, s.nonblock, deadline, func() error { return s.Connect(t, name) })
	c, ok := s.Socket.(socket.Connecting)
	if s.nonblock || !ok || err != unix.EINPROGRESS && err != unix.EALREADY {
		return timedOut(err, limit != 0)
	}
	ended := t.Wait(s.Queue(), vfs.EventOut, false, deadline, c.Connected)
	if ended == unix.ETIMEDOUT && limit != 0 {
		return err // of the call, not of the connection
	}
	return timedOut(ended, limit != 0)
}

func shutdown(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := sockOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer s.d.Unref()
	if how := a.Int(1); how < unix.SHUT_RD || how > unix.SHUT_RDWR {
		return 0, unix.EINVAL
	}
	return 0, s.Shutdown(t, a.Int(1))
}

func getsockname(t *kernel.Task, a *Args) (uintptr, error) {
	return askName(t, a, func(s sock) ([]byte, error) { return s.Name() })
}

func getpeername(t *kernel.Task, a *Args) (uintptr, error) {
	return askName(t, a, func(s sock) ([]byte, error) { return s.Peer() })
}

func askName(t *kernel.Task, a *Args, ask func(sock) ([]byte, error)) (uintptr, error) {
	s, err := sockOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer s.d.Unref()
	name, err := ask(s)
	if err != nil {
		return 0, err
	}
	return 0, outName(t, a.Addr(1), a.Addr(2), name)
}

func getsockopt(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := sockOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer s.d.Unref()
	size, err := in32(t, a.Addr(4))
	if err != nil {
		return 0, err
	}
	if int32(size) < 0 {
		return 0, unix.EINVAL
	}
	var v []byte
	if q, ok := s.Socket.(socket.Asked); ok && q.Asks(a.Int(1), a.Int(2)) {
		given := make([]byte, min(size, 64))
		if err := in(t, a.Addr(3), given); err != nil {
			return 0, err
		}
		v, err = q.Answer(given)
	} else {
		v, err = s.GetOption(t, a.Int(1), a.Int(2), int(size))
	}
	if err != nil {
		return 0, err
	}
	if err := out(t, a.Addr(3), v); err != nil {
		return 0, err
	}
	return 0, out32(t, a.Addr(4), uint32(len(v)))
}

func setsockopt(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := sockOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer s.d.Unref()
	size := a.Int(4)
	if size < 0 {
		return 0, unix.EINVAL
	}
	v := make([]byte, min(size, 64<<10))
	if err := in(t, a.Addr(3), v); err != nil {
		return 0, err
	}
	return 0, s.SetOption(t, a.Int(1), a.Int(2), v)
}

// send moves a message, waiting for room. A stream's large message goes in
// parts.
func (s sock) send(t *kernel.Task, m *socket.Message, flags int) (uintptr, error) {
	nonblock := s.nonblock || flags&unix.MSG_DONTWAIT != 0
	_, limit := s.Timeouts()
	deadline := timeout(t, limit)
	_, typ, _ := s.Kind()
	done, total := 0, m.Data.Len()
	err := t.Wait(s.Queue(), vfs.EventOut, nonblock, deadline, func() error {
		n, err := s.Send(t, m, flags)
		if n > 0 {
			done += n
			m.Data = m.Data.Skip(n)
			m.Control.Release()
		}
		if err == nil && typ == unix.SOCK_STREAM && done < total {
			return unix.EAGAIN
		}
		return err
	})
	if err == unix.EPIPE && done == 0 && typ == unix.SOCK_STREAM && flags&unix.MSG_NOSIGNAL == 0 {
		pipeSignal(t)
	}
	if done > 0 {
		return uintptr(done), nil
	}
	return 0, timedOut(err, limit != 0)
}

// receive fills m, waiting for something.
func (s sock) receive(t *kernel.Task, m *socket.Message, flags int) (uintptr, error) {
	nonblock := s.nonblock || flags&(unix.MSG_DONTWAIT|unix.MSG_ERRQUEUE) != 0
	if nonblock {
		flags |= unix.MSG_DONTWAIT
	}
	limit, _ := s.Timeouts()
	deadline := timeout(t, limit)
	_, typ, _ := s.Kind()
	all := flags&unix.MSG_WAITALL != 0 && flags&(unix.MSG_PEEK|unix.MSG_OOB) == 0 && typ == unix.SOCK_STREAM
	done := 0
	for {
		n := 0
		err := t.Wait(s.Queue(), vfs.EventIn, nonblock, deadline, func() (err error) {
			n, err = s.Receive(t, m, flags)
			return err
		})
		done += n
		if err != nil {
			if done > 0 {
				break
			}
			return 0, timedOut(err, limit != 0)
		}
		if m.Data = m.Data.Skip(min(n, m.Data.Len())); !all || n == 0 || m.Data.Len() == 0 || m.Mark || len(m.Control.Rights) > 0 {
			break
		}
	}
	return uintptr(done), nil
}

func sendto(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := sockOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer s.d.Unref()
	var m socket.Message
	if a[4] != 0 {
		if m.Name, err = sockName(t, a.Addr(4), a.Uint32(5)); err != nil {
			return 0, err
		}
	}
	release, err := pinMessage(t, &m, []piece{{a.Addr(1), min(a.Size(2), maxRW)}}, platform.Read)
	if err != nil {
		return 0, err
	}
	defer release()
	return s.send(t, &m, a.Int(3))
}

// pinMessage makes m's data of pieces of memory, which must all be there when
// they are sent.
func pinMessage(t *kernel.Task, m *socket.Message, pieces []piece, access platform.Access) (func(), error) {
	total := uint64(0)
	var some []piece
	for _, p := range pieces {
		if total += p.n; p.n > 0 {
			some = append(some, p)
		}
	}
	b, release, err := pinPieces(t, some, access)
	if err != nil {
		return nil, err
	}
	if uint64(b.Len()) < total && access == platform.Read {
		release()
		return nil, unix.EFAULT
	}
	m.Data = b
	return release, nil
}

// receivePieces fills m, of pieces of memory of which it pins no more than maxPin at a
// time: pinned is allocated, and programs offer far more than comes. More than that is in
// no packet (SKB_MAX_ALLOC), and a stream's bytes come in several calls, or, with
// MSG_WAITALL, go on here.
func (s sock) receivePieces(t *kernel.Task, m *socket.Message, pieces []piece, flags int) (uintptr, error) {
	all := flags&unix.MSG_WAITALL != 0 && flags&(unix.MSG_PEEK|unix.MSG_OOB) == 0
	done := uint64(0)
	for {
		now, later := cut(pieces, maxPin)
		release, err := pinMessage(t, m, now, platform.Write)
		if err != nil {
			return partial(done, err)
		}
		n, err := s.receive(t, m, flags)
		release()
		if err != nil {
			return partial(done, err)
		}
		done += uint64(n)
		_, typ, _ := s.Kind()
		if pieces = later; !all || typ != unix.SOCK_STREAM || len(pieces) == 0 || m.Mark || len(m.Control.Rights) > 0 || n == 0 || uint64(n) < total(now) {
			return uintptr(done), nil
		}
	}
}

// cut divides pieces after n bytes.
func cut(pieces []piece, n uint64) (first, rest []piece) {
	for i, p := range pieces {
		if p.n > n {
			first = append(slices.Clone(pieces[:i]), piece{p.at, n})
			return first, append([]piece{{p.at + memory.Addr(n), p.n - n}}, pieces[i+1:]...)
		}
		n -= p.n
	}
	return pieces, nil
}

func recvfrom(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := sockOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer s.d.Unref()
	var m socket.Message
	n, err := s.receivePieces(t, &m, []piece{{a.Addr(1), min(a.Size(2), maxRW)}}, a.Int(3))
	m.Control.Release()
	if err != nil {
		return 0, err
	}
	if a[4] != 0 {
		if err := outName(t, a.Addr(4), a.Addr(5), m.Name); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// msghdr is struct user_msghdr; sizes in memory are 56 bytes.
type msghdr struct {
	name       memory.Addr
	nameLen    uint32
	iov        memory.Addr
	iovLen     uint64
	control    memory.Addr
	controlLen uint64
	flags      uint32
}

func inMsghdr(t *kernel.Task, at memory.Addr) (h msghdr, err error) {
	var b [56]byte
	if err = in(t, at, b[:]); err != nil {
		return
	}
	h = msghdr{
		memory.Addr(le.Uint64(b[0:])), le.Uint32(b[8:]), memory.Addr(le.Uint64(b[16:])), le.Uint64(b[24:]),
		memory.Addr(le.Uint64(b[32:])), le.Uint64(b[40:]), le.Uint32(b[48:]),
	}
	if int32(h.nameLen) < 0 {
		err = unix.EINVAL
	}
	return
}

const controlMax = 1 << 20

func sendmsg(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := sockOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer s.d.Unref()
	return s.sendHeader(t, a.Addr(1), a.Int(2))
}

func (s sock) sendHeader(t *kernel.Task, at memory.Addr, flags int) (uintptr, error) {
	o, err := inOutgoing(t, at)
	if err != nil {
		return 0, err
	}
	return s.sendOut(t, &o, flags)
}

// outgoing is a message header to send, read.
type outgoing struct {
	name    []byte
	pieces  []piece
	control []byte
}

func inOutgoing(t *kernel.Task, at memory.Addr) (o outgoing, err error) {
	h, err := inMsghdr(t, at)
	if err != nil {
		return o, err
	}
	if h.name != 0 && h.nameLen > 0 {
		if o.name, err = sockName(t, h.name, min(h.nameLen, 128)); err != nil {
			return o, err
		}
	}
	if h.iovLen > iovMax {
		return o, unix.EMSGSIZE
	}
	if o.pieces, err = inIovec(t, h.iov, h.iovLen); err != nil {
		return o, err
	}
	if h.control != 0 && h.controlLen > 0 {
		if h.controlLen > controlMax {
			return o, unix.ENOBUFS
		}
		o.control = make([]byte, h.controlLen)
		err = in(t, h.control, o.control)
	}
	return o, err
}

func (s sock) sendOut(t *kernel.Task, o *outgoing, flags int) (uintptr, error) {
	m := socket.Message{Name: o.name}
	var err error
	if o.control != nil {
		if m.Control, err = socket.ParseControl(t, t.FDs(), o.control); err != nil {
			return 0, err
		}
		defer m.Control.Release()
	}
	release, err := pinMessage(t, &m, o.pieces, platform.Read)
	if err != nil {
		return 0, err
	}
	defer release()
	return s.send(t, &m, flags)
}

func recvmsg(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := sockOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer s.d.Unref()
	return s.receiveHeader(t, a.Addr(1), a.Int(2))
}

func (s sock) receiveHeader(t *kernel.Task, at memory.Addr, flags int) (uintptr, error) {
	h, err := inIncoming(t, at)
	if err != nil {
		return 0, err
	}
	return s.receiveInto(t, at, &h, flags)
}

// incoming is a message header to receive into, read.
type incoming struct {
	msghdr
	pieces []piece
}

func inIncoming(t *kernel.Task, at memory.Addr) (h incoming, err error) {
	if h.msghdr, err = inMsghdr(t, at); err != nil {
		return h, err
	}
	if h.iovLen > iovMax {
		return h, unix.EMSGSIZE
	}
	h.pieces, err = inIovec(t, h.iov, h.iovLen)
	return h, err
}

// receiveInto receives, and writes what came to h and to the header at at; 0 for
// none, where there are pieces alone.
func (s sock) receiveInto(t *kernel.Task, at memory.Addr, h *incoming, flags int) (uintptr, error) {
	var m socket.Message
	n, err := s.receivePieces(t, &m, h.pieces, flags)
	if err != nil {
		return 0, err
	}
	defer m.Control.Release()
	if at == 0 {
		return n, nil
	}
	nameLen := uint32(0)
	if h.name != 0 {
		nameLen = uint32(len(m.Name))
		if err := out(t, h.name, m.Name[:min(len(m.Name), int(h.nameLen))]); err != nil {
			return 0, err
		}
	}
	var control []byte
	room := int(min(h.controlLen, controlMax))
	if h.control == 0 {
		room = 0
	}
	cut := false
	m.Control.Creds = socket.Shown(t, m.Control.Creds)
	control, cut = m.Control.Encode(room, func(d *vfs.Description) (int, error) {
		fd, err := install(t, d, 0, flags&unix.MSG_CMSG_CLOEXEC != 0)
		return int(fd), err
	})
	if cut {
		m.Flags |= unix.MSG_CTRUNC
	}
	if err := out(t, h.control, control); err != nil {
		return 0, err
	}
	if err := out32(t, at+8, nameLen); err != nil {
		return 0, err
	}
	if err := out64(t, at+40, uint64(len(control))); err != nil {
		return 0, err
	}
	return n, out32(t, at+48, uint32(m.Flags|flags&unix.MSG_CMSG_CLOEXEC))
}

const mmsghdrSize = 64

func sendmmsg(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := sockOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer s.d.Unref()
	n := min(a.Uint32(2), iovMax)
	for i := range n {
		at := a.Addr(1) + memory.Addr(i*mmsghdrSize)
		m, err := s.sendHeader(t, at, a.Int(3))
		if err == nil {
			err = out32(t, at+56, uint32(m))
		}
		if err != nil {
			return partial(uint64(i), err)
		}
	}
	return uintptr(n), nil
}

func recvmmsg(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := sockOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer s.d.Unref()
	deadline, _, err := inTimeout(t, a.Addr(4))
	if err != nil {
		return 0, err
	}
	n, flags := min(a.Uint32(2), iovMax), a.Int(3)
	for i := range n {
		at := a.Addr(1) + memory.Addr(i*mmsghdrSize)
		m, err := s.receiveHeader(t, at, flags&^unix.MSG_WAITFORONE)
		if err == nil {
			err = out32(t, at+56, uint32(m))
		}
		if err != nil {
			return partial(uint64(i), err)
		}
		if flags&unix.MSG_WAITFORONE != 0 {
			flags |= unix.MSG_DONTWAIT
		}
		// The time limit is looked at between messages only (recvmmsg(2), BUGS).
		if deadline != 0 && t.Kernel().Clock.Monotonic() >= deadline {
			return uintptr(i + 1), nil
		}
	}
	return uintptr(n), nil
}
