package unix

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// Listen is listen(2). unix_listen.
func (e *Endpoint) Listen(c socket.Caller, backlog int) error {
	if !e.connectionBased() {
		return unix.EOPNOTSUPP
	}
	e.mu.Lock()
	if e.name == nil || e.state == established {
		e.mu.Unlock()
		return unix.EINVAL
	}
	if backlog < 0 || backlog > maxBacklog {
		backlog = maxBacklog
	}
	var woken map[*Endpoint]struct{}
	if backlog > e.backlog {
		woken, e.waiting = e.waiting, nil
	}
	e.backlog, e.state = backlog, listening
	e.peerCred, e.peerGrps = credsOf(c) // for who connects; SO_PEERCRED shows them too
	e.mu.Unlock()
	wake(woken)
	return nil
}

func wake(es map[*Endpoint]struct{}) {
	for e := range es {
		e.queue.Notify(vfs.EventOut)
	}
}

// waitLocked remembers who wants to hear when e has room.
func (e *Endpoint) waitLocked(who *Endpoint) {
	if e.waiting == nil {
		e.waiting = map[*Endpoint]struct{}{}
	}
	e.waiting[who] = struct{}{}
}

// Accept is accept(2). unix_accept.
func (e *Endpoint) Accept(_ socket.Caller, flags int) (socket.Socket, error) {
	if !e.connectionBased() {
		return nil, unix.EOPNOTSUPP
	}
	e.mu.Lock()
	if e.state != listening {
		e.mu.Unlock()
		return nil, unix.EINVAL
	}
	if len(e.pending) == 0 {
		defer e.mu.Unlock()
		if e.shutdown&readDown != 0 && flags&unix.MSG_DONTWAIT == 0 {
			return nil, unix.EINVAL // only a waiting caller hears of the end
		}
		return nil, unix.EAGAIN
	}
	n := e.pending[0]
	e.pending = e.pending[1:]
	woken := e.waiting
	e.waiting = nil
	e.mu.Unlock()
	wake(woken)
	return n, nil
}

// Connect is connect(2).
func (e *Endpoint) Connect(c socket.Caller, b []byte) error {
	if e.typ == unix.SOCK_DGRAM {
		return e.connectDatagrams(c, b)
	}
	p, err := parseName(b)
	if err != nil {
		return err
	}
	if e.opts.PassCred() {
		if err := e.autobind(); err != nil {
			return err
		}
	}
	if done, err := e.connectHost(c, p); done {
		return err
	}
	for {
		l, err := e.names.find(c, p, e.typ)
		if err != nil {
			return err
		}
		if again, err := e.connectTo(c, l); !again {
			return err
		}
	}
}

// connectTo queues a new endpoint at the listener l and makes it e's peer.
// unix_stream_connect.
func (e *Endpoint) connectTo(c socket.Caller, l *Endpoint) (again bool, err error) {
	n, err := New(c, e.names, e.typ, 0)
	if err != nil {
		return false, err
	}
	unlock := lock2(e, l)
	err = e.mayConnectLocked(l)
	dead := l.dead
	if err != nil || dead {
		unlock()
		n.release(false)
		return dead, err
	}
	n.state, n.peer, n.name = established, e, l.name
	n.opts.InheritPass(l.opts)
	n.peerCred, n.peerGrps = credsOf(c)
	e.peerCred, e.peerGrps = l.peerCred, l.peerGrps
	e.state, e.peer = established, n
	l.pending = append(l.pending, n)
	unlock()
	l.queue.Notify(vfs.EventIn)
	e.queue.Notify(vfs.EventOut)
	return false, nil
}

func (e *Endpoint) mayConnectLocked(l *Endpoint) error {
	switch {
	case l.dead:
		return nil // look the name up again
	case l.state != listening, l.shutdown&readDown != 0:
		return unix.ECONNREFUSED
	case len(l.pending) > l.backlog:
		l.waitLocked(e)
		return unix.EAGAIN
	case e.state == established:
		return unix.EISCONN
	case e.state == listening:
		return unix.EINVAL
	}
	return nil
}

// connectDatagrams sets or, with AF_UNSPEC, forgets where datagrams go.
// unix_dgram_connect.
func (e *Endpoint) connectDatagrams(c socket.Caller, b []byte) error {
	if len(b) < pathOffset {
		return unix.EINVAL
	}
	if binary.LittleEndian.Uint16(b) == unix.AF_UNSPEC {
		e.setPeer(nil)
		return nil
	}
	p, err := parseName(b)
	if err != nil {
		return err
	}
	if e.opts.PassCred() {
		if err := e.autobind(); err != nil {
			return err
		}
	}
	if done, err := e.connectHost(c, p); done {
		return err
	}
	to, err := e.names.find(c, p, e.typ)
	if err != nil {
		return err
	}
	if !e.maySend(to) {
		return unix.EPERM
	}
	e.setPeer(to)
	return nil
}

// maySend says that to hears e: it is connected to nobody, or to e.
func (e *Endpoint) maySend(to *Endpoint) bool {
	to.mu.Lock()
	defer to.mu.Unlock()
	return to.peer == nil || to.peer == e
}

func (e *Endpoint) setPeer(to *Endpoint) {
	e.mu.Lock()
	old := e.peer
	e.peer, e.state = to, closed
	if to != nil {
		e.state = established
	}
	e.mu.Unlock()
	if old != nil && old != to {
		e.disconnected(old)
	}
	e.queue.Notify(vfs.EventOut)
}

// disconnected drops what came from a former peer and tells it.
// unix_dgram_disconnected.
func (e *Endpoint) disconnected(old *Endpoint) {
	e.mu.Lock()
	in := e.in
	e.in = nil
	e.mu.Unlock()
	for _, p := range in {
		p.drop()
	}
	if len(in) == 0 {
		return
	}
	old.mu.Lock()
	reset := !old.dead && old.peer == e
	if reset {
		old.err = unix.ECONNRESET
	}
	old.mu.Unlock()
	if reset {
		old.queue.Notify(vfs.EventErr)
	}
}
