package oci

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// unified says whether this host has control groups of version 2 alone.
func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// limit demands the content of a container's control file, which version 1 and 2 call
// differently; a host without either skips.
func limit(v1, v1Want, v2, v2Want string) func(x *trial, name string) {
	return func(x *trial, name string) {
		file, want := v1, v1Want
		if unified() {
			file, want = v2, v2Want
		}
		if file == "" {
			x.Skipf("this version of control groups has no such limit")
		}
		for _, dir := range cgroupsOf(name) {
			if text, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				if got := strings.Join(strings.Fields(string(text)), " "); got != want {
					x.errorf("%s is %q, want %q", file, got, want)
				}
				return
			}
		}
		x.errorf("no control group of %s has a file %s: %q", name, file, cgroupsOf(name))
	}
}

// resourceRules are config-linux.md's "Control groups" and what is beneath.
func resourceRules() []rule {
	const (
		groups  = "config-linux.md, Cgroups Path"
		memory  = "config-linux.md, Memory"
		cpu     = "config-linux.md, CPU"
		valid   = "config.md, Valid values"
		invalid = "Runtimes MUST generate an error when invalid or unsupported values are encountered."
	)
	set := func(f func(*specs.LinuxResources)) func(*specs.Spec) {
		return func(s *specs.Spec) { f(s.Linux.Resources) }
	}
	all := set(func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Limit: pointer(int64(256 << 20)), Reservation: pointer(int64(128 << 20)), Swap: pointer(int64(256 << 20))}
		r.CPU = &specs.LinuxCPU{Shares: pointer(uint64(512)), Quota: pointer(int64(50000)), Period: pointer(uint64(100000)), Cpus: "0", Mems: "0"}
		r.Pids = &specs.LinuxPids{Limit: pointer(int64(77))}
	})
	in := func(name, in, says string, look func(*trial, string), ours ...string) rule {
		return rule{name: "cgroup_" + name, in: in, says: says, batch: "resources", edit: all, watch: look, ours: strings.Join(ours, "")}
	}
	refused := func(name, in, says string, edit func(*specs.LinuxResources), words ...string) rule {
		return rule{name: "cgroup_" + name, in: in, says: says, edit: set(edit), refused: words}
	}
	rules := []rule{
		in("memory_limit", memory, "limit (int64, OPTIONAL) - sets limit of memory usage", limit("memory.limit_in_bytes", "268435456", "memory.max", "268435456"), "the group has room for the Sentry beside the container, which the Sentry holds to its limit"),
		in("memory_reservation", memory, "reservation (int64, OPTIONAL) - sets soft limit of memory usage", limit("memory.soft_limit_in_bytes", "134217728", "memory.low", "134217728")),
		in("cpu_shares", cpu, "shares (uint64, OPTIONAL) - specifies a relative share of CPU time available to the tasks in a cgroup", limit("cpu.shares", "512", "cpu.weight", "20")),
		in("cpu_quota", cpu, "quota (int64, OPTIONAL) - specifies the total amount of time in microseconds for which all tasks in a cgroup can run during one period", limit("cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000")),
		in("cpu_period", cpu, "period (uint64, OPTIONAL) - specifies a period of time in microseconds for how regularly a cgroup's access to CPU resources should be reallocated (CFS scheduler only)", limit("cpu.cfs_period_us", "100000", "cpu.max", "50000 100000")),
		in("cpu_cpus", cpu, "cpus (string, OPTIONAL) - list of CPUs the container will run on.", limit("cpuset.cpus", "0", "cpuset.cpus", "0")),
		in("cpu_mems", cpu, "mems (string, OPTIONAL) - list of memory nodes the container will run on.", limit("cpuset.mems", "0", "cpuset.mems", "0")),
		in("cpus_inside", cpu, "cpus (string, OPTIONAL) - list of CPUs the container will run on.", func(x *trial, name string) {
			if r := x.do("exec", name, "sh", "-c", "grep Cpus_allowed_list /proc/1/status | cut -f2; nproc"); r.Out != "0\n1\n" {
				x.errorf("exec: %s", r)
			}
		}),
		in("pids", "config-linux.md, PIDs", "limit (int64, OPTIONAL) - specifies the maximum number of tasks in the cgroup, with -1 indicating no limit (max).", func(x *trial, name string) {
			// The last of those that look: runc's own threads have no room among what it leaves.
			// The Sentry's own threads are on the host and do not count; it keeps the limit inside.
			r := x.do("exec", name, "acts", "bomb")
			if !strings.Contains(r.Out, "75 forks, then Resource temporarily unavailable") {
				x.errorf("exec: %s", r)
			}
		}),
		{name: "cgroup_pids_unlimited", in: "config-linux.md, PIDs", says: "with -1 indicating no limit (max).", batch: "unlimited", edit: set(func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: pointer(int64(-1))} }), watch: limit("pids.max", "max", "pids.max", "max")},
		{name: "cgroup_memory_unlimited", in: memory, says: "Values for memory specify the limit in bytes, or -1 for unlimited memory.", batch: "unlimited", edit: set(func(r *specs.LinuxResources) { r.Memory = &specs.LinuxMemory{Limit: pointer(int64(-1))} }), watch: limit("memory.limit_in_bytes", "9223372036854771712", "memory.max", "max")},
		{name: "cgroup_cpu_unlimited", in: cpu, says: "quota (int64, OPTIONAL) - specifies the total amount of time in microseconds for which all tasks in a cgroup can run during one period", batch: "unlimited", edit: set(func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Quota: pointer(int64(-1))} }), watch: limit("cpu.cfs_quota_us", "-1", "cpu.max", "max 100000")},
		{name: "cgroup_path_absolute", in: groups, says: "In the case of an absolute path (starting with /), the runtime MUST take the path to be relative to the cgroups mount point.", steps: func(x *trial) {
			path := "/conform-" + id(x.T) + "/deep"
			name := x.started(func(s *specs.Spec) { s.Linux.CgroupsPath = path }, "sleep", "1000")
			x.inGroup(name, path)
			x.must("delete", "--force", name)
			x.noGroup(path)
			x.removeGroup(filepath.Dir(path))
		}},
		{name: "cgroup_path_consistent", in: groups, says: "If the value is specified, the runtime MUST consistently attach to the same place in the cgroups hierarchy given the same value of cgroupsPath.", steps: func(x *trial) {
			path := "/conform-" + id(x.T)
			for range 2 {
				name := x.started(func(s *specs.Spec) { s.Linux.CgroupsPath = path }, "sleep", "1000")
				x.inGroup(name, path)
				x.must("delete", "--force", name)
			}
			x.noGroup(path)
		}},
		{name: "cgroup_path_relative", in: groups, says: "In the case of a relative path (not starting with /), the runtime MAY interpret the path relative to a runtime-determined location in the cgroups hierarchy.", steps: func(x *trial) {
			path := "conform-" + id(x.T)
			name := x.started(func(s *specs.Spec) { s.Linux.CgroupsPath = path }, "sleep", "1000")
			if len(cgroupsOf(path)) == 0 {
				x.errorf("there is no control group %s", path)
			}
			x.must("delete", "--force", name)
			if left := cgroupsOf(path); len(left) != 0 {
				x.errorf("control groups are left: %q", left)
			}
		}},
		{name: "cgroup_path_default", in: groups, says: "If the value is not specified, the runtime MAY define the default cgroups path.", watch: func(x *trial, name string) {
			if len(cgroupsOf(name)) == 0 {
				x.errorf("it has no control group")
			}
		}},
		{name: "cgroup_path_above", in: groups, says: "Runtimes MAY consider certain cgroupsPath values to be invalid, and MUST generate an error if this is the case.", edit: func(s *specs.Spec) { s.Linux.CgroupsPath = "/a/../../b" }, refused: []string{"linux.cgroupsPath"}, runc: "it cleans the path"},
		{name: "cgroup_devices", in: "config-linux.md, Allowed Device list", says: "The runtime MUST apply entries in the listed order.", batch: "devicelist", edit: func(s *specs.Spec) {
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}, {Allow: true, Type: "c", Major: pointer(int64(1)), Minor: pointer(int64(3)), Access: "rwm"}}
		}, look: "echo x >/dev/null && head -c 2 /dev/zero | wc -c", sees: "2"}, // the default devices are allowed in any case
		{name: "cgroup_devices_host", in: "config-linux.md, Allowed Device list", says: "devices (array of objects, OPTIONAL) configures the allowed device list.", batch: "devicelist", edit: func(s *specs.Spec) {
			for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Permitted, &s.Process.Capabilities.Effective} {
				*set = append(*set, "CAP_MKNOD")
			}
		}, look: "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem", sees: ".*(Operation not permitted|No such device or address|No such device).*"},
		{name: "cgroup_update_memory", in: memory, says: "limit (int64, OPTIONAL) - sets limit of memory usage", steps: func(x *trial) {
			name := x.started(all, "sleep", "1000")
			x.must("update", "--memory", "134217728", "--memory-swap", "134217728", name)
			// What the group has beside that is the Sentry's own.
			if said := x.must("events", "--stats", name); x.ours() && !strings.Contains(said, `"limit":134217728`) {
				x.errorf("its limit is %s", said)
			} else if !x.ours() {
				limit("memory.limit_in_bytes", "134217728", "memory.max", "134217728")(x, name)
			}
			x.must("update", "--cpu-quota", "20000", "--cpu-share", "256", name)
			limit("cpu.cfs_quota_us", "20000", "cpu.max", "20000 100000")(x, name)
			limit("cpu.shares", "256", "cpu.weight", "10")(x, name)
		}},
		{name: "cgroup_check_before_update", in: memory, says: "checkBeforeUpdate (bool, OPTIONAL) - enables container memory usage check before setting a new limit.", steps: func(x *trial) {
			marks := x.marks()
			name := x.started(edits(shared(marks), func(s *specs.Spec) {
				s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: pointer(int64(256 << 20)), CheckBeforeUpdate: pointer(true)}
			}), "sh", "-c", "head -c 67108864 /dev/zero >/tmp/held && touch /mnt/ready && exec sleep 1000")
			x.await(marks, "ready")
			if r := x.fails("update", "--memory", "33554432", name); x.ours() && !strings.Contains(r.Err, "linux.resources.memory.limit: 33554432 is below the ") {
				x.errorf("update: %s", r)
			}
			x.status(name, specs.StateRunning)
			x.must("update", "--memory", "134217728", name)
		}},
		refused("swap_below_memory", memory, "swap (int64, OPTIONAL) - sets limit of memory+Swap usage", func(r *specs.LinuxResources) {
			r.Memory = &specs.LinuxMemory{Limit: pointer(int64(64 << 20)), Swap: pointer(int64(32 << 20))}
		}, "linux.resources.memory.swap"),
		refused("swappiness", memory, "The values are from 0 to 100.", func(r *specs.LinuxResources) { r.Memory = &specs.LinuxMemory{Swappiness: pointer(uint64(101))} }, "linux.resources.memory.swappiness"),
		refused("period_short", valid, invalid, func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Period: pointer(uint64(10))} }, "linux.resources.cpu.period"),
		refused("period_long", valid, invalid, func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Period: pointer(uint64(2_000_000))} }, "linux.resources.cpu.period"),
		refused("quota_short", valid, invalid, func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Quota: pointer(int64(10))} }, "linux.resources.cpu.quota"),
		refused("burst_above_quota", cpu, "If specified, this value MUST be no larger than any positive quota (runtimes MAY generate an error).", func(r *specs.LinuxResources) {
			r.CPU = &specs.LinuxCPU{Quota: pointer(int64(10_000)), Burst: pointer(uint64(20_000))}
		}, "linux.resources.cpu.burst"),
		refused("cpus_invalid", cpu, "This is a comma-separated list, with dashes to represent ranges.", func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Cpus: "zero"} }, "linux.resources.cpu.cpus"),
		refused("mems_invalid", cpu, "mems (string, OPTIONAL) - list of memory nodes the container will run on.", func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Mems: "0-"} }, "linux.resources.cpu.mems"),
		refused("idle_invalid", cpu, "idle (int64, OPTIONAL) - cgroups are configured with minimum weight, 0: default behavior, 1: SCHED_IDLE.", func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Idle: pointer(int64(2))} }, "linux.resources.cpu.idle"),
		refused("hugepage_size", "config-linux.md, Huge page limits", "pageSize (string, REQUIRED) - hugepage size.", func(r *specs.LinuxResources) {
			r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "3MB", Limit: 1}}
		}, "linux.resources.hugepageLimits[0].pageSize"),
		refused("rdma_empty", "config-linux.md, RDMA", "You MUST specify at least one of the hcaHandles or hcaObjects in a given entry, and MAY specify both.", func(r *specs.LinuxResources) {
			r.Rdma = map[string]specs.LinuxRdma{"mlx5_1": {}}
		}, "linux.resources.rdma"),
		refused("weight_empty", "config-linux.md, Block IO", "You MUST specify at least one of weight or leafWeight in a given entry, and MAY specify both.", func(r *specs.LinuxResources) {
			r.BlockIO = &specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{{}}}
		}, "linux.resources.blockIO.weightDevice[0]"),
		refused("unified_unknown", "config-linux.md, Unified", "The runtime MUST generate an error when the configuration refers to a cgroup controller that is not present or that cannot be enabled.", func(r *specs.LinuxResources) {
			r.Unified = map[string]string{"gravity.max": "9"}
		}, "unified"),
		refused("device_access", "config-linux.md, Allowed Device list", "A composition of r (read), w (write), and m (mknod).", func(r *specs.LinuxResources) {
			r.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "x"}}
		}, "linux.resources.devices[0].access"),
		refused("device_type", "config-linux.md, Allowed Device list", "type (string, OPTIONAL) - type of device: a (all), c (char), or b (block).", func(r *specs.LinuxResources) {
			r.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Type: "z", Access: "r"}}
		}, "linux.resources.devices[0].type"),
	}
	return rules
}

// inGroup demands that the container's process is in the group with this path.
func (x *trial) inGroup(name, path string) {
	text := x.read(filepath.Join("/proc", itoa(x.state(name).Pid), "cgroup"))
	for line := range strings.Lines(text) {
		if strings.HasSuffix(strings.TrimSpace(line), ":"+path) {
			return
		}
	}
	x.errorf("it is not in %s:\n%s", path, text)
}

func (x *trial) noGroup(path string) {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	if _, err := os.Stat("/sys/fs/cgroup" + path); err == nil {
		dirs = append(dirs, path)
	}
	if len(dirs) != 0 {
		x.errorf("control groups are left: %q", dirs)
	}
}

// removeGroup takes away what was above a container's group.
func (x *trial) removeGroup(path string) {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	for _, dir := range append(dirs, "/sys/fs/cgroup"+path) {
		os.Remove(dir)
	}
}
