package memory

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

const large = 64 << 20

// TestLookingCommitsNothing: who reads memory that nobody stored into finds zeros,
// and takes none; so does the Sentry on a program's behalf.
func TestLookingCommitsNothing(t *testing.T) {
	for _, private := range []bool{false, true} {
		a, p := newTestArena(t, private, 0)
		s := newTestSpace(t, a)
		at := mapAt(t, s, MapRequest{Length: large, Prot: rw})
		for off := Addr(0); off < large; off += PageSize {
			if v, err := load(s, at+off); v != 0 || err != nil {
				t.Fatalf("load at %#x: %d, %v", off, v, err)
			}
		}
		if n := p.maps.Load(); n > large/hugeSize+1 {
			t.Errorf("%d calls of Map for %d huge pages", n, large/hugeSize)
		}
		b := bytes.Repeat([]byte{1}, large)
		if n, err := s.Read(at, b); n != large || err != nil || !bytes.Equal(b, make([]byte, large)) {
			t.Errorf("read %d: %v", n, err)
		}
		if text, err := s.String(at+12345, 100); text != "" || err != nil {
			t.Errorf("string %q, %v", text, err)
		}
		if n := a.Usage(); n != 0 {
			t.Errorf("private %v: %d bytes in use after loads", private, n)
		}
		s.Release()
	}
}

// TestStoreIntoZeros: a store finds a page of the program's own, whatever has been
// done to the rights meanwhile, and nobody else sees it.
func TestStoreIntoZeros(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *Space, Addr) *Space{
		"nothing": func(_ *testing.T, s *Space, _ Addr) *Space { return s },
		"none and back": func(t *testing.T, s *Space, at Addr) *Space {
			protect(t, s, at, large, 0)
			protect(t, s, at, large, rw)
			return s
		},
		"read-only and back": func(t *testing.T, s *Space, at Addr) *Space {
			protect(t, s, at, large, platform.Read)
			protect(t, s, at, large, rw)
			return s
		},
		"a part": func(t *testing.T, s *Space, at Addr) *Space {
			protect(t, s, at+large/4, large/2, 0)
			protect(t, s, at+large/4, large/2, rw)
			return s
		},
		"some stored before": func(t *testing.T, s *Space, at Addr) *Space {
			if err := store(s, at+large/2+PageSize, 1); err != nil {
				t.Fatal(err)
			}
			protect(t, s, at, large, platform.Read)
			protect(t, s, at, large, rw)
			return s
		},
		"a child": func(t *testing.T, s *Space, _ Addr) *Space {
			c, err := s.Fork()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Release)
			return c
		},
		"let go": func(t *testing.T, s *Space, at Addr) *Space {
			if err := s.Advise(at, large, unix.MADV_DONTNEED); err != nil {
				t.Fatal(err)
			}
			return s
		},
	} {
		for _, private := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				a, _ := newTestArena(t, private, 0)
				s, other := newTestSpace(t, a), newTestSpace(t, a)
				t.Cleanup(func() { s.Release(); other.Release() })
				at := mapAt(t, s, MapRequest{Length: large, Prot: rw})
				far := mapAt(t, other, MapRequest{Length: large, Prot: rw})
				where := at + large/2
				for _, l := range []struct {
					s  *Space
					at Addr
				}{{s, where}, {other, far}} {
					if v, err := load(l.s, l.at); v != 0 || err != nil {
						t.Fatalf("load: %d, %v", v, err)
					}
				}
				now := change(t, s, at)
				if err := store(now, where, 7); err != nil {
					t.Fatal(err)
				}
				if v, err := load(now, where); v != 7 || err != nil {
					t.Errorf("what was stored reads as %d, %v", v, err)
				}
				if v, err := load(other, far); v != 0 || err != nil {
					t.Errorf("another space has %d, %v", v, err)
				}
				if v, err := load(now, where+16*PageSize*64); v != 0 || err != nil {
					t.Errorf("another page has %d, %v", v, err)
				}
			})
		}
	}
}

// TestSealedZeros: nobody can map the zeros to write to them.
func TestSealedZeros(t *testing.T) {
	a, _ := newTestArena(t, false, 0)
	if b, err := unix.Mmap(a.zeros.fd, 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		unix.Munmap(b)
		t.Error("the zeros can be mapped to be written")
	}
	if _, err := unix.Pwrite(a.zeros.fd, []byte{1}, 0); err == nil {
		t.Error("the zeros can be written")
	}
}

func protect(t *testing.T, s *Space, at Addr, n uint64, access platform.Access) {
	t.Helper()
	if err := s.Protect(at, n, access); err != nil {
		t.Fatal(err)
	}
}
