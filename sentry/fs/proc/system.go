package proc

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/vfs"
)

// systemFile is one file of /proc itself.
type systemFile struct {
	name string
	perm uint32 // 0: 0444
	read func(fs *FileSystem, ctx vfs.Context) ([]byte, error)
}

func (f *systemFile) mode() uint32 {
	if f.perm == 0 {
		return 0o444
	}
	return f.perm
}

// systemFiles tell of the machine.
var systemFiles = []systemFile{
	{"cpuinfo", 0, cpuinfo},
	{"meminfo", 0, meminfo},
	{"stat", 0, systemStat},
	{"uptime", 0, uptime},
	{"loadavg", 0, loadavg},
	{"version", 0, version},
	{"filesystems", 0, filesystems},
	{"cmdline", 0, constant("BOOT_IMAGE=/vmlinuz\n")},
	{"devices", 0, constant(devices)},
	{"interrupts", 0, interrupts},
	{"softirqs", 0, interrupts},
	{"vmstat", 0, vmstat},
	{"zoneinfo", 0, zoneinfo},
	{"buddyinfo", 0, constant("")},
	{"swaps", 0, constant("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")},
	{"partitions", 0, constant("major minor  #blocks  name\n\n")},
	{"diskstats", 0, constant("")},
	{"modules", 0, constant("")},
	{"misc", 0, constant("")},
	{"locks", 0, fileLocks},
	{"slabinfo", 0o400, constant("slabinfo - version: 2.1\n# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>" +
		" : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n")},
	{"consoles", 0, constant("")},
	{"execdomains", 0, constant("0-0\tLinux           \t[kernel]\n")},
	{"cgroups", 0, cgroups},
	{"key-users", 0, constant("")},
	{"keys", 0, constant("")},
}

func constant(text string) func(*FileSystem, vfs.Context) ([]byte, error) {
	return func(*FileSystem, vfs.Context) ([]byte, error) { return []byte(text), nil }
}

// devices are the drivers that programs find here.
const devices = `Character devices:
  1 mem
  5 /dev/tty
  5 /dev/console
  5 /dev/ptmx
 10 misc
128 ptm
136 pts

Block devices:
`

const ttyDrivers = `/dev/tty             /dev/tty        5       0 system:/dev/tty
/dev/console         /dev/console    5       1 system:console
/dev/ptmx            /dev/ptmx       5       2 system
pty_slave            /dev/pts      136 0-1048575 pty:slave
pty_master           /dev/ptm      128 0-1048575 pty:master
`

// cpuinfo is the host's for as many CPUs as the container has.
func cpuinfo(fs *FileSystem, _ vfs.Context) ([]byte, error) {
	return CutCPUs(fs.CPUInfo, fs.group().CPUs), nil
}

// CutCPUs makes n processors of what a /proc/cpuinfo shows: it drops those that
// are too many, or repeats the last.
func CutCPUs(info []byte, n int) []byte {
	blocks := bytes.SplitAfter(info, []byte("\n\n"))
	blocks = slices.DeleteFunc(blocks, func(b []byte) bool { return !bytes.Contains(b, []byte("processor")) })
	if len(blocks) == 0 {
		blocks = [][]byte{[]byte("processor\t: 0\nvendor_id\t: unknown\n\n")}
	}
	var out []byte
	for i := range n {
		for line := range bytes.Lines(blocks[min(i, len(blocks)-1)]) {
			key, _, _ := bytes.Cut(line, []byte("\t"))
			switch strings.TrimSpace(string(key)) {
			case "processor":
				line = fmt.Appendf(nil, "processor\t: %d\n", i)
			case "siblings":
				line = fmt.Appendf(nil, "siblings\t: %d\n", n)
			case "cpu cores":
				line = fmt.Appendf(nil, "cpu cores\t: %d\n", n)
			case "core id":
				line = fmt.Appendf(nil, "core id\t\t: %d\n", i)
			case "apicid":
				line = fmt.Appendf(nil, "apicid\t\t: %d\n", i)
			case "initial apicid":
				line = fmt.Appendf(nil, "initial apicid\t: %d\n", i)
			}
			out = append(out, line...)
		}
	}
	return out
}

// total is all memory in bytes.
func (fs *FileSystem) total() uint64 { return max(fs.group().Memory, fs.group().Arena.Usage()) }

func meminfo(fs *FileSystem, _ vfs.Context) ([]byte, error) {
	total, used := fs.total(), fs.group().Arena.Usage()
	var anon, file, shmem uint64
	for _, g := range fs.group().Groups() {
		if _, _, m := g.Leader().Look(); m != nil {
			z := m.Sizes()
			anon += z.ResidentAnon
			file += z.ResidentFile
			shmem += z.ResidentShmem
		}
	}
	anon = min(anon, used)
	cached := used - anon // what is in memory and no process's own: tmpfs, and files
	commit := total / 2
	var b bytes.Buffer
	for _, r := range []struct {
		name string
		n    uint64
	}{
		{"MemTotal", total}, {"MemFree", total - used}, {"MemAvailable", total - used}, {"Buffers", 0},
		{"Cached", cached}, {"SwapCached", 0}, {"Active", used}, {"Inactive", 0}, {"Active(anon)", used},
		{"Inactive(anon)", 0}, {"Active(file)", 0}, {"Inactive(file)", 0}, {"Unevictable", 0}, {"Mlocked", 0},
		{"SwapTotal", 0}, {"SwapFree", 0}, {"Zswap", 0}, {"Zswapped", 0}, {"Dirty", 0}, {"Writeback", 0},
		{"AnonPages", anon}, {"Mapped", file + shmem}, {"Shmem", cached}, {"KReclaimable", 0}, {"Slab", 0},
		{"SReclaimable", 0}, {"SUnreclaim", 0}, {"KernelStack", 0}, {"PageTables", 0}, {"SecPageTables", 0},
		{"NFS_Unstable", 0}, {"Bounce", 0}, {"WritebackTmp", 0}, {"CommitLimit", commit}, {"Committed_AS", anon},
		{"VmallocTotal", 34359738367 << 10}, {"VmallocUsed", 0}, {"VmallocChunk", 0}, {"Percpu", 0},
		{"AnonHugePages", 0}, {"ShmemHugePages", 0}, {"ShmemPmdMapped", 0}, {"FileHugePages", 0}, {"FilePmdMapped", 0},
	} {
		fmt.Fprintf(&b, "%-16s%8d kB\n", r.name+":", r.n>>10)
	}
	b.WriteString("HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\nHugePages_Surp:        0\n" +
		"Hugepagesize:       2048 kB\nHugetlb:               0 kB\n")
	return b.Bytes(), nil
}

// cpuTicks is the CPU time of all processes that there are, which never goes back.
func (fs *FileSystem) cpuTicks() (user, sys uint64) {
	var u, s time.Duration
	for _, g := range fs.group().Groups() {
		gu, gs := g.CPUTime()
		cu, cs := g.ChildCPUTime()
		u, s = u+gu+cu, s+gs+cs
	}
	fs.cpuMu.Lock()
	defer fs.cpuMu.Unlock()
	fs.cpu[0] = max(fs.cpu[0], uint64(ticks(u)))
	fs.cpu[1] = max(fs.cpu[1], uint64(ticks(s)))
	return fs.cpu[0], fs.cpu[1]
}

// systemStat is fs/proc/stat.c. Which CPU did what is not known: they share.
func systemStat(fs *FileSystem, _ vfs.Context) ([]byte, error) {
	k := fs.Kernel
	user, sys := fs.cpuTicks()
	n := uint64(fs.group().CPUs)
	all := uint64(ticks(k.Clock.Uptime())) * n
	idle := all - min(all, user+sys)
	var b bytes.Buffer
	fmt.Fprintf(&b, "cpu  %d 0 %d %d 0 0 0 0 0 0\n", user, sys, idle)
	for i := range n {
		fmt.Fprintf(&b, "cpu%d %d 0 %d %d 0 0 0 0 0 0\n", i, user/n, sys/n, idle/n)
	}
	var switches uint64
	running := 0
	for _, g := range fs.group().Groups() {
		for _, t := range g.Tasks() {
			v, i := t.Switches()
			switches += v + i
			if t.State() == 'R' {
				running++
			}
		}
	}
	boot := (time.Duration(k.Clock.Realtime()) - k.Clock.Uptime()) / time.Second
	fmt.Fprintf(&b, "intr 0\nctxt %d\nbtime %d\nprocesses %d\nprocs_running %d\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
		switches, int64(boot), k.Forks.Load()+1, running)
	return b.Bytes(), nil
}

func uptime(fs *FileSystem, ctx vfs.Context) ([]byte, error) {
	k := fs.Kernel
	up := k.Clock.Uptime()
	shown := up
	if t, ok := caller(ctx); ok && t.Namespaces() != nil {
		_, boot := t.Namespaces().Time.Offsets()
		shown += boot
	}
	user, sys := fs.cpuTicks()
	all := uint64(ticks(up)) * uint64(fs.group().CPUs)
	idle := all - min(all, user+sys)
	return fmt.Appendf(nil, "%d.%02d %d.%02d\n", int64(shown/time.Second), int64(shown%time.Second/(10*time.Millisecond)), idle/100, idle%100), nil
}

func loadavg(fs *FileSystem, _ vfs.Context) ([]byte, error) {
	n, last := fs.Kernel.PIDsIn(fs.pids())
	running := 0
	for _, g := range fs.group().Groups() {
		for _, t := range g.Tasks() {
			if t.State() == 'R' {
				running++
			}
		}
	}
	user, sys := fs.cpuTicks()
	m := fs.load.look(fs.Kernel.Clock.Uptime(), time.Duration(user+sys)*10*time.Millisecond)
	return fmt.Appendf(nil, "%.2f %.2f %.2f %d/%d %d\n", m[0], m[1], m[2], running, n, last), nil
}

func version(fs *FileSystem, _ vfs.Context) ([]byte, error) {
	return fmt.Appendf(nil, "Linux version %s (bulkhead@sentry) (gc) %s\n", fs.OSRelease, fs.OSVersion), nil
}

func filesystems(fs *FileSystem, _ vfs.Context) ([]byte, error) {
	var b []byte
	for _, f := range fs.Filesystems {
		b = append(b, f+"\n"...)
	}
	return b, nil
}

func interrupts(fs *FileSystem, _ vfs.Context) ([]byte, error) {
	b := []byte("           ")
	for i := range fs.group().CPUs {
		b = fmt.Appendf(b, "CPU%-8d", i)
	}
	return append(b, '\n'), nil
}

func vmstat(fs *FileSystem, _ vfs.Context) ([]byte, error) {
	used, total := fs.group().Arena.Usage()/pageSize, fs.total()/pageSize
	var faults uint64
	for _, g := range fs.group().Groups() {
		for _, t := range g.Tasks() {
			faults += t.MinFaults.Load()
		}
	}
	return fmt.Appendf(nil, "nr_free_pages %d\nnr_inactive_anon 0\nnr_active_anon %d\nnr_inactive_file 0\nnr_active_file 0\n"+
		"nr_anon_pages %d\nnr_mapped 0\nnr_file_pages 0\nnr_dirty 0\nnr_writeback 0\nnr_shmem 0\n"+
		"pgpgin 0\npgpgout 0\npswpin 0\npswpout 0\npgfault %d\npgmajfault 0\noom_kill %d\n",
		total-used, used, used, faults, fs.group().OOMKills.Load()), nil
}

func zoneinfo(fs *FileSystem, _ vfs.Context) ([]byte, error) {
	used, total := fs.group().Arena.Usage()/pageSize, fs.total()/pageSize
	return fmt.Appendf(nil, "Node 0, zone   Normal\n  pages free     %d\n        boost    0\n        min      0\n        low      0\n        high     0\n"+
		"        spanned  %d\n        present  %d\n        managed  %d\n", total-used, total, total, total), nil
}

// cgroups says that all controllers are in the second version's hierarchy.
func cgroups(*FileSystem, vfs.Context) ([]byte, error) {
	b := []byte("#subsys_name\thierarchy\tnum_cgroups\tenabled\n")
	for _, c := range []string{"cpuset", "cpu", "cpuacct", "io", "memory", "pids"} {
		if c == "io" {
			c = "blkio"
		}
		b = append(b, c+"\t0\t1\t1\n"...)
	}
	return b, nil
}

// allowed are the CPUs that t may run on, by bit.
func (fs *FileSystem) allowed(t *kernel.Task) uint64 {
	all := uint64(1)<<min(fs.group().CPUs, 63) - 1
	if a := t.Affinity.Load() & all; a != 0 {
		return a
	}
	return all
}

// cpuOf is a CPU that t may have run on last.
func (fs *FileSystem) cpuOf(t *kernel.Task) int {
	a := fs.allowed(t)
	n := 0
	for a&1 == 0 {
		a >>= 1
		n++
	}
	return n
}

// mask is a bitmap as %*pb prints it, in 32-bit words.
func mask(m uint64) string {
	if m>>32 != 0 {
		return fmt.Sprintf("%x,%08x", m>>32, uint32(m))
	}
	return fmt.Sprintf("%x", m)
}

// ranges is a bitmap as %*pbl prints it: 0-3,7.
func ranges(m uint64) string {
	var out []string
	for i := 0; i < 64; i++ {
		if m>>i&1 == 0 {
			continue
		}
		j := i
		for j < 63 && m>>(j+1)&1 != 0 {
			j++
		}
		if i == j {
			out = append(out, strconv.Itoa(i))
		} else {
			out = append(out, fmt.Sprintf("%d-%d", i, j))
		}
		i = j
	}
	return strings.Join(out, ",")
}
