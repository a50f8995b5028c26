package blk

import (
	"encoding/binary"
	"errors"
	"fmt"

	"bulkhead/virtio"
)

// What a request is (§5.2.6).
const (
	kindIn          = 0
	kindOut         = 1
	kindFlush       = 4
	kindGetID       = 8
	kindDiscard     = 11
	kindWriteZeroes = 13
)

// How it went.
const (
	statusOK          = 0
	statusIOError     = 1
	statusUnsupported = 2
)

// status is the answer to a request that asks for what is not there. Errors of
// other types mean that a chain cannot even be answered.
type status byte

func (s status) Error() string { return fmt.Sprintf("status %d", byte(s)) }

// header begins every request (§5.2.6, struct virtio_blk_req).
type header struct {
	kind   uint32
	sector uint64
}

const headerSize = 16 // bytes

var (
	errHeader = errors.New("request without a whole header (§5.2.6)")
	errStatus = errors.New("request without a byte for its status (§5.2.6)")
)

// parseHeader takes the header off c, and sees that c can be answered.
func parseHeader(c *virtio.Chain) (header, error) {
	var b [headerSize]byte
	if n, _ := c.Read(b[:]); n < len(b) {
		return header{}, errHeader
	}
	if c.Writable() == 0 {
		return header{}, errStatus
	}
	return header{binary.LittleEndian.Uint32(b[0:]), binary.LittleEndian.Uint64(b[8:])}, nil
}

// extent is a part of the disk, in bytes.
type extent struct {
	at, n int64
	unmap bool
}

// parseExtents reads the ranges of a discard or write-zeroes request (§5.2.6,
// struct virtio_blk_discard_write_zeroes) into extents.
func parseExtents(c *virtio.Chain, kind uint32, sectors uint64, extents []extent) ([]extent, error) {
	const size = 16 // bytes
	if n := c.Readable(); n == 0 || n%size != 0 || n/size > maxExtents {
		return extents, status(statusIOError)
	}
	for c.Readable() > 0 {
		var b [size]byte
		if n, _ := c.Read(b[:]); n < size {
			return extents, status(statusIOError)
		}
		at := binary.LittleEndian.Uint64(b[0:])
		n := binary.LittleEndian.Uint32(b[8:])
		flags := binary.LittleEndian.Uint32(b[12:])
		// Bit 0 is unmap, which a discard does anyway and may not say; the rest is reserved.
		if flags > 1 || flags == 1 && kind == kindDiscard {
			return extents, status(statusUnsupported)
		}
		if n > maxExtentSectors || !within(at, uint64(n), sectors) {
			return extents, status(statusIOError)
		}
		extents = append(extents, extent{int64(at) * sectorSize, int64(n) * sectorSize, flags == 1})
	}
	return extents, nil
}

// within tells whether n sectors at at are on a disk of so many.
func within(at, n, sectors uint64) bool { return n <= sectors && at <= sectors-n }

// rules are what a request is held against.
type rules struct {
	sectors  uint64
	readOnly bool
	features uint64 // negotiated
}

// request is a chain in the making. It is used again for the next one.
type request struct {
	free  chan *request // where it rests
	queue *virtio.Queue
	chain *virtio.Chain

	kind    uint32
	at      int64 // bytes from the start of the disk
	n       int   // bytes of data
	done    int   // of them moved
	flags   int   // of preadv2 and pwritev2
	extents []extent
	vector  vector
}

// parse reads what c asks for. The status that comes as an error is the answer.
func (r *request) parse(c *virtio.Chain, rules rules) error {
	r.chain, r.n, r.done, r.flags, r.extents = c, 0, 0, 0, r.extents[:0]
	h, err := parseHeader(c)
	if err != nil {
		return err
	}
	r.kind = h.kind
	switch h.kind {
	case kindIn:
		return r.locate(h.sector, c.Writable()-1, rules)
	case kindOut:
		if rules.readOnly {
			return status(statusIOError)
		}
		return r.locate(h.sector, c.Readable(), rules)
	case kindGetID:
		return nil
	case kindFlush:
		if rules.features&FeatureFlush == 0 && !rules.readOnly {
			return status(statusUnsupported)
		}
		return nil
	case kindDiscard, kindWriteZeroes:
		return r.spread(rules)
	}
	return status(statusUnsupported)
}

// locate is for requests with n bytes of data at a sector.
func (r *request) locate(sector uint64, n int, rules rules) error {
	if n%sectorSize != 0 || !within(sector, uint64(n/sectorSize), rules.sectors) {
		return status(statusIOError)
	}
	r.at, r.n = int64(sector)*sectorSize, n
	return nil
}

func (r *request) spread(rules rules) error {
	feature := uint64(FeatureDiscard)
	if r.kind == kindWriteZeroes {
		feature = FeatureWriteZeroes
	}
	switch {
	case rules.readOnly:
		return status(statusIOError)
	case rules.features&feature == 0:
		return status(statusUnsupported)
	}
	var err error
	r.extents, err = parseExtents(r.chain, r.kind, rules.sectors, r.extents)
	return err
}

// finish writes the status behind the data, as the last thing, and says how
// much was written in all. What a request left unwritten before it becomes zeroes, so
// that this is true (§2.7.8.2).
func (r *request) finish(s status) int {
	c := r.chain
	if r.kind == kindIn {
		c.SkipWrite(r.done)
	}
	for left := c.Writable() - 1; left > 0; left = c.Writable() - 1 {
		segment := c.WriteSegments()[0]
		segment = segment[:min(left, len(segment))]
		clear(segment)
		c.SkipWrite(len(segment))
	}
	c.Write([]byte{byte(s)}) // parseHeader saw that there is room
	return c.Written()
}
