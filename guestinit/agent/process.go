package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent/rpc"
)

// process is one that the host started.
type process struct {
	pid, inner int // as the guest has it; as the container does
	container  *container
	isInit     bool
	streams    *streams
	gate       *os.File // the stage waits for a byte of it
	report     *os.File // on which it tells of an exec that failed

	mu      sync.Mutex
	started bool
	asked   unix.Signal // which signal was made a SIGKILL of

	stage *waiting      // which it was, and whose end is its own
	kills uint64        // of init, once ended is closed: the container's for want of memory
	ended chan struct{} // closed when the streams are settled as well
}

// reap waits for every child of this process, which as the guest's init has every
// orphan as well.
func (s *server) reap() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD)
	for range signals {
		s.mu.Lock()
		for {
			var status unix.WaitStatus
			pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || pid == 0 {
				break
			}
			if w := s.stages[pid]; w != nil {
				delete(s.stages, pid)
				w.status = status
				close(w.exited)
			}
		}
		s.mu.Unlock()
	}
}

// launch makes a process up to just before its program.
func (s *server) launch(ctx context.Context, c *container, st *stage, names *rpc.Streams, sp *spare) (_ *process, err error) {
	p := &process{container: c, isInit: !st.Join, ended: make(chan struct{})}
	var w *waiting
	if sp != nil {
		w = sp.stage
	}
	defer func() {
		if err != nil {
			w.abandon()
			if p.streams != nil {
				p.streams.close()
			}
		}
	}()
	if p.streams, err = s.openStreams(names, st.Process.Terminal); err != nil {
		return nil, err
	}
	st.Filter, st.FilterFlags = c.filter.GetProgram(), c.filter.GetFlags()
	text, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	var streams []*os.File
	if w != nil {
		streams = p.streams.theirs[:]
	} else if w, err = s.stageOf(c, p, st); err != nil {
		return nil, err
	}
	p.pid, p.gate, p.report, p.stage = w.pid, w.gate, w.report, w
	if err := w.configure(text, streams); err != nil {
		return nil, err
	}
	p.streams.forked()
	master, err := readReport(w.report)
	if err != nil {
		return nil, err
	}
	if st.Process.Terminal && master == nil {
		return nil, errors.New("the process has no terminal")
	}
	p.inner = innerPID(p.pid)
	p.streams.begin(master)
	go p.settle()
	return p, nil
}

// stageOf starts this program again as a stage of a container. It runs on a thread of its own
// where that has to be in the container's pid namespace for its children to be.
func (s *server) stageOf(c *container, p *process, st *stage) (*waiting, error) {
	attr := &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(c.group.dir.Fd())}
	if !st.Join {
		attr.Cloneflags = namespaces
		for _, name := range c.share {
			attr.Cloneflags &^= shareable[name]
		}
	}
	var where func(func() error) error
	switch {
	case st.Join:
		where = func(fork func() error) error { return inNamespaces(c.init.pid, []string{"pid"}, fork) }
	case len(c.share) > 0:
		where = func(fork func() error) error { return inNamespaces(c.first.init.pid, c.share, fork) }
	}
	return s.newStage([]string{StageName}, p.streams.theirs, attr, where)
}

// shareable are the namespaces that a further container can share with the first.
var shareable = map[string]uintptr{"ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS, "pid": unix.CLONE_NEWPID}

// inNamespaces has f start a process that is in those of the process first.
func inNamespaces(first int, names []string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread is spoiled
		for _, name := range names {
			flag, ok := shareable[name]
			if !ok {
				done <- fmt.Errorf("namespace %q cannot be shared: %w", name, unix.EINVAL)
				return
			}
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", first, name))
			if err == nil {
				err = unix.Setns(int(ns.Fd()), int(flag))
				ns.Close()
			}
			if err != nil {
				done <- fmt.Errorf("the container has ended: %w", err)
				return
			}
		}
		done <- f()
	}()
	return <-done
}

// release lets the program run.
func (p *process) release() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started {
		return unix.EALREADY
	}
	p.started = true
	_, err := p.gate.Write([]byte{1})
	p.gate.Close()
	if err == nil {
		// The end of the report is the exec; before it there is the error, if any.
		_, err = readReport(p.report)
	}
	p.report.Close()
	return err
}

// forsake lets go of what holds a process that was never let run.
func (p *process) forsake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.started {
		p.started = true
		p.gate.Close()
		p.report.Close()
	}
}

// settle waits for the end, and for what was printed before it.
func (p *process) settle() {
	<-p.stage.exited
	if p.isInit {
		// All of the container's processes have ended with it, or do now where they have
		// the first container's numbers; and what they wrote to files goes to the host.
		if p.inner != 1 {
			_ = p.container.group.signal(unix.SIGKILL) // a group that is gone has none
		}
		p.kills = p.container.group.oomKills()
		p.streams.drain()
		syncShare()
	} else {
		p.streams.count()
	}
	close(p.ended)
}

// outcome is that of a process that has ended.
func (p *process) outcome() *rpc.WaitResponse {
	w := &rpc.WaitResponse{Stdout: p.streams.sent(1), Stderr: p.streams.sent(2), OomKills: p.kills}
	if !p.stage.status.Signaled() {
		w.Code = int32(p.stage.status.ExitStatus())
		return w
	}
	w.Signal, w.Core = int32(p.stage.status.Signal()), p.stage.status.CoreDump()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked != 0 && p.stage.status.Signal() == unix.SIGKILL {
		w.Signal = int32(p.asked)
	}
	return w
}

// signal sends one. The first process of a pid namespace gets no signal that it has
// no handler for (pid_namespaces(7)); where it is to be as any other, what would
// have ended it does.
func (p *process) signal(n unix.Signal) error {
	select {
	case <-p.stage.exited:
		return unix.ESRCH
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isInit && p.inner == 1 && p.container.ordinary && ends(n) && defaultAction(p.pid, n) {
		p.asked, n = n, unix.SIGKILL
	}
	return unix.Kill(p.pid, n)
}

// ends tells whether a signal ends a process that does nothing about it (signal(7)).
func ends(n unix.Signal) bool {
	switch n {
	case 0, unix.SIGKILL, unix.SIGCHLD, unix.SIGURG, unix.SIGWINCH, unix.SIGCONT, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return false
	}
	return true
}

// defaultAction tells whether a process neither catches, ignores nor blocks a signal.
func defaultAction(pid int, n unix.Signal) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "SigBlk", "SigIgn", "SigCgt":
			if mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err != nil || mask>>(n-1)&1 != 0 {
				return false
			}
		}
	}
	return true
}

// innerPID is the number that a process has in its innermost pid namespace.
func innerPID(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if list, ok := strings.CutPrefix(line, "NSpid:"); ok {
			if fields := strings.Fields(list); len(fields) > 0 {
				n, _ := strconv.Atoi(fields[len(fields)-1])
				return n
			}
		}
	}
	return 0
}

func (p *process) resize(rows, columns uint16) error {
	m := p.streams.terminal()
	if m == nil {
		return unix.ENOTTY
	}
	raw, err := m.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	return errors.Join(err, failed)
}

func syncShare() {
	f, err := os.Open(shared)
	if err != nil {
		return
	}
	defer f.Close()
	_ = unix.Syncfs(int(f.Fd())) // a host that is gone has no use for it
}
