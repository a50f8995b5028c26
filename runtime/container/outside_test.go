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
