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
func (s *sandbox) Start(context.Context, string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		return unix.EALREADY
	}
	s.started = true
	if b := s.init.bridge; b != nil {
		b.SyncSize()
	}
	s.milestone("start init")
	s.init.task.Begin()
	return nil
}

// Condition implements agent.Conditioned.
func (s *sandbox) Condition(context.Context, string) (*agent.Condition, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &agent.Condition{Begun: s.started}, nil
}

// Exec starts a further process.
func (s *sandbox) Exec(_ context.Context, r *agent.ExecRequest, files []*os.File) (int, error) {
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	p, err := s.prepare(r.Process, r.Process.Terminal, files)
	if err != nil {
		return 0, err
	}
	pid := p.task.PID()
	s.mu.Lock()
	s.procs[pid] = p
	s.mu.Unlock()
	p.task.Begin()
	return int(pid), nil
}

// group is the process that a request names, init for 0.
func (s *sandbox) group(pid int) (*kernel.ThreadGroup, error) {
	if pid == 0 {
		return s.init.task.Group(), nil
	}
	s.mu.Lock()
	p := s.procs[int32(pid)]
	s.mu.Unlock()
	if p != nil {
		return p.task.Group(), nil
	}
	if g := s.kernel.Group(int32(pid)); g != nil {
		return g, nil
	}
	return nil, unix.ESRCH
}

// Signal sends a signal from outside: init cannot refuse SIGKILL and SIGSTOP.
func (s *sandbox) Signal(_ context.Context, r *agent.SignalRequest) error {
	sig := unix.Signal(r.Signal)
	if sig < 0 || sig > kernel.NSIG {
		return fmt.Errorf("signal %d: %w", r.Signal, unix.EINVAL)
	}
	if r.All {
		for _, g := range s.kernel.Groups() {
			if sig != 0 {
				g.SendGroup(kernel.UserInfo(sig, kernel.SI_USER, 0, 0), true)
			}
		}
		return nil
	}
	g, err := s.group(r.PID)
	if err != nil {
		return err
	}
	if g.Dead() {
		return unix.ESRCH
	}
	if !s.begun(g) && sig == unix.SIGKILL {
		s.init.task.Abandon()
		return nil
	}
	if sig == 0 {
		return nil
	}
	return g.SendGroup(kernel.UserInfo(sig, kernel.SI_USER, 0, 0), true)
}

// begun reports whether g has run its first instruction.
func (s *sandbox) begun(g *kernel.ThreadGroup) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g == s.init.task.Group() && !s.started {
		s.started = true
		return false
	}
	return true
}

// Wait returns when the process has ended and its output is out.
func (s *sandbox) Wait(ctx context.Context, r *agent.WaitRequest) (agent.ExitStatus, error) {
	g, err := s.group(r.PID)
	if err != nil {
		return agent.ExitStatus{}, err
	}
	select {
	case <-g.Ended():
	case <-ctx.Done():
		return agent.ExitStatus{}, ctx.Err()
	}
	s.mu.Lock()
	p := s.procs[g.PID()]
	delete(s.procs, g.PID())
	s.mu.Unlock()
	if p != nil {
		p.finish()
	}
	return exitStatus(g.ExitStatus()), nil
}

// Resize changes a terminal's size.
func (s *sandbox) Resize(_ context.Context, r *agent.ResizeRequest) error {
	p := s.init
	if r.PID != 0 {
		s.mu.Lock()
		p = s.procs[int32(r.PID)]
		s.mu.Unlock()
	}
	if p == nil {
		return unix.ESRCH
	}
	if p.bridge == nil {
		return unix.ENOTTY
	}
	p.bridge.Resize(unix.Winsize{Row: r.Rows, Col: r.Columns})
	return nil
}

// Processes lists what runs inside.
func (s *sandbox) Processes(context.Context, string) ([]agent.Process, error) {
	var all []agent.Process
	boot := s.kernel.Clock.Realtime() - int64(s.kernel.Clock.Boottime())
	for _, g := range s.kernel.Groups() {
		t := g.Leader()
		c := t.Creds()
		u, sys := g.CPUTime()
		p := agent.Process{
			PID: int(g.PID()), Parent: int(g.PPID()), UID: c.UID, GID: c.GID, Threads: len(g.Tasks()),
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

// Stats counts what the container uses.
func (s *sandbox) Stats(context.Context, string) (*agent.Stats, error) {
	n, _ := s.kernel.Live()
	st := &agent.Stats{
		Processes: uint64(n), PidsLimit: uint64(max(s.config.Limits.Pids, 0)),
		Memory: s.arena.Usage(), MemoryLimit: uint64(max(s.config.Limits.Memory, 0)), OOMKills: s.kernel.OOMKills.Load(),
	}
	u, sys := s.kernel.CPUTime()
	st.CPUUser, st.CPUSystem = int64(u), int64(sys)
	st.Calls, st.Faults = s.calls.Served(), s.kernel.Faults.Load()
	return st, nil
}

// OOM implements agent.Starving.
func (s *sandbox) OOM(ctx context.Context, _ string, to *os.File) error { return s.kills.Tell(ctx, to) }

func (s *sandbox) reportOOM() { s.kills.Report(s.kernel.OOMKills.Load()) }

// Update changes the limits that the Sentry keeps; 0 takes one away.
func (s *sandbox) Update(_ context.Context, r *agent.UpdateRequest) error {
	s.arena.SetLimit(uint64(max(r.Limits.Memory, 0)))
	s.kernel.SetPIDs(int(max(r.Limits.Pids, 0)))
	s.config.Limits.Memory, s.config.Limits.Pids = r.Limits.Memory, r.Limits.Pids
	return nil
}

// Pause and Resume leave the work to the cgroup freezer.
func (s *sandbox) Pause(context.Context, string) error  { return nil }
func (s *sandbox) Resume(context.Context, string) error { return nil }
