package ptrace

// The one file of ptrace that imports unsafe. It is sound because every pointer
// goes to a system call that is done with it on return, and each is to a fixed
// structure of the size that the request implies or carries.

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// request is ptrace(2) without a pointer. It runs without telling Go's
// scheduler: no request waits for anything.
func request(req, tid int, addr, data uintptr) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(req), uintptr(tid), addr, data, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// requestAt is ptrace(2) with a pointer. It becomes a number only in the system
// call's own argument list: a caller that passed the number through a Go function
// would have the kernel write to where its stack was before that function grew it.
func requestAt(req, tid int, addr uintptr, data unsafe.Pointer) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(req), uintptr(tid), addr, uintptr(data), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func getRegs(tid int, r *platform.Registers) error {
	return requestAt(unix.PTRACE_GETREGS, tid, 0, unsafe.Pointer(r))
}

func setRegs(tid int, r *platform.Registers) error {
	return requestAt(unix.PTRACE_SETREGS, tid, 0, unsafe.Pointer(r))
}

// raxAt is RAX in struct user, whose first member are the registers.
const raxAt = unsafe.Offsetof(platform.Registers{}.Rax)

func setRAX(tid int, v uint64) error {
	return request(unix.PTRACE_POKEUSR, tid, raxAt, uintptr(v))
}

func setOrigRAX(tid int, v uint64) error {
	return request(unix.PTRACE_POKEUSR, tid, unsafe.Offsetof(platform.Registers{}.Orig_rax), uintptr(v))
}

func getRAX(tid int) (v uint64, err error) {
	err = requestAt(unix.PTRACE_PEEKUSR, tid, raxAt, unsafe.Pointer(&v))
	return v, err
}

// peek reads eight bytes of the tracee's memory.
func peek(tid int, at uint64) (v uint64, err error) {
	err = requestAt(unix.PTRACE_PEEKDATA, tid, uintptr(at), unsafe.Pointer(&v))
	return v, err
}

// sigInfo is the start of siginfo_t as an exception fills it (include/uapi/asm-generic/siginfo.h).
type sigInfo struct {
	Signo, Errno, Code, _ int32
	Addr                  uint64
	_                     [104]byte
}

func getSigInfo(tid int, si *sigInfo) error {
	return requestAt(unix.PTRACE_GETSIGINFO, tid, 0, unsafe.Pointer(si))
}

// getArch is the AUDIT_ARCH of the tracee's call: the entry that it came by.
func getArch(tid int) (uint32, error) {
	var info struct { // struct ptrace_syscall_info, its head
		Op   uint8
		_    [3]byte
		Arch uint32
	}
	err := requestAt(unix.PTRACE_GET_SYSCALL_INFO, tid, unsafe.Sizeof(info), unsafe.Pointer(&info))
	return info.Arch, err
}

// ntX86XState is NT_X86_XSTATE (include/uapi/linux/elf.h).
const ntX86XState = 0x202

func getXState(tid int, b []byte) (int, error) {
	iov := unix.Iovec{Base: &b[0], Len: uint64(len(b))}
	err := requestAt(unix.PTRACE_GETREGSET, tid, ntX86XState, unsafe.Pointer(&iov))
	return int(iov.Len), err
}

func setXState(tid int, b []byte) error {
	iov := unix.Iovec{Base: &b[0], Len: uint64(len(b))}
	return requestAt(unix.PTRACE_SETREGSET, tid, ntX86XState, unsafe.Pointer(&iov))
}

// sigaction is the kernel's (arch/x86/include/uapi/asm/signal.h).
type sigaction struct{ handler, flags, restorer, mask uint64 }

// quietStops sets SA_NOCLDSTOP beside whatever handles SIGCHLD, so that a
// tracee's stop, which wait4 reports, does not also interrupt the Sentry.
func quietStops() error {
	var a sigaction
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), 0, uintptr(unsafe.Pointer(&a)), 8, 0, 0)
	if errno == 0 && a.flags&saNoCldStop == 0 {
		a.flags |= saNoCldStop
		_, _, errno = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), uintptr(unsafe.Pointer(&a)), 0, 8, 0, 0)
	}
	if errno != 0 {
		return errno
	}
	return nil
}

const saNoCldStop = 1

// addressOf is where b lies, for arithmetic on a page that a fork copies.
func addressOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }

// pin lets a task run on these CPUs alone.
func pin(tid int, set *unix.CPUSet) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETAFFINITY, uintptr(tid), unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set)))
	if errno != 0 {
		return errno
	}
	return nil
}

// whichCPU is the CPU that the caller runs on.
func whichCPU() int {
	var cpu uint32
	unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0)
	return int(cpu)
}

// yield lets others run that wait for this CPU.
func yield() { unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// futexWait sleeps until futexWake, if the word is 0; timeout may be nil.
func futexWait(word *atomic.Uint32, timeout *unix.Timespec) {
	const waitPrivate = 0 | 128 // FUTEX_WAIT | FUTEX_PRIVATE_FLAG
	unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), waitPrivate, 0, uintptr(unsafe.Pointer(timeout)), 0, 0)
}

func futexWake(word *atomic.Uint32) {
	const wakePrivate = 1 | 128 // FUTEX_WAKE | FUTEX_PRIVATE_FLAG
	unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), wakePrivate, 1, 0, 0, 0)
}
