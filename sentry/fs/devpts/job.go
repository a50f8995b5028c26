package devpts

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/vfs"
)

// Job control: which session a terminal controls, and what its background jobs
// may not do. drivers/tty/tty_jobctrl.c. The foreground group is kept by the
// session, which the kernel room owns.

// owner is the session that t controls, or nil.
func (t *Terminal) owner() *kernel.Session {
	if t.session != nil && t.session.Terminal() != kernel.Terminal(t) {
		t.session = nil
	}
	return t.session
}

// controls says that t is the controlling terminal of the caller.
func (t *Terminal) controls(ctx vfs.Context) (*kernel.Task, bool) {
	task, ok := ctx.(*kernel.Task)
	if !ok {
		return nil, false
	}
	return task, task.Group().Session().Terminal() == kernel.Terminal(t)
}

// signalForeground is what a control character does. Terminal.mu is held.
func (t *Terminal) signalForeground(sig unix.Signal) {
	if s := t.owner(); s != nil {
		if g := s.Foreground(); g != nil {
			g.Signal(sig)
		}
	}
}

// checkChange stops or refuses a background job. __tty_check_change.
func (t *Terminal) checkChange(ctx vfs.Context, sig unix.Signal) error {
	task, ok := t.controls(ctx)
	if !ok {
		return nil
	}
	mine := task.Group().Jobs()
	fg := mine.Session().Foreground()
	if fg == nil || fg == mine {
		return nil
	}
	_, _, blocked, ignored, _, _ := task.SignalSets()
	if blocked.Has(sig) || ignored.Has(sig) {
		if sig == unix.SIGTTIN {
			return unix.EIO
		}
		return nil
	}
	if mine.Orphaned() {
		return unix.EIO
	}
	mine.Signal(sig)
	return kernel.ERESTARTSYS
}

// adopt makes t the controlling terminal of a session leader without one.
// tty_open_proc_set_tty.
func (t *Terminal) adopt(ctx vfs.Context) {
	task, ok := ctx.(*kernel.Task)
	if !ok || t.owner() != nil {
		return
	}
	s := task.Group().Session()
	if s.Leader() == task.Group() && s.Terminal() == nil {
		t.control(s, task.Group().Jobs())
	}
}

func (t *Terminal) control(s *kernel.Session, fg *kernel.ProcessGroup) {
	t.session = s
	s.SetTerminal(t, fg)
}

// Control makes t the controlling terminal of g's session, with g in the
// foreground: for processes that are started from outside.
func (t *Terminal) Control(g *kernel.ThreadGroup) {
	t.mu.Lock()
	defer t.unlock()
	t.control(g.Session(), g.Jobs())
}

// take is TIOCSCTTY. tiocsctty.
func (t *Terminal) take(ctx vfs.Context, readable, steal bool) error {
	task, ok := ctx.(*kernel.Task)
	if !ok {
		return unix.EPERM
	}
	g := task.Group()
	s := g.Session()
	leader, mine := s.Leader() == g, t.owner()
	if leader && mine == s {
		return nil
	}
	if !leader || s.Terminal() != nil {
		return unix.EPERM
	}
	admin := ctx.Creds().Has(unix.CAP_SYS_ADMIN)
	if mine != nil {
		if !steal || !admin {
			return unix.EPERM
		}
		mine.SetTerminal(nil, nil)
	}
	if !readable && !admin {
		return unix.EPERM
	}
	t.control(s, g.Jobs())
	return nil
}

// leave is TIOCNOTTY. Of a process that leads no session Linux takes the
// terminal away alone; here a session shares one view, so that is left out.
func (t *Terminal) leave(ctx vfs.Context) error {
	task, ok := t.controls(ctx)
	if !ok {
		return unix.ENOTTY
	}
	s := task.Group().Session()
	if s.Leader() != task.Group() {
		return nil
	}
	if fg := s.Foreground(); fg != nil {
		fg.Signal(unix.SIGHUP)
		fg.Signal(unix.SIGCONT)
	}
	s.SetTerminal(nil, nil)
	t.session = nil
	return nil
}

// Hangup is called when the leader of the session has exited; the session has
// let go of t already and signalled its foreground. disassociate_ctty.
func (t *Terminal) Hangup() {
	t.mu.Lock()
	defer t.unlock()
	t.owner() // forgets it
}

// dropSession tells the session that its terminal has gone.
// tty_signal_session_leader. Linux signals the leader alone and the foreground
// when that exits, which needs a memory of it in the process.
func (t *Terminal) dropSession() {
	s := t.owner()
	if s == nil {
		return
	}
	fg := s.Foreground()
	s.SetTerminal(nil, nil)
	t.session = nil
	leader := s.Leader()
	leader.Signal(unix.SIGHUP)
	leader.Signal(unix.SIGCONT)
	if fg != nil && fg != leader.Jobs() {
		fg.Signal(unix.SIGHUP)
		fg.Signal(unix.SIGCONT)
	}
}

// foreground is TIOCGPGRP, 0 if there is none.
func (t *Terminal) foreground(ctx vfs.Context) int32 {
	if s := t.owner(); s != nil {
		if g := s.Foreground(); g != nil {
			return number(ctx, g.ID())
		}
	}
	return 0
}

// number is p as ctx's task knows it.
func number(ctx vfs.Context, p *kernel.PID) int32 {
	if task, ok := ctx.(*kernel.Task); ok {
		return task.Number(p)
	}
	return p.Global()
}

// setForeground is TIOCSPGRP. tiocspgrp.
func (t *Terminal) setForeground(ctx vfs.Context, id int32) error {
	switch err := t.checkChange(ctx, unix.SIGTTOU); {
	case err == unix.EIO:
		return unix.ENOTTY
	case err != nil:
		return err
	case id < 0:
		return unix.EINVAL
	}
	task, ok := t.controls(ctx)
	if !ok || t.owner() != task.Group().Session() {
		return unix.ENOTTY
	}
	g := task.FindJob(id)
	if g == nil {
		return unix.ESRCH
	}
	if g.Session() != t.session {
		return unix.EPERM
	}
	t.session.SetForeground(g)
	return nil
}

// OpenControlling opens /dev/tty: the caller's controlling terminal.
func OpenControlling(ctx vfs.Context, flags int) (vfs.File, error) {
	task, ok := ctx.(*kernel.Task)
	if !ok {
		return nil, unix.ENXIO
	}
	t, ok := task.Group().Session().Terminal().(*Terminal)
	if !ok {
		return nil, unix.ENXIO
	}
	return t.openSlave(ctx, flags|unix.O_NOCTTY)
}
