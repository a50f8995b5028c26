package agent

import (
	"fmt"
	"strconv"
	"strings"

	"bulkhead/runtime/spec"
)

// What containerd says of the sum of a pod's containers, in the first's annotations
// (pkg/cri/annotations); 0 is no limit.
const (
	PodMemoryAnnotation = "io.kubernetes.cri.sandbox-memory" // bytes
	PodQuotaAnnotation  = "io.kubernetes.cri.sandbox-cpu-quota"
	PodPeriodAnnotation = "io.kubernetes.cri.sandbox-cpu-period"
)

// PodLimits are those of a pod, where they are more than its first container's.
func PodLimits(annotations map[string]string, l Limits) Limits {
	number := func(name string) int64 {
		n, err := strconv.ParseInt(annotations[name], 10, 64)
		if err != nil || n < 0 {
			return 0
		}
		return n
	}
	l.Memory = max(l.Memory, number(PodMemoryAnnotation))
	if quota, period := number(PodQuotaAnnotation), number(PodPeriodAnnotation); quota > 0 && period > 0 {
		l.CPUs = max(l.CPUs, float64(quota)/float64(period))
	}
	return l
}

const (
	// MachineOverhead is the memory that a machine has above its container's limit, for
	// the guest's kernel and init; the host's control group allows it as well.
	MachineOverhead = 96 << 20 // bytes

	ordinaryMachine = 512 << 20 // of a container without a limit
	leastMachine    = 64 << 20  // lets a guest come up; with less its kernel ends in a panic
	machinePage     = 2 << 20   // vmm/ram, Check
)

// MachineMemory is how much memory a machine is made with, in bytes: by its first
// container's limit, or as the annotation says.
func MachineMemory(annotations map[string]string, l Limits) (uint64, error) {
	n := uint64(ordinaryMachine)
	if l = PodLimits(annotations, l); l.Memory > 0 {
		n = uint64(l.Memory) + MachineOverhead
	}
	if text, ok := annotations[MemoryAnnotation]; ok {
		var err error
		if n, err = parseSize(text); err != nil {
			return 0, fmt.Errorf("annotation %s: %w", MemoryAnnotation, err)
		}
	}
	n = (n + machinePage - 1) / machinePage * machinePage
	if n < leastMachine {
		return 0, fmt.Errorf("a guest does not boot with %d MiB of memory; the least is %d", n>>20, leastMachine>>20)
	}
	return n, nil
}

// parseSize reads a number of bytes with its unit, of 1024 each: 256M, 6GiB, 1048576.
func parseSize(text string) (uint64, error) {
	digits := strings.TrimRight(text, "KMGTiBkmgtb")
	unit := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(text[len(digits):]), "B"), "I")
	shift, known := map[string]uint{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[unit]
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || !known || n > 1<<62>>shift {
		return 0, fmt.Errorf("%q is not a size, as 256M or 6G", text)
	}
	return n << shift, nil
}

// ParseCPUs is spec's.
func ParseCPUs(list string) ([]int, error) { return spec.ParseCPUs(list) }
