package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Chain is what a driver put into a queue as one request: the bytes that the
// device may read, then those that it may write (§2.7.4.2). It is an
// io.Reader over the former and an io.Writer over the latter and assumes
// nothing of their division into descriptors (§2.7.4.1). All its segments have
// been checked to be RAM, where the guest may change them at any time: read
// once, decide upon the copy. A Chain belongs to one goroutine, until it is
// given back by Push or Unpop and is used for another request.
type Chain struct {
	Head uint16 // its name in the rings

	segments           [][]byte // storage of the two below, kept between requests
	boundary           int      // segments before it are readable
	reads, writes      [][]byte // what is left
	readable, writable int      // bytes left
	written            int      // bytes
	offered            int      // bytes readable at first
	index              uint16   // of its entry in the available ring
}

var (
	_ io.ReaderFrom = (*Chain)(nil)
	_ io.WriterTo   = (*Chain)(nil)
)

// Readable is the number of device-readable bytes left.
func (c *Chain) Readable() int { return c.readable }

// Writable is the number of device-writable bytes left.
func (c *Chain) Writable() int { return c.writable }

// Written is the number of bytes written so far, by Write and SkipWrite.
func (c *Chain) Written() int { return c.written }

// Read takes the next readable bytes, and is at its end with io.EOF.
func (c *Chain) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n := 0
	for _, segment := range c.reads {
		if n == len(p) {
			break
		}
		n += copy(p[n:], segment)
	}
	if n == 0 {
		return 0, io.EOF
	}
	c.SkipRead(n)
	return n, nil
}

// Write fills the next writable bytes; io.ErrShortWrite means that not all of p
// had room.
func (c *Chain) Write(p []byte) (int, error) {
	n := 0
	for _, segment := range c.writes {
		if n == len(p) {
			break
		}
		n += copy(segment, p[n:])
	}
	c.SkipWrite(n)
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// WriteTo gives w the rest of the readable part, as it lies in guest memory:
// io.Copy needs no buffer.
func (c *Chain) WriteTo(w io.Writer) (total int64, err error) {
	for len(c.reads) > 0 {
		first := c.reads[0]
		n, err := w.Write(first)
		c.SkipRead(n)
		total += int64(n)
		if err == nil && n < len(first) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// ReadFrom fills the rest of the writable part from r, without a buffer. It is
// io.ErrShortWrite when r has more, of which a byte is lost then.
func (c *Chain) ReadFrom(r io.Reader) (total int64, err error) {
	for err == nil && len(c.writes) > 0 {
		var n int
		n, err = r.Read(c.writes[0])
		c.SkipWrite(n)
		total += int64(n)
	}
	if err == nil {
		var probe [1]byte
		if _, err = io.ReadFull(r, probe[:]); err == nil {
			err = io.ErrShortWrite
		}
	}
	if err == io.EOF {
		err = nil
	}
	return total, err
}

// ReadSegments is what Read has left, as slices of guest memory for writev and
// the like. It is good until the next call for c; SkipRead says how far the use of it came.
func (c *Chain) ReadSegments() [][]byte { return c.reads }

// WriteSegments is what Write has left, likewise for readv; then SkipWrite.
func (c *Chain) WriteSegments() [][]byte { return c.writes }

// SkipRead passes over n readable bytes, or what is left of them.
func (c *Chain) SkipRead(n int) {
	n = min(n, c.readable)
	c.reads = skip(c.reads, n)
	c.readable -= n
}

// SkipWrite counts n writable bytes as written, or what is left of them.
func (c *Chain) SkipWrite(n int) {
	n = min(n, c.writable)
	c.writes = skip(c.writes, n)
	c.writable -= n
	c.written += n
}

// skip cuts n bytes off the front, and segments that are used up with them.
func skip(segments [][]byte, n int) [][]byte {
	for n > 0 {
		first := segments[0]
		if n < len(first) {
			segments[0] = first[n:]
			break
		}
		n -= len(first)
		segments = segments[1:]
	}
	return segments
}

// Flags of a descriptor (§2.7.5).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

const descSize = 16 // bytes

type descriptor struct {
	addr  Addr
	len   uint32
	flags uint16
	next  uint16
}

// descriptorAt is our copy of an entry of a table, which is looked at once.
func descriptorAt(table []byte, i int) descriptor {
	b := [descSize]byte(table[i*descSize:])
	return descriptor{
		addr:  Addr(binary.LittleEndian.Uint64(b[0:])),
		len:   binary.LittleEndian.Uint32(b[8:]),
		flags: binary.LittleEndian.Uint16(b[12:]),
		next:  binary.LittleEndian.Uint16(b[14:]),
	}
}

// maxIndirect bounds a chain that goes on in an indirect table. The
// specification says queue size (§2.7.5.3.1), but Linux fills such tables beyond
// it (drivers/virtio/virtio_ring.c, virtqueue_add_split); 1024 is what one
// readv takes.
const maxIndirect = 1024 // descriptors

var (
	errOrder    = errors.New("virtio: a readable descriptor follows a writable one (§2.7.4.2)")
	errTooLong  = errors.New("virtio: chain holds 4 GiB or more (§2.7.5)")
	errEndless  = errors.New("virtio: chain has more descriptors than its queue (§2.7.5)")
	errNested   = errors.New("virtio: indirect table within an indirect table (§2.7.5.3.1)")
	errBoth     = errors.New("virtio: descriptor is indirect and has a next (§2.7.5.3.1)")
	errIndirect = errors.New("virtio: indirect descriptor, which was not negotiated (§2.7.5.3.1)")
)

// parse follows the descriptors from head and fills c with what they say, once
// all of it is found right.
func (q *Queue) parse(c *Chain, head uint16) error {
	c.reset(head)
	table, limit, indirect := q.desc, int(q.size), false
	for i, steps := head, 0; ; steps++ {
		if int(i) >= len(table)/descSize {
			return fmt.Errorf("virtio: descriptor %d of a table of %d", i, len(table)/descSize)
		}
		if steps >= limit {
			return errEndless
		}
		d := descriptorAt(table, int(i))
		if d.flags&descIndirect != 0 {
			if indirect {
				return errNested
			}
			var err error
			if table, err = q.indirectTable(d); err != nil {
				return err
			}
			i, limit, indirect = 0, max(limit, maxIndirect)+1, true // and this one
			continue
		}
		if err := c.add(q.mem, d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			c.offered = c.readable
			c.reads, c.writes = c.segments[:c.boundary], c.segments[c.boundary:]
			return nil
		}
		i = d.next
	}
}

// indirectTable is the table that d refers to. The write flag says nothing
// there (§2.7.5.3.2).
func (q *Queue) indirectTable(d descriptor) ([]byte, error) {
	switch {
	case q.features&FeatureIndirectDesc == 0:
		return nil, errIndirect
	case d.flags&descNext != 0:
		return nil, errBoth
	case d.len == 0 || d.len%descSize != 0:
		return nil, fmt.Errorf("virtio: indirect table of %d bytes (§2.7.5.3)", d.len)
	}
	table, err := q.mem.Slice(d.addr, uint64(d.len))
	if err != nil {
		return nil, fmt.Errorf("virtio: indirect table: %w", err)
	}
	return table, nil
}

func (c *Chain) reset(head uint16) {
	*c = Chain{Head: head, index: c.index, segments: c.segments[:0]}
}

// add appends the segment of d. One without bytes is tolerated: it names no memory.
func (c *Chain) add(mem Memory, d descriptor) error {
	if d.flags&descWrite == 0 && c.writable > 0 {
		return errOrder
	}
	if d.len == 0 {
		return nil
	}
	if uint64(d.len) > 1<<32-1-uint64(c.readable+c.writable) {
		return errTooLong
	}
	segment, err := mem.Slice(d.addr, uint64(d.len))
	if err != nil {
		return fmt.Errorf("virtio: descriptor: %w", err)
	}
	c.segments = append(c.segments, segment)
	if d.flags&descWrite != 0 {
		c.writable += len(segment)
		return nil
	}
	c.readable += len(segment)
	c.boundary = len(c.segments)
	return nil
}
