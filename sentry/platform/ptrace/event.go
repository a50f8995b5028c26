package ptrace

import (
	"fmt"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// event says what a stop means, or nothing (reason 0) where the tracee only
// needs to go on: a kick, a signal from outside, a stop of PTRACE_INTERRUPT.
func (t *Thread) event(ws unix.WaitStatus) (platform.Event, error) {
	const syscallStop = unix.SIGTRAP | 0x80 // PTRACE_O_TRACESYSGOOD
	const eventSeccomp = 7                  // PTRACE_EVENT_SECCOMP
	switch sig := ws.StopSignal(); {
	case ws>>16 == eventSeccomp:
		return t.vsyscall()
	case ws>>16 != 0:
		return platform.Event{}, nil
	case sig == syscallStop:
		return t.syscall()
	case sig == unix.SIGSEGV, sig == unix.SIGBUS, sig == unix.SIGILL, sig == unix.SIGFPE, sig == unix.SIGTRAP:
		return t.exception(sig)
	}
	return platform.Event{}, nil
}

// syscall tells the 64-bit entry from the 32-bit ones, which no number of ours
// belongs to. SYSCALL leaves RIP in RCX and the flags in R11; who arranges that
// before int 0x80 has only himself to fool.
func (t *Thread) syscall() (platform.Event, error) {
	if r := &t.regs; r.Rcx == r.Rip && r.R11 == r.Eflags && r.Cs == userCS {
		return platform.Event{Reason: platform.Syscall}, nil
	}
	arch, err := getArch(t.x.tid)
	if err != nil {
		return platform.Event{}, fmt.Errorf("ptrace: entry of stub %d: %w", t.x.tid, err)
	}
	if arch == unix.AUDIT_ARCH_X86_64 && t.regs.Cs == userCS {
		return platform.Event{Reason: platform.Syscall}, nil
	}
	return t.refuse(), nil
}

// refuse answers a 32-bit entry as a kernel without CONFIG_IA32_EMULATION does:
// the gate of int 0x80 is not for users. RIP is lost in SYSENTER.
func (t *Thread) refuse() platform.Event {
	const gate = 0x80<<3 | 2 // error code: vector 0x80 in the IDT
	t.regs.Rax = t.regs.Orig_rax
	if b, err := peek(t.x.tid, t.regs.Rip-2); err == nil && b&0xffff == 0x80cd {
		t.regs.Rip -= 2
	}
	t.x.loaded = false
	return platform.Event{Reason: platform.Signal, Signal: unix.SIGSEGV, Code: siKernel, Trap: trapGP, Err: gate}
}

// vsyscall makes a call of a jump into the vsyscall page. The kernel would do
// it itself (arch/x86/entry/vsyscall/vsyscall_64.c, emulate_vsyscall), but our filter
// stops it; with orig_rax at -1 only the return from the page is done.
func (t *Thread) vsyscall() (platform.Event, error) {
	number, page := t.regs.Orig_rax, t.regs.Rip
	tid := t.x.tid
	err := setOrigRAX(tid, ^uint64(0))
	if err == nil {
		err = request(unix.PTRACE_INTERRUPT, tid, 0, 0)
	}
	if err == nil {
		err = request(unix.PTRACE_SYSEMU, tid, 0, 0)
	}
	if err != nil {
		return platform.Event{}, fmt.Errorf("ptrace: vsyscall of stub %d: %w", tid, err)
	}
	ws, err := t.x.wait()
	if err == nil {
		err = t.stopped()
	}
	if err != nil {
		return platform.Event{}, err
	}
	if t.regs.Rip == page { // it faulted: the stack, or the argument
		return t.event(ws)
	}
	t.regs.Orig_rax = number
	return platform.Event{Reason: platform.Syscall}, nil
}

// si_code (include/uapi/asm-generic/siginfo.h), and exception numbers.
const (
	siKernel   = 0x80
	segvMapErr = 1
	segvAccErr = 2
	fpeIntDiv  = 1
	busAdrAln  = 1

	trapDE = 0
	trapDB = 1
	trapBP = 3
	trapUD = 6
	trapSS = 12
	trapGP = 13
	trapPF = 14
	trapMF = 16
	trapAC = 17
	trapXM = 19
)

// exception makes an event of a signal that the CPU caused.
func (t *Thread) exception(sig unix.Signal) (platform.Event, error) {
	var si sigInfo
	if err := getSigInfo(t.x.tid, &si); err != nil {
		return platform.Event{}, fmt.Errorf("ptrace: signal of stub %d: %w", t.x.tid, err)
	}
	if si.Code <= 0 {
		return platform.Event{}, nil // kill(2) on the host, SI_USER and below
	}
	e := platform.Event{Reason: platform.Signal, Signal: sig, Code: si.Code, Addr: platform.Addr(si.Addr)}
	switch sig {
	case unix.SIGILL:
		e.Trap = trapUD
	case unix.SIGFPE:
		e.Trap = t.floatTrap(si.Code)
	case unix.SIGTRAP:
		e.Trap = trapDB
		if si.Code == siKernel {
			e.Trap = trapBP
		}
	case unix.SIGBUS:
		switch si.Code {
		case siKernel:
			e.Trap = trapSS
		case busAdrAln:
			e.Trap = trapAC
		default:
			e.Trap = trapPF // a page of a file that ends before it
		}
	case unix.SIGSEGV:
		switch si.Code {
		case segvMapErr, segvAccErr:
			return t.fault(si), nil
		case siKernel:
			e.Trap = trapGP
		default:
			e.Trap = trapPF // a protection key of the application's own
		}
	}
	if si.Code == siKernel {
		e.Addr = 0
	}
	return e, nil
}

// floatTrap tells the x87's exception from the vector unit's by the opcode.
func (t *Thread) floatTrap(code int32) uint64 {
	if code == fpeIntDiv {
		return trapDE
	}
	if b, err := peek(t.x.tid, t.regs.Rip); err == nil && (b&0xf8 == 0xd8 || b&0xff == 0x9b) {
		return trapMF
	}
	return trapXM
}

// fault makes an event of a page fault, with the error code as the CPU builds it
// (SDM, Page-Fault Exceptions).
func (t *Thread) fault(si sigInfo) platform.Event {
	const present, write, user, fetch = 1, 2, 4, 16
	e := platform.Event{Reason: platform.Fault, Addr: platform.Addr(si.Addr), Trap: trapPF, Err: user}
	e.Signal, e.Code = unix.SIGSEGV, si.Code
	e.Access = t.tried(e.Addr)
	switch e.Access {
	case platform.Write:
		e.Err |= write
	case platform.Exec:
		e.Err |= fetch
	}
	if si.Code == segvAccErr {
		e.Err |= present
	}
	return e
}

// tried says which access faulted. The kernel does not tell a tracer, so it is
// concluded from RIP, from what the page allows, and from the instruction. Where
// those leave a doubt the answer is Read, which is sound: the page is made
// readable, and the next fault on it can only be the other.
func (t *Thread) tried(addr platform.Addr) platform.Access {
	rip := platform.Addr(t.regs.Rip)
	as := t.as
	as.mu.Lock()
	text, _ := as.regions.at(rip)
	page, _ := as.regions.at(addr)
	as.mu.Unlock()
	const longest = 15 // bytes of an instruction
	behind := addr-rip < longest && page.has&platform.Exec == 0 && addr%platform.PageSize == 0
	switch {
	case addr == rip && text.has&platform.Exec == 0:
		return platform.Exec
	case page.shown && page.has&platform.Read != 0 && page.has&platform.Write == 0 && !behind:
		return platform.Write
	case t.stores(addr):
		return platform.Write
	case behind && page.shown && page.has&platform.Read != 0:
		return platform.Exec
	}
	return platform.Read
}

// stores decodes the instruction at RIP.
func (t *Thread) stores(addr platform.Addr) bool {
	var code [16]byte
	n := 0
	for i := range 2 {
		v, err := peek(t.x.tid, t.regs.Rip+uint64(8*i))
		if err != nil {
			break
		}
		for ; n < 8*(i+1); n++ {
			code[n] = byte(v >> (8 * (n % 8)))
		}
	}
	return stores(code[:n], &t.regs, uint64(addr))
}
