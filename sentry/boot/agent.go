package boot

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent"
	"bulkhead/sentry/kernel"
)

// The methods below make a sandbox an agent.Handler.
var (
	_ agent.Handler  = (*sandbox)(nil)
	_ agent.Starving = (*sandbox)(nil)
)

// Start lets init run.
func (s *sandbox) Start(_ context.Context, container string) error {
	c, err := s.find(container)
	if err != nil {
		return err
	}
	if c.begin() {
		return unix.EALREADY
	}
	if b := c.init.bridge; b != nil {
		b.SyncSize()
	}
	if c == s.first {
		s.milestone("start init")
	}
	c.init.task.Begin()
	if s.image != nil {
		c.init.task.ResumeTimers(&s.image.Task)
	}
	return nil
}

// Condition implements agent.Conditioned.
func (s *sandbox) Condition(_ context.Context, container string) (*agent.Condition, error) {
	c, err := s.find(container)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &agent.Condition{Begun: c.started, Paused: c.home.Cgroup().Frozen()}, nil
}

// Exec starts a further process.
func (s *sandbox) Exec(_ context.Context, r *agent.ExecRequest, files []*os.File) (int, error) {
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	c, err := s.find(r.Container)
	if err != nil {
		return 0, err
	}
	p, err := c.prepare(r.Process, r.Process.Terminal, files)
	if err != nil {
		return 0, err
	}
	pid := p.task.ID().In(c.home.PIDs())
	if !c.remember(pid, p) {
		p.task.Abandon()
		p.finish()
		return 0, unix.ESRCH
	}
	p.task.Begin()
	return int(pid), nil
}

// remember keeps a process until somebody has waited for it. It is false when the container
// has been removed.
func (c *container) remember(pid int32, p *process) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.procs == nil {
		return false
	}
	c.procs[pid] = p
	return true
}

// process is one that was started from outside, init for 0; nil if there is no such.
func (c *container) process(pid int) *process {
	if pid == 0 {
		return c.init
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.procs[int32(pid)]
}

// lookup is the process that a request names, init for 0.
func (c *container) lookup(pid int) (*kernel.ThreadGroup, error) {
	if p := c.process(pid); p != nil {
		return p.task.Group(), nil
	}
	if g := c.kernel.GroupIn(c.home.PIDs(), int32(pid)); g != nil && g.Cgroup() == c.home.Cgroup() {
		return g, nil
	}
	return nil, unix.ESRCH
}

// Signal sends a signal from outside: init cannot refuse SIGKILL and SIGSTOP.
func (s *sandbox) Signal(_ context.Context, r *agent.SignalRequest) error {
	c, err := s.find(r.Container)
	if err != nil {
		return err
	}
	sig := unix.Signal(r.Signal)
	if sig < 0 || sig > kernel.NSIG {
		return fmt.Errorf("signal %d: %w", r.Signal, unix.EINVAL)
	}
	if r.All {
		for _, g := range c.home.Cgroup().Groups() {
			if sig != 0 {
				g.SendGroup(kernel.UserInfo(sig, kernel.SI_USER, 0, 0), true)
			}
		}
		return nil
	}
	g, err := c.lookup(r.PID)
	if err != nil {
		return err
	}
	if g.Dead() {
		return unix.ESRCH
	}
	// Before its first instruction there is nobody to take a signal.
	if sig == unix.SIGKILL && g == c.init.task.Group() && !c.begin() {
		c.init.task.Abandon()
		return nil
	}
	if sig == 0 {
		return nil
	}
	return g.SendGroup(kernel.UserInfo(sig, kernel.SI_USER, 0, 0), true)
}

// Wait returns when the process has ended and its output is out.
func (s *sandbox) Wait(ctx context.Context, r *agent.WaitRequest) (agent.ExitStatus, error) {
	c, err := s.find(r.Container)
	if err != nil {
		return agent.ExitStatus{}, err
	}
	g, err := c.lookup(r.PID)
	if err != nil {
		return agent.ExitStatus{}, err
	}
	select {
	case <-g.Ended():
	case <-ctx.Done():
		return agent.ExitStatus{}, ctx.Err()
	}
	p := c.process(r.PID)
	s.mu.Lock()
	delete(c.procs, int32(r.PID))
	s.mu.Unlock()
	c.reportOOM()                      // who was killed is counted before it ends
	if p != nil && p != s.first.init { // that one's is finished when all else has ended, too
		p.finish()
	}
	return exitStatus(g.ExitStatus()), nil
}

// Resize changes a terminal's size.
func (s *sandbox) Resize(_ context.Context, r *agent.ResizeRequest) error {
	c, err := s.find(r.Container)
	if err != nil {
		return err
	}
	p := c.process(r.PID)
	if p == nil {
		return unix.ESRCH
	}
	if p.bridge == nil {
		return unix.ENOTTY
	}
	p.bridge.Resize(unix.Winsize{Row: r.Rows, Col: r.Columns})
	return nil
}

// Processes lists what runs inside, by the numbers that the container sees.
func (s *sandbox) Processes(_ context.Context, container string) ([]agent.Process, error) {
	c, err := s.find(container)
	if err != nil {
		return nil, err
	}
	var all []agent.Process
	boot := s.kernel.Clock.Realtime() - int64(s.kernel.Clock.Boottime())
	pids := c.home.PIDs()
	for _, g := range c.home.Cgroup().Groups() {
		t := g.Leader()
		c := t.Creds()
		u, sys := g.CPUTime()
		p := agent.Process{
			PID: int(g.ID().In(pids)), Parent: int(g.ParentIn(pids)), UID: c.UID, GID: c.GID, Threads: len(g.Tasks()),
			Start: (boot + int64(t.StartTime)) / 1e9, CPU: int64(u + sys), State: string(t.State()), Command: command(t),
		}
		if _, _, mm := t.Look(); mm != nil {
			p.Memory = mm.Sizes().Resident
		}
		all = append(all, p)
	}
	return all, nil
}

// command reads a process's arguments from its memory, or gives its name in
// brackets as ps does.
func command(t *kernel.Task) []string {
	_, _, mm := t.Look()
	start := t.Start()
	if mm == nil || start == nil {
		return []string{"[" + t.Comm() + "]"}
	}
	b := make([]byte, min(start.ArgEnd-start.ArgStart, 4096))
	n, _ := mm.Read(start.ArgStart, b)
	if n == 0 {
		return []string{"[" + t.Comm() + "]"}
	}
	return strings.Split(strings.TrimRight(string(b[:n]), "\x00"), "\x00")
}

// Stats counts what the container uses. System calls and page faults are the whole
// sandbox's, and told of its first container alone.
func (s *sandbox) Stats(_ context.Context, container string) (*agent.Stats, error) {
	c, err := s.find(container)
	if err != nil {
		return nil, err
	}
	group := c.home.Cgroup()
	limits := c.limits()
	st := &agent.Stats{
		Processes: uint64(group.Live()), PidsLimit: uint64(max(limits.Pids, 0)),
		Memory: c.arena.Usage(), MemoryLimit: uint64(max(limits.Memory, 0)), OOMKills: group.OOMKills.Load(),
	}
	u, sys := group.CPUTime()
	st.CPUUser, st.CPUSystem = int64(u), int64(sys)
	if c == s.first {
		st.Calls, st.Faults = s.calls.Served(), s.kernel.Faults.Load()
		st.Interfaces = s.traffic()
	}
	return st, nil
}

// OOM implements agent.Starving.
func (s *sandbox) OOM(ctx context.Context, container string, to *os.File) error {
	c, err := s.find(container)
	if err != nil {
		return err
	}
	return c.kills.Tell(ctx, to)
}

func (c *container) reportOOM() { c.kills.Report(c.home.Cgroup().OOMKills.Load()) }

// Update changes the limits that the Sentry keeps; 0 takes one away.
func (s *sandbox) Update(_ context.Context, r *agent.UpdateRequest) error {
	c, err := s.find(r.Container)
	if err != nil {
		return err
	}
	c.arena.SetLimit(uint64(max(r.Limits.Memory, 0)))
	c.home.Cgroup().SetPIDs(int(max(r.Limits.Pids, 0)))
	s.mu.Lock()
	defer s.mu.Unlock()
	c.config.Limits.Memory, c.config.Limits.Pids = r.Limits.Memory, r.Limits.Pids
	return nil
}

// Pause and Resume stop one container's tasks, and let them go on.
func (s *sandbox) Pause(_ context.Context, container string) error { return s.freeze(container, true) }
func (s *sandbox) Resume(_ context.Context, container string) error {
	return s.freeze(container, false)
}

func (s *sandbox) freeze(container string, frozen bool) error {
	c, err := s.find(container)
	if err == nil {
		c.home.Cgroup().Freeze(frozen)
	}
	return err
}
