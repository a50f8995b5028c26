package sandbox

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"bulkhead/runtime/agent"
	"bulkhead/vmm/config"
	"bulkhead/vmm/machine"
	"bulkhead/vmm/ram"
)

// What containerd says of the sum of a pod's containers, in the first's annotations
// (pkg/cri/annotations); 0 is no limit.
const (
	podMemoryAnnotation = "io.kubernetes.cri.sandbox-memory" // bytes
	podQuotaAnnotation  = "io.kubernetes.cri.sandbox-cpu-quota"
	podPeriodAnnotation = "io.kubernetes.cri.sandbox-cpu-period"
)

// podLimits are those of a pod, where they are more than its first container's.
func podLimits(annotations map[string]string, l agent.Limits) agent.Limits {
	number := func(name string) int64 {
		n, err := strconv.ParseInt(annotations[name], 10, 64)
		if err != nil || n < 0 {
			return 0
		}
		return n
	}
	l.Memory = max(l.Memory, number(podMemoryAnnotation))
	if quota, period := number(podQuotaAnnotation), number(podPeriodAnnotation); quota > 0 && period > 0 {
		l.CPUs = max(l.CPUs, float64(quota)/float64(period))
	}
	return l
}

const (
	// ordinary is the memory of a container without a limit.
	ordinary = 512 << 20
	// least lets a guest come up; with less its kernel ends in a panic.
	least = 64 << 20
	// mostCPUs is for a container without a limit: a vCPU costs little, and not nothing.
	mostCPUs = 8
)

// size is what a machine is made of.
type size struct {
	memory  uint64 // bytes
	cpus    int
	without []string
}

// sizeOf derives it from the container's limits; an annotation says otherwise.
func sizeOf(annotations map[string]string, l agent.Limits, host int) (z size, err error) {
	l = podLimits(annotations, l)
	z.memory = ordinary
	if l.Memory > 0 {
		z.memory = uint64(l.Memory) + agent.MachineOverhead
	}
	if text, ok := annotations[agent.MemoryAnnotation]; ok {
		var m config.Size
		if err := m.Set(text); err != nil {
			return z, fmt.Errorf("annotation %s: %w", agent.MemoryAnnotation, err)
		}
		z.memory = uint64(m)
	}
	const page = 2 << 20 // ram.Check
	z.memory = (z.memory + page - 1) / page * page
	if z.memory < least {
		return z, fmt.Errorf("a guest does not boot with %d MiB of memory; the least is %d", z.memory>>20, least>>20)
	}
	if err := ram.Check(z.memory); err != nil {
		return z, err
	}
	z.cpus = min(host, mostCPUs)
	if l.CPUs > 0 {
		z.cpus = min(int(math.Ceil(min(l.CPUs, machine.MostCPUs))), host)
	}
	if text, ok := annotations[agent.CPUsAnnotation]; ok {
		if z.cpus, err = strconv.Atoi(text); err != nil || z.cpus < 1 || z.cpus > machine.MostCPUs {
			return z, fmt.Errorf("annotation %s: %q is not a number from 1 to %d", agent.CPUsAnnotation, text, machine.MostCPUs)
		}
	}
	z.cpus = max(z.cpus, 1)
	if text := annotations[agent.WithoutAnnotation]; text != "" {
		z.without = strings.Split(text, ",")
	}
	return z, nil
}
