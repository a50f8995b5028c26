package table

import "encoding/binary"

// pointed makes an argument that points to a structure.
func (m *maker) pointed(kind string) value {
	w := m.word
	switch kind {
	case "iov":
		var vs []value
		for range 4 {
			vs = append(vs, value{n: m.pointer()}, m.build("len"))
		}
		return m.structure(8, vs...)
	case "openhow":
		return m.structure(8, m.build("f.open"), m.build("mode"), value{n: m.bits([]uint64{1, 2, 4, 8, 16, 32})}, m.zero())
	case "flock":
		return m.structure(8, value{n: uint64(m.n(4)) | uint64(m.n(4))<<16}, m.build("off"), m.build("off"), m.small())
	case "times":
		if m.one(4) {
			return value{}
		}
		return m.structure(8, m.small(), m.nano(), m.small(), m.nano())
	case "timespec", "timeval":
		switch m.n(8) {
		case 0:
			return value{}
		case 1:
			return m.structure(8, w(), m.nano())
		}
		return m.structure(8, value{}, m.nano())
	case "itimerspec", "itimerval":
		return m.structure(8, value{}, m.nano(), m.zero(), m.nano())
	case "sigset":
		if m.one(4) {
			return value{}
		}
		return m.structure(8, w())
	case "sigaction":
		if m.one(5) {
			return value{}
		}
		handler := value{kind: function, slot: byte(m.n(handlers))}
		if m.one(4) {
			handler = value{n: pick(m.source, []uint64{0, 1, 2, data, 0xffff800000000000, 0x7fffffffe000})}
		}
		back := value{kind: function, slot: restorer}
		if m.one(8) {
			back = value{n: m.pointer()}
		}
		f := m.bits([]uint64{1, 2, 4, 0x08000000, 0x10000000, 0x40000000, 0x80000000}) | 0x04000000
		return m.structure(8, handler, value{n: f}, back, w())
	case "stackt":
		return m.structure(8, value{n: m.pointer()}, value{n: uint64(m.n(5)) | uint64(m.n(2))<<31}, value{n: pick(m.source, []uint64{2048, 8192, 65536, 0, 1 << 63})})
	case "siginfo":
		return m.structure(4, m.small(), m.small(), value{n: -uint64(1 + m.n(6))}, m.small(), m.small(), m.small(), w(), w())
	case "robust":
		at := pick(m.source, m.hot[:])
		return m.structure(8, value{n: at}, value{n: uint64(m.n(64)) - 32}, value{n: at})
	case "word32":
		return m.structure(4, m.small())
	case "waitv":
		var vs []value
		for range 3 {
			vs = append(vs, m.small(), value{n: m.pointer() &^ 3}, value{n: pick(m.source, choices["futex2"])})
		}
		return m.structure(8, vs...)
	case "rlimit":
		return m.structure(8, m.build("len"), m.build("len"))
	case "caphdr":
		return m.structure(4, value{n: pick(m.source, []uint64{0x20080522, 0x19980330, 0x20071026, 0})}, m.small())
	case "bpf":
		b := []byte{byte(m.n(8)), 0, 0, 0, 0, 0, 0, 0}
		var code []byte
		for range 8 {
			code = append(code, pick(m.source, []byte{0x20, 0x15, 0x06, 0x05, 0x00, 0x54, 0x87, 0x35, 0x30, 0x28}), 0, byte(m.n(4)), byte(m.n(4)))
			code = binary.LittleEndian.AppendUint32(code, uint32(pick(m.source, []uint64{0, 4, 16, 24, 0x7fff0000, 0x00050001, 0x7ffc0000, 0x7fc00000, 64, 0xffffffff})))
		}
		code = append(code[:56], 0x06, 0, 0, 0, 0, 0, 0xff, 0x7f) // at last: allow
		return m.structure(8, value{n: uint64(binary.LittleEndian.Uint32(b)) | 8}, m.raw(code))
	case "cloneargs":
		stack := value{}
		return m.structure(8, value{n: m.cloneFlags().n &^ 0xff}, value{n: m.pointer()}, value{n: m.pointer()}, value{n: m.pointer()}, value{n: pick(m.source, []uint64{0, 17, 17, 10, 64})}, stack, stack, value{n: m.pointer()},
			m.zero(), m.zero(), m.zero())
	case "argv":
		if m.one(4) {
			return value{}
		}
		return m.structure(8, m.text("executor"), m.text("1"), m.text("a"), value{})
	case "pollfds":
		var vs []value
		for range 4 {
			vs = append(vs, m.fd(""), value{n: uint64(m.n(128))})
		}
		return m.structure(4, vs...)
	case "event":
		return m.structure(4, value{n: m.bits([]uint64{1, 4, 8, 16, 0x2000, 1 << 28, 1 << 30, 1 << 31})}, m.small(), m.small())
	case "sigevent":
		if m.one(4) {
			return value{}
		}
		return m.structure(4, m.small(), m.zero(), m.build("sig"), value{n: uint64(m.n(5))}, value{kind: identity, slot: byte(m.n(3))}, m.zero(), m.zero(), m.zero())
	case "iocbs":
		var list []value
		for range 3 {
			list = append(list, m.structure(8, w(), m.small(), value{n: uint64(m.n(9)) | uint64(m.n(2))<<32}, value{n: m.pointer()}, m.build("len"), m.build("off"), m.zero(), m.zero()))
		}
		return m.structure(8, list...)
	case "uringparams":
		return m.structure(4, m.small(), m.small(), value{n: m.bits([]uint64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 1 << 16})}, m.zero(), m.zero(), m.zero(), m.fd("uring"), m.zero(), m.zero(), m.zero())
	case "sockaddr":
		return m.sockaddr()
	case "msghdr":
		return m.message()
	case "mmsghdr":
		var vs []value
		for range 2 {
			vs = append(vs, m.sockaddr(), m.build("e.addrlen"), m.pointed("iov"), m.build("count"), value{n: m.pointer()}, m.build("len"), m.small(), m.zero())
		}
		return m.structure(8, vs...)
	case "netlink":
		return m.structure(4, value{n: uint64(16 + m.n(64))}, value{n: uint64(16+m.n(100)) | uint64(m.bits([]uint64{1, 2, 4, 0x100, 0x200, 0x300}))<<16}, m.small(), m.zero(),
			m.small(), m.small(), w(), m.small(), w(), m.small(), w(), w(), w(), w())
	case "sembuf":
		var b []byte
		for range 3 {
			b = append(b, byte(m.n(4)), 0, byte(m.n(5))-2, pick(m.source, []byte{0, 0, 255}), byte(m.n(4))<<3, byte(m.n(2))<<4)
		}
		return m.raw(b)
	case "mqattr":
		if m.one(3) {
			return value{}
		}
		return m.structure(8, m.build("f.open"), m.small(), m.build("len"), m.small())
	case "uffd":
		return m.structure(8, value{n: pick(m.source, []uint64{0xaa, holes, data + fleeting*page})}, m.build("maplen"), m.small(), m.build("maplen"), m.small())
	}
	panic("table: the grammar has an argument of an unknown kind: " + kind)
}

func (m *maker) zero() value {
	if m.one(16) {
		return m.word()
	}
	return value{}
}

// nano is a time below a second, mostly a short one: a program has one second.
func (m *maker) nano() value {
	if m.one(12) {
		return m.word()
	}
	return value{n: pick(m.source, []uint64{0, 1, 1000, 100_000, 1_000_000, 10_000_000, 999_999_999})}
}

func (m *maker) sockaddr() value {
	le := binary.LittleEndian
	port := byte(m.n(4))
	switch m.n(8) {
	case 0:
		return value{}
	case 1, 2:
		return m.raw([]byte{2, 0, 0x30, port, 127, 0, 0, pick(m.source, []byte{1, 1, 1, 2, 255, 0}), 0, 0, 0, 0, 0, 0, 0, 0})
	case 3:
		b := append(le.AppendUint16(nil, 10), 0x30, port, 0, 0, 0, 0)
		b = append(b, make([]byte, 20)...)
		b[23] = byte(m.n(2)) // ::1 or ::
		return m.raw(b)
	case 4:
		return m.raw(append(append([]byte{1, 0}, pick(m.source, []string{"/work/s", "\x00a", "\x00b", "s", ""})...), 0, 0))
	case 5:
		return m.raw([]byte{16, 0, 0, 0, byte(m.n(4)), 0, 0, 0, byte(m.n(4)), 0, 0, 0})
	case 6:
		return m.raw([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	}
	return m.raw([]byte{byte(m.n(45)), 0, byte(m.n(256)), byte(m.n(256)), byte(m.n(256)), 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
}

// message is a struct msghdr, with descriptors or credentials to pass.
func (m *maker) message() value {
	control := value{}
	length := m.small()
	if m.n(2) == 0 {
		n := uint64(m.n(5))
		kind := uint64(1 + m.n(3))
		vs := append(values(16+4*n, 0, 1, kind), m.fd(""), m.fd(""), m.fd(""), m.fd(""))
		if m.one(4) {
			vs[0] = m.word()
		}
		control = m.structure(4, vs...)
		length = value{n: 16 + 4*n}
	} else if m.n(2) == 0 {
		control, length = value{n: m.pointer()}, m.build("len")
	}
	name := value{}
	if m.n(2) == 0 {
		name = m.sockaddr()
	}
	return m.structure(8, name, m.build("e.addrlen"), m.pointed("iov"), value{n: uint64(m.n(5))}, control, length, m.zero())
}

// frame is what rt_sigreturn takes for a signal's frame: registers that lead back
// into the executor or nowhere, and a floating point state of the program's making.
func (m *maker) frame() uint64 {
	at := data + uint64(1+m.n(8))*page + uint64(m.n(8))*8
	words := 5 + 32 + 16 // ucontext: flags, link, stack; sigcontext; mask
	for i := range words {
		m.ops = append(m.ops, put{8, at + uint64(i)*8, m.zero()})
	}
	context := at + 5*8
	fields := map[int]value{
		15: {n: data + 8*page},                       // rsp
		16: {kind: function, slot: byte(m.n(codes))}, // rip
		17: {n: pick(m.source, []uint64{0x202, 0x202, 0x302, 1 << 17, 1<<64 - 1, 0x3202, 0x40202})},
		18: {n: pick(m.source, []uint64{0x2b_0000_0000_0033, 0x2b_0000_0000_0033, 0, 0x33, 0x10, 0x08, 0x23, 0xffff})},
		23: {n: pick(m.source, []uint64{0, data + 2*page, data + 2*page + 64, data + 2*page + 8, data + none*page - 512})}, // fpstate
	}
	for i := range 24 {
		if v, ok := fields[i]; ok {
			m.ops = append(m.ops, put{8, context + uint64(i)*8, v})
		}
	}
	if m.n(2) == 0 { // struct _fpx_sw_bytes, where the extended state is announced
		sw := uint64(data+2*page) + 464
		for i, v := range []uint64{0x46505853, pick(m.source, []uint64{836, 2696, 576, 1 << 20, 0}), pick(m.source, []uint64{7, 0xff, 1 << 63, 0}), 0, pick(m.source, []uint64{832, 2692, 512, 1 << 31})} {
			m.ops = append(m.ops, put{pick(m.source, []byte{4, 8}), sw + uint64(i)*4, value{n: v}})
		}
	}
	return at
}
