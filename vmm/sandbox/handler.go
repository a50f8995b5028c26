package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/agent/rpc"
)

func limits(l agent.Limits) *rpc.Limits {
	return &rpc.Limits{Memory: uint64(max(l.Memory, 0)), Pids: uint64(max(l.Pids, 0))}
}

// isExec tells a program that cannot be run from other failures, by the words that
// runtime/agent prescribes.
func isExec(message string) bool { return strings.HasPrefix(message, `exec: "`) }

// followSize gives init's terminal the size of the host's whenever that changes. The
// process is the leader of that terminal's session for this.
func (s *sandbox) followSize() {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	for {
		if w, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = s.Resize(ctx, &agent.ResizeRequest{Rows: w.Row, Columns: w.Col}) // a guest that has ended has no size
			cancel()
		}
		<-changed
	}
}

// whole is for a call that changes what the guest's init and we both know: it goes on to its
// end when the runtime's command that asked is killed meanwhile. That end comes, with the
// machine's at the latest.
func whole(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

// Start implements agent.Handler, as do the following.
func (s *sandbox) Start(ctx context.Context, name string) error {
	c, err := s.find(name)
	if err != nil {
		return err
	}
	c.starts.Lock()
	defer c.starts.Unlock()
	if _, err = s.guest.Start(whole(ctx), &rpc.StartRequest{Container: c.name}); err != nil {
		return rpc.Refused(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.begun = true
	return nil
}

// Condition implements agent.Conditioned. A Start whose caller has been killed may be under
// way: its outcome is waited for, as either answer before it may be wrong.
func (s *sandbox) Condition(_ context.Context, name string) (*agent.Condition, error) {
	c, err := s.find(name)
	if err != nil {
		return nil, err
	}
	c.starts.Lock()
	defer c.starts.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return &agent.Condition{Begun: c.begun, Paused: c.frozen || s.machine.Paused()}, nil
}

func (s *sandbox) Exec(ctx context.Context, r *agent.ExecRequest, files []*os.File) (pid int, err error) {
	most := 3
	if r.Process.Terminal {
		most = 1
	}
	if len(files) > most {
		closeAll(files)
		return 0, fmt.Errorf("%d preserved descriptors cannot be handed into a machine", len(files)-most)
	}
	c, err := s.find(r.Container)
	if err != nil {
		closeAll(files)
		return 0, err
	}
	text, err := json.Marshal(r.Process)
	if err != nil {
		closeAll(files)
		return 0, err
	}
	p, err := s.lines.newProcess(files, r.Process.Terminal)
	if err != nil {
		closeAll(files)
		return 0, err
	}
	answer, err := s.guest.Exec(whole(ctx), &rpc.ExecRequest{Container: c.name, Process: text, Streams: p.names()})
	if err != nil {
		p.abandon(s.lines)
		return 0, rpc.Refused(err)
	}
	if err := p.begin(s.lines); err != nil {
		return 0, err
	}
	pid = int(answer.Pid)
	s.mu.Lock()
	defer s.mu.Unlock()
	if pid <= 0 || c.procs[pid] != nil {
		p.stop()
		p.drop()
		return 0, fmt.Errorf("the guest calls its process %d", pid)
	}
	if err := ctx.Err(); err != nil { // whoever asked has been killed: nobody knows of the process
		go s.disown(c, pid, p)
		return 0, err
	}
	c.procs[pid] = p
	return pid, nil
}

// disown ends a process that nobody can ask about.
func (s *sandbox) disown(c *container, pid int, p *process) {
	p.stop()
	p.drop()
	// A refusal says that it has ended; and the guest keeps its status until one Wait has it.
	_, _ = s.guest.Signal(context.Background(), &rpc.SignalRequest{Container: c.name, Pid: int32(pid), Signal: uint32(unix.SIGKILL)})
	_, _ = s.guest.Wait(context.Background(), &rpc.WaitRequest{Container: c.name, Pid: int32(pid)})
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func (s *sandbox) Signal(ctx context.Context, r *agent.SignalRequest) error {
	c, err := s.find(r.Container)
	if err != nil {
		return err
	}
	if s.over.Load() {
		if r.Signal == int(unix.SIGKILL) && (r.All || r.PID == 0) {
			s.give.Do(func() { close(s.given) })
		}
		return unix.ESRCH
	}
	_, err = s.guest.Signal(ctx, &rpc.SignalRequest{Container: c.name, Pid: pid32(r.PID), Signal: uint32(r.Signal), All: r.All})
	return rpc.Refused(err)
}

func pid32(pid int) int32 {
	if pid < 0 || pid > math.MaxInt32 {
		return -1 // which is nobody's
	}
	return int32(pid)
}

func (s *sandbox) Wait(ctx context.Context, r *agent.WaitRequest) (agent.ExitStatus, error) {
	c, err := s.find(r.Container)
	if err != nil {
		return agent.ExitStatus{}, err
	}
	w, err := s.guest.Wait(ctx, &rpc.WaitRequest{Container: c.name, Pid: pid32(r.PID)})
	if err != nil {
		return agent.ExitStatus{}, s.why(rpc.Refused(err))
	}
	if r.PID == 0 {
		c.kills.Report(w.OomKills)
	}
	s.mu.Lock()
	p := c.procs[r.PID]
	delete(c.procs, r.PID)
	if r.PID == 0 && c != s.first {
		p = c.init // the first's is run's business
	}
	s.mu.Unlock()
	if p != nil {
		p.stop()
		p.settle(ctx, w.Stdout, w.Stderr)
	}
	return exitStatus(w), nil
}

func (s *sandbox) Resize(ctx context.Context, r *agent.ResizeRequest) error {
	c, err := s.find(r.Container)
	if err != nil {
		return err
	}
	_, err = s.guest.Resize(ctx, &rpc.ResizeRequest{Container: c.name, Pid: pid32(r.PID), Rows: uint32(r.Rows), Columns: uint32(r.Columns)})
	return rpc.Refused(err)
}

func (s *sandbox) Processes(ctx context.Context, name string) ([]agent.Process, error) {
	c, err := s.find(name)
	if err != nil {
		return nil, err
	}
	a, err := s.guest.Processes(ctx, &rpc.ProcessesRequest{Container: c.name})
	if err != nil {
		return nil, rpc.Refused(err)
	}
	var list []agent.Process
	for _, p := range a.Processes {
		list = append(list, agent.Process{
			PID: int(p.GetPid()), Parent: int(p.GetParent()), UID: p.GetUid(), GID: p.GetGid(), Threads: int(p.GetThreads()), TTY: p.GetTty(),
			Start: p.GetStart(), CPU: p.GetCpu(), State: p.GetState(), Memory: p.GetMemory(), Command: p.GetCommand(), Exe: p.GetExe(),
		})
	}
	return list, nil
}

func (s *sandbox) Stats(ctx context.Context, name string) (*agent.Stats, error) {
	c, err := s.find(name)
	if err != nil {
		return nil, err
	}
	a, err := s.guest.Stats(ctx, &rpc.StatsRequest{Container: c.name})
	if err != nil {
		return nil, rpc.Refused(err)
	}
	s.mu.Lock()
	l := c.limits
	s.mu.Unlock()
	st := &agent.Stats{
		Processes: a.Processes, PidsLimit: uint64(max(l.Pids, 0)),
		Memory: a.Memory, Cache: a.Cache, MemoryMax: a.MemoryMax, MemoryLimit: uint64(max(l.Memory, 0)), OOMKills: a.OomKills,
		CPUUser: a.CpuUser, CPUSystem: a.CpuSystem, Faults: a.Faults,
	}
	if c == s.first {
		st.Interfaces = s.wires.traffic()
	}
	return st, nil
}

// OOM implements agent.Starving.
func (s *sandbox) OOM(ctx context.Context, name string, to *os.File) error {
	c, err := s.find(name)
	if err != nil {
		return err
	}
	return c.kills.Tell(ctx, to)
}

// Update changes what the guest enforces. What a container may use less than it was made
// with, the guest gives back to the host, in its own time; more than the machine was made
// with is refused: it cannot be had.
func (s *sandbox) Update(ctx context.Context, r *agent.UpdateRequest) error {
	c, err := s.find(r.Container)
	if err != nil {
		return err
	}
	if l := r.Limits.Memory; l > 0 && uint64(l) > s.size.memory {
		return fmt.Errorf("the machine has %d MiB of memory and cannot give the container %d; one that is to have more later is made with the annotation %s: %w",
			s.size.memory>>20, l>>20, agent.MemoryAnnotation, unix.EINVAL)
	}
	if s.machine.Paused() { // the guest answers nothing meanwhile
		if err := s.machine.Resume(); err != nil {
			return err
		}
		defer func() { _ = s.machine.Pause() }() // ErrEnded: there is nothing to pause
	}
	_, err = s.guest.Update(whole(ctx), &rpc.UpdateRequest{Container: c.name, Limits: limits(r.Limits), Cgroup: s.cgroup(r.Cgroup)})
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		c.limits = r.Limits
		s.inflateLocked()
	}
	return rpc.Refused(err)
}

// GivenBack implements agent.Shrinking. A guest that stands still gives nothing back.
func (s *sandbox) GivenBack(ctx context.Context, patience time.Duration) (uint64, error) {
	if s.balloon == nil { // a test's
		return 0, nil
	}
	if s.machine.Paused() {
		patience = 0
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p := s.balloon.Await(ctx)
	return uint64(min(p.Actual, p.Target)) * balloonPage, nil
}

// Pause stops the vCPUs, or, of a container that is not the machine's first, its
// processes.
func (s *sandbox) Pause(ctx context.Context, name string) error { return s.pause(ctx, name, true) }

func (s *sandbox) Resume(ctx context.Context, name string) error { return s.pause(ctx, name, false) }

func (s *sandbox) pause(ctx context.Context, name string, pause bool) error {
	c, err := s.find(name)
	switch {
	case err != nil:
		return err
	case c != s.first:
		if _, err := s.guest.Freeze(whole(ctx), &rpc.FreezeRequest{Container: c.name, Frozen: pause}); err != nil {
			return rpc.Refused(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		c.frozen = pause
		return nil
	case pause:
		return s.machine.Pause()
	}
	return s.machine.Resume()
}

// Debug tells of this process, the machine, and the guest's init.
func (s *sandbox) Debug(ctx context.Context, what string) (string, error) {
	var text strings.Builder
	if what == "stacks" {
		b := make([]byte, 1<<20)
		fmt.Fprintf(&text, "%s\n\nthe guest's init:\n", b[:runtime.Stack(b, true)])
	} else {
		fmt.Fprintf(&text, "wall vm\nguest kernel %s\nguest memory %d MiB\nguest CPUs %d\n", s.kernel, s.size.memory>>20, s.size.cpus)
		if s.balloon != nil {
			p := s.balloon.Pages()
			fmt.Fprintf(&text, "guest memory given back %d MiB of %d\n", p.Actual/pagesPerMiB, p.Target/pagesPerMiB)
		}
	}
	a, err := s.guest.Diagnose(ctx, &rpc.DiagnoseRequest{What: what})
	if err != nil {
		return "", s.why(rpc.Refused(err))
	}
	for line := range strings.Lines(a.Text) {
		text.WriteString(printable(strings.TrimRight(line, "\n"), 400) + "\n")
	}
	return text.String(), nil
}
