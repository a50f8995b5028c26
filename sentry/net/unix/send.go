package unix

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// Send is sendmsg(2).
func (e *Endpoint) Send(c socket.Caller, m *socket.Message, flags int) (int, error) {
	urgent := flags&unix.MSG_OOB != 0
	if urgent && (e.typ != unix.SOCK_STREAM || m.Data.Len() == 0 || e.host.Load() != nil) {
		return 0, unix.EOPNOTSUPP
	}
	if h := e.host.Load(); h != nil {
		return h.send(m, flags)
	}
	switch e.typ {
	case unix.SOCK_STREAM:
		return e.sendStream(c, m, urgent)
	case unix.SOCK_SEQPACKET:
		return e.sendSequence(c, m)
	}
	return e.sendDatagram(c, m)
}

// stamp makes a packet of data with who sent it. Descriptors are added apart.
func (e *Endpoint) stamp(c socket.Caller, m *socket.Message, to *Endpoint, data []byte) *packet {
	p := &packet{from: e, data: data, creds: m.Control.Creds}
	head := packetHead
	if e.typ == unix.SOCK_STREAM {
		head = streamHead
	}
	p.size = cost(len(data), head)
	if p.creds == nil && (e.opts.PassCred() || to.opts.PassCred()) {
		k := c.Creds()
		p.creds = &unix.Ucred{Pid: socket.PID(c), Uid: k.UID, Gid: k.GID}
	}
	return p
}

// sendStream sends in pieces while there is room, and with urgent the last byte apart.
// unix_stream_sendmsg, queue_oob.
func (e *Endpoint) sendStream(c socket.Caller, m *socket.Message, urgent bool) (int, error) {
	e.mu.Lock()
	st, down, to := e.state, e.shutdown, e.peer
	e.mu.Unlock()
	switch {
	case m.Name != nil && st == established:
		return 0, unix.EISCONN
	case m.Name != nil:
		return 0, unix.EOPNOTSUPP
	case to == nil:
		return 0, unix.ENOTCONN
	case down&writeDown != 0:
		return 0, unix.EPIPE
	}
	total, sent := m.Data.Len(), 0
	files := m.Control.Rights
	for sent < total {
		if !e.mayAllocate() {
			break
		}
		last := urgent && sent == total-1
		size := min(total-sent, e.opts.Send()/2-64, streamMax)
		if urgent && !last {
			size = min(size, total-1-sent)
		}
		data, err := copyIn(m.Data, sent, size)
		if err != nil {
			return sent, err
		}
		r, err := newRights(c, files)
		if err != nil {
			return sent, err
		}
		p := e.stamp(c, m, to, data)
		p.rights, p.urgent = r, last
		if err = p.hold(); err == nil {
			if err = to.deliver(p); err != nil {
				p.drop()
			}
		}
		if err != nil {
			if sent > 0 {
				return sent, nil
			}
			return 0, err
		}
		files = nil // with the first bytes, once
		sent += len(data)
	}
	if sent == 0 && total > 0 {
		e.starved.Store(true)
		return 0, unix.EAGAIN
	}
	return sent, nil
}

func copyIn(b memory.Buffers, skip, n int) ([]byte, error) {
	data := make([]byte, n)
	if b.Skip(skip).CopyIn(data) < n {
		return nil, unix.EFAULT
	}
	return data, nil
}

// deliver puts p, which is held, before a connected receiver.
func (e *Endpoint) deliver(p *packet) error {
	e.mu.Lock()
	if e.dead || e.shutdown&readDown != 0 {
		e.mu.Unlock()
		return unix.EPIPE
	}
	e.in = append(e.in, p)
	events := vfs.EventIn
	if p.urgent {
		e.urgent = p // one before is an ordinary byte from now on
		events |= vfs.EventPri
	}
	e.mu.Unlock()
	e.queue.Notify(events)
	return nil
}

// sendSequence is sendmsg(2) on a connected socket that keeps boundaries.
// unix_seqpacket_sendmsg.
func (e *Endpoint) sendSequence(c socket.Caller, m *socket.Message) (int, error) {
	e.mu.Lock()
	err := e.takeErrorLocked()
	st := e.state
	e.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if st != established {
		return 0, unix.ENOTCONN
	}
	return e.sendTo(c, m, nil)
}

func (e *Endpoint) sendDatagram(c socket.Caller, m *socket.Message) (int, error) {
	if m.Name == nil {
		return e.sendTo(c, m, nil)
	}
	p, err := parseName(m.Name)
	if err != nil {
		return 0, err
	}
	return e.sendTo(c, m, &p)
}

// sendTo sends one packet to a name, or to the peer. unix_dgram_sendmsg.
func (e *Endpoint) sendTo(c socket.Caller, m *socket.Message, dest *string) (int, error) {
	e.mu.Lock()
	peer, down := e.peer, e.shutdown
	e.mu.Unlock()
	if e.opts.PassCred() {
		if err := e.autobind(); err != nil {
			return 0, err
		}
	}
	total := m.Data.Len()
	if total > e.opts.Send()-32 {
		return 0, unix.EMSGSIZE
	}
	e.mu.Lock()
	err := e.takeErrorLocked()
	e.mu.Unlock()
	switch {
	case err != nil:
		return 0, err
	case down&writeDown != 0:
		return 0, unix.EPIPE
	case !e.mayAllocate():
		e.starved.Store(true)
		return 0, unix.EAGAIN
	case dest == nil && peer == nil:
		return 0, unix.ENOTCONN
	}
	to := peer
	if dest != nil {
		if to, err = e.names.find(c, *dest, e.typ); err != nil {
			return 0, err
		}
	}
	data, err := copyIn(m.Data, 0, total)
	if err != nil {
		return 0, err
	}
	p := e.stamp(c, m, to, data)
	if p.rights, err = newRights(c, m.Control.Rights); err != nil {
		return 0, err
	}
	if err := p.hold(); err != nil {
		return 0, err
	}
	if err := to.deliverDatagram(p); err != nil {
		p.drop()
		return 0, err
	}
	return total, nil
}

// deliverDatagram puts p, which is held, before e if e hears the sender and has room.
func (e *Endpoint) deliverDatagram(p *packet) error {
	from := p.from
	e.mu.Lock()
	switch {
	case e.typ == unix.SOCK_DGRAM && e.peer != nil && e.peer != from:
		e.mu.Unlock()
		return unix.EPERM
	case e.dead:
		e.mu.Unlock()
		return from.refused(e)
	case e.shutdown&readDown != 0:
		e.mu.Unlock()
		return unix.EPIPE
	case e.crowdedLocked(from):
		e.waitLocked(from)
		e.mu.Unlock()
		return unix.EAGAIN
	}
	e.in = append(e.in, p)
	e.mu.Unlock()
	e.queue.Notify(vfs.EventIn)
	return nil
}

// crowdedLocked says that from must wait until e has received something. Two
// that are connected to each other are limited by their buffers alone.
func (e *Endpoint) crowdedLocked(from *Endpoint) bool {
	limit := recvqMax
	return e != from && e.peer != from && len(e.in) > limit
}

// refused is what a datagram to a closed socket gets.
func (e *Endpoint) refused(to *Endpoint) error {
	if e.typ == unix.SOCK_SEQPACKET {
		return unix.EPIPE
	}
	e.mu.Lock()
	mine := e.peer == to
	e.mu.Unlock()
	if mine {
		e.setPeer(nil)
	}
	return unix.ECONNREFUSED
}
