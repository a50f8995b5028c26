package syscalls

import (
	"crypto/rand"
	"io"
	"math/bits"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
)

func miscCalls() []row {
	return []row{
		{unix.SYS_UNAME, uname, Full, ""},
		{unix.SYS_SETHOSTNAME, sethostname, Full, ""},
		{unix.SYS_SETDOMAINNAME, setdomainname, Full, ""},
		{unix.SYS_SYSINFO, sysinfo, Full, ""},
		{unix.SYS_GETRANDOM, getrandom, Full, ""},
		{unix.SYS_GETCPU, getcpu, Full, "there is one node"},
		{unix.SYS_GETRLIMIT, getrlimit, Full, ""},
		{unix.SYS_SETRLIMIT, setrlimit, Full, ""},
		{unix.SYS_PRLIMIT64, prlimit, Full, ""},
		{unix.SYS_GETRUSAGE, getrusage, Full, ""},
		{unix.SYS_PERSONALITY, personality, Full, ""},
		{unix.SYS_SCHED_YIELD, schedYield, Full, ""},
		{unix.SYS_SCHED_GETAFFINITY, schedGetaffinity, Full, ""},
		{unix.SYS_SCHED_SETAFFINITY, schedSetaffinity, Full, "remembered; the host places threads"},
		{unix.SYS_SCHED_GETSCHEDULER, schedGetscheduler, Full, ""},
		{unix.SYS_SCHED_SETSCHEDULER, schedSetscheduler, Partial, "the policy is remembered, not followed"},
		{unix.SYS_SCHED_GETPARAM, schedGetparam, Full, ""},
		{unix.SYS_SCHED_SETPARAM, schedSetparam, Partial, "as sched_setscheduler"},
		{unix.SYS_SCHED_GET_PRIORITY_MAX, schedPriorityMax, Full, ""},
		{unix.SYS_SCHED_GET_PRIORITY_MIN, schedPriorityMin, Full, ""},
		{unix.SYS_SCHED_RR_GET_INTERVAL, schedRRGetInterval, Full, ""},
		{unix.SYS_GETPRIORITY, getpriority, Full, ""},
		{unix.SYS_SETPRIORITY, setpriority, Partial, "remembered, not followed"},
		{unix.SYS_PRCTL, prctl, Partial, "the options that programs use; others EINVAL"},
		{unix.SYS_RSEQ, refuse(unix.ENOSYS), None, "libc falls back to sched_getcpu"},
		{unix.SYS_SYNC, syncAll, Full, ""},
		{unix.SYS_VHANGUP, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_SYSLOG, syslog, Partial, "an empty kernel log"},
		{unix.SYS_REBOOT, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_ACCT, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_SWAPON, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_SWAPOFF, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_IOPL, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_IOPERM, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_INIT_MODULE, refuse(unix.EPERM), Partial, "refused: there are no modules"},
		{unix.SYS_FINIT_MODULE, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_DELETE_MODULE, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_KEXEC_LOAD, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_PERF_EVENT_OPEN, refuse(unix.EACCES), Partial, "refused"},
		{unix.SYS_BPF, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_ADD_KEY, refuse(unix.EACCES), Partial, "refused"},
		{unix.SYS_REQUEST_KEY, refuse(unix.EACCES), Partial, "refused"},
		{unix.SYS_KEYCTL, refuse(unix.EACCES), Partial, "refused"},
		{unix.SYS_QUOTACTL, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_FANOTIFY_INIT, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_USERFAULTFD, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_MODIFY_LDT, refuse(unix.ENOSYS), None, "64-bit programs do not need segments"},
		{unix.SYS_GET_MEMPOLICY, getMempolicy, Partial, "one node"},
		{unix.SYS_SET_MEMPOLICY, advice, Partial, "accepted: one node"},
		{unix.SYS_MBIND, advice, Partial, "accepted: one node"},
		{unix.SYS_IOPRIO_GET, advice, Partial, "always the default class"},
		{unix.SYS_IOPRIO_SET, advice, Partial, "accepted, not followed"},
	}
}

// advice is for advice that changes nothing here.
func advice(*kernel.Task, *Args) (uintptr, error) { return 0, nil }

// What the container sees as its kernel. Programs take version numbers for
// features: this is the oldest that has those we serve.
const (
	Sysname = "Linux"
	Release = "6.12.0-bulkhead"
	Version = "#1 SMP PREEMPT_DYNAMIC Bulkhead"
	Machine = "x86_64"
)

func uname(t *kernel.Task, a *Args) (uintptr, error) {
	var b [6 * 65]byte
	k := t.Kernel()
	for i, s := range []string{Sysname, k.Hostname(), Release, Version, Machine, k.Domainname()} {
		copy(b[65*i:65*i+64], s)
	}
	return 0, out(t, a.Addr(0), b[:])
}

func inName(t *kernel.Task, a *Args) (string, error) {
	if !t.Creds().Has(unix.CAP_SYS_ADMIN) {
		return "", unix.EPERM
	}
	n := a.Int(1)
	if n < 0 || n > 64 {
		return "", unix.EINVAL
	}
	b := make([]byte, n)
	err := in(t, a.Addr(0), b)
	return string(b), err
}

func sethostname(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := inName(t, a)
	if err == nil {
		t.Kernel().SetHostname(s)
	}
	return 0, err
}

func setdomainname(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := inName(t, a)
	if err == nil {
		t.Kernel().SetDomainname(s)
	}
	return 0, err
}

func sysinfo(t *kernel.Task, a *Args) (uintptr, error) {
	k := t.Kernel()
	used := k.Arena.Usage()
	total := max(k.Memory, used)
	n, _ := k.Live()
	var b [112]byte
	le.PutUint64(b[0:], uint64(k.Clock.Uptime()/time.Second))
	le.PutUint64(b[32:], total)
	le.PutUint64(b[40:], total-used)
	le.PutUint16(b[80:], uint16(min(n, 65535)))
	le.PutUint32(b[104:], 1) // mem_unit
	return 0, out(t, a.Addr(0), b[:])
}

// getrandom(2). The host's pool was ready before any sandbox started, so
// GRND_RANDOM and GRND_NONBLOCK change nothing.
func getrandom(t *kernel.Task, a *Args) (uintptr, error) {
	const clash = unix.GRND_RANDOM | unix.GRND_INSECURE
	flags := a.Uint32(2)
	if flags&^(clash|unix.GRND_NONBLOCK) != 0 || flags&clash == clash {
		return 0, unix.EINVAL // drivers/char/random.c, getrandom
	}
	size := min(a.Size(1), maxRW)
	done := uint64(0)
	for done < size {
		b, release, err := t.MM().Pin(a.Addr(0)+memory.Addr(done), min(size-done, 1<<20), platform.Write)
		if err != nil {
			return partial(done, err)
		}
		for _, p := range b {
			io.ReadFull(rand.Reader, p)
		}
		done += uint64(b.Len())
		release()
		if t.Interrupted() {
			break
		}
	}
	return uintptr(done), nil
}

func getcpu(t *kernel.Task, a *Args) (uintptr, error) {
	cpu := uint32(0)
	if m := t.Affinity.Load(); m != 0 {
		cpu = uint32(bits.TrailingZeros64(m))
	}
	if a[0] != 0 {
		if err := out32(t, a.Addr(0), cpu); err != nil {
			return 0, err
		}
	}
	if a[1] != 0 {
		return 0, out32(t, a.Addr(1), 0)
	}
	return 0, nil
}

func getrlimit(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Uint32(0) >= 16 {
		return 0, unix.EINVAL
	}
	l := t.Group().Limits.Get(a.Int(0))
	return 0, outStruct(t, a.Addr(1), &l)
}

func setrlimit(t *kernel.Task, a *Args) (uintptr, error) {
	l, err := inStruct[kernel.Limit](t, a.Addr(1))
	if err != nil {
		return 0, err
	}
	return 0, changeLimit(t, t.Group(), a.Uint32(0), l)
}

func changeLimit(t *kernel.Task, g *kernel.ThreadGroup, resource uint32, l kernel.Limit) error {
	if resource >= 16 || l.Cur > l.Max {
		return unix.EINVAL
	}
	old := g.Limits.Get(int(resource))
	if l.Max > old.Max && !t.Creds().Has(unix.CAP_SYS_RESOURCE) {
		return unix.EPERM
	}
	if resource == unix.RLIMIT_NOFILE && l.Max > 1<<20 {
		return unix.EPERM // fs.nr_open
	}
	g.Limits.Set(int(resource), l)
	if resource == unix.RLIMIT_CPU {
		g.Timers.LimitCPU()
	}
	for _, x := range g.Tasks() {
		if _, _, mm := x.Look(); mm != nil {
			all := g.Limits.All()
			mm.SetLimits(all[unix.RLIMIT_AS].Cur, all[unix.RLIMIT_DATA].Cur, all[unix.RLIMIT_STACK].Cur)
			break
		}
	}
	return nil
}

func prlimit(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Uint32(1) >= 16 {
		return 0, unix.EINVAL
	}
	g := t.Group()
	if pid := int32(a.Int(0)); pid != 0 && pid != t.PID() {
		x := t.Kernel().Task(pid)
		if x == nil {
			return 0, unix.ESRCH
		}
		if err := mayInspect(t, x); err != nil && !t.Creds().Has(unix.CAP_SYS_RESOURCE) {
			return 0, err
		}
		g = x.Group()
	}
	var new kernel.Limit
	var err error
	if a[2] != 0 {
		if new, err = inStruct[kernel.Limit](t, a.Addr(2)); err != nil {
			return 0, err
		}
	}
	old := g.Limits.Get(a.Int(1))
	if a[2] != 0 {
		if err := changeLimit(t, g, a.Uint32(1), new); err != nil {
			return 0, err
		}
	}
	if a[3] != 0 {
		return 0, outStruct(t, a.Addr(3), &old)
	}
	return 0, nil
}

// outRusage writes struct rusage; rss is in bytes.
func outRusage(t *kernel.Task, at memory.Addr, user, sys time.Duration, rss, faults, voluntary, involuntary uint64) error {
	u, s := timeval(user), timeval(sys)
	return outStruct(t, at, &[18]int64{u[0], u[1], s[0], s[1], int64(rss / 1024), 0, 0, 0, int64(faults), 0, 0, 0, 0, 0, 0, 0,
		int64(voluntary), int64(involuntary)})
}

func getrusage(t *kernel.Task, a *Args) (uintptr, error) {
	const self, children, thread = 0, -1, 1
	g := t.Group()
	dead, childRSS := g.MaxRSS()
	switch a.Int(0) {
	case self:
		u, s := g.CPUTime()
		v, i, f := uint64(0), uint64(0), uint64(0)
		for _, x := range g.Tasks() {
			xv, xi := x.Switches()
			v, i, f = v+xv, i+xi, f+x.MinFaults.Load()
		}
		return 0, outRusage(t, a.Addr(1), u, s, max(dead, t.MM().Sizes().PeakResident), f, v, i)
	case thread:
		u, s := t.CPUTime()
		v, i := t.Switches()
		return 0, outRusage(t, a.Addr(1), u, s, max(dead, t.MM().Sizes().PeakResident), t.MinFaults.Load(), v, i)
	case children:
		u, s := g.ChildCPUTime()
		return 0, outRusage(t, a.Addr(1), u, s, childRSS, 0, 0, 0)
	}
	return 0, unix.EINVAL
}

func personality(t *kernel.Task, a *Args) (uintptr, error) {
	old := t.Personality.Load()
	if a.Uint32(0) != 0xffffffff {
		t.Personality.Store(a.Uint32(0))
	}
	return uintptr(old), nil
}

func schedYield(*kernel.Task, *Args) (uintptr, error) {
	runtime.Gosched()
	return 0, nil
}

// cpuMask is the set of CPUs that programs see, by bit.
func cpuMask(t *kernel.Task) uint64 {
	if n := t.Kernel().CPUs; n < 64 {
		return 1<<n - 1
	}
	return ^uint64(0)
}

// taskByID is the thread that id names, the caller for 0.
func taskByID(t *kernel.Task, id int32) (*kernel.Task, error) {
	if id == 0 || id == t.TID() {
		return t, nil
	}
	if id < 0 {
		return nil, unix.EINVAL
	}
	if x := t.Kernel().Task(id); x != nil {
		return x, nil
	}
	return nil, unix.ESRCH
}

func schedGetaffinity(t *kernel.Task, a *Args) (uintptr, error) {
	x, err := taskByID(t, int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	if n := a.Uint32(1); n < 8 || n&7 != 0 {
		return 0, unix.EINVAL
	}
	m := x.Affinity.Load()
	if m == 0 {
		m = cpuMask(t)
	}
	return 8, out64(t, a.Addr(2), m)
}

func schedSetaffinity(t *kernel.Task, a *Args) (uintptr, error) {
	x, err := taskByID(t, int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	var b [8]byte
	if err := in(t, a.Addr(2), b[:min(a.Uint32(1), 8)]); err != nil {
		return 0, err
	}
	c := t.Creds()
	if o := x.Creds(); c.EUID != o.UID && c.EUID != o.EUID && !c.Has(unix.CAP_SYS_NICE) {
		return 0, unix.EPERM
	}
	m := le.Uint64(b[:]) & cpuMask(t)
	if m == 0 {
		return 0, unix.EINVAL
	}
	x.Affinity.Store(m)
	return 0, nil
}

const (
	schedOther, schedFIFO, schedRR, schedBatch, schedIdle, schedDeadline = 0, 1, 2, 3, 5, 6
	schedResetOnFork                                                     = 0x40000000
)

func schedGetscheduler(t *kernel.Task, a *Args) (uintptr, error) {
	x, err := taskByID(t, int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	return uintptr(x.Policy.Load()), nil
}

func schedGetparam(t *kernel.Task, a *Args) (uintptr, error) {
	if a[1] == 0 {
		return 0, unix.EINVAL
	}
	x, err := taskByID(t, int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	return 0, out32(t, a.Addr(1), uint32(x.Priority.Load()))
}

func schedSetscheduler(t *kernel.Task, a *Args) (uintptr, error) {
	return setPolicy(t, int32(a.Int(0)), int32(a.Int(1)), a.Addr(2))
}

func schedSetparam(t *kernel.Task, a *Args) (uintptr, error) {
	x, err := taskByID(t, int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	return setPolicy(t, int32(a.Int(0)), x.Policy.Load(), a.Addr(1))
}

func setPolicy(t *kernel.Task, id, policy int32, param memory.Addr) (uintptr, error) {
	if param == 0 {
		return 0, unix.EINVAL
	}
	x, err := taskByID(t, id)
	if err != nil {
		return 0, err
	}
	v, err := in32(t, param)
	if err != nil {
		return 0, err
	}
	prio := int32(v)
	switch policy &^ schedResetOnFork {
	case schedOther, schedBatch, schedIdle:
		if prio != 0 {
			return 0, unix.EINVAL
		}
	case schedFIFO, schedRR:
		if prio < 1 || prio > 99 {
			return 0, unix.EINVAL
		}
		if !t.Creds().Has(unix.CAP_SYS_NICE) && uint64(prio) > t.Limit(14) {
			return 0, unix.EPERM
		}
	default:
		return 0, unix.EINVAL
	}
	x.Policy.Store(policy)
	x.Priority.Store(prio)
	return 0, nil
}

func schedPriorityMax(_ *kernel.Task, a *Args) (uintptr, error) { return priorityBound(a, 99) }
func schedPriorityMin(_ *kernel.Task, a *Args) (uintptr, error) { return priorityBound(a, 1) }

func priorityBound(a *Args, realtime uintptr) (uintptr, error) {
	switch a.Int(0) {
	case schedFIFO, schedRR:
		return realtime, nil
	case schedOther, schedBatch, schedIdle, schedDeadline:
		return 0, nil
	}
	return 0, unix.EINVAL
}

func schedRRGetInterval(t *kernel.Task, a *Args) (uintptr, error) {
	x, err := taskByID(t, int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	var ts unix.Timespec
	switch x.Policy.Load() {
	case schedRR:
		ts.Nsec = 100e6
	case schedOther, schedBatch:
		ts.Nsec = 4e6
	}
	return 0, outTimespec(t, a.Addr(1), ts)
}

// niceTargets are the tasks that getpriority and setpriority mean.
func niceTargets(t *kernel.Task, which int, who int32) ([]*kernel.Task, error) {
	var all []*kernel.Task
	each := func(match func(*kernel.ThreadGroup) bool) {
		for _, g := range t.Kernel().Groups() {
			if match(g) {
				all = append(all, g.Tasks()...)
			}
		}
	}
	switch which {
	case unix.PRIO_PROCESS:
		x, err := taskByID(t, who)
		if err != nil {
			return nil, unix.ESRCH
		}
		all = append(all, x)
	case unix.PRIO_PGRP:
		if who == 0 {
			who = t.Group().Jobs().ID()
		}
		each(func(g *kernel.ThreadGroup) bool { j := g.Jobs(); return j != nil && j.ID() == who })
	case unix.PRIO_USER:
		uid := uint32(who)
		if who == 0 {
			uid = t.Creds().UID
		}
		each(func(g *kernel.ThreadGroup) bool { return g.Leader().Creds().UID == uid })
	default:
		return nil, unix.EINVAL
	}
	if len(all) == 0 {
		return nil, unix.ESRCH
	}
	return all, nil
}

func getpriority(t *kernel.Task, a *Args) (uintptr, error) {
	all, err := niceTargets(t, a.Int(0), int32(a.Int(1)))
	if err != nil {
		return 0, err
	}
	best := int32(19)
	for _, x := range all {
		best = min(best, x.Nice.Load())
	}
	return uintptr(20 - best), nil
}

func setpriority(t *kernel.Task, a *Args) (uintptr, error) {
	nice := int32(max(-20, min(19, a.Int(2))))
	all, err := niceTargets(t, a.Int(0), int32(a.Int(1)))
	if err != nil {
		return 0, err
	}
	c := t.Creds()
	for _, x := range all {
		o := x.Creds()
		if c.EUID != o.UID && c.EUID != o.EUID && !c.Has(unix.CAP_SYS_NICE) {
			return 0, unix.EPERM
		}
		if nice < x.Nice.Load() && !c.Has(unix.CAP_SYS_NICE) && uint64(20-nice) > t.Limit(13) {
			return 0, unix.EACCES
		}
		x.Nice.Store(nice)
	}
	return 0, nil
}

func syncAll(t *kernel.Task, _ *Args) (uintptr, error) {
	t.FS().Namespace().Sync(t)
	return 0, nil
}

// syslog(2): the log of a kernel that has nothing to say.
func syslog(t *kernel.Task, a *Args) (uintptr, error) {
	const readAll, readClear, unread, size = 3, 4, 9, 10
	switch a.Int(0) {
	case readAll, readClear, unread:
		return 0, nil
	case size:
		return 1 << 17, nil
	}
	if !t.Creds().Has(unix.CAP_SYSLOG) {
		return 0, unix.EPERM
	}
	return 0, nil
}

func getMempolicy(t *kernel.Task, a *Args) (uintptr, error) {
	if a[0] != 0 {
		if err := out32(t, a.Addr(0), 0); err != nil {
			return 0, err
		}
	}
	if a[1] != 0 && a[2] != 0 {
		return 0, out64(t, a.Addr(1), 1)
	}
	return 0, nil
}
