package memory

import (
	"testing"
)

// TestDivide: pages count to who allocated them, whoever has them later, and each account
// has its own limit.
func TestDivide(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	const limit = 40
	b, err := a.Divide(limit * PageSize)
	if err != nil {
		t.Fatal(err)
	}
	want := func(what string, ofA, ofB uint64) {
		t.Helper()
		if a.Usage() != ofA*PageSize || b.Usage() != ofB*PageSize {
			t.Fatalf("%s: %d and %d pages in use, want %d and %d", what, a.Usage()/PageSize, b.Usage()/PageSize, ofA, ofB)
		}
	}
	var ours, theirs []extent
	pages := func(list []extent) (n uint32) {
		for _, e := range list {
			n += e.n
		}
		return n
	}
	for range 10 { // so that they lie among each other
		e, err := a.alloc(2, false)
		if err != nil {
			t.Fatal(err)
		}
		ours = append(ours, e)
		if e, err = b.alloc(8, true); err != nil {
			break
		}
		theirs = append(theirs, e)
	}
	if n := pages(theirs); n != limit {
		t.Fatalf("%d pages came, want the limit's %d", n, limit)
	}
	n := uint64(pages(ours))
	want("all allocated", n, limit)
	if _, err := b.alloc(1, false); err != errLimit {
		t.Errorf("beyond the limit: %v", err)
	}
	if err := b.Charge(1); err != errLimit {
		t.Errorf("charged beyond the limit: %v", err)
	}
	for _, e := range theirs { // the other account frees them
		a.unref(e.pfn, e.n)
	}
	want("freed by the other", n, 0)
	e, err := a.alloc(8, false) // pages that were the other's
	if err != nil {
		t.Fatal(err)
	}
	want("taken by the other", n+uint64(e.n), 0)
	b.unref(e.pfn, e.n)
	want("freed again", n, 0)

	// What is left of an account that was given up keeps its place.
	if e, err = b.alloc(1, false); err != nil {
		t.Fatal(err)
	}
	b.GiveUp()
	if _, err := b.alloc(1, false); err != errLimit {
		t.Errorf("given up: %v", err)
	}
	c, err := a.Divide(0)
	if err != nil {
		t.Fatal(err)
	}
	if c.number == b.number {
		t.Error("a page of the old account counts to the new")
	}
	a.unref(e.pfn, e.n)
	want("given up", n, 0)
	if d, err := a.Divide(0); err != nil || d.number != b.number {
		t.Errorf("account %v, %v; want the place of the one that was given up", d, err)
	}
	if c.Usage() != 0 {
		t.Errorf("the new account has %d bytes", c.Usage())
	}
	for range 1 << 8 {
		if _, err = a.Divide(0); err != nil {
			break
		}
	}
	if err != errAccounts {
		t.Errorf("too many: %v", err)
	}
	for _, e := range ours {
		a.unref(e.pfn, e.n)
	}
}
