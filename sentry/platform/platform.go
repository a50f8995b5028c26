// Package platform says how application code runs: an address space that maps
// pieces of host memory, and threads that execute in it until something
// happens that the Sentry must answer. Behind it stand kvm (ring 3 of a guest)
// and ptrace (stub processes); package auto chooses one by measuring.
//
// A platform knows nothing of system calls, files or signals: it reports events
// and carries registers. It never reads application memory.
package platform

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Addr is an address of the application's.
type Addr uint64

// The page size, and the part of the address space that applications own.
const (
	PageSize = 4096
	// TaskSize is the first address that no application can map
	// (arch/x86/include/asm/page_64_types.h, TASK_SIZE_MAX, less what a platform keeps).
	TaskSize Addr = 0x7fff_ffff_0000
	// MinAddr is the lowest address that can be mapped (vm.mmap_min_addr).
	MinAddr Addr = 0x1_0000
)

// Access is what may be done with a page, or what was tried.
type Access uint8

const (
	Read Access = 1 << iota
	Write
	Exec
)

// Prot is a as mmap(2) has it.
func (a Access) Prot() int {
	p := unix.PROT_NONE
	if a&Read != 0 {
		p |= unix.PROT_READ
	}
	if a&Write != 0 {
		p |= unix.PROT_WRITE
	}
	if a&Exec != 0 {
		p |= unix.PROT_EXEC
	}
	return p
}

func (a Access) String() string {
	b := []byte("---")
	for i, c := range "rwx" {
		if a&(1<<i) != 0 {
			b[i] = byte(c)
		}
	}
	return string(b)
}

// Registers are the general registers, the flags and the segment bases, in the
// layout of struct user_regs_struct (arch/x86/include/asm/user_64.h). Orig_rax
// is the number of the system call that is being answered, or -1.
type Registers = unix.PtraceRegs

// Context is the user-visible state of one application thread. It belongs to
// the goroutine that calls Thread.Run.
type Context struct {
	Registers

	// FPU is the XSAVE area in the standard (not compacted) format, as
	// PTRACE_GETREGSET NT_X86_XSTATE gives it. It is nil or stale until
	// Thread.Save; a nil FPU stored with Dirty|DirtyFPU means the state after exec.
	FPU []byte

	// Dirty says what the Sentry changed since Run returned, beyond Rax, which
	// is always carried back. Run clears it.
	Dirty Dirty

	// SingleStep stops with SIGTRAP after one instruction.
	SingleStep bool

	// Lazy says that at a Syscall the owner can do with the number and the
	// arguments: most calls need no more. Run may then leave the other general
	// registers, RIP and the flags behind, and sets Partial; Thread.Fill brings them.
	Lazy, Partial bool
}

// Dirty is a set of register groups.
type Dirty uint8

const (
	DirtyGPR  Dirty = 1 << iota // general registers, RIP, flags
	DirtyBase                   // FS and GS bases
	DirtyFPU
	DirtyAll = DirtyGPR | DirtyBase | DirtyFPU
)

// Reason is why Run returned.
type Reason uint8

const (
	// Syscall: Orig_rax has the number, RIP is behind the instruction, and the
	// arguments are in their registers. Registers besides the bases are current,
	// unless the context is Lazy.
	Syscall Reason = iota + 1
	// Fault: a page fault at Event.Addr; the instruction has not executed.
	Fault
	// Signal: another exception; the Event says which signal Linux would send.
	Signal
	// Interrupted: Thread.Interrupt was called.
	Interrupted
)

// Event is what ended a Run.
type Event struct {
	Reason Reason
	Access Access      // Fault: what was tried
	Addr   Addr        // Fault, Signal: si_addr
	Signal unix.Signal // Signal: SIGILL, SIGFPE, SIGTRAP, SIGBUS, SIGSEGV (general protection)
	Code   int32       // Signal: si_code
	Trap   uint64      // Fault, Signal: the CPU's exception number, for sigcontext.trapno
	Err    uint64      // Fault, Signal: the CPU's error code, for sigcontext.err
}

// Segment is a run of host memory or of a file that an application can map.
// Both views name the same bytes. All three are whole pages.
type Segment struct {
	FD     int    // a file that another process can map, or -1 if the platform asked for private memory
	Offset int64  // bytes in FD
	Host   []byte // where the Sentry sees it, inside what was given to Platform.AddMemory, in one region or in several that follow each other;
	// of a file a shared mapping, whose pages a platform may let go of at any time
}

// ErrMemory says that the platform has no room for the mapping; the caller may
// unmap something and try again.
var ErrMemory = errors.New("platform: out of memory for mappings")

// Platform makes address spaces and threads.
type Platform interface {
	// Name is "kvm" or "ptrace".
	Name() string

	// Private says that memory for applications should be private anonymous
	// memory with huge pages; otherwise it must be a file (memfd) with a descriptor.
	Private() bool

	// AddMemory announces a region of the Sentry's own memory from which
	// Segment.Host will be taken. The region is reserved address space: parts of
	// it may be remapped by the Sentry (a window onto a file) at any time.
	AddMemory(region []byte) error

	NewAddressSpace() (AddressSpace, error)
	NewThread() (Thread, error)

	// Close ends everything that the platform started. All threads are closed.
	Close() error
}

// AddressSpace is what the application's addresses mean. Methods may be called
// from any goroutine, also while threads run in it; the caller serializes Map,
// Protect and Unmap of one AddressSpace.
type AddressSpace interface {
	// Map makes [at, at+len(seg.Host)) show seg, replacing what was there.
	// Platforms may map eagerly or on first use. No bytes move.
	Map(at Addr, seg Segment, access Access) error

	// Protect changes the access of what is mapped in [at, at+length), leaving
	// holes alone. When it returns no thread can use what was taken away.
	Protect(at Addr, length uint64, access Access) error

	// Unmap removes what is mapped in [at, at+length). When it returns no thread
	// can reach the bytes that were there.
	Unmap(at Addr, length uint64) error

	// Release gives everything back. No thread runs in it any more.
	Release()
}

// Metered is an AddressSpace whose application code runs in a process of its own,
// so that the host's scheduler can say how long.
type Metered interface {
	// CPUTime is what all threads have used in the address space, kernel time
	// included. Any goroutine may call it, also while threads run there.
	CPUTime() (time.Duration, error)
}

// Thread executes application code. NewThread, Run, Save and Close belong to one
// goroutine; a platform that is bound to OS threads locks that goroutine itself.
type Thread interface {
	// Run continues the application described by c in as until an event. Rax and
	// whatever c.Dirty names is loaded first; on return the general registers,
	// RIP and flags in c are current (with a DirtyAll context after NewThread).
	// The error is the host's failure, never the application's: the thread is
	// useless then.
	Run(c *Context, as AddressSpace) (Event, error)

	// Fill completes a Partial context. It follows a Run, before the next.
	Fill(c *Context)

	// Save brings c.FPU and the segment bases up to date, for whoever copies or
	// shows the whole state (clone, signal frames, ptrace). It follows a Run.
	Save(c *Context) error

	// Interrupt makes the current Run, or the next one if none is under way,
	// return Interrupted soon. Any goroutine may call it.
	Interrupt()

	// Close ends the thread.
	Close()
}
