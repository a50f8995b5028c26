package kernel

import (
	"golang.org/x/sys/unix"
)

// Terminal is a controlling terminal, as the session sees it.
type Terminal interface {
	// Hangup is called when the session leader has exited.
	Hangup()
}

// Session is a set of process groups with at most one controlling terminal.
// Its fields are under Kernel.mu.
type Session struct {
	k          *Kernel
	id         *PID
	leader     *ThreadGroup
	tty        Terminal
	foreground *ProcessGroup
	refs       int // process groups in it
}

// ProcessGroup is a job. Its fields are under Kernel.mu.
type ProcessGroup struct {
	id      *PID
	session *Session
	members map[*ThreadGroup]struct{}
}

// ID is that of the process that made the session.
func (s *Session) ID() *PID { return s.id }

// ID is that of the process that made the group.
func (p *ProcessGroup) ID() *PID { return p.id }

// Session is where p belongs.
func (p *ProcessGroup) Session() *Session { return p.session }

func (k *Kernel) newSessionLocked(g *ThreadGroup) {
	s := &Session{k: k, id: g.id, leader: g}
	g.id.session = s
	k.joinLocked(g, k.newProcessGroupLocked(g.id, s))
}

func (k *Kernel) newProcessGroupLocked(id *PID, s *Session) *ProcessGroup {
	p := &ProcessGroup{id: id, session: s, members: map[*ThreadGroup]struct{}{}}
	id.job = p
	s.refs++
	return p
}

// joinLocked moves g into p, and forgets what became empty.
func (k *Kernel) joinLocked(g *ThreadGroup, p *ProcessGroup) {
	old := g.jobs
	g.jobs = p
	if p != nil {
		p.members[g] = struct{}{}
	}
	if old == nil || old == p {
		return
	}
	delete(old.members, g)
	if len(old.members) > 0 {
		return
	}
	old.id.job = nil
	// An empty job stays in the foreground, as Linux's tty keeps its struct pid: all
	// others go on being in the background until somebody is put there.
	s := old.session
	if s.refs--; s.refs == 0 {
		s.id.session = nil
		s.id.freeLocked()
	}
	old.id.freeLocked()
}

// Setsid is setsid(2).
func (t *Task) Setsid() (int32, error) {
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if t.group.id.job != nil {
		return 0, unix.EPERM
	}
	k.newSessionLocked(t.group)
	return t.PID(), nil
}

// Setpgid is setpgid(2), kernel/sys.c.
func (t *Task) Setpgid(pid, pgid int32) error {
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	ns := t.PIDNamespace()
	if pid == 0 {
		pid = t.PID()
	}
	if pgid == 0 {
		pgid = pid
	}
	if pgid < 0 {
		return unix.EINVAL
	}
	g := k.groupLocked(ns, pid)
	if g == nil || g.dead {
		return unix.ESRCH
	}
	if g != t.group {
		if g.parent != t.group {
			return unix.ESRCH
		}
		if g.jobs.session != t.group.jobs.session {
			return unix.EPERM
		}
		if g.execed {
			return unix.EACCES
		}
	}
	if g.jobs.session.id == g.id {
		return unix.EPERM
	}
	p := ns.jobLocked(pgid)
	if p == nil {
		if pgid != pid {
			return unix.EPERM
		}
		p = k.newProcessGroupLocked(g.id, g.jobs.session)
	}
	if p.session != t.group.jobs.session {
		return unix.EPERM
	}
	k.joinLocked(g, p)
	return nil
}

// Jobs is the process's group.
func (g *ThreadGroup) Jobs() *ProcessGroup {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return g.jobs
}

// Session is the process's session.
func (g *ThreadGroup) Session() *Session {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return g.jobs.session
}

// Terminal is the controlling terminal, or nil.
func (s *Session) Terminal() Terminal {
	s.k.mu.Lock()
	defer s.k.mu.Unlock()
	return s.tty
}

// Leader is the process that made the session; it may have ended.
func (s *Session) Leader() *ThreadGroup { return s.leader }

// SetTerminal makes tty the controlling terminal with fg in the foreground, or
// with nil takes it away.
func (s *Session) SetTerminal(tty Terminal, fg *ProcessGroup) {
	s.k.mu.Lock()
	defer s.k.mu.Unlock()
	s.tty, s.foreground = tty, fg
}

// Foreground is the job that may read from the terminal, or nil.
func (s *Session) Foreground() *ProcessGroup {
	s.k.mu.Lock()
	defer s.k.mu.Unlock()
	return s.foreground
}

// SetForeground changes it.
func (s *Session) SetForeground(p *ProcessGroup) {
	s.k.mu.Lock()
	defer s.k.mu.Unlock()
	s.foreground = p
}

// Signal sends sig to all members of the job, as the terminal does.
func (p *ProcessGroup) Signal(sig unix.Signal) {
	k := p.session.k
	k.mu.Lock()
	defer k.mu.Unlock()
	for g := range p.members {
		k.sendGroupLocked(g, kernelInfo(sig))
	}
}

// Orphaned reports whether no member has a parent elsewhere in the session
// (POSIX; kernel/exit.c, will_become_orphaned_pgrp).
func (p *ProcessGroup) Orphaned() bool {
	p.session.k.mu.Lock()
	defer p.session.k.mu.Unlock()
	return p.orphanedLocked(nil)
}

func (p *ProcessGroup) orphanedLocked(ignore *ThreadGroup) bool {
	for g := range p.members {
		if g == ignore || g.dead || g.parent == nil || g.parent.jobs == nil {
			continue
		}
		// A container's init may be a shell with jobs; Linux excepts only the host's.
		if g.parent.jobs != p && g.parent.jobs.session == p.session {
			return false
		}
	}
	return true
}

// linkedBy says that p, a parent of a member, keeps the job from being orphaned: it is
// elsewhere in the session (kernel/exit.c, kill_orphaned_pgrp).
func (j *ProcessGroup) linkedBy(p *ThreadGroup) bool {
	return j != nil && p != nil && p.jobs != nil && p.jobs != j && p.jobs.session == j.session
}

// hangUpOrphansLocked sends SIGHUP and SIGCONT to a job that has just become
// orphaned and has stopped members.
func (k *Kernel) hangUpOrphansLocked(p *ProcessGroup) {
	if p == nil || !p.orphanedLocked(nil) {
		return
	}
	for g := range p.members {
		if g.stopped {
			for g := range p.members {
				k.sendGroupLocked(g, kernelInfo(unix.SIGHUP))
				k.sendGroupLocked(g, kernelInfo(unix.SIGCONT))
			}
			return
		}
	}
}
