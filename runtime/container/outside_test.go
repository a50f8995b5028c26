package container

import (
	"testing"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestOutside: a machine's host group has room for the machine, and none is made of none.
func TestOutside(t *testing.T) {
	const m = int64(1 << 20)
	for _, row := range []struct {
		name, wall, annotation           string
		limit, swap, reservation         int64
		wantLimit, wantSwap, wantReserve int64
	}{
		{"the Sentry", sentryWall, "1G", 100 * m, 150 * m, 30 * m, 100 * m, 150 * m, 30 * m},
		{"a machine's overhead", vmWall, "", 100 * m, -1, 0, 196 * m, -1, 0},
		{"swap beside the memory", vmWall, "", 100 * m, 150 * m, 30 * m, 196 * m, 246 * m, 126 * m},
		{"no swap", vmWall, "", 100 * m, 100 * m, 0, 196 * m, 196 * m, 0},
		{"a machine that is larger than its container", vmWall, "1G", 100 * m, 150 * m, 0, 1024 * m, 1074 * m, 0},
		{"one that is smaller", vmWall, "128M", 100 * m, -1, 0, 196 * m, -1, 0},
		{"one whose size is none", vmWall, "large", 100 * m, -1, 0, 196 * m, -1, 0},
		{"no limit", vmWall, "1G", -1, -1, 30 * m, -1, -1, 126 * m},
	} {
		limit, swap, reservation := row.limit, row.swap, row.reservation
		r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap, Reservation: &reservation}, Unified: map[string]string{"memory.high": "1"}}
		c := &Container{State: &state.State{Isolation: row.wall}}
		if row.annotation != "" {
			c.State.Annotations = map[string]string{agent.MemoryAnnotation: row.annotation}
		}
		got := c.outside(r)
		if *got.Memory.Limit != row.wantLimit || *got.Memory.Swap != row.wantSwap || *got.Memory.Reservation != row.wantReserve {
			t.Errorf("%s: limit %d, swap %d, reservation %d; want %d, %d, %d", row.name,
				*got.Memory.Limit, *got.Memory.Swap, *got.Memory.Reservation, row.wantLimit, row.wantSwap, row.wantReserve)
		}
		if (got.Unified == nil) != (row.wall == vmWall) {
			t.Errorf("%s: files %v", row.name, got.Unified)
		}
		if limit != row.limit || swap != row.swap || reservation != row.reservation || r.Unified == nil {
			t.Errorf("%s: what was asked for has changed", row.name)
		}
	}
	machine := &Container{State: &state.State{Isolation: vmWall}}
	if machine.outside(nil) != nil {
		t.Error("some is made of none")
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
