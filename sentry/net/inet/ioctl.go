package inet

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// Ioctl serves sockets' own requests and those about devices (man 7 netdevice).
func (s *Socket) Ioctl(ctx vfs.Context, cmd uint32, arg uint64) (uintptr, error) {
	at := memory.Addr(arg)
	switch cmd {
	case unix.TIOCINQ, unix.TIOCOUTQ, unix.SIOCATMARK:
		n, err := s.count(cmd)
		if err != nil {
			return 0, err
		}
		return 0, out(ctx, at, binary.LittleEndian.AppendUint32(nil, uint32(n)))
	case unix.SIOCGSTAMP, unix.SIOCGSTAMPNS: // SIOCGSTAMP_OLD and its like
		return 0, s.tellStamp(ctx, at, cmd)
	}
	return 0, DeviceIoctl(ctx, s.net, cmd, at)
}

func out(ctx vfs.Context, at memory.Addr, b []byte) error {
	if _, err := ctx.Memory().Write(at, b); err != nil {
		return unix.EFAULT
	}
	return nil
}

func in(ctx vfs.Context, at memory.Addr, b []byte) error {
	if _, err := ctx.Memory().Read(at, b); err != nil {
		return unix.EFAULT
	}
	return nil
}

func (s *Socket) count(cmd uint32) (int, error) {
	if s.typ != unix.SOCK_STREAM {
		switch cmd {
		case unix.TIOCINQ:
			return s.firstDatagram(), nil
		case unix.TIOCOUTQ:
			return 0, nil
		}
		return 0, unix.ENOTTY
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	switch s.phase {
	case listening:
		if cmd == unix.SIOCATMARK {
			return 0, nil
		}
		return 0, unix.EINVAL
	case connected:
	default:
		return 0, nil
	}
	n, queued := s.waitingLocked()
	switch cmd {
	case unix.TIOCINQ:
		return n, nil
	case unix.TIOCOUTQ:
		return queued, nil
	}
	return 0, nil // SIOCATMARK: never
}

func (s *Socket) tellStamp(ctx vfs.Context, at memory.Addr, cmd uint32) error {
	s.mu.Lock()
	t := s.stamp
	s.mu.Unlock()
	if t.IsZero() {
		return unix.ENOENT
	}
	if cmd == unix.SIOCGSTAMP {
		return out(ctx, at, stamp(t, 1000))
	}
	return out(ctx, at, stamp(t, 1))
}

// struct ifreq: a name, and a union.
const (
	ifreqSize = 40
	ifreqName = unix.IFNAMSIZ
)

// DeviceIoctl serves requests about devices, which any socket takes. dev_ioctl,
// devinet_ioctl.
func DeviceIoctl(ctx vfs.Context, n *Stack, cmd uint32, at memory.Addr) error {
	switch cmd {
	case unix.SIOCGIFCONF:
		return n.list(ctx, at)
	case unix.SIOCADDRT, unix.SIOCDELRT, unix.SIOCSARP, unix.SIOCDARP:
		if !socket.Capable(ctx, unix.CAP_NET_ADMIN) {
			return unix.EPERM
		}
		return unix.EOPNOTSUPP
	case unix.SIOCGARP:
		return unix.ENXIO
	}
	known := deviceGets[cmd]
	admin := cmd == unix.SIOCSIFFLAGS || cmd == unix.SIOCSIFADDR || cmd == unix.SIOCSIFNETMASK || cmd == unix.SIOCSIFMTU ||
		cmd == unix.SIOCSIFHWADDR || cmd == unix.SIOCSIFTXQLEN || cmd == unix.SIOCSIFNAME || cmd == unix.SIOCSIFBRDADDR
	if known == nil && !admin {
		return unix.ENOTTY
	}
	var b [ifreqSize]byte
	if err := in(ctx, at, b[:]); err != nil {
		return err
	}
	if cmd == unix.SIOCGIFNAME {
		if binary.LittleEndian.Uint32(b[ifreqName:]) != Loopback {
			return unix.ENODEV
		}
		copy(b[:ifreqName], deviceName+"\x00")
		return out(ctx, at, b[:])
	}
	name := b[:ifreqName-1]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	if base, _, _ := bytes.Cut(name, []byte{':'}); string(base) != deviceName {
		return unix.ENODEV
	}
	if admin {
		if !socket.Capable(ctx, unix.CAP_NET_ADMIN) {
			return unix.EPERM
		}
		if cmd == unix.SIOCSIFFLAGS {
			n.SetUp(binary.LittleEndian.Uint16(b[ifreqName:])&unix.IFF_UP != 0)
			return nil
		}
		return unix.EOPNOTSUPP
	}
	if err := known(n, b[ifreqName:]); err != nil {
		return err
	}
	return out(ctx, at, b[:])
}

// deviceGets fill in the union of struct ifreq for the loopback device.
var deviceGets = map[uint32]func(n *Stack, b []byte) error{
	unix.SIOCGIFNAME:    func(*Stack, []byte) error { return nil },
	unix.SIOCGIFINDEX:   short(func(*Stack) uint32 { return Loopback }),
	unix.SIOCGIFFLAGS:   getFlags,
	unix.SIOCGIFMTU:     short(func(*Stack) uint32 { return 65536 }),
	unix.SIOCGIFMETRIC:  short(func(*Stack) uint32 { return 0 }),
	unix.SIOCGIFTXQLEN:  short(func(*Stack) uint32 { return 1000 }),
	unix.SIOCGIFADDR:    address4(127, 0, 0, 1),
	unix.SIOCGIFDSTADDR: address4(127, 0, 0, 1),
	unix.SIOCGIFBRDADDR: address4(0, 0, 0, 0),
	unix.SIOCGIFNETMASK: address4(255, 0, 0, 0),
	unix.SIOCGIFHWADDR: func(_ *Stack, b []byte) error {
		clear(b[:16])
		binary.LittleEndian.PutUint16(b, unix.ARPHRD_LOOPBACK)
		return nil
	},
	unix.SIOCGIFMAP:  func(_ *Stack, b []byte) error { clear(b[:24]); return nil },
	unix.SIOCETHTOOL: func(*Stack, []byte) error { return unix.EOPNOTSUPP },
}

func short(f func(*Stack) uint32) func(*Stack, []byte) error {
	return func(n *Stack, b []byte) error {
		binary.LittleEndian.PutUint32(b, f(n))
		return nil
	}
}

func getFlags(n *Stack, b []byte) error {
	binary.LittleEndian.PutUint16(b, uint16(n.Flags()))
	return nil
}

// Flags are the loopback device's, as SIOCGIFFLAGS tells them.
func (n *Stack) Flags() uint32 {
	if n.Up() {
		return unix.IFF_LOOPBACK | unix.IFF_UP | unix.IFF_RUNNING
	}
	return unix.IFF_LOOPBACK
}

// address4 is a struct sockaddr_in; a device that is down has none.
func address4(a, b, c, d byte) func(*Stack, []byte) error {
	return func(n *Stack, to []byte) error {
		if !n.Up() {
			return unix.EADDRNOTAVAIL
		}
		clear(to[:16])
		binary.LittleEndian.PutUint16(to, unix.AF_INET)
		to[4], to[5], to[6], to[7] = a, b, c, d
		return nil
	}
}

// list is SIOCGIFCONF: struct ifconf, a length and where struct ifreq go.
func (n *Stack) list(ctx vfs.Context, at memory.Addr) error {
	var b [16]byte
	if err := in(ctx, at, b[:]); err != nil {
		return err
	}
	le := binary.LittleEndian
	room, to := int32(le.Uint32(b[:])), memory.Addr(le.Uint64(b[8:]))
	size := 0
	if n.Up() {
		size = ifreqSize
	}
	if to != 0 {
		if int(room) < ifreqSize {
			size = 0
		}
		if size > 0 {
			var entry [ifreqSize]byte
			copy(entry[:], deviceName)
			deviceGets[unix.SIOCGIFADDR](n, entry[ifreqName:])
			if err := out(ctx, to, entry[:]); err != nil {
				return err
			}
		}
	}
	le.PutUint32(b[:], uint32(size))
	return out(ctx, at, b[:])
}
