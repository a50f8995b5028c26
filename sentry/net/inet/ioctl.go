package inet

import (
	"bytes"
	"encoding/binary"
	"net"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
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
	if s.family == unix.AF_INET6 {
		switch cmd {
		case unix.SIOCSIFADDR, unix.SIOCDIFADDR:
			return 0, s.net.alterAddress6(ctx, cmd, at)
		case unix.SIOCADDRT, unix.SIOCDELRT:
			return 0, s.net.alterRoute6(ctx, cmd, at)
		}
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
	var in flowState
	if s.link != nil {
		in = s.inflow().state()
		n = in.waiting()
	}
	switch cmd {
	case unix.TIOCINQ:
		return n, nil
	case unix.TIOCOUTQ:
		return queued, nil
	}
	if in.atMark() {
		return 1, nil
	}
	return 0, nil
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
	case unix.SIOCADDRT, unix.SIOCDELRT:
		return n.alterRoute(ctx, cmd, at)
	case unix.SIOCSARP, unix.SIOCDARP:
		if !n.Administers(ctx) {
			return unix.EPERM
		}
		return unix.EOPNOTSUPP // RTM_NEWNEIGH does
	case unix.SIOCGARP:
		return unix.ENXIO
	}
	known, set := deviceGets[cmd], deviceSets[cmd]
	if known == nil && set == nil {
		return unix.ENOTTY
	}
	var b [ifreqSize]byte
	if err := in(ctx, at, b[:]); err != nil {
		return err
	}
	if cmd == unix.SIOCGIFNAME {
		index := int(int32(binary.LittleEndian.Uint32(b[ifreqName:])))
		if !n.known(index) {
			return unix.ENODEV
		}
		clear(b[:ifreqName])
		copy(b[:ifreqName-1], n.nameOf(index))
		return out(ctx, at, b[:])
	}
	if set != nil && !n.Administers(ctx) {
		return unix.EPERM
	}
	name := b[:ifreqName-1]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	base, _, _ := bytes.Cut(name, []byte{':'})
	d, ok := n.named(string(base))
	if !ok {
		return unix.ENODEV
	}
	d = n.withAddress(d.Link, string(name))
	if set != nil {
		return set(n, d, string(name), b[ifreqName:])
	}
	if cmd == unix.SIOCETHTOOL {
		return d.ethtool(ctx, memory.Addr(binary.LittleEndian.Uint64(b[ifreqName:])))
	}
	if err := known(d, b[ifreqName:]); err != nil {
		return err
	}
	return out(ctx, at, b[:])
}

// owned is a device with its first address of IPv4 under a label, if it has one.
type owned struct {
	Link
	four *Addr
}

// ethtool answers whether there is a link, which is a struct ethtool_value, and nothing else. ethtool_get_link.
func (d owned) ethtool(ctx vfs.Context, at memory.Addr) error {
	const getLink = 0xa // ETHTOOL_GLINK
	var b [4]byte
	if err := in(ctx, at, b[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(b[:]) != getLink {
		return unix.EOPNOTSUPP
	}
	binary.LittleEndian.PutUint32(b[:], uint32(b2i(d.Flags&unix.IFF_LOWER_UP != 0)))
	return out(ctx, at+memory.Addr(len(b)), b[:])
}

func (n *Stack) named(name string) (owned, bool) {
	for _, l := range n.Links() {
		if l.Name == name {
			return owned{Link: l}, true
		}
	}
	return owned{}, false
}

func (n *Stack) withAddress(l Link, label string) owned {
	d := owned{Link: l}
	for _, a := range n.Addrs() {
		if a.Link == l.Index && len(a.IP) == 4 && a.Label == label {
			d.four = &a
			break
		}
	}
	return d
}

// deviceGets fill in the union of struct ifreq.
var deviceGets = map[uint32]func(d owned, b []byte) error{
	unix.SIOCGIFNAME:  func(owned, []byte) error { return nil },
	unix.SIOCGIFINDEX: word(func(d owned) uint32 { return uint32(d.Index) }),
	unix.SIOCGIFFLAGS: func(d owned, b []byte) error {
		binary.LittleEndian.PutUint16(b, uint16(d.Link.Flags))
		return nil
	},
	unix.SIOCGIFMTU:     word(func(d owned) uint32 { return d.MTU }),
	unix.SIOCGIFMETRIC:  word(func(owned) uint32 { return 0 }),
	unix.SIOCGIFTXQLEN:  word(func(d owned) uint32 { return d.Queue }),
	unix.SIOCGIFADDR:    address4(func(a *Addr) []byte { return a.IP }),
	unix.SIOCGIFDSTADDR: address4(func(a *Addr) []byte { return a.IP }),
	unix.SIOCGIFBRDADDR: address4(func(a *Addr) []byte { return a.Broadcast }),
	unix.SIOCGIFNETMASK: address4(func(a *Addr) []byte { return net.CIDRMask(int(a.Prefix), 32) }),
	unix.SIOCGIFHWADDR: func(d owned, b []byte) error {
		clear(b[:16])
		binary.LittleEndian.PutUint16(b, d.Type)
		copy(b[2:], d.Address)
		return nil
	},
	unix.SIOCGIFMAP:  func(_ owned, b []byte) error { clear(b[:24]); return nil },
	unix.SIOCETHTOOL: func(owned, []byte) error { return nil }, // owned.ethtool
}

func word(f func(owned) uint32) func(owned, []byte) error {
	return func(d owned, b []byte) error {
		binary.LittleEndian.PutUint32(b, f(d))
		return nil
	}
}

// address4 is a struct sockaddr_in.
func address4(f func(*Addr) []byte) func(owned, []byte) error {
	return func(d owned, to []byte) error {
		if d.four == nil {
			return unix.EADDRNOTAVAIL
		}
		clear(to[:16])
		binary.LittleEndian.PutUint16(to, unix.AF_INET)
		copy(to[4:8], f(d.four))
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
	var entries []byte
	for _, a := range n.Addrs() {
		if len(a.IP) == 4 {
			var entry [ifreqSize]byte
			copy(entry[:ifreqName-1], a.Label)
			deviceGets[unix.SIOCGIFADDR](owned{four: &a}, entry[ifreqName:])
			entries = append(entries, entry[:]...)
		}
	}
	if to != 0 {
		entries = entries[:min(len(entries), max(0, int(room)/ifreqSize*ifreqSize))]
		if len(entries) > 0 {
			if err := out(ctx, to, entries); err != nil {
				return err
			}
		}
	}
	le.PutUint32(b[:], uint32(len(entries)))
	return out(ctx, at, b[:])
}
