package vsock

import (
	"encoding/binary"
	"fmt"
	"io"

	"bulkhead/virtio"
)

// Operations (§5.10.6).
const (
	opRequest       = 1
	opResponse      = 2
	opReset         = 3
	opShutdown      = 4
	opData          = 5
	opCreditUpdate  = 6
	opCreditRequest = 7
)

// Flags of opShutdown: what its sender will do no more (§5.10.6.6).
const (
	noReceive = 1
	noSend    = 2
	noMore    = noReceive | noSend
)

// stream is the one type of socket that we offer (§5.10.6.4).
const stream = 1

// headerSize of struct virtio_vsock_hdr, in bytes.
const headerSize = 44

// header stands before every packet, in both directions (§5.10.6).
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	len              uint32 // bytes of payload that follow
	kind, op         uint16
	flags            uint32
	alloc, forwarded uint32 // the sender's buffer, and what left it (§5.10.6.3)
}

// parseHeader takes a packet's header off c and checks that its payload is there.
func parseHeader(c *virtio.Chain) (header, error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return header{}, fmt.Errorf("a packet shorter than its header: %w", err)
	}
	h := header{
		srcCID:    binary.LittleEndian.Uint64(b[0:]),
		dstCID:    binary.LittleEndian.Uint64(b[8:]),
		srcPort:   binary.LittleEndian.Uint32(b[16:]),
		dstPort:   binary.LittleEndian.Uint32(b[20:]),
		len:       binary.LittleEndian.Uint32(b[24:]),
		kind:      binary.LittleEndian.Uint16(b[28:]),
		op:        binary.LittleEndian.Uint16(b[30:]),
		flags:     binary.LittleEndian.Uint32(b[32:]),
		alloc:     binary.LittleEndian.Uint32(b[36:]),
		forwarded: binary.LittleEndian.Uint32(b[40:]),
	}
	if uint64(h.len) > uint64(c.Readable()) {
		return h, fmt.Errorf("a packet with %d bytes of %d", c.Readable(), h.len)
	}
	return h, nil
}

func (h header) bytes() (b [headerSize]byte) {
	binary.LittleEndian.PutUint64(b[0:], h.srcCID)
	binary.LittleEndian.PutUint64(b[8:], h.dstCID)
	binary.LittleEndian.PutUint32(b[16:], h.srcPort)
	binary.LittleEndian.PutUint32(b[20:], h.dstPort)
	binary.LittleEndian.PutUint32(b[24:], h.len)
	binary.LittleEndian.PutUint16(b[28:], h.kind)
	binary.LittleEndian.PutUint16(b[30:], h.op)
	binary.LittleEndian.PutUint32(b[32:], h.flags)
	binary.LittleEndian.PutUint32(b[36:], h.alloc)
	binary.LittleEndian.PutUint32(b[40:], h.forwarded)
	return b
}

// refusal answers a packet that belongs to no connection.
func (h header) refusal() header {
	return header{
		srcCID: h.dstCID, dstCID: h.srcCID, srcPort: h.dstPort, dstPort: h.srcPort,
		kind: h.kind, op: opReset,
	}
}
