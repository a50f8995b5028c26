// Package snapshot is the file that keeps a machine: a page of header, the
// machine's state as JSON, and its memory, page for page, from where it can be
// mapped. Pages of zeroes are holes. It knows nothing of what the state says.
//
// The header has a version, and checksums of itself and of the state. Memory has
// none, since it is read as the guest comes to it; that the file is as long as
// the header says is what tells a copy cut short.
package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
)

// Version of the file and of the state in it: another is refused.
const Version = 2

const (
	page = 4096
	most = 64 << 20 // bytes of state; a vCPU takes some 20 KiB
)

var magic = [16]byte{'b', 'u', 'l', 'k', 'h', 'e', 'a', 'd', ' ', 's', 'n', 'a', 'p', '\r', '\n', 0}

// header is the first page, little-endian; the rest of the page is zero.
type header struct {
	Magic      [16]byte
	Version    uint32
	_          uint32
	StateSize  uint64 // bytes from the second page on
	MemoryAt   uint64
	MemorySize uint64
	StateSum   [sha256.Size]byte
	Sum        [sha256.Size]byte // of all above
}

const headerSize = 16 + 8 + 3*8 + 2*sha256.Size

func (h *header) bytes() []byte {
	var b bytes.Buffer
	// A buffer takes everything, and header has fixed sizes.
	_ = binary.Write(&b, binary.LittleEndian, h)
	return b.Bytes()
}

func (h *header) sum() [sha256.Size]byte { return sha256.Sum256(h.bytes()[:headerSize-sha256.Size]) }

// parse reads the header out of the file's first bytes, of size bytes in all.
func parse(b []byte, size int64) (header, error) {
	var h header
	if len(b) < headerSize || !bytes.Equal(b[:len(magic)], magic[:]) {
		return h, errors.New("not a snapshot")
	}
	// The length was looked at.
	_ = binary.Read(bytes.NewReader(b), binary.LittleEndian, &h)
	switch {
	case h.Version != Version:
		return h, fmt.Errorf("a snapshot of version %d; this program reads version %d", h.Version, Version)
	case h.Sum != h.sum():
		return h, errors.New("its header is damaged: the checksum differs")
	case h.StateSize > most || h.MemoryAt < page+h.StateSize || h.MemoryAt > up(page+most) || h.MemoryAt%page != 0 || h.MemorySize%page != 0 || h.MemorySize > 1<<62:
		return h, errors.New("its header makes no sense")
	case uint64(size) != h.MemoryAt+h.MemorySize:
		return h, fmt.Errorf("cut short, or added to: %d bytes, and the header says %d", size, h.MemoryAt+h.MemorySize)
	}
	return h, nil
}

func up(n uint64) uint64 { return (n + page - 1) &^ (page - 1) }

// Write makes the file at path, which comes to be when it is complete. An older
// one at path lives on for those that have it mapped. Memory is all of the
// guest's, and used the ranges of it, whole pages, that may not be zero.
func Write(path string, state, memory []byte, used iter.Seq2[int, int]) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err = WriteTo(f, state, memory, used); err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", path, err)
	}
	return nil
}

// WriteTo writes it to a file that is empty, and forces nothing to the disk.
func WriteTo(f *os.File, state, memory []byte, used iter.Seq2[int, int]) error {
	d, err := Begin(f, len(state), memory, used)
	if err != nil {
		return err
	}
	return d.Finish(state)
}

// Draft is a file that has a machine's memory, and is no snapshot yet.
type Draft struct {
	file     *os.File
	at, size int64 // of the memory
}

// Begin writes the memory to a file that is empty, and leaves room for so many bytes of state.
func Begin(f *os.File, room int, memory []byte, used iter.Seq2[int, int]) (*Draft, error) {
	if room > most {
		return nil, fmt.Errorf("%d bytes of state; there is room for %d", room, most)
	}
	d := &Draft{f, int64(up(page + uint64(room))), int64(len(memory))}
	if err := f.Truncate(d.at + d.size); err != nil {
		return nil, err
	}
	for from, to := range used {
		if err := writeSparse(f, memory[from:to], d.at+int64(from)); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Finish makes it a snapshot.
func (d *Draft) Finish(state []byte) error {
	if page+int64(len(state)) > d.at {
		return fmt.Errorf("%d bytes of state; there is room for %d", len(state), d.at-page)
	}
	h := header{Magic: magic, Version: Version, StateSize: uint64(len(state)), StateSum: sha256.Sum256(state),
		MemoryAt: uint64(d.at), MemorySize: uint64(d.size)}
	h.Sum = h.sum()
	if _, err := d.file.WriteAt(state, page); err != nil {
		return err
	}
	_, err := d.file.WriteAt(h.bytes(), 0)
	return err
}

// Close closes the file.
func (d *Draft) Close() error { return d.file.Close() }

var zeroes [page]byte

// writeSparse writes the runs of pages in b that are not zero.
func writeSparse(f *os.File, b []byte, at int64) error {
	for from := 0; from < len(b); {
		to := from
		for to < len(b) && !bytes.Equal(b[to:to+page], zeroes[:]) {
			to += page
		}
		if to > from {
			if _, err := f.WriteAt(b[from:to], at+int64(from)); err != nil {
				return err
			}
		}
		from = to + page
	}
	return nil
}

// File is an open snapshot.
type File struct {
	*os.File
	State      []byte
	MemoryAt   int64
	MemorySize uint64
}

// Open reads all but the memory.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return From(f)
}

// From is Open of a file that is open, which it closes if it fails.
func From(f *os.File) (*File, error) {
	s, err := read(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("snapshot %s: %w", f.Name(), err)
	}
	return s, nil
}

func read(f *os.File) (*File, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, headerSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	h, err := parse(b[:n], st.Size())
	if err != nil {
		return nil, err
	}
	state := make([]byte, h.StateSize)
	if _, err := f.ReadAt(state, page); err != nil {
		return nil, err
	}
	if sha256.Sum256(state) != h.StateSum {
		return nil, errors.New("its state is damaged: the checksum differs")
	}
	return &File{File: f, State: state, MemoryAt: int64(h.MemoryAt), MemorySize: h.MemorySize}, nil
}
