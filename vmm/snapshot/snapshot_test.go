package snapshot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func sample(t testing.TB) (path string, state, memory []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "snap")
	state, memory = []byte(`{"a":1}`), make([]byte, 8<<20)
	for i, p := range []int{0, 1, 5, 255, 256, 2047} {
		for j := range 4096 {
			memory[p*4096+j] = byte(i + j + 1)
		}
	}
	if err := Write(path, state, memory, all(memory)); err != nil {
		t.Fatal(err)
	}
	return path, state, memory
}

func all(memory []byte) iter.Seq2[int, int] {
	return func(yield func(int, int) bool) { yield(0, len(memory)) }
}

func TestRoundTrip(t *testing.T) {
	path, state, memory := sample(t)
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !bytes.Equal(f.State, state) || f.MemorySize != uint64(len(memory)) {
		t.Errorf("state %q, %d bytes of memory", f.State, f.MemorySize)
	}
	got := make([]byte, f.MemorySize)
	if _, err := f.ReadAt(got, f.MemoryAt); err != nil || !bytes.Equal(got, memory) {
		t.Errorf("the memory differs, or %v", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes on disk, %v: pages of zeroes are not holes", st.Blocks*512, err)
	}
	if left, _ := filepath.Glob(path + ".*"); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestDamage(t *testing.T) {
	path, _, _ := sample(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(whole)) }
	cases := []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "not a snapshot"},
		{"a text", []byte(strings.Repeat("hello ", 1000)), "not a snapshot"},
		{"another version", edit(func(b []byte) []byte { b[16]++; return b }), fmt.Sprintf("version %d; this program reads version %d", Version+1, Version)},
		{"a bit of the header", edit(func(b []byte) []byte { b[30] ^= 1; return b }), "header is damaged"},
		{"a bit of the state", edit(func(b []byte) []byte { b[page] ^= 1; return b }), "state is damaged"},
		{"the last page missing", whole[:len(whole)-page], "cut short"},
		{"half the header", whole[:60], "not a snapshot"},
		{"the header alone", whole[:page], "cut short"},
		{"a byte more", append(bytes.Clone(whole), 0), "added to"},
	}
	for _, c := range cases {
		p := filepath.Join(t.TempDir(), "damaged")
		if err := os.WriteFile(p, c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		if f, err := Open(p); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			if f != nil {
				f.Close()
			}
			t.Errorf("%s: %v, want one line with %q", c.name, err, c.want)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there: no error")
	}
	if err := Write("/no/such/dir/snap", nil, nil, all(nil)); err == nil {
		t.Error("a directory that is not there: no error")
	}
}

// TestLayout holds what was written in version 1: a change of it is a new version.
func TestLayout(t *testing.T) {
	if n := binary.Size(header{}); n != headerSize || headerSize > page {
		t.Errorf("a header of %d bytes, not %d", n, headerSize)
	}
}

func FuzzParse(f *testing.F) {
	path, _, memory := sample(f)
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:headerSize], int64(2*page+len(memory)))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		h, err := parse(b, size)
		if err == nil && (h.MemoryAt+h.MemorySize != uint64(size) || h.StateSize > most) {
			t.Errorf("taken: %+v in %d bytes", h, size)
		}
	})
}

func TestDraft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "draft")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	memory := bytes.Repeat([]byte{7}, 2*page)
	d, err := Begin(f, 3*page, memory, func(yield func(from, to int) bool) { yield(0, len(memory)) })
	if err != nil {
		t.Fatal(err)
	}
	if s, err := Open(path); err == nil {
		s.Close()
		t.Error("a draft is taken for a snapshot")
	}
	if err := d.Finish(make([]byte, 3*page+1)); err == nil {
		t.Error("more state than there is room for")
	}
	if err := d.Finish([]byte("state")); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := make([]byte, len(memory))
	if _, err := s.ReadAt(b, s.MemoryAt); err != nil || !bytes.Equal(b, memory) || string(s.State) != "state" {
		t.Errorf("state %q, memory %v, %v", s.State, b[:8], err)
	}
}
