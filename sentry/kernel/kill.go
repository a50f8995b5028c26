package kernel

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// mayKill is check_kill_permission.
func mayKill(from *vfs.Creds, to *ThreadGroup, sig unix.Signal, sameSession bool) bool {
	c := to.leader.Creds()
	return from.EUID == c.SUID || from.EUID == c.UID || from.UID == c.SUID || from.UID == c.UID ||
		from.HasIn(c.User, unix.CAP_KILL) || sig == unix.SIGCONT && sameSession
}

// Kill is kill(2): pid > 0 one process, 0 the caller's job, -1 all but init and
// the caller, else a job.
func (t *Task) Kill(pid int32, sig unix.Signal) error {
	return t.KillInfo(pid, sig, UserInfo(sig, SI_USER, t.PID(), t.Creds().UID))
}

// KillInfo is Kill with a siginfo of the caller's (rt_sigqueueinfo).
func (t *Task) KillInfo(pid int32, sig unix.Signal, info *SigInfo) error {
	if sig < 0 || sig > NSIG {
		return unix.EINVAL
	}
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	ns := t.PIDNamespace()
	var to []*ThreadGroup
	switch {
	case pid > 0:
		g := k.groupLocked(ns, pid)
		if g == nil {
			// A thread id names its process too (find_get_pid).
			x := k.taskLocked(ns, pid)
			if x == nil {
				return unix.ESRCH
			}
			g = x.group
		}
		to = append(to, g)
	case pid == -1:
		for _, g := range k.groupsLocked() {
			if g.id.In(ns) > 1 && g != t.group {
				to = append(to, g)
			}
		}
	default:
		p := t.group.jobs
		if pid != 0 {
			p = ns.jobLocked(-pid)
		}
		if p == nil {
			return unix.ESRCH
		}
		for g := range p.members {
			to = append(to, g)
		}
	}
	if len(to) == 0 {
		return unix.ESRCH
	}
	sent, err := 0, error(nil)
	for _, g := range to {
		if !mayKill(t.Creds(), g, sig, g.jobs != nil && g.jobs.session == t.group.jobs.session) {
			err = unix.EPERM
			continue
		}
		sent++
		if sig != 0 {
			if e := t.sendToLocked(g, nil, info); e != nil {
				err = e
			}
		}
	}
	if sent > 0 && (pid <= 0 || err == nil) {
		return nil
	}
	return err
}

// KillThread is tgkill(2) and tkill(2) (tgid <= 0).
func (t *Task) KillThread(tgid, tid int32, sig unix.Signal, info *SigInfo) error {
	if sig < 0 || sig > NSIG || tid <= 0 {
		return unix.EINVAL
	}
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	x := k.taskLocked(t.PIDNamespace(), tid)
	if x == nil || tgid > 0 && t.Number(x.group.id) != tgid {
		return unix.ESRCH
	}
	if x.group != t.group && !mayKill(t.Creds(), x.group, sig, x.group.jobs.session == t.group.jobs.session) {
		return unix.EPERM
	}
	if sig == 0 {
		return nil
	}
	return t.sendToLocked(x.group, x, info)
}

// sendToLocked sends t's info to a process, or x of it: from and who as the
// receiver knows them. One that does not see the sender cannot refuse
// (kernel/signal.c, send_signal_locked).
func (t *Task) sendToLocked(g *ThreadGroup, x *Task, info *SigInfo) error {
	i := *info
	hidden := t.group.id.In(g.id.ns) == 0
	if i.Code() <= 0 {
		from := i.Uint32(16)
		if g.id.ns != t.PIDNamespace() && from == uint32(t.PID()) {
			from = uint32(t.group.id.In(g.id.ns))
		}
		if hidden {
			from = 0
		}
		i.put32(16, from)
		i.put32(20, g.leader.Creds().User.ShowUID(i.Uint32(20)))
	}
	return t.k.sendLocked(g, x, &i, hidden)
}

// KillGroup is KillInfo for a process that is known otherwise, by a pidfd.
func (t *Task) KillGroup(g *ThreadGroup, sig unix.Signal, info *SigInfo) error {
	if sig < 0 || sig > NSIG {
		return unix.EINVAL
	}
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case g.id.task == nil || g.id.task.group != g:
		return unix.ESRCH
	case !mayKill(t.Creds(), g, sig, g.jobs != nil && g.jobs.session == t.group.jobs.session):
		return unix.EPERM
	case sig == 0:
		return nil
	}
	return t.sendToLocked(g, nil, info)
}

// SendGroup sends info to a process from the kernel itself (timers, terminals,
// the host). Force reaches init where it has no handler, for SIGKILL and SIGSTOP.
func (g *ThreadGroup) SendGroup(info *SigInfo, force bool) error {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return g.k.sendLocked(g, nil, info, force)
}

// Signal sends sig to the process as the kernel.
func (g *ThreadGroup) Signal(sig unix.Signal) { g.SendGroup(kernelInfo(sig), true) }

// SendTask sends info to the thread.
func (t *Task) SendTask(info *SigInfo) error {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	if t.state == taskDead {
		return unix.ESRCH
	}
	return t.k.sendLocked(t.group, t, info, false)
}
