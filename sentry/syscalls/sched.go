package syscalls

import (
	"runtime"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
)

func schedCalls() []row {
	return []row{
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
	}
}

func schedYield(*kernel.Task, *Args) (uintptr, error) {
	runtime.Gosched()
	return 0, nil
}

// cpuMask is the set of CPUs that programs see, by bit.
func cpuMask(t *kernel.Task) uint64 {
	if n := t.Cgroup().CPUs; n < 64 {
		return 1<<n - 1
	}
	return ^uint64(0)
}

// taskByID is the thread that id names, the caller for 0.
func taskByID(t *kernel.Task, id int32) (*kernel.Task, error) {
	if id == 0 || id == t.TID() {
		return t, nil
	}
	if x := t.Find(id); x != nil {
		return x, nil
	}
	return nil, unix.ESRCH
}

// naturalTask is taskByID for the calls that refuse an id below 0 as such.
func naturalTask(t *kernel.Task, id int32) (*kernel.Task, error) {
	if id < 0 {
		return nil, unix.EINVAL
	}
	return taskByID(t, id)
}

func schedGetaffinity(t *kernel.Task, a *Args) (uintptr, error) {
	if n := a.Uint32(1); n < 8 || n&7 != 0 {
		return 0, unix.EINVAL
	}
	x, err := taskByID(t, int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	m := x.Affinity.Load()
	if m == 0 {
		m = cpuMask(t)
	}
	return 8, out64(t, a.Addr(2), m)
}

func schedSetaffinity(t *kernel.Task, a *Args) (uintptr, error) {
	var b [8]byte
	if err := in(t, a.Addr(2), b[:min(a.Uint32(1), 8)]); err != nil {
		return 0, err
	}
	x, err := taskByID(t, int32(a.Int(0)))
	if err != nil {
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
	x, err := naturalTask(t, int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	return uintptr(x.Policy.Load()), nil
}

func schedGetparam(t *kernel.Task, a *Args) (uintptr, error) {
	if a[1] == 0 {
		return 0, unix.EINVAL
	}
	x, err := naturalTask(t, int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	return 0, out32(t, a.Addr(1), uint32(x.Priority.Load()))
}

func schedSetscheduler(t *kernel.Task, a *Args) (uintptr, error) {
	policy := int32(a.Int(1))
	if policy < 0 {
		return 0, unix.EINVAL
	}
	return setPolicy(t, int32(a.Int(0)), policy, a.Addr(2))
}

func schedSetparam(t *kernel.Task, a *Args) (uintptr, error) {
	return setPolicy(t, int32(a.Int(0)), samePolicy, a.Addr(1))
}

const samePolicy = -1

func setPolicy(t *kernel.Task, id, policy int32, param memory.Addr) (uintptr, error) {
	if param == 0 || id < 0 {
		return 0, unix.EINVAL
	}
	v, err := in32(t, param)
	if err != nil {
		return 0, err
	}
	x, err := taskByID(t, id)
	if err != nil {
		return 0, err
	}
	if policy == samePolicy {
		policy = x.Policy.Load()
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
	x, err := naturalTask(t, int32(a.Int(0)))
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
			if g.ID().In(t.PIDNamespace()) != 0 && match(g) {
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
		job := t.Group().Jobs()
		if who != 0 {
			job = t.FindJob(who)
		}
		each(func(g *kernel.ThreadGroup) bool { j := g.Jobs(); return j != nil && j == job })
	case unix.PRIO_USER:
		uid := t.Creds().UID
		if who != 0 {
			var err error
			if uid, err = meanUID(t, uint32(who)); err != nil {
				return nil, unix.ESRCH
			}
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
		if c.EUID != o.UID && c.EUID != o.EUID && !c.HasIn(o.User, unix.CAP_SYS_NICE) {
			return 0, unix.EPERM
		}
		if nice < x.Nice.Load() && !c.Has(unix.CAP_SYS_NICE) && uint64(20-nice) > t.Limit(13) {
			return 0, unix.EACCES
		}
		x.Nice.Store(nice)
	}
	return 0, nil
}
