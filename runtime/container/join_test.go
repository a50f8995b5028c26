package container

import (
	"testing"

	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestWith: a control group has room for what all containers of its sandbox may use.
func TestWith(t *testing.T) {
	limit := func(memory, swap, pids int64) *specs.LinuxResources {
		r := &specs.LinuxResources{}
		if memory != 0 {
			r.Memory = &specs.LinuxMemory{Limit: &memory}
			if swap != 0 {
				r.Memory.Swap = &swap
			}
		}
		if pids != 0 {
			r.Pids = &specs.LinuxPids{Limit: &pids}
		}
		return r
	}
	for _, row := range []struct {
		name               string
		own                *specs.LinuxResources
		guests             []*specs.LinuxResources
		memory, swap, pids int64 // 0: nothing is said of it
	}{
		{"alone", limit(10, 20, 5), nil, 10, 20, 5},
		{"two more", limit(10, 20, 5), []*specs.LinuxResources{limit(1, 2, 3), limit(100, 200, 300)}, 111, 222, 308},
		{"one has no limits", limit(10, 20, 5), []*specs.LinuxResources{limit(1, 2, 3), limit(0, 0, 0)}, -1, -1, -1},
		{"one says nothing", limit(10, 20, 5), []*specs.LinuxResources{nil}, -1, -1, -1},
		{"one has as much as it likes", limit(10, 20, 5), []*specs.LinuxResources{limit(-1, -1, -1)}, -1, -1, -1},
		{"the first has no limits", limit(0, 0, 0), []*specs.LinuxResources{limit(1, 2, 3)}, 0, 0, 0},
		{"the first has as much as it likes", limit(-1, -1, -1), []*specs.LinuxResources{limit(1, 2, 3)}, -1, -1, -1},
		{"no swap is spoken of", limit(10, 0, 0), []*specs.LinuxResources{limit(1, 2, 3)}, 11, 0, 0},
	} {
		var guests []*Container
		for _, r := range row.guests {
			guests = append(guests, &Container{State: &state.State{Resources: r}})
		}
		got := with(row.own, guests)
		var memory, swap, pids int64
		if m := got.Memory; m != nil {
			memory = *m.Limit
			if m.Swap != nil {
				swap = *m.Swap
			}
		}
		if got.Pids != nil {
			pids = *got.Pids.Limit
		}
		if memory != row.memory || swap != row.swap || pids != row.pids {
			t.Errorf("%s: memory %d, swap %d, processes %d; want %d, %d, %d", row.name, memory, swap, pids, row.memory, row.swap, row.pids)
		}
	}
	if with(nil, []*Container{{State: &state.State{}}}) != nil {
		t.Error("limits where none are held to")
	}
}
