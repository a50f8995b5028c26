package ptrace

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// tracee is a task of a stub process that the calling OS thread traces. Between
// calls it is stopped.
type tracee struct {
	tid    int
	proc   *process
	cpu    int         // to which it is pinned, or -1
	loaded bool        // its registers in the kernel are the application's
	gone   atomic.Bool // its process was killed and reaped
}

const options = unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACESECCOMP

// seize makes the sleeping task a tracee of this OS thread and stops it.
func (pr *process) seize(tid int) (*tracee, error) {
	if err := request(unix.PTRACE_SEIZE, tid, 0, options); err != nil {
		return nil, fmt.Errorf("ptrace: seize stub %d: %w", tid, err)
	}
	if err := request(unix.PTRACE_INTERRUPT, tid, 0, 0); err != nil {
		if tid != pr.pid {
			reap(tid) // it was killed just now, and is ours to bury
		}
		return nil, fmt.Errorf("ptrace: stop stub %d: %w", tid, err)
	}
	return pr.arrived(tid)
}

// arrived waits for the first stop of a task that is or was born traced.
func (pr *process) arrived(tid int) (*tracee, error) {
	x := &tracee{tid: tid, proc: pr, cpu: -1}
	_, err := x.wait()
	return x, err
}

// wait waits for a stop. The end of the stub is an error: nothing inside can cause it.
func (x *tracee) wait() (unix.WaitStatus, error) {
	var ws unix.WaitStatus
	if x.tid == x.proc.pid && x.proc.tasks {
		return x.waitLeader()
	}
	for {
		_, err := unix.Wait4(x.tid, &ws, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return ws, fmt.Errorf("ptrace: wait for stub %d: %w", x.tid, err)
		case !ws.Stopped():
			return ws, x.ended(ws)
		default:
			return ws, nil
		}
	}
}

// ended notes that the task is no more, nor, if it led one, its process; its
// user holds process.mu then.
func (x *tracee) ended(ws unix.WaitStatus) error {
	if x.tid == x.proc.pid {
		x.proc.ended = true
	}
	return fmt.Errorf("ptrace: stub %d ended from outside: wait status %#x", x.tid, uint32(ws))
}

// waitLeader is wait for the leader of a process with other tasks. If that is
// killed (by the host, for want of memory, say), wait4 does not tell before
// whoever traces the others has reaped them (kernel/exit.c, delay_group_leader), and
// he may be waiting for us. So look, and look also whether it has memory yet.
// The leader is on our CPU (process.leadLocked): mostly the first yield is enough.
func (x *tracee) waitLeader() (unix.WaitStatus, error) {
	const spins = 64
	nap := unix.Timespec{Nsec: 50_000}
	for n := 0; ; n++ {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(x.tid, &ws, unix.WALL|unix.WNOHANG, nil)
		switch {
		case err == unix.EINTR, err == nil && pid == 0:
		case err != nil:
			return ws, fmt.Errorf("ptrace: wait for stub %d: %w", x.tid, err)
		case !ws.Stopped():
			return ws, x.ended(ws)
		default:
			return ws, nil
		}
		if n < spins {
			yield()
			continue
		}
		if !alive(x.tid) {
			return ws, fmt.Errorf("ptrace: stub %d ended from outside: %w", x.tid, unix.ESRCH)
		}
		unix.Nanosleep(&nap, nil)
	}
}

// alive says whether the process still has its memory. process_vm_readv(2).
func alive(pid int) bool {
	var b [1]byte
	local := unix.Iovec{Base: &b[0], Len: 1}
	_, err := unix.ProcessVMReadv(pid, []unix.Iovec{local}, []unix.RemoteIovec{{Base: stubAt, Len: 1}}, 0)
	return err != unix.ESRCH
}

// own is the registers of a task that executes our page at pc.
func own(pc uint64) platform.Registers {
	return platform.Registers{Rip: pc, Cs: userCS, Ss: userSS, Eflags: 0x202, Orig_rax: ^uint64(0)}
}

// call makes the tracee execute a system call from the stub page. The
// application's registers must be loaded again afterwards.
func (x *tracee) call(nr uintptr, args ...uint64) (uint64, error) {
	return x.callAt(callAt, nr, args...)
}

func (x *tracee) callAt(pc uint64, nr uintptr, args ...uint64) (uint64, error) {
	r := own(pc)
	r.Rax = uint64(nr)
	for i, p := range []*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9}[:len(args)] {
		*p = args[i]
	}
	x.loaded = false
	if err := setRegs(x.tid, &r); err != nil {
		return 0, fmt.Errorf("ptrace: prepare call %d in stub %d: %w", nr, x.tid, err)
	}
	for {
		if err := request(unix.PTRACE_CONT, x.tid, 0, 0); err != nil {
			return 0, fmt.Errorf("ptrace: continue stub %d: %w", x.tid, err)
		}
		ws, err := x.wait()
		if err != nil {
			return 0, err
		}
		// int3, or the end of a page that mremap took away; a signal or a stop
		// from outside comes before or after the call and changes nothing.
		if s := ws.StopSignal(); ws>>16 == 0 && (s == unix.SIGTRAP || s == unix.SIGSEGV) {
			break
		}
	}
	v, err := getRAX(x.tid)
	if err != nil {
		return 0, fmt.Errorf("ptrace: read stub %d: %w", x.tid, err)
	}
	if int64(v) < 0 && int64(v) > -4096 {
		return 0, unix.Errno(-int64(v))
	}
	return v, nil
}

// park lets the tracee go, to sleep in the stub page.
func (x *tracee) park() error {
	r := own(pauseAt)
	if err := setRegs(x.tid, &r); err != nil {
		return fmt.Errorf("ptrace: park stub %d: %w", x.tid, err)
	}
	if err := request(unix.PTRACE_DETACH, x.tid, 0, 0); err != nil {
		return fmt.Errorf("ptrace: detach stub %d: %w", x.tid, err)
	}
	return nil
}

// exit ends the tracee's task, or its process if it is the only one.
func (x *tracee) exit(pc uint64) error {
	r := own(pc)
	r.Rax = unix.SYS_EXIT
	if err := setRegs(x.tid, &r); err != nil {
		return fmt.Errorf("ptrace: end stub %d: %w", x.tid, err)
	}
	for {
		if err := request(unix.PTRACE_CONT, x.tid, 0, 0); err != nil && err != unix.ESRCH {
			return fmt.Errorf("ptrace: end stub %d: %w", x.tid, err)
		}
		var ws unix.WaitStatus
		if _, err := unix.Wait4(x.tid, &ws, unix.WALL, nil); err != nil && err != unix.EINTR {
			return fmt.Errorf("ptrace: wait for stub %d: %w", x.tid, err)
		} else if err == nil && !ws.Stopped() {
			return nil
		}
	}
}
