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

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/agent/rpc"
	"bulkhead/vmm/machine"
	"bulkhead/vmm/share"
)

// name is the container's in the guest, which has no other.
const name = "init"

// create has the guest make the container, up to its program's first instruction.
func (s *sandbox) create() (err error) {
	if n := len(s.config.Files.Preserve); n > 0 {
		return fmt.Errorf("%d preserved descriptors cannot be handed into a machine", n)
	}
	spec := *s.config.Spec
	if c := s.config.Console; c != nil && spec.Process.ConsoleSize == nil {
		p := *spec.Process
		p.ConsoleSize = &specs.Box{Height: uint(c.Rows), Width: uint(c.Columns)}
		spec.Process = &p
	}
	spec.Hooks = nil // the host's business
	linux := *spec.Linux
	linux.Seccomp = nil // see filter
	spec.Linux = &linux
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	var files []*os.File
	for fd := range 3 {
		if fd > 0 && s.config.Terminal {
			break
		}
		// Another number than 1 or 2, whose writes Go makes SIGPIPEs of.
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
		files = append(files, os.NewFile(uintptr(own), "stdio"))
	}
	if s.init, err = s.lines.newProcess(files, s.config.Terminal); err != nil {
		return err
	}
	binds := map[uint32]string{}
	for i, m := range s.config.GoferMounts {
		binds[uint32(m)] = share.MountName(i)
	}
	ctx, cancel := context.WithTimeout(context.Background(), bootPatience)
	defer cancel()
	_, err = s.guest.Create(ctx, &rpc.CreateRequest{
		Container: name, Spec: text, Root: share.Root, Binds: binds, Overlay: s.config.Overlay.Kind == "memory",
		Streams: s.init.names(), OrdinaryInit: s.config.OrdinaryInit, Limits: limits(s.config.Limits), Filter: s.filter,
	})
	if err == nil {
		err = s.init.begin(s.lines)
	} else {
		err = s.why(rpc.Refused(err))
	}
	if err != nil {
		return err
	}
	go s.await()
	if s.config.Terminal {
		go s.followSize()
	}
	return nil
}

func limits(l agent.Limits) *rpc.Limits {
	return &rpc.Limits{Memory: uint64(max(l.Memory, 0)), Pids: uint64(max(l.Pids, 0))}
}

// isExec tells a program that cannot be run from other failures, by the words that
// runtime/agent prescribes.
func isExec(message string) bool { return strings.HasPrefix(message, `exec: "`) }

// await waits for init's end.
func (s *sandbox) await() {
	w, err := s.guest.Wait(context.Background(), &rpc.WaitRequest{Container: name})
	if err != nil {
		if !s.machine.Ended() {
			s.log.Error("guest does not tell of init's end", "err", rpc.Refused(err))
			s.machine.End(machine.Ending{Reason: machine.Stopped})
		}
		return
	}
	s.ended <- w
}

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

// Start implements agent.Handler, as do the following.
func (s *sandbox) Start(ctx context.Context, _ string) error {
	_, err := s.guest.Start(ctx, &rpc.StartRequest{Container: name})
	return rpc.Refused(err)
}

func (s *sandbox) Exec(ctx context.Context, r *agent.ExecRequest, files []*os.File) (pid int, err error) {
	most := 3
	if r.Process.Terminal {
		most = 1
	}
	if len(files) > most {
		for _, f := range files {
			f.Close()
		}
		return 0, fmt.Errorf("%d preserved descriptors cannot be handed into a machine", len(files)-most)
	}
	text, err := json.Marshal(r.Process)
	if err != nil {
		return 0, err
	}
	p, err := s.lines.newProcess(files, r.Process.Terminal)
	if err != nil {
		return 0, err
	}
	answer, err := s.guest.Exec(ctx, &rpc.ExecRequest{Container: name, Process: text, Streams: p.names()})
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
	if pid <= 0 || s.procs[pid] != nil {
		return 0, fmt.Errorf("the guest calls its process %d", pid)
	}
	s.procs[pid] = p
	return pid, nil
}

func (s *sandbox) Signal(ctx context.Context, r *agent.SignalRequest) error {
	if s.over.Load() {
		if r.Signal == int(unix.SIGKILL) && (r.All || r.PID == 0) {
			s.give.Do(func() { close(s.given) })
		}
		return unix.ESRCH
	}
	_, err := s.guest.Signal(ctx, &rpc.SignalRequest{Container: name, Pid: pid32(r.PID), Signal: uint32(r.Signal), All: r.All})
	return rpc.Refused(err)
}

func pid32(pid int) int32 {
	if pid < 0 || pid > math.MaxInt32 {
		return -1 // which is nobody's
	}
	return int32(pid)
}

func (s *sandbox) Wait(ctx context.Context, r *agent.WaitRequest) (agent.ExitStatus, error) {
	w, err := s.guest.Wait(ctx, &rpc.WaitRequest{Container: name, Pid: pid32(r.PID)})
	if err != nil {
		return agent.ExitStatus{}, s.why(rpc.Refused(err))
	}
	s.mu.Lock()
	p := s.procs[r.PID]
	delete(s.procs, r.PID)
	s.mu.Unlock()
	if p != nil {
		p.stop()
		p.settle(ctx, w.Stdout, w.Stderr)
	}
	return exitStatus(w), nil
}

func (s *sandbox) Resize(ctx context.Context, r *agent.ResizeRequest) error {
	_, err := s.guest.Resize(ctx, &rpc.ResizeRequest{Container: name, Pid: pid32(r.PID), Rows: uint32(r.Rows), Columns: uint32(r.Columns)})
	return rpc.Refused(err)
}

func (s *sandbox) Processes(ctx context.Context, _ string) ([]agent.Process, error) {
	a, err := s.guest.Processes(ctx, &rpc.ProcessesRequest{Container: name})
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

func (s *sandbox) Stats(ctx context.Context, _ string) (*agent.Stats, error) {
	a, err := s.guest.Stats(ctx, &rpc.StatsRequest{Container: name})
	if err != nil {
		return nil, rpc.Refused(err)
	}
	return &agent.Stats{
		Processes: a.Processes, PidsLimit: uint64(max(s.config.Limits.Pids, 0)),
		Memory: a.Memory, Cache: a.Cache, MemoryMax: a.MemoryMax, MemoryLimit: uint64(max(s.config.Limits.Memory, 0)), OOMKills: a.OomKills,
		CPUUser: a.CpuUser, CPUSystem: a.CpuSystem,
	}, nil
}

// Update changes what the guest enforces. Memory beyond what the machine was made
// with is refused: it cannot be had.
func (s *sandbox) Update(ctx context.Context, r *agent.UpdateRequest) error {
	if l := r.Limits.Memory; l > 0 && uint64(l) > s.size.memory {
		return fmt.Errorf("the machine has %d MiB of memory and cannot give the container %d: %w", s.size.memory>>20, l>>20, unix.EINVAL)
	}
	if s.machine.Paused() { // the guest answers nothing meanwhile
		if err := s.machine.Resume(); err != nil {
			return err
		}
		defer func() { _ = s.machine.Pause() }() // ErrEnded: there is nothing to pause
	}
	_, err := s.guest.Update(ctx, &rpc.UpdateRequest{Container: name, Limits: limits(r.Limits)})
	if err == nil {
		s.config.Limits = r.Limits
	}
	return rpc.Refused(err)
}

// Pause stops the vCPUs.
func (s *sandbox) Pause(context.Context, string) error { return s.machine.Pause() }

func (s *sandbox) Resume(context.Context, string) error { return s.machine.Resume() }

// Debug tells of this process, the machine, and the guest's init.
func (s *sandbox) Debug(ctx context.Context, what string) (string, error) {
	var text strings.Builder
	if what == "stacks" {
		b := make([]byte, 1<<20)
		fmt.Fprintf(&text, "%s\n\nthe guest's init:\n", b[:runtime.Stack(b, true)])
	} else {
		fmt.Fprintf(&text, "wall vm\nguest kernel %s\nguest memory %d MiB\nguest CPUs %d\n", s.kernel, s.size.memory>>20, s.size.cpus)
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
