package boot

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"math/bits"

	"github.com/ulikunitz/xz/lzma"
)

// The .xz container (https://tukaani.org/xz/xz-file-format.txt, cited as §3.1) is
// read here since Linux packs its image with the filter for x86 branches
// (scripts/xz_wrap.sh), which github.com/ulikunitz/xz does not have.
const (
	xzMagic   = "\xfd7zXZ\x00"
	filterX86 = 0x04 // §5.3.2
	filterLZ2 = 0x21 // §5.3.1
)

var errXZ = errors.New("the data is damaged")

// checks are the integrity checks of a stream (§2.1.1.2).
var checks = map[byte]func() hash.Hash{
	1: func() hash.Hash { return crc32.NewIEEE() },
	4: func() hash.Hash { return crc64.New(crc64.MakeTable(crc64.ECMA)) },
}

// xz is one stream. Its index, at the end, repeats what the blocks have said
// and is not read.
type xz struct {
	from    *counter
	size    uint64 // of the content: a larger dictionary is of no use
	check   func() hash.Hash
	sum     hash.Hash
	content io.Reader // of the block, nil between blocks
	started bool
}

func newXZ(r *bufio.Reader, size uint64) *xz { return &xz{from: &counter{r: r}, size: size} }

// counter knows where it is, for paddings depend on it.
type counter struct {
	r *bufio.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// ReadByte keeps lzma from putting a buffer of its own between.
func (c *counter) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

func (x *xz) Read(p []byte) (int, error) {
	for {
		if x.content == nil {
			if err := x.begin(); err != nil {
				return 0, err
			}
		}
		n, err := x.content.Read(p)
		x.sum.Write(p[:n])
		if err == io.EOF {
			err = x.end()
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// begin reads a block's header (§3.1), or finds the index and answers io.EOF.
func (x *xz) begin() error {
	if !x.started {
		if err := x.header(); err != nil {
			return err
		}
		x.started = true
	}
	size, err := x.from.ReadByte()
	if err != nil || size == 0 {
		return cmpEOF(err)
	}
	b := make([]byte, (int(size)+1)*4)
	b[0] = size
	if _, err := io.ReadFull(x.from, b[1:]); err != nil {
		return unexpected(err)
	}
	b, sum := b[:len(b)-4], le.Uint32(b[len(b)-4:])
	if crc32.ChecksumIEEE(b) != sum {
		return errXZ
	}
	x.sum = x.check()
	x.content, err = x.filters(b[1:])
	return err
}

// cmpEOF is the end of the stream for no error, where an index begins.
func cmpEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return unexpected(err)
}

// header reads the stream's (§2.1.1).
func (x *xz) header() error {
	var b [12]byte
	if _, err := io.ReadFull(x.from, b[:]); err != nil {
		return unexpected(err)
	}
	if string(b[:6]) != xzMagic || b[6] != 0 || crc32.ChecksumIEEE(b[6:8]) != le.Uint32(b[8:]) {
		return errXZ
	}
	if x.check = checks[b[7]]; x.check == nil {
		return fmt.Errorf("its check of type %d is neither CRC32 nor CRC64", b[7])
	}
	return nil
}

// filters reads the rest of a block's header and builds the chain that it names.
func (x *xz) filters(b []byte) (io.Reader, error) {
	flags, r := b[0], bytes.NewReader(b[1:])
	for _, bit := range []byte{0x40, 0x80} { // sizes that LZMA2 tells anyway
		if flags&bit != 0 {
			if _, err := binary.ReadUvarint(r); err != nil {
				return nil, errXZ
			}
		}
	}
	var ids []uint64
	var props []byte
	for range flags&3 + 1 {
		id, err := binary.ReadUvarint(r)
		if err != nil {
			return nil, errXZ
		}
		n, err := binary.ReadUvarint(r)
		if err != nil || n > uint64(r.Len()) {
			return nil, errXZ
		}
		props = make([]byte, n)
		_, _ = r.Read(props)
		ids = append(ids, id)
		if id == filterX86 && n != 0 {
			return nil, errors.New("its x86 filter begins elsewhere than at 0")
		}
	}
	if ids[len(ids)-1] != filterLZ2 || len(props) != 1 || props[0] > 40 || len(ids) > 2 || len(ids) == 2 && ids[0] != filterX86 {
		return nil, fmt.Errorf("its filters %#x are not LZMA2, alone or after the one for x86", ids)
	}
	dict := uint64(2|props[0]&1) << (props[0]/2 + 11) // §5.3.1
	if dict > windowLimit {
		return nil, fmt.Errorf("its dictionary of %d MiB is larger than %d", dict>>20, windowLimit>>20)
	}
	dict = max(min(dict, x.size), lzma.MinDictCap)
	lz, err := lzma.Reader2Config{DictCap: int(dict)}.NewReader2(x.from)
	if err != nil || len(ids) == 1 {
		return lz, err
	}
	return &branches{from: lz}, nil
}

// end reads what follows a block: padding to four bytes, and the check (§3.3, §3.4).
func (x *xz) end() error {
	b := make([]byte, int(-x.from.n&3)+x.sum.Size())
	if _, err := io.ReadFull(x.from, b); err != nil {
		return unexpected(err)
	}
	want := x.sum.Sum(nil)
	got := b[len(b)-len(want):]
	for i := range got {
		if got[i] != want[len(want)-1-i] { // little-endian, where hash.Hash is big
			return errXZ
		}
	}
	x.content = nil
	return nil
}

// branches undoes the x86 filter: the encoder replaced the relative target of
// each call and jump (e8, e9) by the absolute one, so that calls of one function
// look alike.
type branches struct {
	from  io.Reader
	buf   [64 << 10]byte
	r, ok int    // buf[r:ok] is decoded
	n     int    // buf[ok:n] is not
	pos   uint32 // of buf[ok] in the content
	near  uint32 // see decode
	err   error
}

func (f *branches) Read(p []byte) (int, error) {
	for f.r == f.ok {
		if f.err != nil {
			if f.ok == f.n {
				return 0, f.err
			}
			f.ok = f.n // too few bytes for another target
			break
		}
		f.n = copy(f.buf[:], f.buf[f.ok:f.n])
		f.r, f.ok = 0, 0
		var n int
		n, f.err = f.from.Read(f.buf[f.n:])
		f.n += n
		done := f.decode(f.buf[:f.n])
		f.ok += done
		f.pos += uint32(done)
	}
	n := copy(p, f.buf[f.r:f.ok])
	f.r += n
	return n, nil
}

// decode undoes the filter in b, as far as whole instructions of five bytes go,
// and says how far. The encoder left a target alone whose top byte was neither
// 0 nor 0xff, and looked at the opcodes among the three bytes before to guess
// whether this is an instruction at all. near has a bit for each of those that
// was left alone, the nearest lowest.
func (f *branches) decode(b []byte) int {
	i := 0
	for ; i+5 <= len(b); i++ {
		opcode := b[i]&0xfe == 0xe8
		if !opcode {
			f.near = f.near << 1 & 7
			continue
		}
		at := bits.Len32(f.near) // how far back the farthest one is
		doubt := bits.OnesCount32(f.near) > 1 || at > 0 && sign(b[i+4-at])
		if doubt || !sign(b[i+4]) {
			f.near = (f.near<<1 | 1) & 7
			continue
		}
		le.PutUint32(b[i+1:], relative(le.Uint32(b[i+1:]), f.pos+uint32(i)+5, at))
		f.near = 0
		i += 4
	}
	return i
}

// relative is the target that the encoder made absolute. Where an opcode stood
// at bytes before, the encoder went on until the byte that this opcode would
// have as its own sign was none.
func relative(target, next uint32, at int) uint32 {
	for {
		rel := target - next
		shift := 32 - 8*at
		if at == 0 || !sign(byte(rel>>(shift-8))) {
			return uint32(int32(rel<<7) >> 7) // 25 bits, signed
		}
		target = rel ^ (1<<shift - 1)
	}
}

// sign tells whether b can be the top byte of a near target.
func sign(b byte) bool { return b == 0 || b == 0xff }
