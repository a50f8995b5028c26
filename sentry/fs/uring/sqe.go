package uring

import "encoding/binary"

// Flags of an SQE (include/uapi/linux/io_uring.h).
const (
	FixedFile    = 1 << 0
	Drain        = 1 << 1
	Link         = 1 << 2
	HardLink     = 1 << 3
	Async        = 1 << 4
	BufferSelect = 1 << 5
	SkipSuccess  = 1 << 6

	sqeFlags = 1<<7 - 1
	sqeSize  = 64
)

// SQE is struct io_uring_sqe, taken out of the shared ring. Fields that are a
// union have the name of their first use.
type SQE struct {
	Opcode, Flags uint8
	IOPrio        uint16
	FD            int32
	Off           uint64 // addr2
	Addr          uint64 // splice_off_in
	Len           uint32
	OpFlags       uint32 // rw_flags, msg_flags, …
	UserData      uint64
	Buf           uint16 // buf_index, buf_group
	Personality   uint16
	Index         uint32 // splice_fd_in, file_index, addr_len
	Addr3, Pad    uint64
}

// ParseSQE takes one apart; b has 64 bytes of the Sentry's own.
func ParseSQE(b []byte) SQE {
	le := binary.LittleEndian
	return SQE{
		Opcode: b[0], Flags: b[1], IOPrio: le.Uint16(b[2:]), FD: int32(le.Uint32(b[4:])), Off: le.Uint64(b[8:]), Addr: le.Uint64(b[16:]),
		Len: le.Uint32(b[24:]), OpFlags: le.Uint32(b[28:]), UserData: le.Uint64(b[32:]), Buf: le.Uint16(b[40:]),
		Personality: le.Uint16(b[42:]), Index: le.Uint32(b[44:]), Addr3: le.Uint64(b[48:]), Pad: le.Uint64(b[56:]),
	}
}

// Known says that no flag is set that this kernel does not know.
func (s *SQE) Known() bool { return s.Flags&^sqeFlags == 0 }

// Linked says that the next one is to begin after this one.
func (s *SQE) Linked() bool { return s.Flags&(Link|HardLink) != 0 }
