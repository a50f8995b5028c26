package kernel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

// SavedTask is what a checkpoint keeps of a process of one thread.
type SavedTask struct {
	Number                       int32 // in the container's pid namespace
	Comm                         string
	Registers                    platform.Registers
	FPU                          []byte
	InCall                       bool
	Restart                      *Restart `json:",omitempty"`
	Mask, SavedMask              SigSet
	RestoreMask                  bool
	AltStack                     AltStack
	Pending, GroupPending        [][]byte
	Actions                      [NSIG + 1]SigAction
	ClearTID                     memory.Addr
	Robust                       RobustList
	PDeath                       unix.Signal
	RSeq                         RSeq
	Nice, Policy, Priority       int32
	Personality                  uint32
	Slack, Affinity              uint64
	TSCFault                     bool
	StartTime                    time.Duration
	User, System                 int64
	Start                        *Start
	Limits                       [16]Limit
	OOMScoreAdj, Dumpable        int32
	DumpFilter, Membarrier       uint32
	Subreaper                    bool
	Interval                     [3][2]time.Duration // what is left, and the interval
	Creds                        vfs.Creds
	Umask                        uint32
	Host, Domain                 string
	Monotonic, MonotonicRealtime time.Duration // CLOCK_MONOTONIC; what the container set CLOCK_REALTIME ahead
}

// AllFrozen waits until all tasks of a frozen group stand still. It names one that does not
// when ctx ends.
func (g *Cgroup) AllFrozen(ctx context.Context) error {
	for {
		var moving *Task
		g.k.mu.Lock()
		for _, x := range g.groupsLocked() {
			for _, t := range x.tasks {
				if !t.frozen && t.halt == nil {
					moving = t
				}
			}
		}
		g.k.mu.Unlock()
		if moving == nil {
			return nil
		}
		select {
		case <-g.stirred:
		case <-ctx.Done():
			return fmt.Errorf("thread %d (%s) does not stand still", moving.ID().Contained(), moving.Comm())
		}
	}
}

// Save describes the only task of a frozen home, which began with filter. The error names
// what a checkpoint cannot keep.
func (h *Home) Save(filter *Filter) (*Task, *SavedTask, error) {
	k := h.cgroup.k
	groups := h.cgroup.Groups()
	if len(groups) != 1 {
		return nil, nil, fmt.Errorf("there are %d processes, and a checkpoint keeps one", len(groups))
	}
	g := groups[0]
	var left [3][2]time.Duration
	for i := range left {
		timer, err := g.Timers.Interval(i)
		if err != nil {
			return nil, nil, err
		}
		left[i][0], left[i][1] = timer.Left()
	}
	g.Timers.mu.Lock()
	posix := len(g.Timers.posix)
	g.Timers.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	t := g.leader
	t.endsMu.Lock()
	ends := len(t.ends)
	t.endsMu.Unlock()
	for _, row := range []struct {
		bad  bool
		what string
	}{
		{len(g.tasks) != 1 || len(g.zombies) > 0, fmt.Sprintf("has %d threads, and a checkpoint keeps one", len(g.tasks))},
		{g.dead || g.exiting || t.killed, "is ending"},
		{!t.frozen, "is stopped"},
		{t.tr != nil || len(t.tracees) > 0, "is traced or traces"},
		{g.execing != nil || g.dump != nil, "is about to execute another program or to leave a core file"},
		{t.Namespaces() != h.set || t.Creds().User != nil, "is in namespaces of its own"},
		{t.filter.Load() != filter || t.strict.Load() != 0, "has a seccomp filter of its own"},
		{posix > 0, "has POSIX timers (timer_create)"},
		{ends > 0, "has asynchronous requests (io_setup, io_uring)"},
		{len(t.ownsPI) > 0 || t.waitsPI != nil, "holds a priority-inheriting futex"},
		{t.semUndo != nil, "has adjustments of semaphores to undo (SEM_UNDO)"},
		{t.SessionKeyring.Load() != 0 || t.ThreadKeyring.Load() != 0 || g.ProcessKeyring.Load() != 0, "has keyrings"},
		{g.id.session == nil || g.jobs.session.tty != nil, "has a controlling terminal, or a session of another's"},
	} {
		if row.bad {
			return nil, nil, fmt.Errorf("process %d (%s) %s", g.id.Contained(), t.Comm(), row.what)
		}
	}
	s := &SavedTask{
		Number: g.id.Here(), Comm: t.Comm(), Registers: t.ctx.Registers, FPU: t.ctx.FPU, InCall: t.haveSyscall, Restart: t.restart,
		Mask: t.mask, SavedMask: t.savedMask, RestoreMask: t.restoreMask, AltStack: t.altStack, ClearTID: t.clearTID,
		Robust: t.robust, PDeath: t.pdeath, RSeq: t.RSeq, Nice: t.Nice.Load(), Policy: t.Policy.Load(), Priority: t.Priority.Load(),
		Personality: t.Personality.Load(), Slack: t.Slack.Load(), Affinity: t.Affinity.Load(), TSCFault: t.TSCFault.Load(),
		StartTime: t.StartTime, User: t.user.clock.Load(), System: t.sys.clock.Load(), Start: t.Start(), Limits: g.Limits.All(),
		OOMScoreAdj: g.OOMScoreAdj.Load(), Dumpable: g.Dumpable.Load(), DumpFilter: g.DumpFilter.Load(), Membarrier: g.Membarrier.Load(),
		Subreaper: g.subreaper.Load(), Interval: left, Creds: *t.Creds(), Umask: t.fs.Umask(),
		Monotonic: k.Clock.Monotonic(), MonotonicRealtime: time.Duration(k.Clock.realDelta.Load()),
	}
	s.Host, s.Domain = h.set.UTS.Names()
	g.Handlers.mu.Lock()
	s.Actions = g.Handlers.actions
	g.Handlers.mu.Unlock()
	for _, i := range t.pending.infos {
		s.Pending = append(s.Pending, i[:])
	}
	for _, i := range g.pending.infos {
		s.GroupPending = append(s.GroupPending, i[:])
	}
	return t, s, nil
}

// ResumeClock makes CLOCK_MONOTONIC go on from where a checkpoint was made, so that it does
// not go back, and what was to wait has as long to wait as it had. It comes before New.
func ResumeClock(at time.Duration) error {
	if at < 0 || at > 1<<61 {
		return errors.New("the image's clock is out of range")
	}
	ahead := at - base.Monotonic()
	base.monoStart += ahead
	base.boot += ahead
	return nil
}

// How long an XSAVE area is, in bytes: FXSAVE's part and the header, and more than any CPU has (AMX's
// tiles are 8 KiB).
const (
	leastFPU = 576
	mostFPU  = 16 << 10
)

// Restore gives t, which Spawn has made, what s says. Begin lets it go on. What a program
// could not have, it has not got here either, whoever wrote s.
func (t *Task) Restore(s *SavedTask) error {
	if t.PID() != s.Number {
		return fmt.Errorf("process %d is to be restored as %d", s.Number, t.PID())
	}
	r := s.Registers
	if memory.Addr(r.Fs_base) >= platform.TaskSize || memory.Addr(r.Gs_base) >= platform.TaskSize || memory.Addr(r.Rip) >= platform.TaskSize {
		return errors.New("its registers are none that a program can have")
	}
	r.Cs, r.Ss, r.Ds, r.Es, r.Fs, r.Gs = 0x33, 0x2b, 0, 0, 0, 0
	r.Eflags = r.Eflags&userFlags | 0x202
	if n := len(s.FPU); n != 0 && n < leastFPU || n > mostFPU {
		return fmt.Errorf("an FPU state of %d bytes is none", n)
	}
	t.ctx.Registers, t.ctx.FPU, t.ctx.Dirty, t.ctx.Partial = r, s.FPU, platform.DirtyAll, false // platforms trim what the CPU would refuse
	t.haveSyscall, t.restart = s.InCall, s.Restart
	t.mask, t.savedMask, t.restoreMask = s.Mask&^unblockable, s.SavedMask&^unblockable, s.RestoreMask
	t.altStack, t.clearTID, t.robust, t.pdeath, t.RSeq = s.AltStack, s.ClearTID, s.Robust, s.PDeath, s.RSeq
	t.Nice.Store(s.Nice)
	t.Policy.Store(s.Policy)
	t.Priority.Store(s.Priority)
	t.Personality.Store(s.Personality)
	t.Slack.Store(s.Slack)
	t.Affinity.Store(s.Affinity)
	t.TSCFault.Store(s.TSCFault)
	t.StartTime = s.StartTime
	t.user.clock.Store(max(s.User, 0))
	t.sys.clock.Store(max(s.System, 0))
	t.startInfo.Store(s.Start)
	t.SetComm(s.Comm)
	g := t.group
	g.OOMScoreAdj.Store(s.OOMScoreAdj)
	g.Dumpable.Store(s.Dumpable)
	g.DumpFilter.Store(s.DumpFilter)
	g.Membarrier.Store(s.Membarrier)
	g.subreaper.Store(s.Subreaper)
	g.Handlers.actions = s.Actions
	for sig := range g.Handlers.actions {
		if sig > 0 && unblockable.Has(unix.Signal(sig)) {
			g.Handlers.actions[sig] = SigAction{}
		}
	}
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	for _, q := range []struct {
		from [][]byte
		to   *pendingSignals
	}{{s.Pending, &t.pending}, {s.GroupPending, &g.pending}} {
		for _, b := range q.from {
			var i SigInfo
			if copy(i[:], b) < len(i) || i.Signo() < 1 || i.Signo() > NSIG {
				return errors.New("a pending signal is none")
			}
			q.to.add(&i, ^uint64(0), true)
		}
	}
	t.k.first.set.UTS.SetHostname(s.Host)
	t.k.first.set.UTS.SetDomainname(s.Domain)
	t.k.Clock.realDelta.Store(int64(s.MonotonicRealtime))
	t.work.Or(workSignal) // what it was interrupted in begins anew
	return nil
}

// ResumeTimers sets the interval timers of a restored process, which is about to begin.
func (t *Task) ResumeTimers(s *SavedTask) {
	for i, left := range s.Interval {
		if timer, err := t.group.Timers.Interval(i); err == nil && left[0] > 0 && left[1] >= 0 {
			timer.Set(timer.now()+left[0], left[1])
		}
	}
}
