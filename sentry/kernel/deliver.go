package kernel

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
)

// doWork handles signals, stops and the end. It reports whether the task goes
// on; it is called until there is no work left.
func (t *Task) doWork() bool {
	k := t.k
	select {
	case <-t.interrupt:
	default:
	}
	k.mu.Lock()
	t.work.Store(0)
	saved := false
	for {
		if t.killed {
			k.mu.Unlock()
			return false
		}
		if t.frozenLocked() {
			continue
		}
		if t.tr != nil && !saved && (t.trappedLocked() || t.deliverableLocked() != 0) {
			k.mu.Unlock()
			t.saveForTracer()
			saved = true
			k.mu.Lock()
			continue
		}
		if t.stopPending {
			t.groupStopLocked()
			if t.tr == nil {
				continue
			}
		}
		if t.trapStop || t.trapNotify {
			t.jobTrapLocked()
			continue
		}
		info := t.pending.take(^t.mask)
		if info == nil {
			info = t.group.pending.take(^t.mask)
		}
		if info == nil {
			break
		}
		if info.tellsOfTimer() {
			k.mu.Unlock()
			t.group.Timers.taken(info)
			k.mu.Lock()
		}
		if info = t.signalStopLocked(info); info == nil {
			continue
		}
		sig := info.Signo()
		h := t.group.Handlers
		h.mu.Lock()
		act := h.actions[sig]
		if act.Handler > SigIgn && act.Flags&SA_RESETHAND != 0 {
			h.actions[sig] = SigAction{Flags: act.Flags &^ SA_SIGINFO}
		}
		h.mu.Unlock()
		switch {
		case act.Handler == SigIgn:
		case act.Handler > SigIgn:
			k.mu.Unlock()
			t.handler(info, act)
			if t.ctx.SingleStep {
				t.traceStop(int32(unix.SIGTRAP), cldTrapped, 0, nil) // at the handler's first instruction
			}
			saved = false
			k.mu.Lock()
		case ignoredByDfl.Has(sig), t.group.unkillable() && !unblockable.Has(sig):
		case stopSignals.Has(sig):
			if sig == unix.SIGSTOP || !t.group.jobs.orphanedLocked(nil) {
				t.beginStopLocked(sig)
			}
		default:
			k.mu.Unlock()
			t.die(info)
			k.mu.Lock()
		}
	}
	if t.restoreMask {
		t.restoreMask = false
		t.setMaskLocked(t.savedMask)
	}
	again := t.deliverableLocked() != 0
	if t.tr == nil {
		t.ctx.SingleStep = false
	}
	k.mu.Unlock()
	if again {
		t.work.Or(workSignal)
		return true
	}
	t.restartCall()
	return true
}

// restartCall repeats a system call that no handler interrupted.
func (t *Task) restartCall() {
	if !t.haveSyscall {
		return
	}
	t.haveSyscall = false
	c := t.Context()
	if int32(c.Orig_rax) < 0 {
		return // a tracer does not want it
	}
	switch unix.Errno(-int64(c.Rax)) {
	case ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND:
		c.Rax = c.Orig_rax
		c.Rip -= 2
		c.Dirty |= platform.DirtyGPR
	case ERESTART_RESTARTBLOCK:
		c.Rax = unix.SYS_RESTART_SYSCALL
		c.Rip -= 2
		c.Dirty |= platform.DirtyGPR
	}
}

// Restart is what restart_syscall(2) goes on with: a call, its arguments, and until when it
// waits (monotonic). It is data and no function so that a checkpoint can keep it.
type Restart struct {
	Call     int
	Deadline time.Duration
	Args     [4]uint64
}

// SetRestart says what that is, and returns the error to hand back.
func (t *Task) SetRestart(r Restart) error {
	t.restart = &r
	return ERESTART_RESTARTBLOCK
}

// Restart is what SetRestart said last; nil for nothing.
func (t *Task) Restart() *Restart { return t.restart }

// handler makes the registers enter a signal handler.
func (t *Task) handler(info *SigInfo, act SigAction) {
	c := t.Context()
	if t.haveSyscall && int32(c.Orig_rax) >= 0 {
		t.haveSyscall = false
		switch e := unix.Errno(-int64(c.Rax)); {
		case e == ERESTARTNOINTR, e == ERESTARTSYS && act.Flags&SA_RESTART != 0:
			c.Rax = c.Orig_rax
			c.Rip -= 2
		case e == ERESTARTSYS, e == ERESTARTNOHAND, e == ERESTART_RESTARTBLOCK:
			c.Rax = errnoReg(unix.EINTR)
		}
	}
	mask := t.mask
	if t.restoreMask {
		mask = t.savedMask
		t.restoreMask = false
	}
	if err := t.pushFrame(info, act, mask); err != nil {
		t.k.mu.Lock()
		h := t.group.Handlers
		h.mu.Lock()
		if info.Signo() == unix.SIGSEGV {
			h.actions[unix.SIGSEGV] = SigAction{}
		}
		h.mu.Unlock()
		t.k.mu.Unlock()
		t.ForceSignal(unix.SIGSEGV)
		return
	}
	m := t.mask | act.Mask
	if act.Flags&SA_NODEFER == 0 {
		m |= set(info.Signo())
	}
	t.SetSignalMask(m)
	c.Dirty = platform.DirtyAll
}

func errnoReg(e unix.Errno) uint64 { return uint64(-int64(e)) }

// The layout of struct rt_sigframe (arch/x86/include/asm/sigframe.h): the
// return address, struct ucontext, siginfo.
const (
	frameUcontext = 8
	ucFlags       = frameUcontext + 0
	ucLink        = frameUcontext + 8
	ucStack       = frameUcontext + 16
	ucMcontext    = frameUcontext + 40
	ucSigmask     = ucMcontext + 256
	frameInfo     = ucSigmask + 8
	frameSize     = frameInfo + 128

	ucFPXstate        = 1
	ucSigcontextSS    = 2
	ucStrictRestoreSS = 4

	fpMagic1   = 0x46505853
	fpMagic2   = 0x46505845
	fpReserved = 464 // sw_reserved in the FXSAVE area
	redZone    = 128
)

// sigcontextOrder are the registers at the start of struct sigcontext_64.
func sigcontextOrder(c *platform.Context) []*uint64 {
	return []*uint64{&c.R8, &c.R9, &c.R10, &c.R11, &c.R12, &c.R13, &c.R14, &c.R15, &c.Rdi, &c.Rsi, &c.Rbp,
		&c.Rbx, &c.Rdx, &c.Rax, &c.Rcx, &c.Rsp, &c.Rip, &c.Eflags}
}

// pushFrame writes the signal frame and points the registers at the handler.
func (t *Task) pushFrame(info *SigInfo, act SigAction, mask SigSet) error {
	c := t.Context()
	if err := t.thread.Save(c); err != nil {
		return err
	}
	le := binary.LittleEndian
	sp := c.Rsp - redZone
	stack := t.altStack
	if act.Flags&SA_ONSTACK != 0 && stack.Size != 0 && stack.Flags&SSDisable == 0 && !t.OnAltStack(c.Rsp) {
		sp = uint64(stack.Base) + stack.Size
	}
	fp := (sp - uint64(len(c.FPU)) - 4) &^ 63
	at := (fp-frameSize)&^15 - 8
	if t.OnAltStack(sp) && at < uint64(stack.Base) {
		return unix.EFAULT
	}

	fpu := make([]byte, len(c.FPU)+4)
	copy(fpu, c.FPU)
	le.PutUint32(fpu[fpReserved:], fpMagic1)
	le.PutUint32(fpu[fpReserved+4:], uint32(len(fpu)))
	copy(fpu[fpReserved+8:fpReserved+16], xcr0Bytes(c.FPU))
	le.PutUint32(fpu[fpReserved+16:], uint32(len(c.FPU)))
	le.PutUint32(fpu[len(c.FPU):], fpMagic2)
	if _, err := t.mm.Write(memory.Addr(fp), fpu); err != nil {
		return err
	}

	f := make([]byte, frameSize)
	le.PutUint64(f[0:], act.Restorer)
	le.PutUint64(f[ucFlags:], ucFPXstate|ucSigcontextSS|ucStrictRestoreSS)
	le.PutUint64(f[ucStack:], uint64(stack.Base))
	flags := stack.Flags
	if stack.Size == 0 {
		flags |= SSDisable
	} else if t.OnAltStack(c.Rsp) {
		flags |= ssOnStack
	}
	le.PutUint32(f[ucStack+8:], flags)
	le.PutUint64(f[ucStack+16:], stack.Size)
	m := f[ucMcontext:]
	for i, r := range sigcontextOrder(c) {
		le.PutUint64(m[i*8:], *r)
	}
	le.PutUint16(m[144:], 0x33) // cs
	le.PutUint16(m[150:], 0x2b) // ss
	le.PutUint64(m[152:], t.faultErr)
	le.PutUint64(m[160:], t.faultTrap)
	le.PutUint64(m[168:], uint64(mask))
	le.PutUint64(m[176:], t.faultAddr)
	le.PutUint64(m[184:], fp)
	le.PutUint64(f[ucSigmask:], uint64(mask))
	copy(f[frameInfo:], info[:])
	if _, err := t.mm.Write(memory.Addr(at), f); err != nil {
		return err
	}
	if stack.Flags&ssAutodisarm != 0 {
		t.altStack = AltStack{}
	}

	c.Rdi = uint64(info.Signo())
	c.Rsi = at + frameInfo
	c.Rdx = at + frameUcontext
	c.Rax = 0
	c.Rsp = at
	c.Rip = act.Handler
	c.Eflags &^= 1<<8 | 1<<10 | 1<<16 // TF, DF, RF
	c.FPU = nil
	c.Dirty = platform.DirtyAll
	return nil
}

// xcr0Bytes are the features in an XSAVE image's header area that the frame's
// reader must know of: what the CPU saves, found in sw_reserved of the area that
// ptrace gives (arch/x86/kernel/fpu/xstate.c, copy_xstate_to_uabi_buf).
func xcr0Bytes(fpu []byte) []byte {
	if len(fpu) >= fpReserved+8 {
		if b := fpu[fpReserved : fpReserved+8]; binary.LittleEndian.Uint64(b) != 0 {
			return b
		}
	}
	return []byte{3, 0, 0, 0, 0, 0, 0, 0}
}

// sane makes flags such that user mode may have them (FIX_EFLAGS).
const userFlags = 1<<0 | 1<<2 | 1<<4 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11 | 1<<16 | 1<<18 | 1<<21

// SigReturn is rt_sigreturn(2). The result is Rax, already in the registers.
func (t *Task) SigReturn() error {
	c := t.Context()
	le := binary.LittleEndian
	f := make([]byte, frameSize)
	at := c.Rsp - 8
	if _, err := t.mm.Read(memory.Addr(at), f); err != nil {
		return err
	}
	if err := t.thread.Save(c); err != nil {
		return err
	}
	size := len(c.FPU)
	m := f[ucMcontext:]
	for i, r := range sigcontextOrder(c) {
		v := le.Uint64(m[i*8:])
		if r == &c.Eflags {
			v = v&userFlags | c.Eflags&^userFlags | 2
		}
		*r = v
	}
	var fpu []byte
	if fp := le.Uint64(m[184:]); fp != 0 {
		fpu = make([]byte, size)
		if _, err := t.mm.Read(memory.Addr(fp), fpu); err != nil {
			return err
		}
		sanitizeFPU(fpu)
	}
	c.FPU = fpu
	t.haveSyscall = false
	c.Orig_rax = ^uint64(0)
	c.Dirty = platform.DirtyAll
	st := AltStack{Base: memory.Addr(le.Uint64(f[ucStack:])), Flags: le.Uint32(f[ucStack+8:]) &^ ssOnStack, Size: le.Uint64(f[ucStack+16:])}
	if st.Flags&^(SSDisable|ssAutodisarm) == 0 && !t.OnAltStack(c.Rsp) {
		if st.Flags&SSDisable != 0 {
			st = AltStack{}
		}
		t.altStack = st
	}
	t.SetSignalMask(SigSet(le.Uint64(f[ucSigmask:])))
	return nil
}

// sanitizeFPU makes an XSAVE image that the application wrote loadable: the
// reserved bits of MXCSR and of the header clear, and features that the frame
// does not vouch for in their initial state.
func sanitizeFPU(b []byte) {
	le := binary.LittleEndian
	le.PutUint32(b[24:], le.Uint32(b[24:])&0xffbf)
	features := uint64(3)
	if le.Uint32(b[fpReserved:]) == fpMagic1 {
		features = le.Uint64(b[fpReserved+8:])
	}
	if len(b) >= 576 {
		x := le.Uint64(b[512:]) & features
		if le.Uint32(b[fpReserved:]) != fpMagic1 {
			x = 3
		}
		le.PutUint64(b[512:], x)
		clear(b[520:576])
	}
	le.PutUint64(b[fpReserved:], features)
}
