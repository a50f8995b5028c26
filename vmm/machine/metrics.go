package machine

import (
	"sync/atomic"

	"bulkhead/virtio/mmio"
)

// Metrics are counts since the machine was made.
type Metrics struct {
	Exits     []uint64 // to user space, by vCPU
	Unclaimed uint64   // accesses to where nothing is: kernels probe, so each is not worth a line
	Devices   []DeviceMetrics
}

// DeviceMetrics are what a device's transport counts.
type DeviceMetrics struct {
	Name string
	mmio.Metrics
}

// counters are Metrics under way, a vCPU's in a cache line of its own.
type counters struct {
	exits     [MostCPUs]exitCounter
	unclaimed atomic.Uint64
}

type exitCounter struct {
	atomic.Uint64
	_ [56]byte
}

// Metrics may be asked at any time.
func (m *Machine) Metrics() Metrics {
	x := Metrics{Unclaimed: m.counters.unclaimed.Load()}
	for i := range m.cpus {
		x.Exits = append(x.Exits, m.counters.exits[i].Load())
	}
	for _, s := range m.slots {
		x.Devices = append(x.Devices, DeviceMetrics{s.name, s.transport.Metrics()})
	}
	return x
}

// Paused tells whether the machine stands still.
func (m *Machine) Paused() bool {
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	return !m.gate.open
}

// Ended tells whether the guest has ended.
func (m *Machine) Ended() bool {
	select {
	case <-m.gate.done:
		return true
	default:
		return false
	}
}
