package shim

import (
	"strings"

	"bulkhead/runtime/container"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/opencontainers/cgroups"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// metrics are a container's in the shape that containerd's users expect on a host with
// this version of control groups. Time and memory are what the host counts, the Sentry's
// own share included; the limit of memory and the number of processes are what the
// container has inside, and so is the traffic of its interfaces.
func metrics(s *container.Stats, unified bool) proto.Message {
	if s.Host == nil {
		s = &container.Stats{Host: fromInside(s), Inside: s.Inside, Network: s.Network}
	}
	if unified {
		return unifiedMetrics(s)
	}
	return legacyMetrics(s)
}

// fromInside stands for the host's view of a container that has no control group of its
// own there: one of several in a machine.
func fromInside(s *container.Stats) *cgroups.Stats {
	h := cgroups.NewStats()
	if in := s.Inside; in != nil {
		h.CpuStats.CpuUsage.UsageInUsermode = uint64(in.CPUUser)
		h.CpuStats.CpuUsage.UsageInKernelmode = uint64(in.CPUSystem)
		h.CpuStats.CpuUsage.TotalUsage = uint64(in.CPUUser + in.CPUSystem)
		h.MemoryStats.Cache = in.Cache
		h.MemoryStats.Usage = cgroups.MemoryData{Usage: in.Memory, MaxUsage: in.MemoryMax, Limit: in.MemoryLimit}
	}
	return h
}

func legacyMetrics(s *container.Stats) *cgroup1.Metrics {
	h := s.Host
	m := &cgroup1.Metrics{
		Pids: &cgroup1.PidsStat{Current: h.PidsStats.Current, Limit: h.PidsStats.Limit},
		CPU: &cgroup1.CPUStat{
			Usage: &cgroup1.CPUUsage{
				Total: h.CpuStats.CpuUsage.TotalUsage, Kernel: h.CpuStats.CpuUsage.UsageInKernelmode,
				User: h.CpuStats.CpuUsage.UsageInUsermode, PerCPU: h.CpuStats.CpuUsage.PercpuUsage,
			},
			Throttling: &cgroup1.Throttle{
				Periods: h.CpuStats.ThrottlingData.Periods, ThrottledPeriods: h.CpuStats.ThrottlingData.ThrottledPeriods,
				ThrottledTime: h.CpuStats.ThrottlingData.ThrottledTime,
			},
		},
		Memory: &cgroup1.MemoryStat{
			Cache: h.MemoryStats.Cache, Usage: legacyMemory(h.MemoryStats.Usage), Swap: legacyMemory(h.MemoryStats.SwapUsage),
			Kernel: legacyMemory(h.MemoryStats.KernelUsage), KernelTCP: legacyMemory(h.MemoryStats.KernelTCPUsage),
		},
		Blkio:            &cgroup1.BlkIOStat{},
		MemoryOomControl: &cgroup1.MemoryOomControl{},
	}
	fill(m.Memory, h.MemoryStats.Stats)
	for _, e := range h.BlkioStats.IoServiceBytesRecursive {
		m.Blkio.IoServiceBytesRecursive = append(m.Blkio.IoServiceBytesRecursive, &cgroup1.BlkIOEntry{Op: e.Op, Major: e.Major, Minor: e.Minor, Value: e.Value})
	}
	for _, e := range h.BlkioStats.IoServicedRecursive {
		m.Blkio.IoServicedRecursive = append(m.Blkio.IoServicedRecursive, &cgroup1.BlkIOEntry{Op: e.Op, Major: e.Major, Minor: e.Minor, Value: e.Value})
	}
	if in := s.Inside; in != nil {
		m.Pids.Current, m.Pids.Limit = in.Processes, in.PidsLimit
		m.MemoryOomControl.OomKill = in.OOMKills
		if in.MemoryLimit > 0 {
			m.Memory.Usage.Limit = in.MemoryLimit
		}
	}
	for _, n := range s.Network {
		m.Network = append(m.Network, &cgroup1.NetworkStat{Name: n.Name, RxBytes: n.RxBytes, RxPackets: n.RxPackets, RxDropped: n.RxDropped,
			TxBytes: n.TxBytes, TxPackets: n.TxPackets, TxDropped: n.TxDropped})
	}
	return m
}

func legacyMemory(d cgroups.MemoryData) *cgroup1.MemoryEntry {
	return &cgroup1.MemoryEntry{Limit: d.Limit, Usage: d.Usage, Max: d.MaxUsage, Failcnt: d.Failcnt}
}

func unifiedMetrics(s *container.Stats) *cgroup2.Metrics {
	const microsecond = 1000 // nanoseconds
	h := s.Host
	m := &cgroup2.Metrics{
		Pids: &cgroup2.PidsStat{Current: h.PidsStats.Current, Limit: h.PidsStats.Limit},
		CPU: &cgroup2.CPUStat{
			UsageUsec: h.CpuStats.CpuUsage.TotalUsage / microsecond, UserUsec: h.CpuStats.CpuUsage.UsageInUsermode / microsecond,
			SystemUsec: h.CpuStats.CpuUsage.UsageInKernelmode / microsecond, NrPeriods: h.CpuStats.ThrottlingData.Periods,
			NrThrottled: h.CpuStats.ThrottlingData.ThrottledPeriods, ThrottledUsec: h.CpuStats.ThrottlingData.ThrottledTime / microsecond,
		},
		Memory: &cgroup2.MemoryStat{
			Usage: h.MemoryStats.Usage.Usage, UsageLimit: h.MemoryStats.Usage.Limit, MaxUsage: h.MemoryStats.Usage.MaxUsage,
			SwapUsage: h.MemoryStats.SwapUsage.Usage, SwapLimit: h.MemoryStats.SwapUsage.Limit,
		},
		Io:           &cgroup2.IOStat{},
		MemoryEvents: &cgroup2.MemoryEvents{},
	}
	fill(m.Memory, h.MemoryStats.Stats)
	devices := map[[2]uint64]*cgroup2.IOEntry{}
	device := func(e cgroups.BlkioStatEntry) *cgroup2.IOEntry {
		key := [2]uint64{e.Major, e.Minor}
		if devices[key] == nil {
			devices[key] = &cgroup2.IOEntry{Major: e.Major, Minor: e.Minor}
			m.Io.Usage = append(m.Io.Usage, devices[key])
		}
		return devices[key]
	}
	for _, e := range h.BlkioStats.IoServiceBytesRecursive {
		switch strings.ToLower(e.Op) {
		case "read":
			device(e).Rbytes = e.Value
		case "write":
			device(e).Wbytes = e.Value
		}
	}
	for _, e := range h.BlkioStats.IoServicedRecursive {
		switch strings.ToLower(e.Op) {
		case "read":
			device(e).Rios = e.Value
		case "write":
			device(e).Wios = e.Value
		}
	}
	if in := s.Inside; in != nil {
		m.Pids.Current, m.Pids.Limit = in.Processes, in.PidsLimit
		m.MemoryEvents.OomKill = in.OOMKills
		if in.MemoryLimit > 0 {
			m.Memory.UsageLimit = in.MemoryLimit
		}
	}
	for _, n := range s.Network {
		m.Network = append(m.Network, &cgroup2.NetworkStat{Name: n.Name, RxBytes: n.RxBytes, RxPackets: n.RxPackets, RxDropped: n.RxDropped,
			TxBytes: n.TxBytes, TxPackets: n.TxPackets, TxDropped: n.TxDropped})
	}
	return m
}

// fill takes the kernel's lines of memory.stat, by name. Version 1 writes pgpgin where
// the message has pg_pg_in.
func fill(m proto.Message, stat map[string]uint64) {
	plain := map[string]uint64{}
	for name, v := range stat {
		plain[strings.ReplaceAll(name, "_", "")] = v
	}
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Kind() != protoreflect.Uint64Kind || f.IsList() || r.Has(f) {
			continue
		}
		if v, ok := plain[strings.ReplaceAll(string(f.Name()), "_", "")]; ok {
			r.Set(f, protoreflect.ValueOfUint64(v))
		}
	}
}
