package netlink

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// header is struct nlmsghdr.
type header struct {
	typ, flags uint16
	seq, port  uint32
}

const headerSize = unix.SizeofNlMsghdr

func align(n int) int { return (n + 3) &^ 3 } // NLMSG_ALIGN

// message puts a header before body.
func (h header) message(body []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(headerSize+len(body)))
	b = le.AppendUint16(le.AppendUint16(b, h.typ), h.flags)
	b = le.AppendUint32(le.AppendUint32(b, h.seq), h.port)
	b = append(b, body...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

// attribute is a struct rtattr.
func attribute(typ uint16, data []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint16(nil, uint16(4+len(data)))
	b = append(le.AppendUint16(b, typ), data...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

func u32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

// loopback is the index of the one device.
const loopback = 1

// link describes it (net/core/rtnetlink.c, rtnl_fill_ifinfo).
func link() []byte {
	le := binary.LittleEndian
	b := []byte{unix.AF_UNSPEC, 0}
	b = le.AppendUint16(b, unix.ARPHRD_LOOPBACK)
	b = le.AppendUint32(b, loopback)
	b = le.AppendUint32(b, unix.IFF_UP|unix.IFF_LOOPBACK|unix.IFF_RUNNING|unix.IFF_LOWER_UP)
	b = le.AppendUint32(b, 0)
	for _, a := range []struct {
		typ  uint16
		data []byte
	}{
		{unix.IFLA_IFNAME, []byte("lo\x00")}, {unix.IFLA_TXQLEN, u32(1000)}, {unix.IFLA_OPERSTATE, []byte{0}},
		{unix.IFLA_LINKMODE, []byte{0}}, {unix.IFLA_MTU, u32(65536)}, {unix.IFLA_GROUP, u32(0)},
		{unix.IFLA_PROMISCUITY, u32(0)}, {unix.IFLA_NUM_TX_QUEUES, u32(1)}, {unix.IFLA_NUM_RX_QUEUES, u32(1)},
		{unix.IFLA_CARRIER, []byte{1}}, {unix.IFLA_QDISC, []byte("noqueue\x00")},
		{unix.IFLA_ADDRESS, make([]byte, 6)}, {unix.IFLA_BROADCAST, make([]byte, 6)},
		{unix.IFLA_STATS64, make([]byte, 24*8)}, {unix.IFLA_STATS, make([]byte, 24*4)},
	} {
		b = append(b, attribute(a.typ, a.data)...)
	}
	return b
}

// address is 127.0.0.1/8 (net/ipv4/devinet.c, inet_fill_ifaddr).
func address() []byte {
	b := []byte{unix.AF_INET, 8, unix.IFA_F_PERMANENT, unix.RT_SCOPE_HOST}
	b = append(b, u32(loopback)...)
	local := []byte{127, 0, 0, 1}
	cache := append(append(u32(^uint32(0)), u32(^uint32(0))...), make([]byte, 8)...)
	for _, a := range []struct {
		typ  uint16
		data []byte
	}{
		{unix.IFA_ADDRESS, local}, {unix.IFA_LOCAL, local}, {unix.IFA_LABEL, []byte("lo\x00")},
		{unix.IFA_FLAGS, u32(unix.IFA_F_PERMANENT)}, {unix.IFA_CACHEINFO, cache},
	} {
		b = append(b, attribute(a.typ, a.data)...)
	}
	return b
}

// answer serves the requests in b and returns the datagrams of the replies.
func answer(b []byte, port uint32) (out [][]byte) {
	le := binary.LittleEndian
	for len(b) >= headerSize {
		size := le.Uint32(b)
		if size < headerSize || uint64(size) > uint64(len(b)) {
			return out
		}
		h := header{le.Uint16(b[4:]), le.Uint16(b[6:]), le.Uint32(b[8:]), port}
		if h.flags&unix.NLM_F_REQUEST != 0 && h.typ >= unix.NLMSG_MIN_TYPE {
			out = append(out, h.serve(b[:size])...)
		}
		b = b[min(align(int(size)), len(b)):]
	}
	return out
}

// serve answers one request (rtnetlink_rcv_msg).
func (h header) serve(request []byte) [][]byte {
	body := request[headerSize:]
	family := byte(unix.AF_UNSPEC)
	if len(body) > 0 {
		family = body[0]
	}
	kind := (h.typ - unix.RTM_BASE) & 3
	switch {
	case kind != 2: // new, delete, set
		return h.failed(unix.EPERM, request)
	case h.flags&unix.NLM_F_DUMP != 0 && h.typ == unix.RTM_GETLINK:
		return h.dump(unix.RTM_NEWLINK, link())
	case h.flags&unix.NLM_F_DUMP != 0 && h.typ == unix.RTM_GETADDR && (family == unix.AF_UNSPEC || family == unix.AF_INET):
		return h.dump(unix.RTM_NEWADDR, address())
	case h.flags&unix.NLM_F_DUMP != 0:
		return h.dump(0, nil)
	case h.typ == unix.RTM_GETLINK:
		if !wantsLoopback(body) {
			return h.failed(unix.ENODEV, request)
		}
		reply := header{unix.RTM_NEWLINK, 0, h.seq, h.port}.message(link())
		return append([][]byte{reply}, h.acknowledged(request)...)
	case h.typ == unix.RTM_GETROUTE:
		return h.failed(unix.ENETUNREACH, request)
	}
	return h.failed(unix.EOPNOTSUPP, request)
}

// dump is a list of at most one object, and its end.
func (h header) dump(typ uint16, object []byte) (out [][]byte) {
	if object != nil {
		out = append(out, header{typ, unix.NLM_F_MULTI, h.seq, h.port}.message(object))
	}
	return append(out, header{unix.NLMSG_DONE, unix.NLM_F_MULTI, h.seq, h.port}.message(u32(0)))
}

func (h header) acknowledged(request []byte) [][]byte {
	if h.flags&unix.NLM_F_ACK == 0 {
		return nil
	}
	return h.failed(0, request)
}

// failed is NLMSG_ERROR: the errno and, if there is one, the whole request.
func (h header) failed(e unix.Errno, request []byte) [][]byte {
	body := u32(uint32(-int32(e)))
	if e == 0 {
		request = request[:headerSize]
	}
	return [][]byte{header{unix.NLMSG_ERROR, 0, h.seq, h.port}.message(append(body, request...))}
}

// wantsLoopback looks at the index in a struct ifinfomsg, and at the name among
// its attributes.
func wantsLoopback(body []byte) bool {
	le := binary.LittleEndian
	if len(body) < unix.SizeofIfInfomsg {
		return false
	}
	if i := le.Uint32(body[4:]); i != 0 {
		return i == loopback
	}
	for b := body[unix.SizeofIfInfomsg:]; len(b) >= 4; {
		size := int(le.Uint16(b))
		if size < 4 || size > len(b) {
			return false
		}
		if le.Uint16(b[2:]) == unix.IFLA_IFNAME {
			name := string(b[4:size])
			return name == "lo" || name == "lo\x00"
		}
		b = b[min(align(size), len(b)):]
	}
	return false
}
