package netlink

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/net/inet"
	"bulkhead/sentry/net/socket"
)

// Numbers of include/uapi/linux/{sock_diag,inet_diag}.h.
const (
	sockDiagByFamily = 20
	diagRequestSize  = 56 // struct inet_diag_req_v2

	diagMemInfo   = 1
	diagCong      = 4
	diagTOS       = 5
	diagSkMemInfo = 7
	diagShutdown  = 8
	diagV6Only    = 11
	diagProtocol  = 12

	byPort = 8 // where, in a request, struct inet_diag_sockid begins
)

// diagnose answers a request of sock_diag(7) about sockets of AF_INET and
// AF_INET6. Of others (ENOENT) programs learn in /proc/net.
func (s *Socket) diagnose(_ socket.Caller, h header, request []byte) [][]byte {
	body := request[headerSize:]
	if h.typ != sockDiagByFamily {
		return h.failed(unix.EINVAL, request)
	}
	if len(body) < 2 || body[0] != unix.AF_INET && body[0] != unix.AF_INET6 {
		return h.failed(unix.ENOENT, request)
	}
	if len(body) < diagRequestSize {
		return h.failed(unix.EINVAL, request)
	}
	if h.flags&unix.NLM_F_DUMP != 0 {
		return s.begin(h, request, s.sockets)
	}
	for _, r := range s.net.Reports() {
		if asked(r, body) && named(r, body[byPort:]) {
			return [][]byte{header{sockDiagByFamily, 0, h.seq, h.port}.message(diagnosis(r, body[2]))}
		}
	}
	return h.failed(unix.ENOENT, request)
}

// sockets is what a dump has.
func (s *Socket) sockets(body []byte) (reply uint16, found [][]byte) {
	states := binary.LittleEndian.Uint32(body[4:])
	sport, dport := binary.BigEndian.Uint16(body[byPort:]), binary.BigEndian.Uint16(body[byPort+2:])
	for _, r := range s.net.Reports() {
		if !asked(r, body) || states&(1<<r.State) == 0 || sport != 0 && sport != r.Local.Port || dport != 0 && dport != r.Remote.Port {
			continue
		}
		found = append(found, diagnosis(r, body[2]))
	}
	return sockDiagByFamily, found
}

// asked says if a socket is of the family and the protocol of a request, and bound.
func asked(r inet.Report, body []byte) bool {
	protocol, raw := int(body[1]), r.Type == unix.SOCK_RAW
	return r.Family == int(body[0]) && raw == (protocol == unix.IPPROTO_RAW) && (raw || r.Protocol == protocol) && r.Local.Port != 0
}

// named compares a socket with a struct inet_diag_sockid.
func named(r inet.Report, id []byte) bool {
	be := binary.BigEndian
	src, dst := diagAddress(r, true), diagAddress(r, false)
	return be.Uint16(id) == r.Local.Port && be.Uint16(id[2:]) == r.Remote.Port && string(id[4:20]) == string(src[:]) && string(id[20:36]) == string(dst[:])
}

func diagAddress(r inet.Report, local bool) (b [16]byte) {
	a := r.Remote.Addr
	if local {
		a = r.Local.Addr
	}
	if a.Len() == 0 {
		return b
	}
	if r.Family == unix.AF_INET {
		v4 := a.To4()
		copy(b[:], v4.AsSlice())
		return b
	}
	return inet.Bytes6(a)
}

// diagnosis is a struct inet_diag_msg with attributes (inet_sk_diag_fill).
func diagnosis(r inet.Report, ext byte) []byte {
	le, be := binary.LittleEndian, binary.BigEndian
	b := []byte{byte(r.Family), byte(r.State), 0, 0}
	b = be.AppendUint16(be.AppendUint16(b, r.Local.Port), r.Remote.Port)
	src, dst := diagAddress(r, true), diagAddress(r, false)
	b = append(append(b, src[:]...), dst[:]...)
	b = le.AppendUint32(b, uint32(r.Device))
	b = le.AppendUint64(b, r.Inode) // the cookie
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, uint32(r.In))
	out := r.Out
	const listen = 10
	if r.State == listen {
		out = r.Backlog
	}
	b = le.AppendUint32(b, uint32(out))
	b = le.AppendUint32(b, r.UID)
	b = le.AppendUint32(b, uint32(r.Inode))
	wants := func(n int) bool { return ext&(1<<(n-1)) != 0 }
	list := []attr{{diagShutdown, []byte{r.Shut}}}
	if wants(diagTOS) {
		list = append(list, attr{diagTOS, []byte{0}})
	}
	if r.Family == unix.AF_INET6 {
		only := byte(0)
		if r.V6Only {
			only = 1
		}
		list = append(list, attr{diagV6Only, []byte{only}})
	}
	if wants(diagMemInfo) {
		list = append(list, attr{diagMemInfo, append(u32(uint32(r.In)), make([]byte, 12)...)})
	}
	if wants(diagSkMemInfo) {
		list = append(list, attr{diagSkMemInfo, append(u32(uint32(r.In)), make([]byte, 32)...)})
	}
	if wants(diagCong) && r.Protocol == unix.IPPROTO_TCP {
		list = append(list, attr{diagCong, []byte("cubic\x00")})
	}
	if r.Type == unix.SOCK_RAW {
		list = append(list, attr{diagProtocol, []byte{byte(r.Protocol)}})
	}
	return attributes(b, list...)
}
