package cgroup

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"bulkhead/runtime/agent"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Guest gives what the kernel of a machine holds a container to beyond Inside's limits: the
// files of the container's own control group (version 2), by name. What no guest can be
// told is refused, by the field's name.
//
// The rest of the resources the host's group of the machine has, where what they are about
// is: the host's CPUs and memory nodes, its swap, its disks, and what is sent by its
// interfaces. Limits of huge pages and of RDMA hold in any case: a guest has none.
func Guest(r *specs.LinuxResources) (map[string]string, error) {
	if r == nil {
		return nil, nil
	}
	files := map[string]string{}
	set := func(file, value string, given bool) {
		if given {
			files[file] = value
		}
	}
	if m := r.Memory; m != nil {
		set("memory.low", amount(max(value(m.Reservation), 0)), m.Reservation != nil)
		if m.Swap != nil && *m.Swap != 0 {
			swap := int64(-1) // of both together; version 2 has swap by itself
			if *m.Swap > 0 && m.Limit != nil && *m.Limit > 0 {
				swap = *m.Swap - *m.Limit
			}
			files["memory.swap.max"] = amount(swap)
		}
	}
	if c := r.CPU; c != nil {
		if value(c.RealtimeRuntime) > 0 {
			return nil, noFile("cpu.realtimeRuntime", "a guest's control groups have no real-time share")
		}
		idle := value(c.Idle) != 0
		set("cpu.idle", amount(value(c.Idle)), c.Idle != nil)
		set("cpu.weight", strconv.FormatUint(cgroups.ConvertCPUSharesToCgroupV2Value(value(c.Shares)), 10), value(c.Shares) != 0 && !idle)
		if value(c.Quota) != 0 || value(c.Period) != 0 {
			period := uint64(defaultPeriod)
			if p := value(c.Period); p != 0 {
				period = p
			}
			quota := value(c.Quota)
			if quota <= 0 {
				quota = -1
			}
			files["cpu.max"] = fmt.Sprintf("%s %d", amount(quota), period)
		}
		set("cpu.max.burst", strconv.FormatUint(value(c.Burst), 10), c.Burst != nil)
		set("cpuset.cpus", c.Cpus, c.Cpus != "")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Unified)) {
		if err := checkUnified(name); err != nil {
			return nil, err
		}
		if name != memoryFile && name != pidsFile { // these are Inside's
			files[name] = r.Unified[name]
		}
	}
	if cpus := files["cpuset.cpus"]; cpus != "" {
		if _, err := agent.ParseCPUs(cpus); err != nil {
			return nil, noFile("cpu.cpus", "%v", err)
		}
	}
	return files, nil
}

// Those of unified that Inside has a number for.
const (
	memoryFile = "memory.max"
	pidsFile   = "pids.max"
)

// defaultPeriod is in microseconds (kernel/sched/core.c, default_cfs_period_us).
const defaultPeriod = 100_000

// amount is a number of a cgroup file's, -1 for no limit.
func amount(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

func noFile(field, format string, args ...any) error {
	return fmt.Errorf("linux.resources."+field+": "+format, args...)
}

// checkUnified refuses a name that is no setting: another directory's file, or one that
// does something to the group.
func checkUnified(name string) error {
	controller, _, _ := strings.Cut(name, ".")
	switch {
	case name == "" || name[0] == '.' || name != path.Base(name) || strings.ContainsRune(name, 0):
		return noFile("unified", "%q is no file of a control group", name)
	case controller == "cgroup" && !strings.HasPrefix(name, "cgroup.max."):
		return noFile("unified", "%s is not a container's to set", name)
	}
	return nil
}

// unified is a number among r's files; "max" is none.
func unified(r *specs.LinuxResources, name string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(r.Unified[name]), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}
