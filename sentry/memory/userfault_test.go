package memory

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// TestUserfault: touches of missing pages, the program's and the Sentry's, until they are given.
func TestUserfault(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	at := mapAt(t, s, MapRequest{Length: 4 * PageSize, Prot: platform.Read | platform.Write})
	if err := store(s, at, 7); err != nil { // there before, as is what Map made ahead
		t.Fatal(err)
	}
	told := 0
	u := s.NewUserfault(false, func() { told++ })
	if err := u.Register(at, 4*PageSize); err != nil {
		t.Fatal(err)
	}
	if v, err := load(s, at); v != 7 || err != nil {
		t.Errorf("a page that was there: %d, %v", v, err)
	}
	b := make([]byte, 8)
	_, read := s.Read(at+PageSize-4, b)
	_, _, pin := s.Pin(at+PageSize-4, 8, platform.Write)
	for what, err := range map[string]error{"touch": s.Fault(at+PageSize, platform.Read), "read": read, "pin": pin} {
		if missing(err) == nil {
			t.Errorf("%s of a missing page: %v", what, err)
		}
	}
	if n, err := s.Write(at+PageSize-4, b); n != 4 || err != unix.EFAULT {
		t.Errorf("a store of the Sentry's: %d, %v, want 4 and EFAULT", n, err)
	}
	child, err := s.Fork()
	if err != nil {
		t.Fatal(err)
	}
	if v, err := load(child, at+PageSize); v != 0 || err != nil {
		t.Errorf("a child's: %d, %v", v, err)
	}
	child.Release()

	w := missing(s.Fault(at+PageSize+100, platform.Write)).Wait(3)
	if told != 1 || w == nil || u.Next() != w || u.Next() != nil {
		t.Fatalf("told %d times, of %+v", told, w)
	}
	page := bytes.Repeat([]byte{9}, 2*PageSize)
	if n, err := u.Give(at, page, 2*PageSize); n != 0 || err != unix.EEXIST {
		t.Errorf("onto a page: %d, %v", n, err)
	}
	if n, err := u.Give(at+PageSize, page, 2*PageSize); n != 2*PageSize || err != nil {
		t.Errorf("give: %d, %v", n, err)
	}
	u.Wake(at, 2*PageSize)
	<-w.C
	if w := (&Missing{u, at + PageSize, true}).Wait(3); w != nil {
		t.Error("waits for a page that is there")
	}
	if _, err := s.Read(at+PageSize, b); err != nil || b[0] != 9 {
		t.Errorf("given: %v, %v", b, err)
	}
	w = missing(s.Fault(at+3*PageSize, platform.Read)).Wait(3)
	u.Close()
	<-w.C
	if v, err := load(s, at+3*PageSize); v != 0 || err != nil {
		t.Errorf("after the end: %d, %v", v, err)
	}
}
