package container

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path"
	"strconv"
	"sync"
	"testing"
	"time"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/sandbox"

	"golang.org/x/sys/unix"
)

// The test program plays all the processes that the runtime starts, for the
// runtime must not know the Sentry: a sandbox whose "programs" are words.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case sandbox.Verb:
			os.Exit(fakeSandbox())
		case sandbox.GoferVerb:
			os.Exit(fakeGofer())
		case StandInVerb:
			signals := make(chan os.Signal, 64)
			signal.Notify(signals)
			os.Exit(RunStandIn(os.Args[2:], signals))
		}
	}
	os.Exit(m.Run())
}

// fakeGofer ends when the sandbox does.
func fakeGofer() int {
	io.Copy(io.Discard, os.NewFile(agent.GoferSocketFD, "socket"))
	return 0
}

// fakeProgram is a process inside: `sleep` waits for a signal, `exit N` ends,
// `starve N` is killed for want of memory.
type fakeProgram struct {
	args  []string
	ended chan agent.ExitStatus
}

func (h *fakeHandler) begin(p *fakeProgram) {
	if p.args[0] == "starve" { // with others before it, so many in all
		n, _ := strconv.Atoi(p.args[1])
		for i := range n {
			h.kills.Report(uint64(i + 1))
		}
		p.ended <- agent.ExitStatus{Signal: int(unix.SIGKILL)}
	}
	if path.Base(p.args[0]) == "exit" {
		n, _ := strconv.Atoi(p.args[1])
		p.ended <- agent.ExitStatus{Code: n}
	}
}

type fakeHandler struct {
	kills agent.Kills
	mu    sync.Mutex
	procs map[int]*fakeProgram
	next  int
	end   chan agent.ExitStatus
	begun bool
}

func fakeSandbox() int {
	log := os.NewFile(agent.LogFD, "log")
	config, err := agent.ReadBootConfig(os.NewFile(agent.ConfigFD, "config"))
	if err != nil {
		return 125
	}
	ready := os.NewFile(agent.SyncFD, "sync")
	switch args := config.Spec.Process.Args; args[0] {
	case "refuse": // a step of the start fails
		(&agent.Ready{Error: "load init: " + args[1]}).Write(ready)
		return 125
	case "missing": // the program cannot be run
		(&agent.Ready{Error: `exec: "missing": executable file not found in $PATH`, Usage: true}).Write(ready)
		return 125
	case "die": // without a word but in the log
		fmt.Fprintln(log, "panic: the sky has fallen")
		return 70
	case "babble":
		ready.Write([]byte("hello\n"))
		return 125
	case "hang":
		for { // a select without cases would be found to be a deadlock
			time.Sleep(time.Hour)
		}
	}
	l, err := agent.Listener(agent.ControlFD)
	if err != nil {
		return 125
	}
	h := &fakeHandler{procs: map[int]*fakeProgram{}, next: 1, end: make(chan agent.ExitStatus, 1)}
	h.add(config.Spec.Process.Args)
	go agent.Serve(context.Background(), l, h, slog.New(slog.DiscardHandler))
	(&agent.Ready{Ready: true, Platform: "fake"}).Write(ready)
	ready.Close()
	if config.Start {
		h.begin(h.proc(1))
	}
	s := <-h.procs[1].ended
	fmt.Fprintln(os.Stdout, "init ended")
	return s.Exit()
}

func (h *fakeHandler) add(args []string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	pid := h.next
	h.next++
	h.procs[pid] = &fakeProgram{args, make(chan agent.ExitStatus, 1)}
	return pid
}

func (h *fakeHandler) proc(pid int) *fakeProgram {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.procs[max(pid, 1)]
}

func (h *fakeHandler) Start(context.Context, string) error {
	h.mu.Lock()
	begun := h.begun
	h.begun = true
	h.mu.Unlock()
	if begun {
		return unix.EALREADY
	}
	h.begin(h.proc(1))
	return nil
}

func (h *fakeHandler) Condition(context.Context, string) (*agent.Condition, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &agent.Condition{Begun: h.begun}, nil
}

func (h *fakeHandler) Exec(_ context.Context, r *agent.ExecRequest, files []*os.File) (int, error) {
	for _, f := range files {
		f.Close()
	}
	if r.Process.Args[0] == "missing" {
		return 0, fmt.Errorf(`exec: "missing": executable file not found in $PATH: %w`, unix.ENOENT)
	}
	pid := h.add(r.Process.Args)
	h.begin(h.proc(pid))
	return pid, nil
}

func (h *fakeHandler) Signal(_ context.Context, r *agent.SignalRequest) error {
	p := h.proc(r.PID)
	if p == nil {
		return unix.ESRCH
	}
	if p.args[0] == "deaf" { // a Sentry that hangs
		select {}
	}
	p.ended <- agent.ExitStatus{Signal: r.Signal}
	return nil
}

func (h *fakeHandler) Wait(ctx context.Context, r *agent.WaitRequest) (agent.ExitStatus, error) {
	select {
	case s := <-h.proc(r.PID).ended:
		return s, nil
	case <-ctx.Done():
		return agent.ExitStatus{}, ctx.Err()
	}
}

func (h *fakeHandler) OOM(ctx context.Context, _ string, to *os.File) error {
	return h.kills.Tell(ctx, to)
}

func (h *fakeHandler) Resize(context.Context, *agent.ResizeRequest) error { return nil }
func (h *fakeHandler) Processes(context.Context, string) ([]agent.Process, error) {
	return []agent.Process{{PID: 1}}, nil
}
func (h *fakeHandler) Stats(context.Context, string) (*agent.Stats, error) {
	return &agent.Stats{Processes: 1}, nil
}
func (h *fakeHandler) Update(_ context.Context, r *agent.UpdateRequest) error {
	if r.Limits.Pids == 13 {
		return unix.EINVAL
	}
	return nil
}
func (h *fakeHandler) Pause(context.Context, string) error           { return nil }
func (h *fakeHandler) Resume(context.Context, string) error          { return nil }
func (h *fakeHandler) Debug(context.Context, string) (string, error) { return "fake", nil }
