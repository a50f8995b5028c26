package wire

import (
	"encoding/binary"
	"fmt"
	"strings"
)

var le = binary.LittleEndian

func appendString(b []byte, s string) []byte {
	b = le.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func appendTime(b []byte, t Time) []byte {
	return le.AppendUint32(le.AppendUint64(b, uint64(t.Sec)), t.Nsec)
}

func appendAttr(b []byte, a *Attr) []byte {
	for _, v := range [...]uint64{a.Ino, a.Dev, a.Rdev, a.Size, a.Blocks} {
		b = le.AppendUint64(b, v)
	}
	for _, v := range [...]uint32{a.Mode, a.Nlink, a.UID, a.GID, a.BlockSize} {
		b = le.AppendUint32(b, v)
	}
	for _, t := range [...]Time{a.Atime, a.Mtime, a.Ctime, a.Btime} {
		b = appendTime(b, t)
	}
	return b
}

// attrSize is what appendAttr appends.
const attrSize = 5*8 + 5*4 + 4*12

// decoder takes values from the front of b. After the first error it returns
// zero values.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
	d.b = nil
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.fail("ends %d bytes early", n-len(d.b))
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) u8() uint8 {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if v := d.take(2); v != nil {
		return le.Uint16(v)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if v := d.take(4); v != nil {
		return le.Uint32(v)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if v := d.take(8); v != nil {
		return le.Uint64(v)
	}
	return 0
}

// str takes a string of at most limit bytes without NUL.
func (d *decoder) str(what string, limit int) string {
	n := int(d.u16())
	if n > limit {
		d.fail("%s of %d bytes, at most %d", what, n, limit)
		return ""
	}
	s := string(d.take(n))
	if strings.IndexByte(s, 0) >= 0 {
		d.fail("%s with a NUL", what)
	}
	return s
}

// component takes a name that leads one step down and nowhere else.
func (d *decoder) component(what string) string {
	s := d.str(what, MaxName)
	if s == "" || s == "." || s == ".." || strings.IndexByte(s, '/') >= 0 {
		d.fail("%s %q is no component", what, s)
	}
	return s
}

func (d *decoder) optional(what string) string {
	if len(d.b) >= 2 && d.b[0] == 0 && d.b[1] == 0 {
		d.take(2)
		return ""
	}
	return d.component(what)
}

// count takes the length of a list whose elements have at least size bytes each.
func (d *decoder) count(what string, limit, size int) int {
	n := int(d.u16())
	if n > limit || n*size > len(d.b) {
		d.fail("%d %s, at most %d", n, what, min(limit, len(d.b)/size))
		return 0
	}
	return n
}

func (d *decoder) data(limit int) []byte {
	n := d.u32()
	if n > uint32(limit) {
		d.fail("data of %d bytes, at most %d", n, limit)
		return nil
	}
	return append([]byte(nil), d.take(int(n))...)
}

func (d *decoder) time() Time {
	t := Time{int64(d.u64()), d.u32()}
	if t.Nsec >= 1e9 {
		d.fail("time with %d nanoseconds", t.Nsec)
	}
	return t
}

func (d *decoder) attr() Attr {
	return Attr{
		Ino: d.u64(), Dev: d.u64(), Rdev: d.u64(), Size: d.u64(), Blocks: d.u64(),
		Mode: d.u32(), Nlink: d.u32(), UID: d.u32(), GID: d.u32(), BlockSize: d.u32(),
		Atime: d.time(), Mtime: d.time(), Ctime: d.time(), Btime: d.time(),
	}
}

// end is the decoder's verdict: everything taken, nothing left.
func (d *decoder) end(what string) error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	if d.err != nil {
		return fmt.Errorf("gofer: %s: %w", what, d.err)
	}
	return nil
}
