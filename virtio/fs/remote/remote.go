// Package remote has a share's files served by another process than the one that
// has the guest's memory and queues: that process need not open a file, and this
// one runs no guest. The two have the guest's memory in common, and a socket of
// packets. A request goes over as the places in memory of its parts, and an answer
// as its length; no data is copied.
//
// The server believes its client no more than a guest: what it is told to read and
// write lies within the memory or is refused. The client believes the server's
// number no more than there is room for.
package remote

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// kinds of packets.
const (
	request = 1 // kind, id, parts to read, parts to write, then each part
	forget  = 2 // kind, id
	answer  = 3 // kind, id, bytes written, and of a breach of the protocol what it is
)

const (
	headSize = 1 + 8         // kind, id
	mostPart = 1<<10 + 64    // a chain's (virtio.maxIndirect), and room
	partSize = 8 + 4         // offset, length
	maxSize  = 16 << 10      // bytes, of a packet
	maxWords = maxSize - 128 // of a breach
)

// part is a piece of the guest's memory.
type part struct {
	at  uint64
	len uint32
}

// message is a packet taken apart.
type message struct {
	kind    byte
	id      uint64
	in, out []part // of a request
	written uint32 // of an answer
	breach  string // of an answer: not "" is an error of the driver's
}

func (m *message) bytes() ([]byte, error) {
	b := append(make([]byte, 0, headSize+4+partSize*(len(m.in)+len(m.out))), m.kind)
	b = binary.LittleEndian.AppendUint64(b, m.id)
	switch m.kind {
	case request:
		if len(m.in)+len(m.out) > mostPart {
			return nil, fmt.Errorf("fs: a request of %d parts, at most %d are taken", len(m.in)+len(m.out), mostPart)
		}
		b = binary.LittleEndian.AppendUint16(b, uint16(len(m.in)))
		b = binary.LittleEndian.AppendUint16(b, uint16(len(m.out)))
		for _, parts := range [][]part{m.in, m.out} {
			for _, p := range parts {
				b = binary.LittleEndian.AppendUint64(b, p.at)
				b = binary.LittleEndian.AppendUint32(b, p.len)
			}
		}
	case answer:
		b = binary.LittleEndian.AppendUint32(b, m.written)
		b = append(b, m.breach[:min(len(m.breach), maxWords)]...)
	}
	return b, nil
}

var errShort = errors.New("fs: a packet between the processes of a share is cut short or too long")

func parse(b []byte) (m message, err error) {
	if len(b) < headSize {
		return m, errShort
	}
	m.kind, m.id, b = b[0], binary.LittleEndian.Uint64(b[1:]), b[headSize:]
	switch m.kind {
	case request:
		if len(b) < 4 {
			return m, errShort
		}
		in, out := int(binary.LittleEndian.Uint16(b)), int(binary.LittleEndian.Uint16(b[2:]))
		if b = b[4:]; in+out > mostPart || len(b) != (in+out)*partSize {
			return m, errShort
		}
		m.in, m.out = parts(b[:in*partSize]), parts(b[in*partSize:])
	case forget:
		if len(b) != 0 {
			return m, errShort
		}
	case answer:
		if len(b) < 4 || len(b)-4 > maxWords {
			return m, errShort
		}
		m.written, m.breach = binary.LittleEndian.Uint32(b), string(b[4:])
	default:
		return m, fmt.Errorf("fs: a packet of kind %d between the processes of a share", m.kind)
	}
	return m, nil
}

func parts(b []byte) []part {
	list := make([]part, 0, len(b)/partSize)
	for ; len(b) > 0; b = b[partSize:] {
		list = append(list, part{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[8:])})
	}
	return list
}
