package bus

import (
	"bytes"
	"testing"
)

// memory is a device of plain bytes; an access past its end panics.
type memory []byte

func (m memory) Read(off uint64, b []byte)  { copy(b, m[off:off+uint64(len(b))]) }
func (m memory) Write(off uint64, b []byte) { copy(m[off:off+uint64(len(b))], b) }

func TestAccess(t *testing.T) {
	var b Bus
	low, high := make(memory, 4), make(memory, 16)
	for _, d := range []struct {
		at uint64
		m  memory
	}{{0x100, high}, {0x10, low}} { // in no order
		if err := b.Add(d.at, uint64(len(d.m)), "memory", d.m); err != nil {
			t.Fatal(err)
		}
	}
	cases := []struct {
		at    uint64
		n     int
		there bool
	}{
		{0x10, 4, true}, {0x13, 1, true}, {0x13, 2, false}, {0x14, 1, false}, {0xf, 1, false}, {0xf, 2, false},
		{0x100, 8, true}, {0x10f, 1, true}, {0x10f, 2, false}, {0, 1, false}, {^uint64(0), 8, false}, {0x110, 1, false},
	}
	for _, c := range cases {
		in := bytes.Repeat([]byte{0x5a}, c.n)
		if got := b.Write(c.at, in); got != c.there {
			t.Errorf("write of %d at %#x: %v", c.n, c.at, got)
		}
		out := make([]byte, c.n)
		want := byte(0x5a)
		if !c.there {
			want = 0xff
		}
		if got := b.Read(c.at, out); got != c.there || !bytes.Equal(out, bytes.Repeat([]byte{want}, c.n)) {
			t.Errorf("read of %d at %#x: %v, % x", c.n, c.at, got, out)
		}
	}
}

func TestOverlaps(t *testing.T) {
	cases := []struct {
		at, size uint64
		fits     bool
	}{
		{0x0f, 1, true}, {0x0f, 2, false}, {0x10, 8, false}, {0x12, 1, false}, {0x17, 4, false}, {0x18, 4, true},
		{0, 0x100, false}, {0x20, 0, false}, {^uint64(0), 1, true}, {^uint64(0), 2, false},
	}
	for _, c := range cases {
		var b Bus
		if err := b.Add(0x10, 8, "first", make(memory, 8)); err != nil {
			t.Fatal(err)
		}
		if err := b.Add(c.at, c.size, "second", make(memory, c.size)); (err == nil) != c.fits {
			t.Errorf("%d bytes at %#x beside 8 at 0x10: %v", c.size, c.at, err)
		}
	}
}
