package memory

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

func testFile(t *testing.T, a *Arena, content []byte) (*os.File, *HostFile) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	h := NewHostFile(a, int(f.Fd()), true, func() (uint64, error) {
		st, err := f.Stat()
		if err != nil {
			return 0, err
		}
		return uint64(st.Size()), nil
	})
	t.Cleanup(func() {
		h.Close()
		h.Close()
		f.Close()
	})
	return f, h
}

func TestHostFile(t *testing.T) {
	for _, private := range []bool{true, false} {
		a, _ := newTestArena(t, private, 0)
		content := bytes.Repeat([]byte{'x'}, 5*PageSize+100)
		f, h := testFile(t, a, content)
		s := newTestSpace(t, a)
		mine := mapAt(t, s, MapRequest{Length: 8 * PageSize, Prot: rw, Object: h})
		ours := mapAt(t, s, MapRequest{Length: 8 * PageSize, Prot: rw, Object: h, Shared: true})
		if v, err := load(s, ours); v != 0x7878787878787878 || err != nil {
			t.Errorf("shared: %#x, %v", v, err)
		}
		if v, err := load(s, mine+5*PageSize+96); v != 0x0000000078787878 || err != nil {
			t.Errorf("the tail: %#x, %v", v, err)
		}
		for _, at := range []Addr{mine, ours} {
			if _, err := load(s, at+6*PageSize); err != unix.ENXIO {
				t.Errorf("past the end: %v", err)
			}
		}
		store(s, mine, 1)
		store(s, ours+PageSize, 2)
		b := make([]byte, 2*PageSize)
		f.ReadAt(b, 0)
		if b[0] != 'x' || b[PageSize] != 2 {
			t.Errorf("the file has %d and %d", b[0], b[PageSize])
		}
		f.WriteAt([]byte{3}, 2*PageSize)
		if v, _ := load(s, ours+2*PageSize); byte(v) != 3 {
			t.Errorf("a write is not seen: %#x", v)
		}
		if err := s.Sync(ours, 8*PageSize, unix.MS_SYNC); err != nil {
			t.Errorf("msync: %v", err)
		}
		f.Truncate(PageSize)
		h.Truncated(PageSize)
		if _, err := load(s, ours+2*PageSize); err != unix.ENXIO {
			t.Errorf("behind a truncated end: %v", err)
		}
		f.Truncate(4 << 20)
		big := mapAt(t, s, MapRequest{Length: 4 << 20, Prot: platform.Read, Object: h})
		if v, err := load(s, big+4<<20-8); v != 0 || err != nil {
			t.Errorf("grown: %#x, %v", v, err)
		}
		s.Release()
	}
}

// TestTruncatedUnderIO: a file that its owner on the host cuts while the Sentry
// copies from it costs a short count, not the Sentry.
func TestTruncatedUnderIO(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	f, h := testFile(t, a, make([]byte, 4*PageSize))
	s := newTestSpace(t, a)
	defer s.Release()
	at := mapAt(t, s, MapRequest{Length: 4 * PageSize, Prot: platform.Read, Object: h, Shared: true})
	bufs, release, err := s.Pin(at, 4*PageSize, platform.Read)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	f.Truncate(PageSize)
	p := make([]byte, 4*PageSize)
	if n := bufs.CopyIn(p); n != PageSize {
		t.Errorf("copied %d bytes", n)
	}
	if n, err := s.Read(at, p); n != PageSize || err != unix.EFAULT {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

// TestHostFileOutlivesClose: a mapping keeps what it shows.
func TestHostFileOutlivesClose(t *testing.T) {
	a, _ := newTestArena(t, false, 0)
	f, h := testFile(t, a, bytes.Repeat([]byte{7}, 8<<20))
	s := newTestSpace(t, a)
	defer s.Release()
	at := mapAt(t, s, MapRequest{Length: 8 << 20, Prot: platform.Read, Object: h})
	h.size = func() (uint64, error) { return 8 << 20, nil }
	h.Close()
	f.Close()
	if v, err := load(s, at+8<<20-8); v != 0x0707070707070707 || err != nil {
		t.Errorf("%#x, %v", v, err)
	}
}
