package inet

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Sizes of sockaddr_in, sockaddr_in6, and the least of the latter that Linux
// takes (SIN6_LEN_RFC2133).
const (
	size4    = 16
	size6    = 28
	least6   = 24
	flowInfo = 4
)

// familyOf is a sockaddr's; AF_UNSPEC if it has none.
func familyOf(b []byte) int {
	if len(b) < 2 {
		return unix.AF_UNSPEC
	}
	return int(binary.LittleEndian.Uint16(b))
}

// parseName reads a sockaddr of the given family: an address without bytes means
// any.
func parseName(b []byte, family int) (tcpip.FullAddress, error) {
	var a tcpip.FullAddress
	switch {
	case family == unix.AF_INET && len(b) < size4, family == unix.AF_INET6 && len(b) < least6:
		return a, unix.EINVAL
	case familyOf(b) != family:
		return a, unix.EAFNOSUPPORT
	}
	a.Port = binary.BigEndian.Uint16(b[2:])
	if family == unix.AF_INET {
		if v4 := [4]byte(b[4:8]); v4 != [4]byte{} {
			a.Addr = tcpip.AddrFrom4(v4)
		}
		return a, nil
	}
	if v6 := [16]byte(b[8:24]); v6 != [16]byte{} {
		a.Addr = tcpip.AddrFrom16(v6)
		if len(b) >= size6 && header.IsV6LinkLocalUnicastAddress(a.Addr) {
			a.NIC = tcpip.NICID(binary.LittleEndian.Uint32(b[24:]))
		}
	}
	return a, nil
}

// sockaddr writes one of the given family.
func sockaddr(a tcpip.FullAddress, family int) []byte {
	if family == unix.AF_INET {
		b := make([]byte, size4)
		binary.LittleEndian.PutUint16(b, unix.AF_INET)
		binary.BigEndian.PutUint16(b[2:], a.Port)
		if v4 := a.Addr.To4(); v4.Len() == 4 {
			copy(b[4:], v4.AsSlice())
		}
		return b
	}
	b := make([]byte, size6)
	binary.LittleEndian.PutUint16(b, unix.AF_INET6)
	binary.BigEndian.PutUint16(b[2:], a.Port)
	v6 := bytes6(a.Addr)
	copy(b[8:], v6[:])
	if header.IsV6LinkLocalUnicastAddress(a.Addr) {
		binary.LittleEndian.PutUint32(b[24:], uint32(a.NIC))
	}
	return b
}

// bytes6 is an address as AF_INET6 has it, that of AF_INET mapped.
func bytes6(a tcpip.Address) (v6 [16]byte) {
	switch a.Len() {
	case 4:
		v6[10], v6[11] = 0xff, 0xff
		copy(v6[12:], a.AsSlice())
	case 16:
		v6 = a.As16()
	}
	return v6
}

// plain is a without the mapping of AF_INET into AF_INET6.
func plain(a tcpip.Address) tcpip.Address {
	if a.Len() == 16 {
		if v4 := a.To4(); v4.Len() == 4 {
			return v4
		}
	}
	return a
}

func multicast(a tcpip.Address) bool {
	a = plain(a)
	return header.IsV4MulticastAddress(a) || header.IsV6MulticastAddress(a)
}
