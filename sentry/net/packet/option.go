package packet

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/bpf"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
)

// flags are options that are numbers: kept, shown, and for some of them heeded.
var flags = map[int]bool{unix.PACKET_AUXDATA: true, unix.PACKET_ORIGDEV: true, unix.PACKET_IGNORE_OUTGOING: true}

func (s *Socket) SetOption(c socket.Caller, level, name int, b []byte) error {
	switch {
	case level == unix.SOL_SOCKET && name == unix.SO_ATTACH_FILTER:
		return s.attach(c, b)
	case level == unix.SOL_SOCKET && name == unix.SO_DETACH_FILTER:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.filter == nil {
			return unix.ENOENT
		}
		s.filter = nil
		return nil
	case level == unix.SOL_SOCKET:
		return s.opts.Set(c, name, b)
	case level != unix.SOL_PACKET:
		return unix.ENOPROTOOPT
	case name == unix.PACKET_ADD_MEMBERSHIP || name == unix.PACKET_DROP_MEMBERSHIP:
		return s.member(b)
	case name == unix.PACKET_RX_RING:
		return s.setRing(b)
	case name == unix.PACKET_STATISTICS || name == unix.PACKET_HDRLEN:
		return unix.ENOPROTOOPT
	}
	v, err := socket.ParseInt(b)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case flags[name]:
		s.ints[name] = b2i(v != 0)
	case name == unix.PACKET_VERSION:
		if v != version1 && v != version2 {
			return unix.EINVAL // TPACKET_V3 neither: whoever asks is told so by PACKET_HDRLEN
		}
		if s.ring != nil {
			return unix.EBUSY
		}
		s.ints[name] = v
	case name == unix.PACKET_RESERVE:
		if s.ring != nil {
			return unix.EBUSY
		}
		if v < 0 || v > 1<<16 {
			return unix.EINVAL
		}
		s.ints[name] = v
	default:
		return unix.ENOPROTOOPT
	}
	return nil
}

func b2i(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// attach is SO_ATTACH_FILTER: struct sock_fprog, a length and where the instructions are.
func (s *Socket) attach(c socket.Caller, b []byte) error {
	if len(b) != 16 {
		return unix.EINVAL
	}
	n := int(binary.LittleEndian.Uint16(b))
	if n == 0 || n > bpf.MaxInstructions {
		return unix.EINVAL
	}
	code := make([]byte, n*bpf.InstructionSize)
	if _, err := c.Memory().Read(memory.Addr(binary.LittleEndian.Uint64(b[8:])), code); err != nil {
		return unix.EFAULT
	}
	f, err := bpf.ParseFilter(code)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filter = f
	return nil
}

// member takes struct packet_mreq. What there is of frames for others, the device
// gives to all that listen.
func (s *Socket) member(b []byte) error {
	if len(b) < 16 {
		return unix.EINVAL
	}
	if _, ok := s.net.Link(int(int32(binary.LittleEndian.Uint32(b)))); !ok {
		return unix.ENODEV
	}
	return nil
}

func (s *Socket) GetOption(_ socket.Caller, level, name, size int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b []byte
	var err error
	switch {
	case level == unix.SOL_PACKET && name == unix.PACKET_STATISTICS:
		b = append(socket.Int(int(s.seen)), socket.Int(int(s.drops))...)
		s.seen, s.drops = 0, 0
	case level == unix.SOL_PACKET && (flags[name] || name == unix.PACKET_VERSION || name == unix.PACKET_RESERVE):
		b = socket.Int(int(s.ints[name]))
	case level != unix.SOL_SOCKET:
		err = unix.ENOPROTOOPT
	case name == unix.SO_TYPE:
		b = socket.Int(s.typ)
	case name == unix.SO_DOMAIN:
		b = socket.Int(unix.AF_PACKET)
	case name == unix.SO_PROTOCOL:
		b = socket.Int(s.proto)
	case name == unix.SO_ACCEPTCONN:
		b = socket.Int(0)
	case name == unix.SO_ERROR:
		b = socket.Int(int(s.err))
		s.err = 0
	default:
		b, err = s.opts.Get(name)
	}
	return socket.Cut(b, size), err
}

// Asks implements socket.Asked: PACKET_HDRLEN is of the version that is given.
func (*Socket) Asks(level, name int) bool {
	return level == unix.SOL_PACKET && name == unix.PACKET_HDRLEN
}

func (*Socket) Answer(given []byte) ([]byte, error) {
	v, err := socket.ParseInt(given)
	switch {
	case err != nil:
		return nil, err
	case v == version1:
		return socket.Int(32), nil
	case v == version2:
		return socket.Int(headSize), nil
	}
	return nil, unix.EINVAL
}
