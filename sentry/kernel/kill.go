package kernel

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// mayKill is check_kill_permission.
func mayKill(from *vfs.Creds, to *ThreadGroup, sig unix.Signal, sameSession bool) bool {
	c := to.leader.Creds()
	return from.EUID == c.SUID || from.EUID == c.UID || from.UID == c.SUID || from.UID == c.UID ||
		from.Has(unix.CAP_KILL) || sig == unix.SIGCONT && sameSession
}

// Kill is kill(2): pid > 0 one process, 0 the caller's job, -1 all but init and
// the caller, else a job.
func (t *Task) Kill(pid int32, sig unix.Signal) error {
	info := UserInfo(sig, SI_USER, t.group.pid, t.Creds().UID)
	return t.KillInfo(pid, sig, info)
}

// KillInfo is Kill with a siginfo of the caller's (rt_sigqueueinfo).
func (t *Task) KillInfo(pid int32, sig unix.Signal, info *SigInfo) error {
	if sig < 0 || sig > NSIG {
		return unix.EINVAL
	}
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	var to []*ThreadGroup
	switch {
	case pid > 0:
		g := k.groupLocked(pid)
		if g == nil {
			// A thread id names its process too (find_get_pid).
			x := k.tasks[pid]
			if x == nil || x.state == taskDead {
				return unix.ESRCH
			}
			g = x.group
		}
		to = append(to, g)
	case pid == -1:
		for _, g := range k.groupsLocked() {
			if g != k.init && g != t.group {
				to = append(to, g)
			}
		}
	default:
		p := t.group.jobs
		if pid != 0 {
			p = k.groups[-pid]
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
			copied := *info
			if e := k.sendGroupLocked(g, &copied); e != nil {
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
	x := k.tasks[tid]
	if x == nil || x.state == taskDead || tgid > 0 && x.group.pid != tgid {
		return unix.ESRCH
	}
	if x.group != t.group && !mayKill(t.Creds(), x.group, sig, x.group.jobs.session == t.group.jobs.session) {
		return unix.EPERM
	}
	if sig == 0 {
		return nil
	}
	return k.sendLocked(x.group, x, info, false)
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
