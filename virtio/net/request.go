package net

import (
	"encoding/binary"
	"errors"
	"fmt"

	"bulkhead/virtio"
)

const (
	headerSize = 12 // bytes (§5.1.6, struct virtio_net_hdr)

	minFrame = 14 // bytes: addresses and type
	maxFrame = 14 + 4 + 65535
)

// Fields of a header.
const (
	needsCsum = 1 // flags

	gsoNone = 0
	gsoTCP4 = 1
	gsoTCP6 = 4
	gsoECN  = 0x80 // with one of them
)

// header is what stands before a frame.
type header [headerSize]byte

// buffers sets num_buffers, which says over how many buffers a received frame is spread.
func (h *header) buffers(n int) { binary.LittleEndian.PutUint16(h[10:], uint16(n)) }

var (
	errNoCsum   = errors.New("a checksum is asked for without VIRTIO_NET_F_CSUM")
	errCsumAt   = errors.New("the checksum lies outside the frame")
	errGSO      = errors.New("segmentation that was not negotiated")
	errGSOEmpty = errors.New("segmentation without a checksum, or into segments of no bytes")
	errGSOLong  = errors.New("headers longer than the frame")
	errLength   = errors.New("a frame too short or too long")
)

// parseHeader checks what a driver put before a frame of n bytes against
// §5.1.6.2.1 and the features, and returns what of it may go on to the host:
// flags that we do not know are ignored, fields that do not matter are 0.
func parseHeader(raw header, n int, features uint64) (header, error) {
	var h header
	if n < minFrame || n > maxFrame {
		return h, errLength
	}
	if raw[0]&needsCsum != 0 {
		start, offset := binary.LittleEndian.Uint16(raw[6:]), binary.LittleEndian.Uint16(raw[8:])
		switch {
		case features&FeatureCsum == 0:
			return h, errNoCsum
		case start < minFrame || int(start)+int(offset)+2 > n:
			return h, errCsumAt
		}
		h[0] = needsCsum
		copy(h[6:10], raw[6:10])
	}
	if raw[1] == gsoNone {
		return h, nil
	}
	return h, h.segment(raw, n, features)
}

// segment takes over the fields for a frame that is to be cut.
func (h *header) segment(raw header, n int, features uint64) error {
	var feature uint64
	switch raw[1] &^ gsoECN {
	case gsoTCP4:
		feature = FeatureHostTSO4
	case gsoTCP6:
		feature = FeatureHostTSO6
	default:
		return errGSO
	}
	if raw[1]&gsoECN != 0 {
		feature |= FeatureHostECN
	}
	headers, size := binary.LittleEndian.Uint16(raw[2:]), binary.LittleEndian.Uint16(raw[4:])
	switch {
	case features&feature != feature:
		return errGSO
	case h[0] != needsCsum || size == 0:
		return errGSOEmpty
	case int(headers) > n:
		return errGSOLong
	}
	copy(h[1:6], raw[1:6])
	return nil
}

// Commands of the control queue (§5.1.6.5), class before command.
const (
	commandPromisc  = 0x0000
	commandAllMulti = 0x0001
	commandTable    = 0x0100
	commandAddress  = 0x0101
	commandPairs    = 0x0400
	commandOffloads = 0x0500

	ackOK    = 0
	ackError = 1
)

// maxCommand is room for the largest command, a table of addresses. A driver
// with more of them than that sets ALLMULTI.
const maxCommand = 2 + 2*4 + 1024*6 // bytes

var (
	errCommand = errors.New("command without class and number, or without room for the answer (§5.1.6.5)")
	errRefused = errors.New("command refused")
)

// command is one, checked for its own sake but not against the device.
type command struct {
	what  int
	value uint64  // a flag, a number of pairs, or offloads
	mac   [6]byte // of commandAddress
}

// parseCommand is for the readable part of a request.
func parseCommand(b []byte, features uint64) (command, error) {
	c := command{what: int(b[0])<<8 | int(b[1])}
	b = b[2:]
	var size int
	var feature uint64
	switch c.what {
	case commandPromisc, commandAllMulti:
		size, feature = 1, FeatureControlRx
	case commandAddress:
		size, feature = 6, FeatureControlMAC
	case commandPairs:
		size, feature = 2, FeatureMultiQueue
	case commandOffloads:
		size, feature = 8, FeatureGuestOffloads
	case commandTable:
		if features&FeatureControlRx == 0 {
			return c, errRefused
		}
		return c, checkTable(b)
	default:
		return c, errRefused
	}
	if len(b) < size || features&feature == 0 {
		return c, errRefused
	}
	var word [8]byte
	copy(word[:], b[:size])
	c.value, c.mac = binary.LittleEndian.Uint64(word[:]), [6]byte(word[:6])
	return c, nil
}

// checkTable sees that two lists of addresses are there: single ones and groups.
func checkTable(b []byte) error {
	for range 2 {
		if len(b) < 4 {
			return errRefused
		}
		n := uint64(binary.LittleEndian.Uint32(b)) * 6
		if b = b[4:]; n > uint64(len(b)) {
			return errRefused
		}
		b = b[n:]
	}
	return nil
}

// serveControl answers commands until the queue is stopped.
func (d *Device) serveControl(q *virtio.Queue) error {
	for {
		c, err := q.Await()
		if err != nil {
			return err
		}
		if err := d.answer(c); err != nil {
			q.Unpop(c)
			return err
		}
		if err := q.Push(c, c.Written()); err != nil {
			return err
		}
	}
}

func (d *Device) answer(c *virtio.Chain) error {
	if c.Readable() < 2 || c.Writable() < 1 {
		return errCommand
	}
	b := make([]byte, min(c.Readable(), maxCommand))
	if _, err := c.Read(b); err != nil {
		return err
	}
	ack := byte(ackOK)
	if err := d.obey(b); err != nil {
		ack = ackError
		d.log.Debug("control command", "device", d.host.String(), "err", err)
	}
	_, err := c.Write([]byte{ack})
	return err
}

// obey does what a command says.
func (d *Device) obey(b []byte) error {
	c, err := parseCommand(b, d.active.Features)
	if err != nil {
		return err
	}
	switch c.what {
	case commandPairs:
		if c.value < 1 || c.value > uint64(len(d.pairs)) {
			return fmt.Errorf("%d queue pairs of %d: %w", c.value, len(d.pairs), errRefused)
		}
		return d.use(int(c.value))
	case commandOffloads:
		if c.value&^(d.active.Features&guestOffloads) != 0 {
			return fmt.Errorf("offloads %#x: %w", c.value, errRefused)
		}
		if err := d.host.offload(c.value); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch c.what {
	case commandPromisc, commandAllMulti:
		bit := byte(1) << (c.what & 1)
		d.mode.rx &^= bit
		if c.value&1 != 0 {
			d.mode.rx |= bit
		}
	case commandAddress:
		d.mode.mac = c.mac
	case commandOffloads:
		d.mode.offloads = c.value
	}
	return nil
}
