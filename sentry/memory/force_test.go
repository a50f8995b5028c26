package memory

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// TestForce: a debugger reads and writes what the application may not.
func TestForce(t *testing.T) {
	for _, c := range []struct {
		name   string
		prot   platform.Access
		shared bool
		want   error
	}{
		{"none", 0, false, nil},
		{"read", platform.Read, false, nil},
		{"text", platform.Read | platform.Exec, false, nil},
		{"write", platform.Read | platform.Write, false, nil},
		{"shared, read-only", platform.Read, true, unix.EFAULT},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, _ := newTestArena(t, true, 0)
			s := newTestSpace(t, a)
			defer s.Release()
			at := mapAt(t, s, MapRequest{Length: 4 * PageSize, Prot: c.prot, Shared: c.shared,
				MaxProt: platform.Read | platform.Write | platform.Exec})
			text := []byte("across two pages")
			n, err := s.Poke(at+PageSize-5, text)
			if err != c.want {
				t.Fatalf("Poke: %d, %v, want %v", n, err, c.want)
			}
			if err != nil {
				return
			}
			got := make([]byte, len(text))
			if n, err := s.Peek(at+PageSize-5, got); err != nil || !bytes.Equal(got, text) {
				t.Fatalf("Peek: %d %q, %v", n, got, err)
			}
		})
	}
}

// TestUnpatch: what PatchText changed is not seen from outside, and goes for a debugger.
func TestUnpatch(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	o := NewObject(a)
	defer o.Unref()
	const before = "0123456789abcdef"
	o.WriteAt(Buffers{[]byte(before)}, 0)
	text := mapAt(t, s, MapRequest{Length: PageSize, Prot: platform.Read | platform.Exec, Object: o})
	patch := func(s *Space) {
		t.Helper()
		for _, p := range []struct {
			in  Addr
			old string
		}{{0, "01234"}, {5, "56789"}} { // in one word, and across two
			if err := s.PatchText(text+p.in, []byte(p.old), []byte("-----")); err != nil {
				t.Fatal(err)
			}
		}
	}
	runs := func(s *Space, want string) {
		t.Helper()
		app(s, text, platform.Exec, func(p []byte) {
			if string(p[:16]) != want {
				t.Errorf("runs %q, want %q", p[:16], want)
			}
		})
	}
	patch(s)
	c, err := s.Fork()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	for _, s := range []*Space{s, c} {
		runs(s, "----------abcdef")
		got := make([]byte, 11)
		if s.Peek(text+3, got); string(got) != before[3:14] {
			t.Errorf("Peek shows %q", got)
		}
		s.Unpatch()
		runs(s, before)
		if err := s.PatchText(text, []byte("012"), []byte("xyz")); err != unix.EPERM {
			t.Errorf("PatchText after Unpatch: %v", err)
		}
	}
}
