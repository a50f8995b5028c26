package syscalls

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
)

func ptraceCalls() []row {
	return []row{
		{unix.SYS_PTRACE, ptrace, Partial, "no hardware breakpoints, block steps or system call user dispatch"},
	}
}

// Requests that x/sys lacks (include/uapi/linux/ptrace.h).
const (
	ptraceSysemu           = 31
	ptraceSysemuSinglestep = 32
	ptraceArchPrctl        = 30
	ptraceGetSigmask       = 0x420a
	ptraceSetSigmask       = 0x420b
	ptraceGetFilter        = 0x420c
	ptraceGetMetadata      = 0x420d
	ptraceGetSyscallInfo   = 0x420e
	ptraceGetRseq          = 0x420f
)

// ptrace(2). What glibc's wrapper makes of PEEK requests is its own affair: the
// call stores the word at data.
func ptrace(t *kernel.Task, a *Args) (uintptr, error) {
	tid, at, data := int32(a.Int(1)), a[2], a[3]
	switch request := int64(a[0]); request {
	case unix.PTRACE_TRACEME:
		return 0, t.TraceMe()
	case unix.PTRACE_ATTACH:
		return 0, t.Attach(tid, false, 0)
	case unix.PTRACE_SEIZE:
		if at != 0 || data&^kernel.TraceOptions != 0 {
			return 0, unix.EIO
		}
		return 0, t.Attach(tid, true, uint32(data))
	case unix.PTRACE_KILL:
		return 0, t.KillTracee(tid)
	case unix.PTRACE_INTERRUPT:
		return 0, t.InterruptTracee(tid)
	case unix.PTRACE_LISTEN:
		return 0, t.ListenTracee(tid)
	default:
		if r, ok := resumes[request]; ok {
			return 0, resume(t, tid, r, data)
		}
		var result uintptr
		err := t.WithTracee(tid, func(x *kernel.Task) error {
			f := ptraceRequests[request]
			if f == nil {
				return unix.EIO
			}
			var err error
			result, err = f(t, x, at, data)
			return err
		})
		return result, err
	}
}

// resumes are the requests that let a tracee go on.
var resumes = map[int64]kernel.Resume{
	unix.PTRACE_CONT:       {},
	unix.PTRACE_SYSCALL:    {Calls: true},
	unix.PTRACE_SINGLESTEP: {Step: true},
	ptraceSysemu:           {Emulate: true},
	ptraceSysemuSinglestep: {Emulate: true, Step: true},
	unix.PTRACE_DETACH:     {Detach: true},
}

func resume(t *kernel.Task, tid int32, r kernel.Resume, data uint64) error {
	if data > kernel.NSIG {
		return t.WithTracee(tid, func(*kernel.Task) error { return unix.EIO })
	}
	r.Signal = unix.Signal(data)
	return t.ResumeTracee(tid, r)
}

// ptraceRequest serves one request on the stopped tracee x.
type ptraceRequest func(t, x *kernel.Task, at, data uint64) (uintptr, error)

var ptraceRequests = map[int64]ptraceRequest{
	unix.PTRACE_PEEKTEXT: peekWord, unix.PTRACE_PEEKDATA: peekWord,
	unix.PTRACE_POKETEXT: pokeWord, unix.PTRACE_POKEDATA: pokeWord,
	unix.PTRACE_PEEKUSR: peekUser, unix.PTRACE_POKEUSR: pokeUser,
	unix.PTRACE_GETREGS: func(t, x *kernel.Task, _, data uint64) (uintptr, error) {
		return 0, out(t, memory.Addr(data), registers(x))
	},
	unix.PTRACE_SETREGS: func(t, x *kernel.Task, _, data uint64) (uintptr, error) {
		b := make([]byte, userRegsSize)
		if err := in(t, memory.Addr(data), b); err != nil {
			return 0, err
		}
		return 0, setRegisters(x, b)
	},
	unix.PTRACE_GETFPREGS: func(t, x *kernel.Task, _, data uint64) (uintptr, error) {
		return 0, out(t, memory.Addr(data), fxsave(x))
	},
	unix.PTRACE_SETFPREGS: func(t, x *kernel.Task, _, data uint64) (uintptr, error) {
		b := make([]byte, fxsaveSize)
		if err := in(t, memory.Addr(data), b); err != nil {
			return 0, err
		}
		return 0, setFxsave(x, b)
	},
	unix.PTRACE_GETREGSET: getRegset,
	unix.PTRACE_SETREGSET: setRegset,
	unix.PTRACE_SETOPTIONS: func(_, x *kernel.Task, _, data uint64) (uintptr, error) {
		if data&^kernel.TraceOptions != 0 {
			return 0, unix.EINVAL
		}
		x.SetTraceOptions(uint32(data))
		return 0, nil
	},
	unix.PTRACE_GETEVENTMSG: func(t, x *kernel.Task, _, data uint64) (uintptr, error) {
		return 0, out64(t, memory.Addr(data), x.TraceMessage())
	},
	unix.PTRACE_GETSIGINFO: func(t, x *kernel.Task, _, data uint64) (uintptr, error) {
		i := x.StopInfo()
		if i == nil {
			return 0, unix.EINVAL
		}
		return 0, out(t, memory.Addr(data), i[:])
	},
	unix.PTRACE_SETSIGINFO: func(t, x *kernel.Task, _, data uint64) (uintptr, error) {
		var i kernel.SigInfo
		if err := in(t, memory.Addr(data), i[:]); err != nil {
			return 0, err
		}
		return 0, x.SetStopInfo(&i)
	},
	unix.PTRACE_PEEKSIGINFO: peekSiginfo,
	ptraceGetSigmask: func(t, x *kernel.Task, at, data uint64) (uintptr, error) {
		if at != sigsetSize {
			return 0, unix.EINVAL
		}
		return 0, out64(t, memory.Addr(data), uint64(x.TracedMask()))
	},
	ptraceSetSigmask: func(t, x *kernel.Task, at, data uint64) (uintptr, error) {
		m, err := inMask(t, memory.Addr(data), at)
		if err == nil {
			x.SetTracedMask(m)
		}
		return 0, err
	},
	ptraceGetSyscallInfo: syscallInfo,
	ptraceGetRseq: func(t, x *kernel.Task, at, data uint64) (uintptr, error) {
		const size = 24
		if at != size {
			return 0, unix.EINVAL
		}
		b := le.AppendUint64(nil, uint64(x.RSeq.At))
		b = le.AppendUint32(b, x.RSeq.Size)
		b = le.AppendUint32(b, x.RSeq.Signature)
		return size, out(t, memory.Addr(data), le.AppendUint64(b, 0))
	},
	ptraceArchPrctl: func(t, x *kernel.Task, at, data uint64) (uintptr, error) {
		r := x.Context().Registers
		switch data {
		case archGetFS:
			return 0, out64(t, memory.Addr(at), r.Fs_base)
		case archGetGS:
			return 0, out64(t, memory.Addr(at), r.Gs_base)
		case archSetFS:
			return 0, pokeRegister(x, offFsBase, at)
		case archSetGS:
			return 0, pokeRegister(x, offGsBase, at)
		}
		return 0, unix.EINVAL
	},
}

// peekWord and pokeWord move a word of a tracee's memory.
func peekWord(t, x *kernel.Task, at, data uint64) (uintptr, error) {
	_, _, mm := x.Look()
	if mm == nil {
		return 0, unix.EIO
	}
	var b [8]byte
	if n, _ := mm.Peek(memory.Addr(at), b[:]); n < len(b) {
		return 0, unix.EIO
	}
	return 0, out(t, memory.Addr(data), b[:])
}

func pokeWord(_, x *kernel.Task, at, data uint64) (uintptr, error) {
	_, _, mm := x.Look()
	if mm == nil {
		return 0, unix.EIO
	}
	if n, _ := mm.Poke(memory.Addr(at), le.AppendUint64(nil, data)); n < 8 {
		return 0, unix.EIO
	}
	return 0, nil
}

// The layout of struct user (arch/x86/include/asm/user_64.h).
const (
	userSize     = 912
	userRegsSize = 216
	userDebug    = 848 // u_debugreg[8]
	offOrigRAX   = 15 * 8
	offCS        = 17 * 8
	offFlags     = 18 * 8
	offSS        = 20 * 8
	offFsBase    = 21 * 8
	offGsBase    = 22 * 8
	offDS        = 23 * 8
	fxsaveSize   = 512
)

// registers is struct user_regs_struct.
func registers(x *kernel.Task) []byte {
	b, err := binary.Append(nil, le, &x.Context().Registers)
	if err != nil {
		panic(err)
	}
	return b
}

// debuggerFlags are those that a debugger may set (arch/x86/kernel/ptrace.c, FLAG_MASK).
const debuggerFlags = 1<<0 | 1<<2 | 1<<4 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11 | 1<<14 | 1<<16 | 1<<18

// setRegisters puts b, a whole number of words from the first register on, in place
// of x's (putreg). It stops at what Linux refuses, with those before changed.
func setRegisters(x *kernel.Task, b []byte) error {
	for off := 0; off+8 <= len(b); off += 8 {
		if err := pokeRegister(x, uint64(off), le.Uint64(b[off:])); err != nil {
			return err
		}
	}
	return nil
}

func pokeRegister(x *kernel.Task, off, v uint64) error {
	b := registers(x)
	switch off {
	case offCS, offSS:
		if v&0xffff == 0 || v&3 != 3 {
			return unix.EIO
		}
		v = le.Uint64(b[off:]) // others than user mode's own cannot be loaded here
	case offDS, offDS + 8, offDS + 16, offDS + 24:
		if v&0xffff != 0 && v&3 != 3 {
			return unix.EIO
		}
		v = le.Uint64(b[off:])
	case offFsBase, offGsBase:
		if v >= uint64(taskSize) {
			return unix.EIO
		}
	case offFlags:
		v = le.Uint64(b[off:])&^debuggerFlags | v&debuggerFlags
	}
	le.PutUint64(b[off:], v)
	var r platform.Registers
	if _, err := binary.Decode(b, le, &r); err != nil {
		return err
	}
	x.SetRegisters(r)
	return nil
}

func peekUser(t, x *kernel.Task, at, data uint64) (uintptr, error) {
	if at%8 != 0 || at >= userSize {
		return 0, unix.EIO
	}
	v := uint64(0)
	switch {
	case at < userRegsSize:
		v = le.Uint64(registers(x)[at:])
	case at == userDebug+6*8:
		v = 0xffff0ff0 // DR6_RESERVED
	}
	return 0, out64(t, memory.Addr(data), v)
}

// pokeUser refuses breakpoints in debug registers as where others have taken all.
func pokeUser(_, x *kernel.Task, at, data uint64) (uintptr, error) {
	switch {
	case at%8 != 0 || at >= userSize:
		return 0, unix.EIO
	case at < userRegsSize:
		return 0, pokeRegister(x, at, data)
	case at < userDebug, at == userDebug+4*8, at == userDebug+5*8:
		return 0, unix.EIO
	case at < userDebug+4*8 && data >= uint64(taskSize):
		return 0, unix.EINVAL
	case at != userDebug+6*8 && data != 0:
		return 0, unix.ENOSPC // kernel/events/hw_breakpoint.c, __reserve_bp_slot
	}
	return 0, nil
}

// fxsave is struct user_fpregs_struct.
func fxsave(x *kernel.Task) []byte {
	b := make([]byte, fxsaveSize)
	copy(b[:416], x.Context().FPU)
	return b
}

func setFxsave(x *kernel.Task, b []byte) error {
	const mxcsr, mask, header = 24, 0xffff, 512
	if le.Uint32(b[mxcsr:])&^mask != 0 {
		return unix.EINVAL
	}
	area := append([]byte(nil), x.Context().FPU...)
	if len(area) < header+64 {
		return unix.EIO
	}
	copy(area[:416], b)
	le.PutUint64(area[header:], le.Uint64(area[header:])|3)
	x.SetFPU(area)
	return nil
}

// Kinds of register sets (include/uapi/linux/elf.h).
const (
	ntPRStatus  = 1
	ntPRFPReg   = 2
	ntX86Xstate = 0x202
)

// regset is one register set of x, as bytes.
func regset(x *kernel.Task, kind uint64) ([]byte, error) {
	switch kind {
	case ntPRStatus:
		return registers(x), nil
	case ntPRFPReg:
		return fxsave(x), nil
	case ntX86Xstate:
		return x.Xstate(), nil
	}
	return nil, unix.EINVAL
}

// regsetWindow reads the struct iovec of a request on b and cuts b to it.
func regsetWindow(t *kernel.Task, at memory.Addr, b []byte) (memory.Addr, []byte, error) {
	var v [16]byte
	if err := in(t, at, v[:]); err != nil {
		return 0, nil, err
	}
	n := le.Uint64(v[8:])
	if n%8 != 0 {
		return 0, nil, unix.EINVAL
	}
	return memory.Addr(le.Uint64(v[:])), b[:min(n, uint64(len(b)))], nil
}

func getRegset(t, x *kernel.Task, kind, data uint64) (uintptr, error) {
	b, err := regset(x, kind)
	if err != nil {
		return 0, err
	}
	at, b, err := regsetWindow(t, memory.Addr(data), b)
	if err != nil {
		return 0, err
	}
	if err := out(t, at, b); err != nil {
		return 0, err
	}
	return 0, out64(t, memory.Addr(data+8), uint64(len(b)))
}

func setRegset(t, x *kernel.Task, kind, data uint64) (uintptr, error) {
	whole, err := regset(x, kind)
	if err != nil {
		return 0, err
	}
	at, b, err := regsetWindow(t, memory.Addr(data), whole)
	if err != nil {
		return 0, err
	}
	if kind == ntX86Xstate && len(b) != len(whole) {
		return 0, unix.EFAULT
	}
	if err := in(t, at, b); err != nil {
		return 0, err
	}
	switch kind {
	case ntPRStatus:
		err = setRegisters(x, b)
	case ntPRFPReg:
		err = setFxsave(x, whole)
	default:
		x.SetFPU(b)
	}
	if err != nil {
		return 0, err
	}
	return 0, out64(t, memory.Addr(data+8), uint64(len(b)))
}

// peekSiginfo is PTRACE_PEEKSIGINFO.
func peekSiginfo(t, x *kernel.Task, at, data uint64) (uintptr, error) {
	var b [16]byte
	if err := in(t, memory.Addr(at), b[:]); err != nil {
		return 0, err
	}
	off, flags, most := le.Uint64(b[0:]), le.Uint32(b[8:]), int32(le.Uint32(b[12:]))
	const shared = 1
	if flags&^shared != 0 || most < 0 {
		return 0, unix.EINVAL
	}
	n := uintptr(0)
	for i, info := range x.QueuedSignals(flags&shared != 0) {
		if uint64(i) < off || n >= uintptr(most) {
			continue
		}
		if err := out(t, memory.Addr(data), info[:]); err != nil {
			if n > 0 {
				return n, nil
			}
			return 0, err
		}
		data += uint64(len(info))
		n++
	}
	return n, nil
}

// syscallInfo is PTRACE_GET_SYSCALL_INFO.
func syscallInfo(t, x *kernel.Task, size, data uint64) (uintptr, error) {
	const none, entry, exit, seccomp = 0, 1, 2, 3
	c := x.Context()
	b := make([]byte, 88)
	le.PutUint32(b[4:], unix.AUDIT_ARCH_X86_64)
	le.PutUint64(b[8:], c.Rip)
	le.PutUint64(b[16:], c.Rsp)
	n := 24
	args := func() {
		for i, v := range []uint64{c.Orig_rax, c.Rdi, c.Rsi, c.Rdx, c.R10, c.R8, c.R9} {
			le.PutUint64(b[24+8*i:], v)
		}
	}
	code := int32(0)
	if i := x.StopInfo(); i != nil {
		code = i.Code()
	}
	message := x.TraceMessage()
	switch {
	case code == int32(unix.SIGTRAP)|0x80 && message == entry:
		b[0], n = entry, 80
		args()
	case code == int32(unix.SIGTRAP)|0x80 && message == exit:
		b[0], n = exit, 33
		le.PutUint64(b[24:], c.Rax)
		if int64(c.Rax) < 0 && int64(c.Rax) >= -4095 {
			b[32] = 1
		}
	case code == int32(unix.SIGTRAP)|kernel.EventSeccomp<<8:
		b[0], n = seccomp, 84
		args()
		le.PutUint32(b[80:], uint32(message))
	default:
		b[0] = none
	}
	return uintptr(n), out(t, memory.Addr(data), b[:min(uint64(n), size)])
}
