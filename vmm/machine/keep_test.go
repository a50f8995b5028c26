package machine

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"bulkhead/kvm"
)

func TestExtents(t *testing.T) {
	all := appendExtents(nil, 0, []uint64{0b1011 | 1<<63, ^uint64(0), 1, 0})
	all = appendExtents(all, 256, []uint64{0, 1 << 63})
	if want := []extent{{0, 2}, {3, 4}, {63, 129}, {383, 384}}; !slices.Equal(all, want) {
		t.Errorf("%v, want %v", all, want)
	}
}

func TestCheckNext(t *testing.T) {
	const memory = 4 * kvm.PageSize
	for _, row := range []struct {
		e    extent
		good bool
	}{{extent{0, 4}, true}, {extent{3, 4}, true}, {extent{3, 5}, false}, {extent{2, 2}, false}, {extent{3, 1}, false}, {extent{0, ^uint32(0)}, false}} {
		if err := checkNext([]extent{row.e}, memory); (err == nil) != row.good {
			t.Errorf("%v: %v", row.e, err)
		}
	}
}

// TestKeep: a copy goes on from where the machine stood, and knows what it wrote to after that.
func TestKeep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kept")
	a := guest(t, Config{}, counting...)
	must(t, a.Start())
	for count(a) == 0 { // else the test ends by its deadline
		must(t, t.Context().Err())
	}
	f, err := os.Create(path)
	must(t, err)
	k, err := a.KeepTo(f)
	must(t, err)
	at := count(a)
	must(t, a.Resume())
	for count(a) == at {
		must(t, t.Context().Err())
	}
	must(t, k.Finish())
	must(t, a.Close())
	s, err := OpenSnapshot(path)
	must(t, err)
	if page := uint32(dataAt / kvm.PageSize); !slices.Contains(s.state.Next, extent{page, page + 1}) {
		t.Errorf("pages written to: %v, want %d among them", s.state.Next, page)
	}
	must(t, s.Close())
	b, err := restored(t, path)
	must(t, err)
	if got := count(b); got != at {
		t.Errorf("the memory has %d, not %d", got, at)
	}
}
