// Package checkpoint is the file that a container's state is saved to: a header, pages
// of memory and of files, and at the end a description in JSON that says where they lie.
// What the description means is its users' business.
//
// Who writes the file may be a stranger. A Reader believes no length before it has
// compared it with the file's, and gives no bytes whose sum is wrong; that the sums are
// right says that the file is whole, and nothing of who made it.
package checkpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// Version is of the description too: a file of another is refused.
const Version = 1

const (
	magic      = "BLKHDCKP"
	headerSize = 40
	firstByte  = 4096 // of the pages
	// maxDescription bounds what a reader holds in memory before it knows what it reads.
	maxDescription = 256 << 20
)

var table = crc32.MakeTable(crc32.Castagnoli)

// Chunk is where bytes lie in the file, and their sum.
type Chunk struct {
	At  uint64 `json:"at"`
	N   uint32 `json:"n"`
	Sum uint32 `json:"sum"`
}

// MaxChunk is how long one can be, in bytes.
const MaxChunk = 2 << 20

// ErrBroken says that a file is no checkpoint, or a damaged one.
var ErrBroken = errors.New("the image is damaged or no checkpoint")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBroken, fmt.Sprintf(format, args...))
}

// Writer makes a file. What it has written is no checkpoint before Finish.
type Writer struct {
	f  io.WriterAt
	at uint64
}

// NewWriter writes to f, which is empty.
func NewWriter(f io.WriterAt) *Writer { return &Writer{f: f, at: firstByte} }

// Write adds at most MaxChunk bytes.
func (w *Writer) Write(b []byte) (Chunk, error) {
	if len(b) > MaxChunk {
		return Chunk{}, fmt.Errorf("checkpoint: a chunk of %d bytes", len(b))
	}
	c := Chunk{At: w.at, N: uint32(len(b)), Sum: crc32.Checksum(b, table)}
	if _, err := w.f.WriteAt(b, int64(w.at)); err != nil {
		return c, fmt.Errorf("checkpoint: write: %w", err)
	}
	w.at += uint64(len(b))
	return c, nil
}

// Finish adds the description, and the header that makes a checkpoint of it all.
func (w *Writer) Finish(description any) error {
	b, err := json.Marshal(description)
	if err != nil {
		return fmt.Errorf("checkpoint: describe: %w", err)
	}
	if len(b) > maxDescription {
		return fmt.Errorf("checkpoint: a description of %d bytes is more than any reader takes", len(b))
	}
	if _, err := w.f.WriteAt(b, int64(w.at)); err != nil {
		return fmt.Errorf("checkpoint: write: %w", err)
	}
	le := binary.LittleEndian
	h := make([]byte, headerSize)
	copy(h, magic)
	le.PutUint32(h[8:], Version)
	le.PutUint32(h[12:], crc32.Checksum(b, table))
	le.PutUint64(h[16:], w.at)
	le.PutUint64(h[24:], uint64(len(b)))
	le.PutUint32(h[32:], crc32.Checksum(h[:32], table))
	if _, err := w.f.WriteAt(h, 0); err != nil {
		return fmt.Errorf("checkpoint: write: %w", err)
	}
	return nil
}

// Reader reads one.
type Reader struct {
	f   io.ReaderAt
	end uint64 // of the pages
}

// NewReader reads the description of f, of size bytes, into description.
func NewReader(f io.ReaderAt, size int64, description any) (*Reader, error) {
	h := make([]byte, headerSize)
	if _, err := f.ReadAt(h, 0); err != nil {
		return nil, broken("no header: %v", err)
	}
	le := binary.LittleEndian
	if string(h[:8]) != magic {
		return nil, broken("it does not begin as one")
	}
	if v := le.Uint32(h[8:]); v != Version {
		return nil, fmt.Errorf("checkpoint: the image has version %d, this bulkhead reads %d", v, Version)
	}
	if crc32.Checksum(h[:32], table) != le.Uint32(h[32:]) {
		return nil, broken("the sum of its header is wrong")
	}
	at, n := le.Uint64(h[16:]), le.Uint64(h[24:])
	if at < firstByte || at > math.MaxInt64 || n > maxDescription || int64(at) > size || int64(n) > size-int64(at) {
		return nil, broken("its description would lie at %d, %d bytes of a file of %d", at, n, size)
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, int64(at)); err != nil {
		return nil, broken("description: %v", err)
	}
	if crc32.Checksum(b, table) != le.Uint32(h[12:]) {
		return nil, broken("the sum of its description is wrong")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(description); err != nil {
		return nil, broken("description: %v", err)
	}
	return &Reader{f: f, end: at}, nil
}

// Read gives the bytes of c.
func (r *Reader) Read(c Chunk) ([]byte, error) {
	if c.N > MaxChunk || c.At < firstByte || c.At > r.end || uint64(c.N) > r.end-c.At {
		return nil, broken("%d bytes at %d are not in it", c.N, c.At)
	}
	b := make([]byte, c.N)
	if _, err := r.f.ReadAt(b, int64(c.At)); err != nil {
		return nil, broken("%v", err)
	}
	if crc32.Checksum(b, table) != c.Sum {
		return nil, broken("the sum of %d bytes at %d is wrong", c.N, c.At)
	}
	return b, nil
}
