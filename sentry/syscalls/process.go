package syscalls

import (
	"strconv"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/loader"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func processCalls() []row {
	return []row{
		{unix.SYS_GETPID, getpid, Full, ""},
		{unix.SYS_GETTID, gettid, Full, ""},
		{unix.SYS_GETPPID, getppid, Full, ""},
		{unix.SYS_FORK, fork, Full, ""},
		{unix.SYS_VFORK, vfork, Full, ""},
		{unix.SYS_CLONE, clone, Full, ""},
		{unix.SYS_CLONE3, clone3, Partial, "not into a cgroup"},
		{unix.SYS_EXECVE, execve, Full, ""},
		{unix.SYS_EXECVEAT, execveat, Full, ""},
		{unix.SYS_EXIT, exit, Full, ""},
		{unix.SYS_EXIT_GROUP, exitGroup, Full, ""},
		{unix.SYS_WAIT4, wait4, Full, ""},
		{unix.SYS_WAITID, waitid, Full, ""},
		{unix.SYS_SET_TID_ADDRESS, setTIDAddress, Full, ""},
		{unix.SYS_SETPGID, setpgid, Full, ""},
		{unix.SYS_GETPGID, getpgid, Full, ""},
		{unix.SYS_GETPGRP, getpgrp, Full, ""},
		{unix.SYS_SETSID, setsid, Full, ""},
		{unix.SYS_GETSID, getsid, Full, ""},
		{unix.SYS_SET_ROBUST_LIST, setRobustList, Full, ""},
		{unix.SYS_GET_ROBUST_LIST, getRobustList, Full, ""},
		{unix.SYS_ARCH_PRCTL, archPrctl, Partial, "segment bases and CPUID faulting state; no shadow stacks"},
	}
}

func getpid(t *kernel.Task, _ *Args) (uintptr, error) { return uintptr(t.PID()), nil }
func gettid(t *kernel.Task, _ *Args) (uintptr, error) { return uintptr(t.TID()), nil }
func getppid(t *kernel.Task, _ *Args) (uintptr, error) {
	return uintptr(t.Group().ParentIn(t.PIDNamespace())), nil
}

func fork(t *kernel.Task, _ *Args) (uintptr, error) {
	return doClone(t, kernel.CloneArgs{ExitSignal: unix.SIGCHLD})
}

func vfork(t *kernel.Task, _ *Args) (uintptr, error) {
	return doClone(t, kernel.CloneArgs{Flags: unix.CLONE_VFORK | unix.CLONE_VM, ExitSignal: unix.SIGCHLD})
}

func clone(t *kernel.Task, a *Args) (uintptr, error) {
	flags := uint64(a.Uint32(0))
	c := kernel.CloneArgs{
		Flags: flags &^ 0xff, ExitSignal: unix.Signal(flags & 0xff),
		Stack: a[1], ParentTID: a.Addr(2), ChildTID: a.Addr(3), TLS: a[4],
	}
	if flags&unix.CLONE_PIDFD != 0 {
		if flags&unix.CLONE_PARENT_SETTID != 0 {
			return 0, unix.EINVAL
		}
		c.PIDFD = a.Addr(2)
	}
	return doClone(t, c)
}

// cloneArgs is struct clone_args (include/uapi/linux/sched.h).
type cloneArgs struct {
	Flags, PIDFD, ChildTID, ParentTID, ExitSignal, Stack, StackSize, TLS, SetTID, SetTIDSize, Cgroup uint64
}

func clone3(t *kernel.Task, a *Args) (uintptr, error) {
	const first, known = 64, 88
	size := a.Size(1)
	if size < first {
		return 0, unix.EINVAL
	}
	if size > 4096 {
		return 0, unix.E2BIG
	}
	b := make([]byte, max(size, known))
	if err := in(t, a.Addr(0), b[:size]); err != nil {
		return 0, err
	}
	for _, extra := range b[known:] {
		if extra != 0 {
			return 0, unix.E2BIG
		}
	}
	w := func(i int) uint64 { return le.Uint64(b[i*8:]) }
	c := cloneArgs{w(0), w(1), w(2), w(3), w(4), w(5), w(6), w(7), w(8), w(9), w(10)}
	const intoCgroup, maxPIDDepth = 0x200000000, 32
	switch {
	case c.Flags&(0xff|unix.CLONE_DETACHED) != 0, c.ExitSignal > kernel.NSIG, (c.Stack == 0) != (c.StackSize == 0),
		c.Flags&(unix.CLONE_THREAD|unix.CLONE_PARENT) != 0 && c.ExitSignal != 0,
		(c.SetTID == 0) != (c.SetTIDSize == 0), c.SetTIDSize > maxPIDDepth:
		return 0, unix.EINVAL
	}
	if c.Flags&intoCgroup != 0 {
		return 0, unix.EOPNOTSUPP // the container has one control group
	}
	k := kernel.CloneArgs{
		Flags: c.Flags, ExitSignal: unix.Signal(c.ExitSignal), PIDFD: memory.Addr(c.PIDFD), ChildTID: memory.Addr(c.ChildTID),
		ParentTID: memory.Addr(c.ParentTID), TLS: c.TLS,
	}
	if c.SetTIDSize > 0 {
		b := make([]byte, 4*c.SetTIDSize)
		if err := in(t, memory.Addr(c.SetTID), b); err != nil {
			return 0, err
		}
		for i := range c.SetTIDSize {
			k.SetTID = append(k.SetTID, int32(le.Uint32(b[4*i:])))
		}
	}
	if c.Stack != 0 {
		k.Stack = c.Stack + c.StackSize
	}
	return doClone(t, k)
}

func doClone(t *kernel.Task, c kernel.CloneArgs) (uintptr, error) {
	if c.Flags&unix.CLONE_PIDFD != 0 && c.Flags&unix.CLONE_DETACHED != 0 {
		return 0, unix.EINVAL
	}
	n, err := t.Clone(c)
	if err != nil {
		return 0, err
	}
	tid := t.Number(n.ID())
	if c.Flags&unix.CLONE_PIDFD != 0 {
		if fd, err := installPIDFD(t, n.Group(), 0); err == nil {
			out32(t, c.PIDFD, uint32(fd))
		}
	}
	t.Go(n, c.Flags)
	return uintptr(tid), nil
}

func execve(t *kernel.Task, a *Args) (uintptr, error) {
	name, err := path(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	return exec(t, t.FS().Start(), name, a.Addr(1), a.Addr(2), 0, unix.AT_FDCWD)
}

func execveat(t *kernel.Task, a *Args) (uintptr, error) {
	flags := a.Int(4)
	if flags&^(unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW) != 0 {
		return 0, unix.EINVAL
	}
	name, err := path(t, a.Addr(1))
	if err != nil {
		return 0, err
	}
	start, err := startAt(t, a.Int(0), name, flags&unix.AT_EMPTY_PATH != 0)
	if err != nil {
		return 0, err
	}
	return exec(t, start, name, a.Addr(2), a.Addr(3), flags, a.Int(0))
}

// The most that arguments and environment may take: a quarter of the stack limit
// or 6 MiB, and one string 128 KiB (fs/exec.c).
const maxArgLen = 32 * 4096

// stringList reads a NULL-terminated array of strings; left bounds the bytes.
func stringList(t *kernel.Task, at memory.Addr, left *int) ([]string, error) {
	var list []string
	if at == 0 {
		return nil, nil
	}
	for ; ; at += 8 {
		p, err := in64(t, at)
		if err != nil {
			return nil, err
		}
		if p == 0 {
			return list, nil
		}
		s, err := t.MM().String(memory.Addr(p), maxArgLen)
		if err == unix.ENAMETOOLONG {
			err = unix.E2BIG
		}
		if err != nil {
			return nil, err
		}
		if *left -= len(s) + 1 + 8; *left < 0 {
			return nil, unix.E2BIG
		}
		list = append(list, s)
	}
}

func exec(t *kernel.Task, start vfs.Start, name string, argv, envv memory.Addr, flags, dirfd int) (uintptr, error) {
	left := int(min(t.Limit(unix.RLIMIT_STACK)/4, 6<<20))
	left = max(left, maxArgLen)
	args, err := stringList(t, argv, &left)
	if err != nil {
		return 0, err
	}
	env, err := stringList(t, envv, &left)
	if err != nil {
		return 0, err
	}
	shown, hidden := "", false
	if dirfd != unix.AT_FDCWD && (name == "" || name[0] != '/') {
		shown = "/dev/fd/" + strconv.Itoa(dirfd)
		if name != "" {
			shown += "/" + name
		}
		hidden, _ = t.FDs().Cloexec(dirfd)
	}
	img, err := loader.Load(loader.Program{
		Arena: t.Arena(),
		Shown: shown, Hidden: hidden,
		Kernel: t.Kernel(), Context: t, Start: start, Name: name, Args: args, Env: env,
		Traced: !t.TracerMay(), Limits: t.Group().Limits.All(), Personality: t.Personality.Load(),
		NoFollow: flags&unix.AT_SYMLINK_NOFOLLOW != 0, Empty: flags&unix.AT_EMPTY_PATH != 0,
	})
	if err != nil {
		return 0, err
	}
	old := t.ID()
	if err := t.SingleOut(); err != nil {
		img.Drop()
		return 0, err
	}
	t.Exec(img)
	t.TellExec(old)
	return 0, errKeep
}

func exit(t *kernel.Task, a *Args) (uintptr, error) {
	t.Exit(int32(a.Int(0)&0xff) << 8)
	return 0, nil
}

func exitGroup(t *kernel.Task, a *Args) (uintptr, error) {
	t.ExitGroup(int32(a.Int(0)&0xff) << 8)
	return 0, nil
}

func wait4(t *kernel.Task, a *Args) (uintptr, error) {
	const allowed = unix.WNOHANG | unix.WUNTRACED | unix.WCONTINUED | kernel.WNOTHREAD | kernel.WCLONE | kernel.WALL
	pid, options := int32(a.Int(0)), int(a.Uint32(2))
	if options&^allowed != 0 {
		return 0, unix.EINVAL
	}
	if pid == -1<<31 {
		return 0, unix.ESRCH
	}
	w := kernel.WaitFor{Flags: options | unix.WEXITED}
	switch {
	case pid > 0:
		if w.PID = t.FindID(pid); w.PID == nil {
			return 0, unix.ECHILD
		}
	case pid == 0:
		w.Job = t.Group().Jobs().ID()
	case pid < -1:
		if w.Job = t.FindID(-pid); w.Job == nil {
			return 0, unix.ECHILD
		}
	}
	r, err := t.WaitChild(w)
	if err != nil || r.PID == nil {
		return 0, err
	}
	if a[1] != 0 {
		if err := out32(t, a.Addr(1), uint32(r.Status)); err != nil {
			return 0, err
		}
	}
	if a[3] != 0 {
		if err := outRusage(t, a.Addr(3), r.User, r.Sys, r.MaxRSS, 0, 0, 0); err != nil {
			return 0, err
		}
	}
	return uintptr(t.Number(r.PID)), nil
}

func waitid(t *kernel.Task, a *Args) (uintptr, error) {
	const allowed = unix.WNOHANG | unix.WNOWAIT | unix.WEXITED | unix.WSTOPPED | unix.WCONTINUED |
		kernel.WNOTHREAD | kernel.WCLONE | kernel.WALL
	which, id, options := a.Int(0), int32(a.Int(1)), int(a.Uint32(3))
	if options&^allowed != 0 || options&(unix.WEXITED|unix.WSTOPPED|unix.WCONTINUED) == 0 {
		return 0, unix.EINVAL
	}
	w := kernel.WaitFor{Flags: options}
	switch which {
	case unix.P_ALL:
	case unix.P_PID:
		if id <= 0 {
			return 0, unix.EINVAL
		}
		if w.PID = t.FindID(id); w.PID == nil {
			return 0, unix.ECHILD
		}
	case unix.P_PGID:
		if id < 0 {
			return 0, unix.EINVAL
		}
		if w.Job = t.Group().Jobs().ID(); id != 0 {
			if w.Job = t.FindID(id); w.Job == nil {
				return 0, unix.ECHILD
			}
		}
	case unix.P_PIDFD:
		if id < 0 {
			return 0, unix.EINVAL
		}
		g, nonblock, err := groupOfPIDFD(t, int(id))
		if err != nil {
			return 0, err
		}
		w.Group = g
		if nonblock && options&unix.WNOHANG == 0 {
			w.Flags |= unix.WNOHANG
		}
	default:
		return 0, unix.EINVAL
	}
	r, err := t.WaitChild(w)
	if err != nil {
		return 0, err
	}
	if r.PID == nil && w.Group != nil && options&unix.WNOHANG == 0 {
		return 0, unix.EAGAIN // a pidfd with O_NONBLOCK
	}
	if a[2] != 0 {
		// Only the fields are written, as Linux does (kernel/exit.c, waitid).
		var b [28]byte
		if r.PID != nil {
			le.PutUint32(b[0:], uint32(unix.SIGCHLD))
			le.PutUint32(b[8:], uint32(r.Code))
			le.PutUint32(b[16:], uint32(t.Number(r.PID)))
			le.PutUint32(b[20:], showUID(t, r.UID))
			le.PutUint32(b[24:], uint32(r.Value))
		}
		if err := out(t, a.Addr(2), b[:]); err != nil {
			return 0, err
		}
	}
	if a[4] != 0 && r.PID != nil {
		return 0, outRusage(t, a.Addr(4), r.User, r.Sys, r.MaxRSS, 0, 0, 0)
	}
	return 0, nil
}

func setTIDAddress(t *kernel.Task, a *Args) (uintptr, error) {
	t.SetClearTID(a.Addr(0))
	return uintptr(t.TID()), nil
}

func setpgid(t *kernel.Task, a *Args) (uintptr, error) {
	return 0, t.Setpgid(int32(a.Int(0)), int32(a.Int(1)))
}

// other is the process that pid names, the caller's for 0.
func other(t *kernel.Task, pid int32) (*kernel.ThreadGroup, error) {
	if pid == 0 {
		return t.Group(), nil
	}
	if x := t.Find(pid); x != nil {
		return x.Group(), nil
	}
	if g := t.FindGroup(pid); g != nil {
		return g, nil
	}
	return nil, unix.ESRCH
}

func getpgid(t *kernel.Task, a *Args) (uintptr, error) {
	g, err := other(t, int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	if j := g.Jobs(); j != nil {
		return uintptr(t.Number(j.ID())), nil
	}
	return 0, unix.ESRCH
}

func getpgrp(t *kernel.Task, _ *Args) (uintptr, error) {
	return uintptr(t.Number(t.Group().Jobs().ID())), nil
}

func setsid(t *kernel.Task, _ *Args) (uintptr, error) {
	id, err := t.Setsid()
	return uintptr(id), err
}

func getsid(t *kernel.Task, a *Args) (uintptr, error) {
	g, err := other(t, int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	if j := g.Jobs(); j != nil {
		return uintptr(t.Number(j.Session().ID())), nil
	}
	return 0, unix.ESRCH
}

func setRobustList(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Size(1) != 24 {
		return 0, unix.EINVAL
	}
	t.SetRobust(kernel.RobustList{Head: a.Addr(0), Size: a.Size(1)})
	return 0, nil
}

func getRobustList(t *kernel.Task, a *Args) (uintptr, error) {
	x := t
	if pid := int32(a.Int(0)); pid != 0 && pid != t.TID() {
		if x = t.Find(pid); x == nil {
			return 0, unix.ESRCH
		}
		if err := mayInspect(t, x); err != nil {
			return 0, err
		}
	}
	if err := out64(t, a.Addr(1), uint64(x.Robust().Head)); err != nil {
		return 0, err
	}
	return 0, out64(t, a.Addr(2), 24)
}

// mayInspect is ptrace_may_access with real credentials.
func mayInspect(t, x *kernel.Task) error { return t.MayAccess(x, false) }

// arch_prctl(2) codes (arch/x86/include/uapi/asm/prctl.h).
const (
	archSetGS    = 0x1001
	archSetFS    = 0x1002
	archGetFS    = 0x1003
	archGetGS    = 0x1004
	archGetCPUID = 0x1011
	archSetCPUID = 0x1012
)

func archPrctl(t *kernel.Task, a *Args) (uintptr, error) {
	c := t.Context()
	switch a.Int(0) {
	case archSetFS, archSetGS:
		if a[1] >= uint64(taskSize) {
			return 0, unix.EPERM
		}
		// Run may not have brought the other base up to date.
		if err := t.SaveContext(); err != nil {
			return 0, err
		}
		if a.Int(0) == archSetFS {
			c.Fs_base = a[1]
		} else {
			c.Gs_base = a[1]
		}
		t.DirtyBases()
		return 0, nil
	case archGetFS, archGetGS:
		if err := t.SaveContext(); err != nil {
			return 0, err
		}
		if a.Int(0) == archGetFS {
			return 0, out64(t, a.Addr(1), c.Fs_base)
		}
		return 0, out64(t, a.Addr(1), c.Gs_base)
	case archGetCPUID:
		return 1, nil
	case archSetCPUID:
		return 0, unix.ENODEV
	}
	return 0, unix.EINVAL
}
