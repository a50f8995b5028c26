package checkpoint

import (
	"bytes"
	"errors"
	"testing"
)

type file struct{ b []byte }

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if n := int(off) + len(p); n > len(f.b) {
		f.b = append(f.b, make([]byte, n-len(f.b))...)
	}
	return copy(f.b[off:], p), nil
}

type description struct {
	Name   string
	Chunks []Chunk
}

func written(t testing.TB) []byte {
	f := new(file)
	w := NewWriter(f)
	d := description{Name: "x"}
	for _, s := range []string{"one", "two"} {
		c, err := w.Write([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		d.Chunks = append(d.Chunks, c)
	}
	if err := w.Finish(d); err != nil {
		t.Fatal(err)
	}
	return f.b
}

func read(b []byte) (d description, parts []string, err error) {
	r, err := NewReader(bytes.NewReader(b), int64(len(b)), &d)
	if err != nil {
		return d, nil, err
	}
	for _, c := range d.Chunks {
		b, err := r.Read(c)
		if err != nil {
			return d, nil, err
		}
		parts = append(parts, string(b))
	}
	return d, parts, nil
}

func TestRoundTrip(t *testing.T) {
	d, parts, err := read(written(t))
	if err != nil || d.Name != "x" || len(parts) != 2 || parts[0] != "one" || parts[1] != "two" {
		t.Fatalf("%+v %q %v", d, parts, err)
	}
}

// TestDamage: whichever byte is another, or wherever the file ends, it is refused.
func TestDamage(t *testing.T) {
	whole := written(t)
	for at := range whole {
		if at >= headerSize-4 && at < firstByte {
			continue // no part of anything
		}
		b := bytes.Clone(whole)
		b[at] ^= 0x40
		if _, _, err := read(b); err == nil {
			t.Errorf("byte %d changed: accepted", at)
		}
		if _, _, err := read(whole[:at]); !errors.Is(err, ErrBroken) {
			t.Errorf("ends at %d: %v", at, err)
		}
	}
}

// TestUnfinished: before Finish there is nothing that could be restored.
func TestUnfinished(t *testing.T) {
	f := new(file)
	if _, err := NewWriter(f).Write([]byte("page")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := read(f.b); !errors.Is(err, ErrBroken) {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(written(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, parts, err := read(b)
		if err != nil {
			return
		}
		for i, c := range d.Chunks { // what is given is what lies there
			if at := c.At; at < firstByte || at+uint64(c.N) > uint64(len(b)) || parts[i] != string(b[at:at+uint64(c.N)]) {
				t.Errorf("chunk %d, %+v of %d bytes: %q", i, c, len(b), parts[i])
			}
		}
	})
}
