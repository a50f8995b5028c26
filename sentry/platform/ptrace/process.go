package ptrace

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// process is a stub process. Its leader sleeps, and so do the idle tasks.
type process struct {
	p   *Platform
	pid int

	mu    sync.Mutex // held by who has seized the leader
	idle  []int      // tids
	tasks bool       // there have been others than the leader
	ended bool
}

// maxSpare bounds the empty processes that wait for use.
const maxSpare = 8

// errClosed is what a closed platform answers.
var errClosed = errors.New("ptrace: the platform is closed")

// newProcess takes an empty process or forks the template.
func (p *Platform) newProcess() (*process, error) {
	p.mu.Lock()
	n, closed := len(p.spare), p.closed
	if n > 0 && !closed {
		pr := p.spare[n-1]
		p.spare = p.spare[:n-1]
		p.mu.Unlock()
		return pr, nil
	}
	p.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	pr := &process{p: p}
	err := p.template.lead(func(leader *tracee) (err error) {
		pid, err := leader.call(unix.SYS_CLONE, unix.CLONE_FILES|unix.CLONE_FS|unix.CLONE_PARENT|unix.CLONE_PTRACE)
		if err != nil {
			return fmt.Errorf("ptrace: fork a stub: %w", err)
		}
		pr.pid = int(pid)
		x, err := pr.arrived(pr.pid)
		if err == nil {
			_, err = x.call(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uint64(unix.SIGKILL))
		}
		if err == nil {
			err = x.park()
		}
		return err
	})
	if err != nil {
		if pr.pid != 0 {
			pr.kill()
		}
		return nil, err
	}
	p.mu.Lock()
	p.all[pr] = struct{}{}
	p.mu.Unlock()
	return pr, nil
}

// lead seizes the leader while f runs.
func (pr *process) lead(f func(*tracee) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pr.mu.Lock()
	defer pr.mu.Unlock()
	return pr.leadLocked(f)
}

func (pr *process) leadLocked(f func(*tracee) error) error {
	if pr.ended {
		return fmt.Errorf("ptrace: stub %d: %w", pr.pid, unix.ESRCH)
	}
	pr.p.cpus.near(pr.pid)
	x, err := pr.seize(pr.pid)
	if err != nil {
		return err
	}
	return errors.Join(f(x), x.park())
}

// adopt makes a task of the process a tracee of this OS thread, for good.
func (pr *process) adopt() (*tracee, error) {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	if n := len(pr.idle); n > 0 {
		tid := pr.idle[n-1]
		pr.idle = pr.idle[:n-1]
		pr.p.cpus.near(tid)
		return pr.seize(tid)
	}
	// The task is born asleep and untraced, so that it needs no reaping whenever
	// the process should end.
	var tid uint64
	err := pr.leadLocked(func(leader *tracee) (err error) {
		const flags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND |
			unix.CLONE_THREAD | unix.CLONE_SYSVSEM
		tid, err = leader.callAt(spawnAt, unix.SYS_CLONE, flags)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ptrace: new task in stub %d: %w", pr.pid, err)
	}
	pr.tasks = true
	return pr.seize(int(tid))
}

// abandon gives a tracee's task back to the process: one may wait for the next
// thread, further ones end. If the task was killed meanwhile it is reaped.
func (pr *process) abandon(x *tracee) error {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	var err error
	keep := len(pr.idle) == 0
	if keep {
		err = x.park()
	} else {
		err = x.exit(callAt)
	}
	switch {
	case errors.Is(err, unix.ESRCH):
		return reap(x.tid)
	case err == nil && keep:
		pr.idle = append(pr.idle, x.tid)
	}
	return err
}

// recycle keeps an empty process with no tracees for later use.
func (pr *process) recycle() bool {
	p := pr.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.spare) >= maxSpare {
		return false
	}
	p.spare = append(p.spare, pr)
	return true
}

// kill ends the process and reaps it and the tasks that are traced.
func (pr *process) kill(traced ...int) error {
	pr.p.mu.Lock()
	delete(pr.p.all, pr)
	pr.p.mu.Unlock()
	pr.mu.Lock()
	defer pr.mu.Unlock()
	if pr.ended {
		return nil
	}
	pr.ended = true
	if err := unix.Kill(pr.pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("ptrace: kill stub %d: %w", pr.pid, err)
	}
	for _, tid := range append(traced, pr.pid) {
		if err := reap(tid); err != nil {
			return err
		}
	}
	return nil
}

// reap waits for the end of a task. One that nobody traces ends by itself.
func reap(tid int) error {
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(tid, &ws, unix.WALL, nil)
		switch {
		case err == unix.ECHILD || err == nil && !ws.Stopped():
			return nil
		case err != nil && err != unix.EINTR:
			return fmt.Errorf("ptrace: wait for stub %d: %w", tid, err)
		}
	}
}
