package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/vfs"
)

func pidfdCalls() []row {
	return []row{
		{unix.SYS_PIDFD_OPEN, pidfdOpen, Full, ""},
		{unix.SYS_PIDFD_SEND_SIGNAL, pidfdSendSignal, Full, ""},
		{unix.SYS_PIDFD_GETFD, pidfdGetfd, Full, ""},
	}
}

// pidfd is a descriptor that names a process.
type pidfd struct {
	vfs.NoFile
	group *kernel.ThreadGroup
}

// Ready: readable once the process has ended (pidfd_open(2)).
func (p *pidfd) Ready(mask vfs.Events) vfs.Events {
	if p.group.Dead() {
		return mask & vfs.EventIn
	}
	return 0
}

func (p *pidfd) Queue() *vfs.Queue { return p.group.EndQueue() }

// PID is for /proc/PID/fdinfo.
func (p *pidfd) PID() *kernel.PID { return p.group.ID() }

func installPIDFD(t *kernel.Task, g *kernel.ThreadGroup, flags int) (uintptr, error) {
	d := vfs.NewAnonymous(&pidfd{group: g}, "anon_inode:[pidfd]", unix.O_RDWR|flags)
	defer d.Unref()
	return install(t, d, 0, true)
}

func pidfdOpen(t *kernel.Task, a *Args) (uintptr, error) {
	pid, flags := int32(a.Int(0)), a.Int(1)
	if flags&^unix.O_NONBLOCK != 0 || pid <= 0 {
		return 0, unix.EINVAL
	}
	g := t.FindGroup(pid)
	if g == nil {
		if t.Find(pid) != nil {
			return 0, unix.EINVAL // a thread that is no leader
		}
		return 0, unix.ESRCH
	}
	return installPIDFD(t, g, flags)
}

// groupOfPIDFD is the process that a pidfd names.
func groupOfPIDFD(t *kernel.Task, fd int) (g *kernel.ThreadGroup, nonblock bool, err error) {
	d, err := t.FDs().Get(fd)
	if err != nil {
		return nil, false, err
	}
	defer d.Unref()
	p, ok := d.File().(*pidfd)
	if !ok {
		return nil, false, unix.EBADF
	}
	return p.group, d.Flags()&unix.O_NONBLOCK != 0, nil
}

// groupOfDirectory is the process whose /proc/PID fd is, which does for
// pidfd_send_signal(2) too (fs/proc/base.c, tgid_pidfd_to_pid).
func groupOfDirectory(t *kernel.Task, fd int) (*kernel.ThreadGroup, error) {
	d, err := t.FDs().Get(fd)
	if err != nil {
		return nil, err
	}
	defer d.Unref()
	if i, ok := d.Inode().(interface{ About() any }); ok && d.Flags()&unix.O_PATH == 0 {
		if g, ok := i.About().(*kernel.ThreadGroup); ok {
			return g, nil
		}
	}
	return nil, unix.EBADF
}

func pidfdSendSignal(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Uint32(3) != 0 {
		return 0, unix.EINVAL
	}
	g, _, err := groupOfPIDFD(t, a.Int(0))
	if err == unix.EBADF {
		g, err = groupOfDirectory(t, a.Int(0))
	}
	if err != nil {
		return 0, err
	}
	sig := unix.Signal(a.Int(1))
	info := kernel.UserInfo(sig, kernel.SI_USER, t.PID(), t.Creds().UID)
	if a[2] != 0 {
		if info, err = inInfo(t, int(sig), a.Addr(2), g == t.Group()); err != nil {
			return 0, err
		}
	}
	if t.Number(g.ID()) == 0 {
		return 0, unix.EINVAL // pidfd_send_signal: not in a namespace below
	}
	return 0, t.KillGroup(g, sig, info)
}

func pidfdGetfd(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Uint32(2) != 0 {
		return 0, unix.EINVAL
	}
	g, _, err := groupOfPIDFD(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	x := g.Leader()
	if g.Dead() {
		return 0, unix.ESRCH
	}
	if err := mayInspect(t, x); err != nil {
		return 0, err
	}
	_, fds, _ := x.Look()
	if fds == nil {
		return 0, unix.ESRCH
	}
	d, err := fds.Get(a.Int(1))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	return install(t, d, 0, true)
}
