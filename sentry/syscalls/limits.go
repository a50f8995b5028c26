package syscalls

import (
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
)

func limitCalls() []row {
	return []row{
		{unix.SYS_GETRLIMIT, getrlimit, Full, ""},
		{unix.SYS_SETRLIMIT, setrlimit, Full, ""},
		{unix.SYS_PRLIMIT64, prlimit, Full, ""},
		{unix.SYS_GETRUSAGE, getrusage, Full, ""},
	}
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
		x := t.Find(pid)
		if x == nil {
			return 0, unix.ESRCH
		}
		if err := mayInspect(t, x); err != nil && !t.Creds().HasIn(x.Creds().User, unix.CAP_SYS_RESOURCE) {
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
