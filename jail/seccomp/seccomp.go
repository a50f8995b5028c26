// Package seccomp makes an allow-list of system calls from a table and puts it
// on the whole process (Documentation/userspace-api/seccomp_filter.rst). It is
// used by the processes that a container can talk to, of either wall; their tables
// stand with them, the calls that every Go program makes stand here. It knows nothing of what the calls are for.
package seccomp

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Row allows one system call, if its arguments satisfy every condition. Several
// rows of one number are alternatives.
type Row struct {
	NR   uintptr
	Name string
	Why  string // who makes it, and what for
	When []Cond
}

// Cond holds if argument Arg (0 to 5) and Mask is Value. A zero Mask stands for
// all bits. The kernel's copy of the arguments is compared, so that a second
// thread cannot change them afterwards; what a pointer points to is out of reach.
type Cond struct {
	Arg   int
	Mask  uint64
	Value uint64
}

// Is is the condition that the whole argument has this value.
func Is(arg int, value uint64) []Cond { return []Cond{{Arg: arg, Value: value}} }

// Lacks is the condition that the argument has none of these bits.
func Lacks(arg int, bits uint64) []Cond { return []Cond{{Arg: arg, Mask: bits}} }

// Action is what becomes of a call off the list.
type Action uint32

const (
	Kill   Action = unix.SECCOMP_RET_KILL_PROCESS
	Trap   Action = unix.SECCOMP_RET_TRAP                            // a Go program dies of SIGSYS with its stacks
	Log    Action = unix.SECCOMP_RET_LOG                             // let it pass and tell the audit log; for debugging alone
	Refuse Action = unix.SECCOMP_RET_ERRNO | Action(unix.EPERM)&0xff // the call fails with EPERM
)

// Errno is Refuse with another errno.
func Errno(e unix.Errno) Action { return unix.SECCOMP_RET_ERRNO | Action(e)&0xffff }

// Install puts the list on all threads of the process, for good: rows are
// allowed, everything else gets off. It sets no_new_privs first, without which
// the kernel asks for CAP_SYS_ADMIN.
//
// With the race detector a call off the list is let pass: its runtime and libc
// make some of their own. The audit log has them.
func Install(rows []Row, off Action) error {
	// Go reads the host's time zone when a time is first told in it, as by the first line of a log.
	_, _ = time.Now().Zone()
	if raceDetector {
		off = Log
	}
	prog, err := compile(rows, off)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // both calls speak for this thread; TSYNC carries the two to the others
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("seccomp: set no_new_privs: %w", err)
	}
	if err := load(prog); err != nil {
		return fmt.Errorf("seccomp: load a filter of %d rows: %w", len(rows), err)
	}
	return nil
}
