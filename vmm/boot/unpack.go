package boot

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz/lzma"
)

// format is a compression that Linux has for its own image.
type format struct {
	name  string
	magic string
	sized bool // its own format ends with the size of the content
	// open starts a decoder of r, whose content has size bytes.
	open func(r *bufio.Reader, size uint64) (io.Reader, error)
}

// windowLimit is the largest window of a decoder, in bytes: zstd -22 has 128 MiB.
const windowLimit = 256 << 20

// formats is usr/Kconfig's list; CONFIG_KERNEL_… names the same.
var formats = []format{
	{"gzip", "\x1f\x8b", true, openGzip},
	{"bzip2", "BZh", false, func(r *bufio.Reader, _ uint64) (io.Reader, error) { return bzip2.NewReader(r), nil }},
	{"lzma", "\x5d\x00\x00", false, openLZMA},
	{"xz", xzMagic, false, func(r *bufio.Reader, size uint64) (io.Reader, error) { return newXZ(r, size), nil }},
	{"lzo", "\x89LZO", false, nil},
	{"lz4", "\x02\x21\x4c\x18", false, func(r *bufio.Reader, _ uint64) (io.Reader, error) { return lz4.NewReader(r), nil }},
	{"zstd", "\x28\xb5\x2f\xfd", false, openZstd},
}

func openGzip(r *bufio.Reader, _ uint64) (io.Reader, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return z, nil
}

func openZstd(r *bufio.Reader, _ uint64) (io.Reader, error) {
	// One goroutine: a sandbox's start should not depend on a second core.
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(windowLimit))
	if err != nil {
		return nil, err
	}
	return z, nil
}

func openLZMA(r *bufio.Reader, _ uint64) (io.Reader, error) {
	return lzma.ReaderConfig{DictCap: windowLimit}.NewReader(r)
}

// unpacker is a vmlinux that comes out of a decoder: it can be read in
// ascending order only, but for its first headLen bytes.
type unpacker struct {
	decoder io.Reader
	r       *bufio.Reader
	at      uint64 // of r
	size    uint64
	chunk   [64 << 10]byte
}

func (b *bzImage) open(file io.ReaderAt) (*unpacker, error) {
	packed := bufio.NewReaderSize(io.NewSectionReader(file, int64(b.payload), int64(b.length)), 256<<10)
	r, err := b.format.open(packed, b.unpacked)
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", b.format.name, err)
	}
	named := &renamed{r, b.format.name}
	return &unpacker{decoder: r, r: bufio.NewReaderSize(named, headLen), size: b.unpacked}, nil
}

// renamed says of an error which decoder it is from.
type renamed struct {
	io.Reader
	name string
}

func (r *renamed) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("unpack %s: %w", r.name, err)
	}
	return n, err
}

func (u *unpacker) head() ([]byte, error) {
	b, err := u.r.Peek(int(min(headLen, u.size)))
	return b, unexpected(err)
}

var zeros [4096]byte

// fill makes p, which is zero, the len(p) bytes from off on. A page of zeros is
// left alone: a stripped vmlinux has its .bss as megabytes of them.
func (u *unpacker) fill(p []byte, off uint64) error {
	if off < u.at {
		return errors.New("its segments share bytes of the file")
	}
	if err := u.skip(off - u.at); err != nil {
		return err
	}
	for len(p) > 0 {
		b := u.chunk[:min(len(p), len(u.chunk))]
		n, err := io.ReadFull(u.r, b)
		u.at += uint64(n)
		if err != nil {
			return unexpected(err)
		}
		for len(b) > 0 {
			n := min(len(b), len(zeros))
			if !bytes.Equal(b[:n], zeros[:n]) {
				copy(p, b[:n])
			}
			p, b = p[n:], b[n:]
		}
	}
	return nil
}

func (u *unpacker) skip(n uint64) error {
	m, err := io.CopyN(io.Discard, u.r, int64(n))
	u.at += uint64(m)
	return unexpected(err)
}

// finish reads to the end, for the checksum and the size.
func (u *unpacker) finish() error {
	n, err := io.Copy(io.Discard, io.LimitReader(u.r, int64(u.size-u.at)+1))
	if u.at += uint64(n); err == nil && u.at != u.size {
		err = fmt.Errorf("unpacked to another size than the %d bytes that it says", u.size)
	}
	return err
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// close ends what the decoder holds; zstd's is the only one that has anything.
func (u *unpacker) close() {
	if z, ok := u.decoder.(*zstd.Decoder); ok {
		z.Close()
	}
}
