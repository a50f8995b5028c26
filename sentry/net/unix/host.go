package unix

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// hostSocket is a connection to a socket of the host's, which a bind mount shows
// and is let through (docker.sock). The host sees the gofer as who connects.
// Descriptors do not pass, in either direction.
type hostSocket struct {
	fd   int
	path string
	stop func() // ends the watching
}

// hostConnector is a socket's inode that leads to the host.
type hostConnector interface {
	// ConnectHost gives a descriptor that does not block; ECONNREFUSED where the
	// mount does not let it.
	ConnectHost(kind int) (fd int, err error)
}

// WatchHost sets who tells queues of what happens on descriptors of the host's. It is
// called before the first socket is made.
func (ns *Names) WatchHost(watch func(fd int, q *vfs.Queue) (stop func(), err error)) {
	ns.watch = watch
}

// connectHost connects e if p is a socket of the host's; done is false if it is none.
func (e *Endpoint) connectHost(c socket.Caller, p string) (done bool, err error) {
	if p[0] == 0 || e.names.watch == nil {
		return false, nil
	}
	at, err := vfs.Resolve(c, c.FS().Start(), p, 0)
	if err != nil {
		return false, nil // whoever looks again says so
	}
	h, ok := at.Inode().(hostConnector)
	if !ok || e.names.bound(at.Inode()) {
		return false, nil
	}
	if err := vfs.CheckAccess(c, at, vfs.MayWrite); err != nil {
		return true, err
	}
	e.mu.Lock()
	st := e.state
	e.mu.Unlock()
	switch {
	case st == listening:
		return true, unix.EINVAL
	case st != closed:
		return true, unix.EISCONN
	}
	fd, err := h.ConnectHost(e.typ)
	if err != nil {
		return true, err
	}
	stop, err := e.names.watch(fd, &e.queue)
	if err != nil {
		unix.Close(fd)
		return true, err
	}
	s := &hostSocket{fd, p, stop}
	e.mu.Lock()
	late := e.state != closed || e.dead
	if !late {
		e.state = established
		e.host.Store(s)
	}
	e.mu.Unlock()
	if late {
		s.close()
		return true, unix.EISCONN
	}
	e.queue.Notify(vfs.EventOut)
	return true, nil
}

func (s *hostSocket) close() {
	s.stop()
	unix.Close(s.fd)
}

func (s *hostSocket) receive(m *socket.Message, flags int) (int, error) {
	const pass = unix.MSG_PEEK | unix.MSG_TRUNC
	n, _, got, _, err := unix.RecvmsgBuffers(s.fd, m.Data, nil, flags&pass|unix.MSG_DONTWAIT)
	if err != nil {
		return 0, interrupted(err)
	}
	m.Flags |= got & (unix.MSG_TRUNC | unix.MSG_EOR)
	return n, nil
}

func (s *hostSocket) send(m *socket.Message, flags int) (int, error) {
	if len(m.Control.Rights) > 0 {
		return 0, unix.EOPNOTSUPP
	}
	n, err := unix.SendmsgBuffers(s.fd, m.Data, nil, nil, flags&unix.MSG_EOR|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return n, interrupted(err)
}

// interrupted: the Sentry's own signals end no call of the application's.
func interrupted(err error) error {
	if err == unix.EINTR {
		return unix.EAGAIN
	}
	return err
}

func (s *hostSocket) ready(mask vfs.Events) vfs.Events {
	p := []unix.PollFd{{Fd: int32(s.fd), Events: int16(mask)}}
	for {
		if _, err := unix.Poll(p, 0); err != unix.EINTR {
			return vfs.Events(uint16(p[0].Revents))
		}
	}
}
