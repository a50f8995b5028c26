package shim

import (
	"testing"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/container"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/opencontainers/cgroups"
)

// TestMetricsOfInterfaces: both shapes of the message have what the interfaces have carried, with a
// control group on the host and without.
func TestMetricsOfInterfaces(t *testing.T) {
	traffic := agent.Traffic{RxPackets: 1, RxBytes: 2, RxDropped: 3, TxPackets: 4, TxBytes: 5, TxDropped: 6}
	for _, host := range []*cgroups.Stats{nil, cgroups.NewStats()} {
		s := &container.Stats{Host: host, Inside: &agent.Stats{}, Network: []container.Interface{{Name: "eth0", Traffic: traffic}, {Name: "eth1"}}}
		one, two := metrics(s, false).(*cgroup1.Metrics).Network, metrics(s, true).(*cgroup2.Metrics).Network
		if len(one) != 2 || len(two) != 2 {
			t.Fatalf("%d and %d interfaces, want 2", len(one), len(two))
		}
		type row struct {
			name                                   string
			rxP, rxB, rxE, rxD, txP, txB, txE, txD uint64
		}
		want := row{"eth0", 1, 2, 0, 3, 4, 5, 0, 6}
		a, b := one[0], two[0]
		for _, got := range []row{
			{a.Name, a.RxPackets, a.RxBytes, a.RxErrors, a.RxDropped, a.TxPackets, a.TxBytes, a.TxErrors, a.TxDropped},
			{b.Name, b.RxPackets, b.RxBytes, b.RxErrors, b.RxDropped, b.TxPackets, b.TxBytes, b.TxErrors, b.TxDropped},
		} {
			if got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		}
	}
}
