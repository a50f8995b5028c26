package sys

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/vfs"
)

// Limits are those of the container; 0 is none.
type Limits struct {
	Memory, Swap     uint64 // bytes
	Pids             int64
	Quota, Period    int64 // of CPU time, microseconds
	Weight           int64 // cpu.weight, 1 to 10000
	OOMKills, OOMHit uint64
}

// cgroup is the container's control group.
type cgroup struct {
	*kernel.Cgroup
	limits func() Limits
}

// NewCgroup makes the file system for /sys/fs/cgroup: as in a container with a
// cgroup namespace, its root is the container's group c. limits tells the limits
// as they are now. Nothing in it can be changed from inside.
func NewCgroup(c *kernel.Cgroup, limits func() Limits) *kernfs.FileSystem {
	fs := kernfs.New("cgroup2", unix.CGROUP2_SUPER_MAGIC)
	g := &cgroup{c, limits}
	for _, f := range groupFiles {
		fs.Dir().Add(f.name, fs.NewFile(0o444, func(vfs.Context) ([]byte, error) { return []byte(f.read(g)), nil }))
	}
	return fs
}

// groupFiles are the interface files of the controllers.
var groupFiles = []struct {
	name string
	read func(*cgroup) string
}{
	{"cgroup.controllers", text("cpuset cpu io memory pids\n")},
	{"cgroup.subtree_control", text("")},
	{"cgroup.type", text("domain\n")},
	{"cgroup.events", func(g *cgroup) string { return fmt.Sprintf("populated 1\nfrozen %d\n", g.frozen()) }},
	{"cgroup.freeze", func(g *cgroup) string { return fmt.Sprintln(g.frozen()) }},
	{"cgroup.stat", text("nr_descendants 0\nnr_dying_descendants 0\n")},
	{"cgroup.max.depth", text("max\n")},
	{"cgroup.max.descendants", text("max\n")},
	{"cgroup.procs", func(g *cgroup) string { return g.ids(false) }},
	{"cgroup.threads", func(g *cgroup) string { return g.ids(true) }},

	{"memory.max", func(g *cgroup) string { return limit(g.limits().Memory) }},
	{"memory.high", text("max\n")},
	{"memory.low", text("0\n")},
	{"memory.min", text("0\n")},
	{"memory.current", func(g *cgroup) string { return fmt.Sprintln(g.Arena.Usage()) }},
	{"memory.swap.max", func(g *cgroup) string { return fmt.Sprintln(g.limits().Swap) }},
	{"memory.swap.current", text("0\n")},
	{"memory.swap.high", text("max\n")},
	{"memory.swap.events", text("high 0\nmax 0\nfail 0\n")},
	{"memory.oom.group", text("0\n")},
	{"memory.events", (*cgroup).memoryEvents},
	{"memory.events.local", (*cgroup).memoryEvents},
	{"memory.stat", (*cgroup).memoryStat},

	{"cpu.max", (*cgroup).cpuMax},
	{"cpu.max.burst", text("0\n")},
	{"cpu.weight", func(g *cgroup) string { return fmt.Sprintln(orDefault(g.limits().Weight, 100)) }},
	{"cpu.weight.nice", text("0\n")},
	{"cpu.stat", (*cgroup).cpuStat},
	{"cpu.idle", text("0\n")},
	{"cpuset.cpus", func(g *cgroup) string { return list(g.CPUs) + "\n" }},
	{"cpuset.cpus.effective", func(g *cgroup) string { return list(g.CPUs) + "\n" }},
	{"cpuset.cpus.partition", text("member\n")},
	{"cpuset.mems", text("0\n")},
	{"cpuset.mems.effective", text("0\n")},

	{"pids.max", func(g *cgroup) string { return limit(uint64(max(g.limits().Pids, 0))) }},
	{"pids.current", func(g *cgroup) string { return fmt.Sprintln(g.Live()) }},
	{"pids.peak", func(g *cgroup) string { return fmt.Sprintln(g.Live()) }},
	{"pids.events", text("max 0\n")},

	{"io.stat", text("")},
	{"io.max", text("")},
	{"io.weight", text("default 100\n")},
}

// frozen is 0 or 1: who reads it from another container of the pod may see 1.
func (g *cgroup) frozen() int {
	if g.Frozen() {
		return 1
	}
	return 0
}

func text(s string) func(*cgroup) string { return func(*cgroup) string { return s } }

// limit shows a limit, "max" for none.
func limit(n uint64) string {
	if n == 0 {
		return "max\n"
	}
	return strconv.FormatUint(n, 10) + "\n"
}

func orDefault(n, d int64) int64 {
	if n == 0 {
		return d
	}
	return n
}

// ids are all processes, or all threads.
func (g *cgroup) ids(threads bool) string {
	var ids []int32
	for _, p := range g.Groups() {
		if !threads {
			ids = append(ids, p.ID().Contained())
			continue
		}
		for _, t := range p.Tasks() {
			ids = append(ids, t.ID().Contained())
		}
	}
	slices.Sort(ids)
	var b bytes.Buffer
	for _, id := range ids {
		fmt.Fprintln(&b, id)
	}
	return b.String()
}

func (g *cgroup) memoryEvents() string {
	l := g.limits()
	kills := max(l.OOMKills, g.OOMKills.Load())
	return fmt.Sprintf("low 0\nhigh 0\nmax %d\noom %d\noom_kill %d\noom_group_kill 0\n", max(l.OOMHit, kills), kills, kills)
}

func (g *cgroup) memoryStat() string {
	var anon, file, shmem uint64
	for _, p := range g.Groups() {
		if _, _, m := p.Leader().Look(); m != nil {
			z := m.Sizes()
			anon, file, shmem = anon+z.ResidentAnon, file+z.ResidentFile, shmem+z.ResidentShmem
		}
	}
	used := g.Arena.Usage()
	anon = min(anon, used)
	rest := used - anon
	var b bytes.Buffer
	for _, r := range []struct {
		name string
		n    uint64
	}{
		{"anon", anon}, {"file", rest}, {"kernel", 0}, {"kernel_stack", 0}, {"pagetables", 0}, {"sec_pagetables", 0},
		{"percpu", 0}, {"sock", 0}, {"vmalloc", 0}, {"shmem", rest}, {"file_mapped", file + shmem}, {"file_dirty", 0},
		{"file_writeback", 0}, {"swapcached", 0}, {"anon_thp", 0}, {"file_thp", 0}, {"shmem_thp", 0},
		{"inactive_anon", 0}, {"active_anon", used}, {"inactive_file", 0}, {"active_file", 0}, {"unevictable", 0},
		{"slab_reclaimable", 0}, {"slab_unreclaimable", 0}, {"slab", 0}, {"pgfault", 0}, {"pgmajfault", 0},
	} {
		fmt.Fprintf(&b, "%s %d\n", r.name, r.n)
	}
	return b.String()
}

func (g *cgroup) cpuMax() string {
	l := g.limits()
	period := orDefault(l.Period, 100000)
	if l.Quota <= 0 {
		return fmt.Sprintf("max %d\n", period)
	}
	return fmt.Sprintf("%d %d\n", l.Quota, period)
}

func (g *cgroup) cpuStat() string {
	var user, system time.Duration
	for _, p := range g.Groups() {
		u, s := p.CPUTime()
		cu, cs := p.ChildCPUTime()
		user, system = user+u+cu, system+s+cs
	}
	return fmt.Sprintf("usage_usec %d\nuser_usec %d\nsystem_usec %d\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\nnr_bursts 0\nburst_usec 0\n",
		(user + system).Microseconds(), user.Microseconds(), system.Microseconds())
}
