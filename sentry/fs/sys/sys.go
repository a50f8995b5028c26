// Package sys is /sys as programs look into it: how many CPUs there are and how
// they are arranged, whether huge pages work, that there is a loopback device;
// and a read-only view of the container's control group in the layout of
// cgroup v2 (Documentation/admin-guide/cgroup-v2.rst), a file system of its own.
//
// There are no devices, drivers, modules or firmware in it.
package sys

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/vfs"
)

// Config is what only the sandbox knows.
type Config struct {
	Cgroup *kernel.Cgroup // of the container that sees it
	Caches []Cache        // the host's, read before the jail
	// Interfaces are those of the network namespace that it was mounted in.
	Interfaces func() []Interface
	// HugePages says that application memory has them.
	HugePages bool
}

// Cache is one of a CPU's caches: its files in sysfs by name.
type Cache map[string]string

// cacheFiles are those that lscpu, the JVM and BLAS libraries read.
var cacheFiles = []string{"coherency_line_size", "id", "level", "number_of_sets", "physical_line_partition", "size", "type",
	"ways_of_associativity"}

// HostCaches reads the host's; it has none if the host shows none.
func HostCaches() (cs []Cache) {
	dirs, _ := filepath.Glob("/sys/devices/system/cpu/cpu0/cache/index*")
	slices.Sort(dirs)
	for _, d := range dirs {
		c := Cache{}
		for _, f := range cacheFiles {
			if b, err := os.ReadFile(filepath.Join(d, f)); err == nil {
				c[f] = strings.TrimSpace(string(b))
			}
		}
		cs = append(cs, c)
	}
	return cs
}

// New makes /sys.
func New(c Config) *kernfs.FileSystem {
	if c.Interfaces == nil {
		c.Interfaces = func() []Interface { return nil }
	}
	fs := kernfs.New("sysfs", unix.SYSFS_MAGIC)
	b := builder{fs, c, max(c.Cgroup.CPUs, 1)}
	root := fs.Dir()
	for _, name := range []string{"block", "bus", "class", "dev/block", "dev/char", "devices", "firmware", "fs/cgroup", "kernel", "module", "power"} {
		b.dir(root, name)
	}
	b.cpus(b.dir(root, "devices/system/cpu"))
	b.node(b.dir(root, "devices/system/node"))
	b.network(root)
	for _, name := range []string{"block", "tty", "mem", "misc", "dmi", "thermal", "power_supply", "hwmon", "drm", "input"} {
		b.dir(root, "class/"+name)
	}
	b.kernel(b.dir(root, "kernel"))
	return fs
}

type builder struct {
	fs  *kernfs.FileSystem
	cfg Config
	n   int // CPUs
}

// dir makes the directories of a path.
func (b *builder) dir(d *kernfs.Dir, path string) *kernfs.Dir {
	for name := range strings.SplitSeq(path, "/") {
		d = d.Sub(name)
	}
	return d
}

// text adds files with fixed contents.
func (b *builder) text(d *kernfs.Dir, files map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		d.Add(name, b.fs.Text(files[name]+"\n"))
	}
}

// list is CPUs as 0-3; mask as f.
func list(n int) string {
	if n == 1 {
		return "0"
	}
	return "0-" + strconv.Itoa(n-1)
}

// mask is a bitmap of CPUs [from, to) in 32-bit words.
func mask(from, to int) string {
	words := make([]uint32, (to+31)/32)
	for i := from; i < to; i++ {
		words[i/32] |= 1 << (i % 32)
	}
	s := fmt.Sprintf("%x", words[len(words)-1])
	for i := len(words) - 2; i >= 0; i-- {
		s += fmt.Sprintf(",%08x", words[i])
	}
	return s
}

// cpus are one package of n cores with one thread each.
func (b *builder) cpus(d *kernfs.Dir) {
	all := list(b.n)
	b.text(d, map[string]string{"online": all, "possible": all, "present": all, "offline": "", "isolated": "",
		"kernel_max": "8191"})
	b.text(d.Sub("smt"), map[string]string{"active": "0", "control": "notsupported"})
	for i := range b.n {
		name := "cpu" + strconv.Itoa(i)
		c := d.Sub(name)
		id, me, mine := strconv.Itoa(i), strconv.Itoa(i), mask(i, i+1)
		b.text(c.Sub("topology"), map[string]string{
			"core_id": id, "physical_package_id": "0", "die_id": "0", "cluster_id": id,
			"core_cpus": mine, "core_cpus_list": me, "thread_siblings": mine, "thread_siblings_list": me,
			"cluster_cpus": mine, "cluster_cpus_list": me,
			"core_siblings": mask(0, b.n), "core_siblings_list": all, "package_cpus": mask(0, b.n), "package_cpus_list": all,
			"die_cpus": mask(0, b.n), "die_cpus_list": all,
		})
		if i > 0 { // the first one cannot be taken away
			b.text(c, map[string]string{"online": "1"})
		}
		c.Add("node0", b.fs.TextLink("../../node/node0"))
		c.Add("subsystem", b.fs.TextLink("../../../../bus/cpu"))
		b.caches(c.Sub("cache"), i)
	}
	bus := b.dir(b.fs.Dir(), "bus/cpu/devices")
	for i := range b.n {
		name := "cpu" + strconv.Itoa(i)
		bus.Add(name, b.fs.TextLink("../../../devices/system/cpu/"+name))
	}
}

// caches: the last level belongs to all CPUs, the others to one.
func (b *builder) caches(d *kernfs.Dir, cpu int) {
	last := ""
	for _, c := range b.cfg.Caches {
		last = max(last, c["level"])
	}
	for i, c := range b.cfg.Caches {
		files := maps.Clone(c)
		files["id"], files["shared_cpu_list"], files["shared_cpu_map"] = strconv.Itoa(cpu), strconv.Itoa(cpu), mask(cpu, cpu+1)
		if c["level"] == last && last > "2" {
			files["id"], files["shared_cpu_list"], files["shared_cpu_map"] = "0", list(b.n), mask(0, b.n)
		}
		b.text(d.Sub("index"+strconv.Itoa(i)), files)
	}
}

func (b *builder) node(d *kernfs.Dir) {
	b.text(d, map[string]string{"online": "0", "possible": "0", "has_cpu": "0", "has_memory": "0", "has_normal_memory": "0"})
	n := d.Sub("node0")
	b.text(n, map[string]string{"cpulist": list(b.n), "cpumap": mask(0, b.n), "distance": "10"})
	n.Add("meminfo", b.fs.NewFile(0o444, func(vfs.Context) ([]byte, error) {
		k := b.cfg.Cgroup
		used := k.Arena.Usage()
		total := max(k.Memory, used)
		return fmt.Appendf(nil, "Node 0 MemTotal:       %8d kB\nNode 0 MemFree:        %8d kB\nNode 0 MemUsed:        %8d kB\n",
			total>>10, (total-used)>>10, used>>10), nil
	}))
	for i := range b.n {
		name := "cpu" + strconv.Itoa(i)
		n.Add(name, b.fs.TextLink("../../cpu/"+name))
	}
}

func (b *builder) kernel(d *kernfs.Dir) {
	enabled := "always madvise [never]"
	if b.cfg.HugePages {
		enabled = "[always] madvise never"
	}
	b.text(b.dir(d, "mm/transparent_hugepage"), map[string]string{
		"enabled": enabled, "defrag": "always defer defer+madvise [madvise] never", "hpage_pmd_size": "2097152",
		"shmem_enabled": "always within_size advise [never] deny force", "use_zero_page": "1",
	})
	huge := b.dir(d, "mm/hugepages/hugepages-2048kB")
	b.text(huge, map[string]string{"nr_hugepages": "0", "free_hugepages": "0", "resv_hugepages": "0", "surplus_hugepages": "0",
		"nr_overcommit_hugepages": "0"})
	b.dir(d, "security")
	b.dir(d, "debug")
	b.dir(d, "tracing")
	b.text(d, map[string]string{"cpu_byteorder": "little", "address_bits": "64", "fscaps": "1", "uevent_seqnum": "0", "profiling": "0"})
}
