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
		c := &Container{State: &state.State{Isolation: row.wall, MachineMemory: max(limit, 0)}}
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

// TestRoom: after an update a machine has what it was made with, less what its guest has given
// back.
func TestRoom(t *testing.T) {
	const m = int64(1 << 20)
	for _, row := range []struct {
		name                         string
		wall                         string
		made, limit, swap, given     int64 // swap: of memory and swap together
		wantLimit, wantSwap          int64
		reservation, wantReservation int64
	}{
		{name: "less, of which nothing is given back yet", wall: vmWall, made: 100, limit: 60, swap: -1, wantLimit: 196, wantSwap: -1},
		{name: "less", wall: vmWall, made: 100, limit: 60, swap: -1, given: 40, wantLimit: 156, wantSwap: -1},
		{name: "more", wall: vmWall, made: 100, limit: 150, swap: -1, wantLimit: 196, wantSwap: -1},
		{name: "no limit any more", wall: vmWall, made: 100, limit: -1, swap: -1, wantLimit: 196, wantSwap: -1},
		{name: "some swap", wall: vmWall, made: 100, limit: 60, swap: 90, given: 40, wantLimit: 156, wantSwap: 186},
		{name: "no swap", wall: vmWall, made: 100, limit: 60, swap: 60, given: 30, wantLimit: 166, wantSwap: 166},
		{name: "of a machine without a limit", wall: vmWall, limit: 60, swap: 90, given: 356, wantLimit: 156, wantSwap: 186},
		{name: "of one without, swap as it likes", wall: vmWall, limit: 60, swap: -1, wantLimit: 512, wantSwap: -1},
		{name: "a reservation", wall: vmWall, made: 100, limit: 60, swap: -1, wantLimit: 196, wantSwap: -1, reservation: 30, wantReservation: 126},
		{name: "more than there was", wall: vmWall, made: 100, limit: 60, swap: -1, given: 1 << 40, wantLimit: 0, wantSwap: -1},
		{name: "the Sentry", wall: sentryWall, made: 100, limit: 60, swap: 90, wantLimit: 60, wantSwap: 90},
	} {
		bytes := func(n int64) *int64 {
			if n > 0 {
				n *= m
			}
			return &n
		}
		r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: bytes(row.limit), Swap: bytes(row.swap), Reservation: bytes(row.reservation)}}
		c := &Container{State: &state.State{Isolation: row.wall, MachineMemory: row.made * m}}
		got := c.room(r, uint64(row.given*m)).Memory
		if *got.Limit != *bytes(row.wantLimit) || *got.Swap != *bytes(row.wantSwap) || *got.Reservation != *bytes(row.wantReservation) {
			t.Errorf("%s: limit %d, swap %d, reservation %d; want %d, %d, %d MiB", row.name,
				*got.Limit, *got.Swap, *got.Reservation, row.wantLimit, row.wantSwap, row.wantReservation)
		}
		if *r.Memory.Limit != *bytes(row.limit) || *r.Memory.Swap != *bytes(row.swap) {
			t.Errorf("%s: what was asked for has changed", row.name)
		}
	}
}
