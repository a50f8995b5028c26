package unix

import (
	"cmp"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// GetOption is getsockopt(2).
func (e *Endpoint) GetOption(caller socket.Caller, level, name, size int) ([]byte, error) {
	if level != unix.SOL_SOCKET {
		return nil, unix.EOPNOTSUPP
	}
	b, err := e.option(caller, name)
	if err == nil && name == unix.SO_PEERGROUPS && len(b) > size {
		return nil, unix.ERANGE
	}
	return socket.Cut(b, size), err
}

func (e *Endpoint) option(caller socket.Caller, name int) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch name {
	case unix.SO_TYPE:
		return socket.Int(e.typ), nil
	case unix.SO_DOMAIN:
		return socket.Int(unix.AF_UNIX), nil
	case unix.SO_PROTOCOL:
		return socket.Int(0), nil
	case unix.SO_ACCEPTCONN:
		return socket.Bool(e.state == listening), nil
	case unix.SO_ERROR:
		v := int(e.err)
		e.err = 0
		if h := e.host.Load(); h != nil {
			var err error
			if v, err = unix.GetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
				return nil, err
			}
		}
		return socket.Int(v), nil
	case unix.SO_PEERCRED:
		c := e.peerCred
		if c == nil {
			c = &unix.Ucred{Uid: ^uint32(0), Gid: ^uint32(0)}
		}
		c = socket.Shown(caller, c)
		b := socket.Int(int(c.Pid))
		return append(append(b, socket.Int(int(c.Uid))...), socket.Int(int(c.Gid))...), nil
	case unix.SO_PEERGROUPS:
		if e.peerCred == nil {
			return nil, unix.ENODATA
		}
		var b []byte
		for _, g := range e.peerGrps {
			b = append(b, socket.Int(int(caller.Creds().User.ShowGID(g)))...)
		}
		return b, nil
	case unix.SO_PEERSEC:
		return nil, unix.ENOPROTOOPT // no security module
	}
	return e.opts.Get(name)
}

// SetOption is setsockopt(2).
func (e *Endpoint) SetOption(c socket.Caller, level, name int, value []byte) error {
	if level != unix.SOL_SOCKET {
		return unix.EOPNOTSUPP
	}
	if name == unix.SO_REUSEPORT {
		if v, err := socket.ParseInt(value); err != nil || v != 0 {
			return cmp.Or(err, error(unix.EOPNOTSUPP)) // sk_setsockopt: of IP sockets only
		}
	}
	err := e.opts.Set(c, name, value)
	if err == nil && name == unix.SO_SNDBUF {
		e.queue.Notify(vfs.EventOut)
	}
	return err
}

// Ioctl serves FIONREAD (SIOCINQ) and SIOCOUTQ. unix_ioctl.
func (e *Endpoint) Ioctl(ctx vfs.Context, cmd uint32, arg uint64) (uintptr, error) {
	var v int
	switch cmd {
	case unix.TIOCOUTQ: // SIOCOUTQ
		v = int(e.used.Load())
	case unix.TIOCINQ: // SIOCINQ, FIONREAD
		n, err := e.waitingBytes()
		if err != nil {
			return 0, err
		}
		v = n
	case unix.SIOCATMARK:
		if e.typ != unix.SOCK_STREAM {
			return 0, unix.EOPNOTSUPP
		}
		if e.atMark() {
			v = 1
		}
	default:
		return 0, unix.ENOTTY
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(v))
	if _, err := ctx.Memory().Write(memory.Addr(arg), b); err != nil {
		return 0, unix.EFAULT
	}
	return 0, nil
}

// waitingBytes is what can be received: of datagrams the first.
func (e *Endpoint) waitingBytes() (int, error) {
	if h := e.host.Load(); h != nil {
		return unix.IoctlGetInt(h.fd, unix.TIOCINQ)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == listening {
		return 0, unix.EINVAL
	}
	n := 0
	for _, p := range e.in {
		n += p.left()
		if e.typ == unix.SOCK_DGRAM {
			break
		}
	}
	return n, nil
}
