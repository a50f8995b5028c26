package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/epoll"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func schedAttrCalls() []row {
	return []row{
		{unix.SYS_SCHED_SETATTR, schedSetattr, Partial, "remembered, not followed; SCHED_DEADLINE is EPERM, and no utilization clamps"},
		{unix.SYS_SCHED_GETATTR, schedGetattr, Full, ""},
		{unix.SYS_KCMP, kcmp, Full, "what differs has no order (3)"},
	}
}

// schedAttr is struct sched_attr (include/uapi/linux/sched/types.h).
type schedAttr struct {
	Size, Policy              uint32
	Flags                     uint64
	Nice                      int32
	Priority                  uint32
	Runtime, Deadline, Period uint64
	UtilMin, UtilMax          uint32
}

const (
	schedAttrSize0, schedAttrSize                      = 48, 56
	schedFlagReset, schedKeepPolicy, schedKeepParams   = 1, 8, 16
	schedFlagReclaim, schedFlagOverrun, schedUtilClamp = 2, 4, 0x60
)

// inSchedAttr reads one of the size that the program says (sched_copy_attr).
func inSchedAttr(t *kernel.Task, at memory.Addr) (s schedAttr, err error) {
	size, err := in32(t, at)
	if err != nil {
		return s, err
	}
	if size == 0 {
		size = schedAttrSize0
	}
	if size < schedAttrSize0 || size > pageSize {
		out32(t, at, schedAttrSize)
		return s, unix.E2BIG
	}
	b := make([]byte, max(size, schedAttrSize))
	if err := in(t, at, b[:size]); err != nil {
		return s, err
	}
	for _, x := range b[schedAttrSize:] {
		if x != 0 {
			out32(t, at, schedAttrSize)
			return s, unix.E2BIG
		}
	}
	s = schedAttr{size, le.Uint32(b[4:]), le.Uint64(b[8:]), int32(le.Uint32(b[16:])), le.Uint32(b[20:]), le.Uint64(b[24:]),
		le.Uint64(b[32:]), le.Uint64(b[40:]), le.Uint32(b[48:]), le.Uint32(b[52:])}
	s.Nice = max(-20, min(19, s.Nice))
	return s, nil
}

func schedSetattr(t *kernel.Task, a *Args) (uintptr, error) {
	if a[1] == 0 || a.Int(0) < 0 || a.Uint32(2) != 0 {
		return 0, unix.EINVAL
	}
	s, err := inSchedAttr(t, a.Addr(1))
	if err != nil {
		return 0, err
	}
	if int32(s.Policy) < 0 {
		return 0, unix.EINVAL
	}
	x, err := taskByID(t, int32(a.Int(0)))
	if err != nil {
		return 0, unix.ESRCH
	}
	policy := int32(s.Policy)
	if s.Flags&schedKeepPolicy != 0 {
		policy = x.Policy.Load() &^ schedResetOnFork
	}
	if s.Flags&schedKeepParams != 0 {
		s.Nice, s.Priority = x.Nice.Load(), uint32(x.Priority.Load())
	}
	c := t.Creds()
	mine := c.EUID == x.Creds().UID || c.EUID == x.Creds().EUID || c.Has(unix.CAP_SYS_NICE)
	switch {
	case s.Flags&^(schedFlagReset|schedFlagReclaim|schedFlagOverrun|schedKeepPolicy|schedKeepParams|schedUtilClamp) != 0:
		return 0, unix.EINVAL
	case s.Flags&schedUtilClamp != 0:
		return 0, unix.EOPNOTSUPP // as a kernel without CONFIG_UCLAMP_TASK
	case policy == schedDeadline:
		return 0, unix.EPERM
	case !mine:
		return 0, unix.EPERM
	}
	switch policy {
	case schedOther, schedBatch, schedIdle:
		if s.Priority != 0 {
			return 0, unix.EINVAL
		}
		if policy != schedIdle && s.Nice < x.Nice.Load() && !c.Has(unix.CAP_SYS_NICE) && uint64(20-s.Nice) > t.Limit(13 /* RLIMIT_NICE */) {
			return 0, unix.EPERM
		}
		x.Nice.Store(s.Nice)
	case schedFIFO, schedRR:
		if s.Priority < 1 || s.Priority > 99 {
			return 0, unix.EINVAL
		}
		if !c.Has(unix.CAP_SYS_NICE) && uint64(s.Priority) > t.Limit(14 /* RLIMIT_RTPRIO */) {
			return 0, unix.EPERM
		}
	default:
		return 0, unix.EINVAL
	}
	if s.Flags&schedFlagReset != 0 {
		policy |= schedResetOnFork
	}
	x.Policy.Store(policy)
	x.Priority.Store(int32(s.Priority))
	return 0, nil
}

func schedGetattr(t *kernel.Task, a *Args) (uintptr, error) {
	size := a.Uint32(2)
	if a[1] == 0 || a.Int(0) < 0 || size > pageSize || size < schedAttrSize0 || a.Uint32(3) != 0 {
		return 0, unix.EINVAL
	}
	x, err := taskByID(t, int32(a.Int(0)))
	if err != nil {
		return 0, unix.ESRCH
	}
	policy := x.Policy.Load()
	s := schedAttr{Size: min(size, schedAttrSize), Policy: uint32(policy &^ schedResetOnFork)}
	if policy&schedResetOnFork != 0 {
		s.Flags = schedFlagReset
	}
	switch s.Policy {
	case schedFIFO, schedRR:
		s.Priority = uint32(x.Priority.Load())
	default:
		s.Nice = x.Nice.Load()
	}
	if s.Size >= schedAttrSize {
		s.UtilMax = 1024
	}
	b := make([]byte, 0, schedAttrSize)
	b = le.AppendUint32(le.AppendUint32(b, s.Size), s.Policy)
	b = le.AppendUint64(b, s.Flags)
	b = le.AppendUint32(le.AppendUint32(b, uint32(s.Nice)), s.Priority)
	b = append(b, make([]byte, 24)...)
	b = le.AppendUint32(le.AppendUint32(b, s.UtilMin), s.UtilMax)
	return 0, out(t, a.Addr(1), b[:s.Size])
}

// kcmp(2): 0 is the same, 3 another that is neither smaller nor greater.
func kcmp(t *kernel.Task, a *Args) (uintptr, error) {
	const file, vm, files, fs, sighand, io, sysvsem, epollTarget = 0, 1, 2, 3, 4, 5, 6, 7
	const differs = 3
	x, y := t.Find(int32(a.Int(0))), t.Find(int32(a.Int(1)))
	if x == nil || y == nil {
		return 0, unix.ESRCH
	}
	for _, z := range []*kernel.Task{x, y} {
		if err := mayInspect(t, z); err != nil {
			return 0, unix.EPERM
		}
	}
	fsX, fdsX, mmX := x.Look()
	fsY, fdsY, mmY := y.Look()
	same := false
	switch a.Int(2) {
	case file:
		if fdsX == nil || fdsY == nil {
			return 0, unix.EBADF
		}
		d, err := fdsX.Get(int(a.Uint32(3)))
		if err != nil {
			return 0, err
		}
		defer d.Unref()
		e, err := fdsY.Get(int(a.Uint32(4)))
		if err != nil {
			return 0, err
		}
		defer e.Unref()
		same = d == e
	case vm:
		same = mmX == mmY
	case files:
		same = fdsX == fdsY
	case fs:
		same = fsX == fsY
	case sighand:
		same = x.Group().Handlers == y.Group().Handlers
	case io:
		same = x == y
	case sysvsem:
		same = x.HasSemUndoOf(y)
	case epollTarget:
		d, target, err := epollTargets(t, fdsX, fdsY, int(a.Uint32(3)), a.Addr(4))
		if err != nil {
			return 0, err
		}
		defer d.Unref()
		same = d == target
	default:
		return 0, unix.EINVAL
	}
	if same {
		return 0, nil
	}
	return differs, nil
}

// epollTargets are what KCMP_EPOLL_TFD compares: the file of descriptor fd in x, with a
// reference, and the one that an epoll in y watches, which struct kcmp_epoll_slot
// names: the epoll's descriptor, the number under which it watches, and of several files
// that had this number which (kernel/kcmp.c, kcmp_epoll_target).
func epollTargets(t *kernel.Task, x, y *vfs.FDTable, fd int, slot memory.Addr) (d, target *vfs.Description, err error) {
	s, err := inStruct[[3]uint32](t, slot)
	if err != nil {
		return nil, nil, err
	}
	if x == nil || y == nil {
		return nil, nil, unix.EBADF
	}
	if d, err = x.Get(fd); err != nil {
		return nil, nil, err
	}
	e, err := y.Get(int(s[0]))
	if err != nil {
		d.Unref()
		return nil, nil, err
	}
	defer e.Unref()
	ep, ok := e.File().(*epoll.Epoll)
	if err = unix.EINVAL; ok {
		target, err = ep.Target(int(s[1]), int(s[2]))
	}
	if err != nil {
		d.Unref()
		return nil, nil, err
	}
	return d, target, nil
}
