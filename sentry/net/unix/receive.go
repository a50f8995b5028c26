package unix

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// overflowID is who sent a packet when nobody asked in time (fs.overflowuid).
const overflowID = 65534

// Receive is recvmsg(2).
func (e *Endpoint) Receive(_ socket.Caller, m *socket.Message, flags int) (int, error) {
	return e.receive(m, flags)
}

func (e *Endpoint) receive(m *socket.Message, flags int) (int, error) {
	if flags&unix.MSG_OOB != 0 {
		if e.typ == unix.SOCK_STREAM {
			return e.receiveUrgent(m, flags&unix.MSG_PEEK != 0)
		}
		return 0, unix.EOPNOTSUPP
	}
	if h := e.host.Load(); h != nil {
		return h.receive(m, flags)
	}
	if e.typ == unix.SOCK_STREAM {
		return e.receiveStream(m, flags&unix.MSG_PEEK != 0)
	}
	return e.receivePacket(m, flags)
}

// receiveUrgent takes the byte that was sent with MSG_OOB. unix_stream_recv_urg.
func (e *Endpoint) receiveUrgent(m *socket.Message, peek bool) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.urgent
	if e.state != established || p == nil || e.opts.Inline() {
		return 0, unix.EINVAL
	}
	n := m.Data.CopyOut(p.data)
	if !peek {
		e.urgent, p.taken = nil, len(p.data)
	}
	if n < 1 {
		return 0, unix.EFAULT
	}
	m.Flags |= unix.MSG_OOB
	return n, nil
}

// urgentLocked says what a receiver of ordinary bytes does at p, having taken some
// already or not: it stops before an urgent byte or its mark, or passes it by
// (manage_oob).
func (e *Endpoint) urgentLocked(p *packet, some, peek bool) (stop, pass bool) {
	switch {
	case p.urgent && p.left() == 0 && p != e.urgent:
		stop = some && e.urgent == nil
		return stop, !stop
	case p != e.urgent:
		return false, false
	case some:
		return true, false
	}
	inline := e.opts.Inline()
	if !peek {
		e.urgent = nil
	}
	return false, !inline
}

// atMark says that the next byte was sent with MSG_OOB, or that what was has been taken
// out just here (SIOCATMARK).
func (e *Endpoint) atMark() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.in) == 0 {
		return false
	}
	first := e.in[0]
	return first == e.urgent ||
		first.left() == 0 && (e.urgent == nil || len(e.in) > 1 && e.in[1] == e.urgent)
}

// receiveStream takes bytes, across packets where they have one sender and no
// descriptors come between. unix_stream_read_generic.
func (e *Endpoint) receiveStream(m *socket.Message, peek bool) (int, error) {
	e.mu.Lock()
	if e.state != established {
		defer e.mu.Unlock()
		return 0, unix.EINVAL
	}
	passCred := e.opts.PassCred()
	var first *packet
	dst, copied, used := m.Data, 0, 0
	var err error
	for _, p := range e.in {
		stop, pass := e.urgentLocked(p, copied > 0, peek)
		if stop {
			m.Mark = true
			break
		}
		if pass {
			if !peek {
				p.taken = len(p.data)
				used++
			}
			continue
		}
		// As in Linux, peeking looks for descriptors beyond the bytes it takes.
		if first != nil && (dst.Len() == 0 && !peek || passCred && !sameSender(first.creds, p.creds)) {
			break
		}
		if first == nil {
			first = p
		}
		n := dst.CopyOut(p.data[p.taken:])
		if n < min(p.left(), dst.Len()) && copied+n == 0 {
			err = unix.EFAULT
			break
		}
		dst = dst.Skip(n)
		copied += n
		had := p.rights != nil
		if peek {
			m.Control.Rights = append(m.Control.Rights, p.rights.share()...)
			if had {
				break
			}
			continue
		}
		p.taken += n
		m.Control.Rights = append(m.Control.Rights, p.rights.take()...)
		p.rights = nil
		if p.left() > 0 {
			break
		}
		used++
		if len(m.Control.Rights) > 0 {
			break
		}
	}
	switch {
	case first == nil:
		err = e.nothingLocked()
		if err == nil && passCred {
			m.Control.Creds = &unix.Ucred{} // of nobody's message
		}
	case passCred:
		m.Control.Creds = shownCreds(first.creds)
	}
	done := e.in[:used:used]
	e.in = e.in[used:]
	if len(e.in) == 0 {
		e.in = nil
	}
	e.mu.Unlock()
	if first != nil {
		m.Name = first.from.boundName()
	}
	for _, p := range done {
		p.drop()
	}
	return copied, err
}

// nothingLocked is what a receiver gets when its queue is empty.
func (e *Endpoint) nothingLocked() error {
	if err := e.takeErrorLocked(); err != nil {
		return err
	}
	if e.shutdown&readDown != 0 {
		return nil
	}
	return unix.EAGAIN
}

func sameSender(a, b *unix.Ucred) bool {
	return a == b || a != nil && b != nil && *a == *b
}

func shownCreds(c *unix.Ucred) *unix.Ucred {
	if c == nil {
		return &unix.Ucred{Uid: overflowID, Gid: overflowID}
	}
	return c
}

// receivePacket takes one packet; what does not fit is lost. unix_dgram_recvmsg.
func (e *Endpoint) receivePacket(m *socket.Message, flags int) (int, error) {
	peek := flags&unix.MSG_PEEK != 0
	e.mu.Lock()
	if e.typ == unix.SOCK_SEQPACKET && e.state != established {
		defer e.mu.Unlock()
		return 0, unix.ENOTCONN
	}
	if err := e.takeErrorLocked(); err != nil {
		e.mu.Unlock()
		return 0, err
	}
	if len(e.in) == 0 {
		defer e.mu.Unlock()
		err := e.nothingLocked()
		if err == nil && e.typ == unix.SOCK_DGRAM && flags&unix.MSG_DONTWAIT != 0 {
			err = unix.EAGAIN // only a waiting receiver hears of the end
		}
		return 0, err
	}
	p := e.in[0]
	var woken map[*Endpoint]struct{}
	if peek {
		m.Control.Rights = p.rights.share()
	} else {
		e.in = e.in[1:]
		if len(e.in) == 0 {
			e.in = nil
		}
		m.Control.Rights = p.rights.take()
		woken, e.waiting = e.waiting, nil
	}
	e.mu.Unlock()

	m.Name = p.from.boundName()
	if e.opts.PassCred() {
		m.Control.Creds = shownCreds(p.creds)
	}
	n := m.Data.CopyOut(p.data)
	var err error
	if n < min(len(p.data), m.Data.Len()) {
		n, err = 0, unix.EFAULT
	}
	if n < len(p.data) {
		m.Flags |= unix.MSG_TRUNC
		if flags&unix.MSG_TRUNC != 0 {
			n = len(p.data)
		}
	}
	if !peek {
		p.free()
		wake(woken)
	}
	return n, err
}

func (e *Endpoint) boundName() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.name == nil {
		return nil
	}
	return e.name.sockaddr()
}

// Ready is poll(2)'s: unix_poll and unix_dgram_poll.
func (e *Endpoint) Ready(mask vfs.Events) vfs.Events {
	if h := e.host.Load(); h != nil {
		return h.ready(mask)
	}
	e.mu.Lock()
	var ev vfs.Events
	if e.err != 0 {
		ev |= vfs.EventErr
	}
	if e.shutdown == bothDown {
		ev |= vfs.EventHup
	}
	if e.shutdown&readDown != 0 {
		ev |= vfs.EventRdHup | vfs.EventIn | readNorm
	}
	if len(e.in) > 0 || len(e.pending) > 0 {
		ev |= vfs.EventIn | readNorm
	}
	if e.urgent != nil {
		ev |= vfs.EventPri
	}
	if e.connectionBased() && e.state == closed {
		ev |= vfs.EventHup
	}
	writable := e.state != listening && e.used.Load() <= e.writableBelow()
	peer := e.peer
	e.mu.Unlock()
	if writable && mask&(vfs.EventOut|writeNorm|writeBand) != 0 && e.typ != unix.SOCK_STREAM && peer != nil {
		writable = !peer.busyFor(e)
	}
	if writable {
		ev |= vfs.EventOut | writeNorm | writeBand
	}
	return ev & (mask | vfs.EventErr | vfs.EventHup)
}

// POLLRDNORM, POLLWRNORM and POLLWRBAND (asm-generic/poll.h).
const (
	readNorm  vfs.Events = 0x40
	writeNorm vfs.Events = 0x100
	writeBand vfs.Events = 0x200
)

// busyFor says that e has no room for what from sends, and remembers to tell it.
func (e *Endpoint) busyFor(from *Endpoint) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead || !e.crowdedLocked(from) {
		return false
	}
	e.waitLocked(from)
	return true
}
