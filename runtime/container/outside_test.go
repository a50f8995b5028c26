package container

import (
	"testing"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestOutside: a machine's own memory comes on top of a limit, and none is made of none.
func TestOutside(t *testing.T) {
	limit, none := int64(1<<20), int64(-1)
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &none}}
	sentry, machine := &Container{State: &state.State{Isolation: sentryWall}}, &Container{State: &state.State{Isolation: vmWall}}
	if got := sentry.outside(r); got != r {
		t.Error("the Sentry's are others")
	}
	got := machine.outside(r).Memory
	if *got.Limit != limit+agent.MachineOverhead || *got.Swap != -1 || got.Reservation != nil {
		t.Errorf("%d, %d", *got.Limit, *got.Swap)
	}
	if limit != 1<<20 || machine.outside(nil) != nil {
		t.Error("what was asked for has changed")
	}
}

// TestAsMade: an update takes no memory from a machine on the host's side, and gives none.
func TestAsMade(t *testing.T) {
	const m = int64(1 << 20)
	for _, row := range []struct {
		name                             string
		wall                             string
		made, limit, swap                int64 // swap: of memory and swap together
		wantLimit, wantSwap, reservation int64
	}{
		{"less", vmWall, 100 * m, 60 * m, -1, 100 * m, -1, 0},
		{"more", vmWall, 100 * m, 150 * m, -1, 100 * m, -1, 0},
		{"no limit any more", vmWall, 100 * m, -1, -1, 100 * m, -1, 0},
		{"some swap", vmWall, 100 * m, 60 * m, 90 * m, 100 * m, 130 * m, 0},
		{"no swap", vmWall, 100 * m, 60 * m, 60 * m, 100 * m, 100 * m, 0},
		{"of a machine without a limit", vmWall, 0, 60 * m, 90 * m, 0, 0, 0},
		{"of one without, swap as it likes", vmWall, 0, 60 * m, -1, 0, -1, 0},
		{"a reservation", vmWall, 100 * m, 60 * m, -1, 100 * m, -1, 30 * m},
		{"the Sentry", sentryWall, 100 * m, 60 * m, 90 * m, 60 * m, 90 * m, 0},
	} {
		limit, swap, reservation := row.limit, row.swap, row.reservation
		r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap, Reservation: &reservation}}
		c := &Container{State: &state.State{Isolation: row.wall, MachineMemory: row.made}}
		got := c.asMade(r).Memory
		value := func(p *int64) int64 {
			if p == nil {
				return 0
			}
			return *p
		}
		if value(got.Limit) != row.wantLimit || value(got.Swap) != row.wantSwap || value(got.Reservation) != row.reservation {
			t.Errorf("%s: limit %d, swap %d, reservation %d; want %d, %d, %d", row.name,
				value(got.Limit), value(got.Swap), value(got.Reservation), row.wantLimit, row.wantSwap, row.reservation)
		}
		if limit != row.limit || swap != row.swap {
			t.Errorf("%s: what was asked for has changed", row.name)
		}
	}
	if c := (&Container{State: &state.State{Isolation: vmWall}}); c.asMade(nil) != nil {
		t.Error("none is made of none")
	}
}
