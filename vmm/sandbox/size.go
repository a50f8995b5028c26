package sandbox

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"bulkhead/runtime/agent"
	"bulkhead/vmm/machine"
	"bulkhead/vmm/ram"
)

// mostCPUs is for a container without a limit: a vCPU costs little, and not nothing.
const mostCPUs = 8

// size is what a machine is made of.
type size struct {
	memory  uint64 // bytes
	cpus    int
	without []string
}

// sizeOf derives it from the container's limits; an annotation says otherwise.
func sizeOf(annotations map[string]string, l agent.Limits, host int) (z size, err error) {
	if z.memory, err = agent.MachineMemory(annotations, l); err != nil {
		return z, err
	}
	if err := ram.Check(z.memory); err != nil {
		return z, err
	}
	l = agent.PodLimits(annotations, l)
	z.cpus = min(host, mostCPUs)
	if l.CPUs > 0 {
		z.cpus = min(int(math.Ceil(min(l.CPUs, machine.MostCPUs))), host)
	}
	if l.CPUSet > 0 { // more would take turns on those of the host
		z.cpus = min(z.cpus, l.CPUSet)
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

const pagesPerMiB = 1 << 20 / balloonPage

// balloonPage is a balloon's (virtio 1.3 §5.5.6).
const balloonPage = 4096 // bytes

// inflateLocked has the guest do without what its containers may use less than when they
// were made, which the host has again then. It keeps what they may use now, and what is the
// guest's own.
func (s *sandbox) inflateLocked() {
	if s.balloon == nil { // a test's
		return
	}
	less, now := uint64(0), uint64(agent.MachineOverhead)
	all := append(slices.Collect(maps.Values(s.containers)), s.first)
	for _, c := range all {
		limit, made := c.limits.Memory, c.made
		if len(all) == 1 && made <= 0 { // what there was it had alone
			made = int64(s.size.memory) - agent.MachineOverhead
		}
		if made <= 0 || limit <= 0 {
			continue // it may use what there is
		}
		less += uint64(max(made-limit, 0))
		now += uint64(limit)
	}
	s.balloon.SetTarget(uint32(min(less, s.size.memory-min(now, s.size.memory)) / balloonPage))
}

// cgroup is what the guest writes, which has CPUs of its own. A container has as many of
// them as the host lets it have of its: those of the same numbers where the guest has all
// these, else the first ones; the host's group of the machine sees to where these run. One
// that may have as many as there are, or more, has all.
func (s *sandbox) cgroup(files agent.Cgroup) map[string]string {
	list := files[cpusFile]
	if list == "" {
		return files
	}
	files = maps.Clone(files)
	cpus, err := agent.ParseCPUs(list)
	switch most := s.size.cpus; {
	case err != nil: // the guest's kernel says so
	case len(cpus) >= most:
		files[cpusFile] = fmt.Sprintf("0-%d", most-1)
	case slices.Max(cpus) >= most:
		files[cpusFile] = fmt.Sprintf("0-%d", len(cpus)-1)
	}
	return files
}

const cpusFile = "cpuset.cpus"
