// Package cgroup keeps a container's processes on the host (the sandbox, the
// gofer, stand-ins of exec) in a control group, v1 or v2, by cgroupfs or
// systemd, through github.com/opencontainers/cgroups.
//
// The container's limits are enforced twice. Inside, the Sentry counts what the
// container's programs use against the exact limit and answers as Linux would
// (its OOM killer takes the program; clone is EAGAIN). The host's group has the
// same limits with slack for the Sentry itself, so that it is the container
// that runs out first, and the Sentry is stopped only if it goes astray. Of a machine the
// guest's kernel is the one inside (Guest), and the host's group has room for all of it.
package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/program"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The slack for the Sentry and the gofer above the container's own limits.
const (
	// The Go heaps and stacks of both and, on kvm, the guest's page tables and the
	// kernel's shadows of them, which grow with what the container maps.
	memorySlack      = 64 << 20 // bytes
	memorySlackShare = 8        // and an eighth of the limit

	// A process of the container's is a host thread, and a runner at times (kvm), or a stub process, a thread in it and the
	// one that traces it (ptrace), and one that has ended waits a while to be reaped. The Go runtimes have
	// threads of their own, and one that gets none crashes: the container meets its limit inside, before this.
	pidsSlack  = 256
	pidsFactor = 4
)

// Place says where a group is; it is kept in state.json.
type Place struct {
	Path    string            `json:"path"` // as asked for
	Systemd bool              `json:"systemd,omitempty"`
	Paths   map[string]string `json:"paths"` // directories by controller; "" on v2
}

// Group is a control group that exists, or will with its first process.
type Group struct {
	m     cgroups.Manager
	place Place
}

// New prepares a group, without making it. path is the specification's
// cgroupsPath: for systemd slice:prefix:name.
func New(id, path string, systemd bool, r *specs.LinuxResources) (*Group, error) {
	config := &cgroups.Cgroup{Systemd: systemd, Resources: host(r), Rootless: program.Rootless()}
	switch {
	case systemd:
		if path == "" {
			path = "system.slice:bulkhead:" + id
		}
		parts := strings.Split(path, ":")
		if len(parts) != 3 {
			return nil, fmt.Errorf("cgroup: linux.cgroupsPath %q is not slice:prefix:name, as --systemd-cgroup wants it", path)
		}
		config.Parent, config.ScopePrefix, config.Name = parts[0], parts[1], parts[2]
	case path == "":
		path = "/bulkhead-" + id
		fallthrough
	default:
		// A relative path is below the root, as runc has it.
		config.Path = filepath.Clean("/" + path)
	}
	m, err := manager.New(config)
	if err == nil && !cgroups.IsCgroup2UnifiedMode() {
		// Without rules for devices the library makes no group for them, but would
		// add processes to it.
		paths := maps.Clone(m.GetPaths())
		delete(paths, "devices")
		m, err = manager.NewWithPaths(config, paths)
	}
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return &Group{m, Place{Path: path, Systemd: systemd, Paths: m.GetPaths()}}, nil
}

// Open finds a group again.
func Open(p *Place) (*Group, error) {
	config := &cgroups.Cgroup{Systemd: p.Systemd, Resources: &cgroups.Resources{SkipDevices: true}, Rootless: program.Rootless()}
	if p.Systemd {
		if parts := strings.Split(p.Path, ":"); len(parts) == 3 {
			config.Parent, config.ScopePrefix, config.Name = parts[0], parts[1], parts[2]
		}
	} else {
		config.Path = filepath.Clean("/" + p.Path)
	}
	m, err := manager.NewWithPaths(config, p.Paths)
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return &Group{m, *p}, nil
}

// Place is where the group is, complete after Start.
func (g *Group) Place() *Place {
	p := g.place
	p.Paths = g.m.GetPaths()
	return &p
}

// Warm prepares the kernel for Start; it may run beside anything else. The first
// move of a process between groups waits for an RCU grace period, some 10 ms on an
// idle host, and those that follow soon do not (kernel/cgroup/cgroup.c,
// cgroup_procs_write_start; percpu-rwsem). A move of no process is as good as any.
func (g *Group) Warm() {
	for _, dir := range g.m.GetPaths() {
		for ; strings.HasPrefix(dir, "/sys/fs/cgroup/"); dir = filepath.Dir(dir) {
			f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
			if err != nil {
				continue // not made yet; the one above will do
			}
			f.WriteString("2147483647") // above any pid_max, hence ESRCH
			f.Close()
			return
		}
	}
}

// Start makes the group, puts the processes into it and sets its limits.
func (g *Group) Start(r *specs.LinuxResources, pids ...int) error {
	for i, pid := range pids {
		var err error
		if i == 0 {
			err = g.m.Apply(pid)
		} else {
			err = g.m.AddPid("", pid)
		}
		if errors.Is(err, cgroups.ErrRootless) {
			err = nil // no limit was asked for, or Set will say so
		}
		if err != nil {
			return fmt.Errorf("cgroup %s: add process %d: %w", g.place.Path, pid, err)
		}
	}
	return g.Set(r)
}

// Add puts a further process into the group.
func (g *Group) Add(pid int) error {
	if err := g.m.AddPid("", pid); err != nil {
		return fmt.Errorf("cgroup %s: add process %d: %w", g.place.Path, pid, err)
	}
	return nil
}

// Set sets the limits.
func (g *Group) Set(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if err := g.m.Set(host(r)); err != nil {
		return fmt.Errorf("cgroup %s: %w", g.place.Path, err)
	}
	return nil
}

// ErrHeld says that the processes of a group hold more than a limit of memory that they were
// to be given.
var ErrHeld = errors.New("more memory is held")

// Fit is Set, which ends no process: where more memory is held than the limit says, and
// cannot be reclaimed, the limit stays.
func (g *Group) Fit(r *specs.LinuxResources) error {
	if r == nil || r.Memory == nil || value(r.Memory.Limit) <= 0 {
		return g.Set(r)
	}
	limit := host(r).Memory
	// Version 1 refuses by itself (EBUSY), 2 ends processes (memory.max).
	held, err := g.held()
	if err != nil {
		return err
	}
	if held > uint64(limit) {
		return fmt.Errorf("cgroup %s: %w: %d MiB, and the limit would be %d", g.place.Path, ErrHeld, held>>20, limit>>20)
	}
	return g.Set(r)
}

// held is what of the group's memory has no copy elsewhere and is in use, in bytes, as
// memory.stat has it (Documentation/admin-guide/cgroup-v2.rst; cgroup-v1/memory.rst, total_rss
// and total_shmem).
func (g *Group) held() (n uint64, err error) {
	paths := g.m.GetPaths()
	dir, count := paths["memory"], []string{"total_rss", "total_shmem"}
	if dir == "" {
		dir, count = paths[""], []string{"anon", "shmem", "slab_unreclaimable", "kernel_stack", "pagetables"}
	}
	if dir == "" {
		return 0, nil
	}
	text, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // no limit was asked for, or all is gone
	}
	if err != nil {
		return 0, fmt.Errorf("cgroup %s: %w", g.place.Path, err)
	}
	for line := range strings.Lines(string(text)) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !slices.Contains(count, name) {
			continue
		}
		bytes, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("cgroup %s: memory.stat: %w", g.place.Path, err)
		}
		n += bytes
	}
	return n, nil
}

// Freeze stops all processes of the group, or lets them go on.
func (g *Group) Freeze(frozen bool) error {
	const freezeTries = 20
	state, verb := cgroups.Thawed, "thaw"
	if frozen {
		state, verb = cgroups.Frozen, "freeze"
	}
	err := g.m.Freeze(state)
	// The kernel's first freezer gives up on a group whose processes are traced and a
	// host that is busy; what the library does within a fifth of a second is tried a while longer.
	for range freezeTries {
		if err == nil || !frozen {
			break
		}
		err = g.m.Freeze(state)
	}
	if err != nil {
		return fmt.Errorf("cgroup %s: %s: %w", g.place.Path, verb, err)
	}
	return nil
}

// Frozen says whether Freeze(true) is in force.
func (g *Group) Frozen() bool {
	s, err := g.m.GetFreezerState()
	return err == nil && s == cgroups.Frozen
}

// Stats are the host's counts.
func (g *Group) Stats() (*cgroups.Stats, error) {
	s, err := g.m.GetStats()
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", g.place.Path, err)
	}
	return s, nil
}

// OOMKills is how many processes of the group the kernel has killed for want of memory: a
// line of memory.events (Documentation/admin-guide/cgroup-v2.rst), or of memory.oom_control
// (cgroup-v1/memory.rst).
func (g *Group) OOMKills() (uint64, error) {
	paths := g.m.GetPaths()
	var file string
	switch { // a host with both versions has one for memory, and the first is named
	case paths["memory"] != "":
		file = filepath.Join(paths["memory"], "memory.oom_control")
	case paths[""] != "":
		file = filepath.Join(paths[""], "memory.events")
	default:
		return 0, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // no limit was asked for, or all is gone
	}
	if err != nil {
		return 0, fmt.Errorf("cgroup %s: %w", g.place.Path, err)
	}
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == "oom_kill" {
			return strconv.ParseUint(value, 10, 64)
		}
	}
	return 0, nil
}

// Pids are the processes of the group. The library asks the devices controller
// on v1, which we do not use; any other has the same processes.
func (g *Group) Pids() (pids []int, err error) {
	paths := g.m.GetPaths()
	for _, controller := range []string{"", "freezer", "memory", "pids", "cpu", "name=systemd"} {
		if dir := paths[controller]; dir != "" {
			if pids, err = cgroups.GetAllPids(dir); err == nil {
				return pids, nil
			}
		}
	}
	return nil, err
}

// Destroy kills what is left in the group and removes it. A group that never
// came to be is no error.
func (g *Group) Destroy() error {
	if g.Frozen() {
		g.m.Freeze(cgroups.Thawed)
	}
	// Processes in exit hold a group of v1 for some time yet, hence the patience;
	// the loop ends early in the usual case.
	for end := time.Now().Add(5 * time.Second); ; {
		pids, _ := g.Pids()
		for _, pid := range pids {
			if pid > 1 && pid != os.Getpid() {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		if len(pids) == 0 || time.Now().After(end) {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	if err := g.m.Destroy(); err != nil {
		return fmt.Errorf("cgroup %s: remove: %w", g.place.Path, err)
	}
	return nil
}

// Inside gives the limits that the sandbox enforces itself.
func Inside(r *specs.LinuxResources) agent.Limits {
	var l agent.Limits
	if r == nil {
		return l
	}
	if r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 {
		l.Memory = *r.Memory.Limit
	}
	if r.Pids != nil && pids(r.Pids) > 0 {
		l.Pids = pids(r.Pids)
	}
	if c := r.CPU; c != nil && c.Quota != nil && *c.Quota > 0 {
		period := uint64(defaultPeriod)
		if c.Period != nil && *c.Period > 0 {
			period = *c.Period
		}
		l.CPUs = float64(*c.Quota) / float64(period)
	}
	if c := r.CPU; c != nil {
		cpus, _ := agent.ParseCPUs(c.Cpus) // who sets the group says what is wrong with it
		l.CPUSet = len(cpus)
	}
	if n := unified(r, memoryFile); n > 0 {
		l.Memory = n
	}
	if n := unified(r, pidsFile); n > 0 {
		l.Pids = n
	}
	return l
}

func pids(p *specs.LinuxPids) int64 {
	if p.Limit == nil {
		return 0
	}
	return *p.Limit
}

// host translates limits for the group, adding the slack. Device rules are left
// out: the sandbox reaches no device but those whose descriptors it was given.
func host(r *specs.LinuxResources) *cgroups.Resources {
	c := &cgroups.Resources{SkipDevices: true}
	if r == nil {
		return c
	}
	if m := r.Memory; m != nil {
		c.Memory = withSlack(m.Limit)
		c.MemorySwap = withSlack(m.Swap)
		if m.Swap != nil && m.Limit != nil && *m.Swap > 0 && *m.Limit > 0 {
			c.MemorySwap = c.Memory + (*m.Swap - *m.Limit)
		}
		if m.Reservation != nil {
			c.MemoryReservation = *m.Reservation
		}
		c.MemorySwappiness = m.Swappiness
	}
	if p := r.CPU; p != nil {
		c.CpuShares = value(p.Shares)
		c.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(c.CpuShares)
		c.CpuQuota = value(p.Quota)
		c.CpuBurst = p.Burst
		c.CpuPeriod = value(p.Period)
		c.CpuRtRuntime = value(p.RealtimeRuntime)
		c.CpuRtPeriod = value(p.RealtimePeriod)
		c.CpusetCpus, c.CpusetMems = p.Cpus, p.Mems
		c.CPUIdle = p.Idle
	}
	if r.Pids != nil {
		if n := pids(r.Pids); n > 0 {
			n = n*pidsFactor + pidsSlack
			c.PidsLimit = &n
		} else if n < 0 {
			c.PidsLimit = &n
		}
	}
	blockIO(c, r.BlockIO)
	if r.Network != nil {
		if r.Network.ClassID != nil {
			c.NetClsClassid = *r.Network.ClassID
		}
		for _, p := range r.Network.Priorities {
			c.NetPrioIfpriomap = append(c.NetPrioIfpriomap, &cgroups.IfPrioMap{Interface: p.Name, Priority: int64(p.Priority)})
		}
	}
	c.Unified = r.Unified
	return c
}

func blockIO(c *cgroups.Resources, b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	c.BlkioWeight, c.BlkioLeafWeight = value(b.Weight), value(b.LeafWeight)
	for _, d := range b.WeightDevice {
		c.BlkioWeightDevice = append(c.BlkioWeightDevice, cgroups.NewWeightDevice(d.Major, d.Minor, value(d.Weight), value(d.LeafWeight)))
	}
	for _, list := range []struct {
		from []specs.LinuxThrottleDevice
		to   *[]*cgroups.ThrottleDevice
	}{
		{b.ThrottleReadBpsDevice, &c.BlkioThrottleReadBpsDevice},
		{b.ThrottleWriteBpsDevice, &c.BlkioThrottleWriteBpsDevice},
		{b.ThrottleReadIOPSDevice, &c.BlkioThrottleReadIOPSDevice},
		{b.ThrottleWriteIOPSDevice, &c.BlkioThrottleWriteIOPSDevice},
	} {
		for _, d := range list.from {
			*list.to = append(*list.to, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
		}
	}
}

// withSlack leaves 0 (unset) and -1 (no limit) as they are.
func withSlack(limit *int64) int64 {
	if limit == nil || *limit <= 0 {
		return value(limit)
	}
	return *limit + memorySlack + *limit/memorySlackShare
}

func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
