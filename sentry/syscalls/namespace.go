package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/nsfs"
	"bulkhead/sentry/kernel"
)

func namespaceCalls() []row {
	return []row{
		{unix.SYS_UNSHARE, unshare, Full, ""},
		{unix.SYS_SETNS, setns, Full, ""},
	}
}

func unshare(t *kernel.Task, a *Args) (uintptr, error) {
	flags := uint64(a.Uint32(0))
	const known = kernel.NewNamespaceFlags | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_THREAD | unix.CLONE_SIGHAND |
		unix.CLONE_VM | unix.CLONE_SYSVSEM
	if flags&unix.CLONE_NEWUSER != 0 {
		flags |= unix.CLONE_THREAD // and CLONE_FS, which Unshare sees to
	}
	switch {
	case flags&^known != 0,
		flags&(unix.CLONE_THREAD|unix.CLONE_SIGHAND|unix.CLONE_VM) != 0 && len(t.Group().Tasks()) > 1:
		return 0, unix.EINVAL
	}
	if err := t.Unshare(flags); err != nil {
		return 0, err
	}
	if flags&unix.CLONE_FILES != 0 {
		t.UnshareFDs()
	}
	return 0, nil
}

// setns(2): by a file of /proc/PID/ns, or those that flags name of a process by its pidfd.
func setns(t *kernel.Task, a *Args) (uintptr, error) {
	flags := uint64(a.Uint32(1))
	d, err := t.FDs().Get(a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	switch f := d.File().(type) {
	case *nsfs.File:
		ns := f.Namespace()
		if flags != 0 && flags != ns.Flag {
			return 0, unix.EINVAL
		}
		return 0, t.Setns(ns.Enter)
	case *pidfd:
		return 0, setnsOf(t, f.group, flags)
	}
	return 0, unix.EINVAL
}

func setnsOf(t *kernel.Task, g *kernel.ThreadGroup, flags uint64) error {
	if flags == 0 || flags&^kernel.NewNamespaceFlags != 0 {
		return unix.EINVAL
	}
	x := g.Leader()
	if g.Dead() {
		return unix.ESRCH
	}
	if err := mayInspect(t, x); err != nil {
		return err
	}
	var e kernel.Enter
	for _, k := range []*nsfs.Kind{nsfs.User, nsfs.Mounts, nsfs.UTS, nsfs.IPC, nsfs.Net, nsfs.PID, nsfs.Cgroup, nsfs.Time} {
		if flags&k.Flag == 0 {
			continue
		}
		n, ok := nsfs.Of(x, k, false)
		if !ok {
			return unix.ESRCH
		}
		n.Put(&e)
	}
	return t.Setns(e)
}
