package proc

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

func ticks(d time.Duration) int64 { return int64(d / (10 * time.Millisecond)) } // USER_HZ

// priority is the number ps shows: 20 and nice, or below 0 in real time.
func priority(t *kernel.Task) int64 {
	if p := t.Policy.Load(); p == 1 || p == 2 { // SCHED_FIFO, SCHED_RR
		return -1 - int64(t.Priority.Load())
	}
	return 20 + int64(t.Nice.Load())
}

var stateNames = map[byte]string{'R': "R (running)", 'S': "S (sleeping)", 'T': "T (stopped)", 't': "t (tracing stop)", 'Z': "Z (zombie)"}

// numbers are p's in ns and those below it.
func numbers(p *kernel.PID, ns *kernel.PIDNamespace) string {
	var b []byte
	for i, n := range p.Numbers(ns) {
		if i > 0 {
			b = append(b, '\t')
		}
		b = strconv.AppendInt(b, int64(n), 10)
	}
	return string(b)
}

// userOf is the user namespace of who asks.
func userOf(ctx vfs.Context) *vfs.UserNamespace { return ctx.Creds().User }

// status is fs/proc/array.c, proc_pid_status.
func status(fs *FileSystem, ctx vfs.Context, s subject) ([]byte, error) {
	var b bytes.Buffer
	line := func(name, format string, args ...any) { fmt.Fprintf(&b, name+":\t"+format+"\n", args...) }
	t, g := s.t, s.g
	c := t.Creds()
	jobs := g.Jobs()
	line("Name", "%s", strings.NewReplacer("\n", `\n`, `\`, `\\`).Replace(t.Comm()))
	if f := s.fs(); f != nil {
		line("Umask", "%04o", f.Umask())
	}
	line("State", "%s", stateNames[t.State()])
	ns := fs.pids()
	u := userOf(ctx)
	line("Tgid", "%d", g.ID().In(ns))
	line("Ngid", "0")
	line("Pid", "%d", t.ID().In(ns))
	line("PPid", "%d", g.ParentIn(ns))
	line("TracerPid", "%d", t.Tracer().In(ns))
	line("Uid", "%d\t%d\t%d\t%d", u.ShowUID(c.UID), u.ShowUID(c.EUID), u.ShowUID(c.SUID), u.ShowUID(c.FSUID))
	line("Gid", "%d\t%d\t%d\t%d", u.ShowGID(c.GID), u.ShowGID(c.EGID), u.ShowGID(c.SGID), u.ShowGID(c.FSGID))
	line("FDSize", "%d", s.fdSize())
	b.WriteString("Groups:\t")
	for i, id := range c.Groups {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%d", u.ShowGID(id))
	}
	b.WriteString(" \n")
	line("NStgid", "%s", numbers(g.ID(), ns))
	line("NSpid", "%s", numbers(t.ID(), ns))
	line("NSpgid", "%s", numbers(jobs.ID(), ns))
	line("NSsid", "%s", numbers(jobs.Session().ID(), ns))
	line("Kthread", "0")
	if m := s.memory(); m != nil {
		memoryStatus(&b, m)
	}
	line("Threads", "%d", len(g.Tasks()))
	pending, shared, blocked, ignored, caught, queued := t.SignalSets()
	line("SigQ", "%d/%d", queued, g.Limits.Get(unix.RLIMIT_SIGPENDING).Cur)
	for _, r := range []struct {
		name string
		set  kernel.SigSet
	}{{"SigPnd", pending}, {"ShdPnd", shared}, {"SigBlk", blocked}, {"SigIgn", ignored}, {"SigCgt", caught}} {
		line(r.name, "%016x", uint64(r.set))
	}
	for _, r := range []struct {
		name string
		set  uint64
	}{{"CapInh", c.Inheritable}, {"CapPrm", c.Permitted}, {"CapEff", c.Effective}, {"CapBnd", c.Bounding}, {"CapAmb", c.Ambient}} {
		line(r.name, "%016x", r.set&(1<<(unix.CAP_LAST_CAP+1)-1))
	}
	line("NoNewPrivs", "%d", bit(c.NoNewPrivs))
	mode, filters := t.SeccompState()
	line("Seccomp", "%d", mode)
	line("Seccomp_filters", "%d", filters)
	line("Speculation_Store_Bypass", "unknown")
	line("SpeculationIndirectBranch", "unknown")
	cpus := fs.allowed(t)
	line("Cpus_allowed", "%s", mask(cpus))
	line("Cpus_allowed_list", "%s", ranges(cpus))
	line("Mems_allowed", "1")
	line("Mems_allowed_list", "0")
	v, i := t.Switches()
	line("voluntary_ctxt_switches", "%d", v)
	line("nonvoluntary_ctxt_switches", "%d", i)
	return b.Bytes(), nil
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// fdSize is the size of the descriptor table, which grows from 64 by doubling.
func (s subject) fdSize() int {
	n := 64
	if t := s.fds(); t != nil {
		if fds := t.FDs(); len(fds) > 0 {
			for n <= fds[len(fds)-1] {
				n *= 2
			}
		}
	}
	return n
}

// memoryStatus is fs/proc/task_mmu.c, task_mem.
func memoryStatus(b *bytes.Buffer, m *memory.Space) {
	z := m.Sizes()
	row := func(name string, bytes uint64) { fmt.Fprintf(b, "%s:\t%8d kB\n", name, bytes>>10) }
	row("VmPeak", max(z.PeakVirtual, z.Virtual))
	row("VmSize", z.Virtual)
	row("VmLck", z.Locked)
	row("VmPin", 0)
	row("VmHWM", max(z.PeakResident, z.Resident))
	row("VmRSS", z.Resident)
	row("RssAnon", z.ResidentAnon)
	row("RssFile", z.ResidentFile)
	row("RssShmem", z.ResidentShmem)
	row("VmData", z.Data)
	row("VmStk", z.Stack)
	own := min(programText(m), z.Text)
	row("VmExe", own)
	row("VmLib", z.Text-own)
	row("VmPTE", (z.Resident>>21+8)*4096) // a page for 2 MiB, and the upper levels
	row("VmSwap", 0)
	row("HugetlbPages", 0)
	fmt.Fprintf(b, "CoreDumping:\t0\nTHP_enabled:\t1\nuntag_mask:\t0xffffffffffffffff\n")
}

// programText is the size of the first executable area: the program's own.
func programText(m *memory.Space) uint64 {
	for _, v := range m.VMAs() {
		if v.Access&platform.Exec != 0 {
			return uint64(v.End - v.Start)
		}
	}
	return 0
}

// layout are the addresses in stat, which the mappings of the program's file
// tell: Linux keeps them from the ELF header (fs/binfmt_elf.c).
type layout struct{ codeStart, codeEnd, dataStart, dataEnd memory.Addr }

func programLayout(m *memory.Space) (l layout) {
	exe := ""
	for _, v := range m.VMAs() {
		switch {
		case v.Access&platform.Exec != 0 && exe == "" && !v.Anonymous:
			l.codeStart, l.codeEnd, exe = v.Start, v.End, v.Name
		case exe != "" && v.Name == exe && v.Access&platform.Write != 0 && l.dataStart == 0:
			l.dataStart, l.dataEnd = v.Start, v.End
		}
	}
	return l
}

// stat is fs/proc/array.c, do_task_stat: 52 numbers on a line.
func stat(fs *FileSystem, ctx vfs.Context, s subject) ([]byte, error) {
	t, g := s.t, s.g
	jobs := g.Jobs()
	session := jobs.Session()
	tty, foreground := int64(0), int64(-1)
	if term, ok := session.Terminal().(interface{ Device() uint64 }); ok {
		tty = deviceNumber(term.Device())
		if fg := session.Foreground(); fg != nil {
			foreground = int64(fg.ID().In(fs.pids()))
		}
	}
	user, sys := t.CPUTime()
	faults := t.MinFaults.Load()
	if s.whole {
		user, sys = g.CPUTime()
		for _, x := range g.Tasks() {
			if x != t {
				faults += x.MinFaults.Load()
			}
		}
	}
	cuser, csys := g.ChildCPUTime()
	var z memory.Sizes
	var at layout
	var start kernel.Start
	open := mayTrace(ctx, s) == nil
	if m := s.memory(); m != nil {
		z = m.Sizes()
		at.codeStart, at.codeEnd = 1, 1
		if open {
			at = programLayout(m)
			if st := t.Start(); st != nil {
				start = *st
			}
		}
	}
	stack := memory.Addr(0)
	if open && start.ArgStart != 0 {
		stack = z.StackHigh
	}
	pending, _, blocked, ignored, caught, _ := t.SignalSets()
	const exited, low = 0, 0x7fffffff // signals above 31 are not in these fields
	nums := []any{
		t.ID().In(fs.pids()), g.ParentIn(fs.pids()), jobs.ID().In(fs.pids()), session.ID().In(fs.pids()), tty, foreground, 0x400000,
		faults, 0, 0, 0, ticks(user), ticks(sys), ticks(cuser), ticks(csys),
		priority(t), t.Nice.Load(), len(g.Tasks()), 0, ticks(fs.sinceBoot(t)), z.Virtual, z.Resident / pageSize,
		g.Limits.Get(unix.RLIMIT_RSS).Cur, uint64(at.codeStart), uint64(at.codeEnd), uint64(stack), 0, 0,
		uint64(pending) & low, uint64(blocked) & low, uint64(ignored) & low, uint64(caught) & low,
		0, 0, 0, int(unix.SIGCHLD), fs.cpuOf(t), realTime(t), t.Policy.Load(), 0, 0, 0,
		uint64(at.dataStart), uint64(at.dataEnd), uint64(z.BrkStart), uint64(start.ArgStart), uint64(start.ArgEnd),
		uint64(start.EnvStart), uint64(start.EnvEnd), exited,
	}
	b := fmt.Appendf(nil, "%d (%s) %c", nums[0], t.Comm(), t.State())
	for _, n := range nums[1:] {
		b = fmt.Appendf(b, " %d", n)
	}
	return append(b, '\n'), nil
}

// sinceBoot is when t started in the container's own time, which /proc/uptime
// counts.
func (fs *FileSystem) sinceBoot(t *kernel.Task) time.Duration {
	c := fs.Kernel.Clock
	return max(t.StartTime-(c.Boottime()-c.Uptime()), 0)
}

func realTime(t *kernel.Task) int32 {
	if p := t.Policy.Load(); p == 1 || p == 2 {
		return t.Priority.Load()
	}
	return 0
}

// deviceNumber is new_encode_dev (include/linux/kdev_t.h).
func deviceNumber(dev uint64) int64 {
	major, minor := unix.Major(dev), unix.Minor(dev)
	return int64(minor&0xff | major<<8 | minor&^0xff<<12)
}

func statm(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	m := s.memory()
	if m == nil {
		return []byte("0 0 0 0 0 0 0\n"), nil
	}
	z := m.Sizes()
	return fmt.Appendf(nil, "%d %d %d %d 0 %d 0\n", z.Virtual/pageSize, z.Resident/pageSize,
		(z.ResidentFile+z.ResidentShmem)/pageSize, z.Text/pageSize, (z.Data+z.Stack)/pageSize), nil
}
