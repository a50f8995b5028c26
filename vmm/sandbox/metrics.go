package sandbox

import (
	"context"
	"strings"

	"bulkhead/runtime/agent"
	"bulkhead/vmm/machine"
)

var _ agent.Metering = (*sandbox)(nil)

// Metrics implements agent.Metering: what the guest's init tells of the container, and what the
// machine counts, with all its containers.
func (s *sandbox) Metrics(ctx context.Context, container string) (*agent.Metrics, error) {
	st, err := s.Stats(ctx, container)
	if err != nil {
		return nil, err
	}
	m := &agent.Metrics{Stats: *st, Machine: true}
	if s.vm != nil {
		m.Platform = counters(s.vm.Metrics())
	}
	m.Platform = append(m.Platform, agent.PlatformCounter{Name: "guest_memory_bytes", Value: s.size.memory, Level: true})
	m.ReadGo()
	return m, nil
}

// counters name a machine's figures. Devices of a kind are one, whatever their number.
func counters(x machine.Metrics) (all []agent.PlatformCounter) {
	exits := uint64(0)
	for _, n := range x.Exits {
		exits += n
	}
	all = []agent.PlatformCounter{{Name: "vcpus", Value: uint64(len(x.Exits)), Level: true}, {Name: "exits", Value: exits}}
	at := map[string]int{}
	add := func(name string, n uint64) {
		i, ok := at[name]
		if !ok {
			i = len(all)
			at[name] = i
			all = append(all, agent.PlatformCounter{Name: name})
		}
		all[i].Value += n
	}
	for _, d := range x.Devices {
		kind := strings.TrimRight(d.Name, "0123456789")
		add(kind+"_requests", d.Chains)
		add(kind+"_interrupts", d.Interrupts)
		add(kind+"_failures", d.Failures)
	}
	return all
}
