package ptrace

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// Thread implements platform.Thread.
type Thread struct {
	p       *Platform
	tid     int // the OS thread, for the goroutine is locked to it
	tracees map[*space]*tracee
	place   place
	sleeper sleeper

	as   *space // of the last Run
	x    *tracee
	last *platform.Context

	regs    platform.Registers // the application's: as stopped, or as to be loaded
	rax     uint64             // as the kernel has it
	pending platform.Dirty     // not yet loaded into x

	kicked  atomic.Bool            // an interruption that no Run has reported
	running atomic.Pointer[tracee] // in Run; pairs with kicked
	mu      sync.Mutex             // held while a kick is under way
}

// NewThread implements platform.Platform.
func (p *Platform) NewThread() (platform.Thread, error) {
	runtime.LockOSThread()
	t := &Thread{p: p, tid: unix.Gettid(), tracees: map[*space]*tracee{}}
	t.sleeper.word.Store(idle)
	p.cpus.add(t)
	return t, nil
}

// Run implements platform.Thread.
func (t *Thread) Run(c *platform.Context, in platform.AddressSpace) (platform.Event, error) {
	as := in.(*space)
	t.take(c)
	if as != t.as || t.x.gone.Load() {
		if err := t.enter(as); err != nil {
			return platform.Event{}, err
		}
	}
	t.p.cpus.begin(t)
	as.running.Add(1)
	t.running.Store(t.x)
	e, err := t.loop(c)
	t.running.Store(nil)
	as.running.Add(-1)
	t.p.cpus.end(t)

	t.p.counts.events[e.Reason].Add(1)
	number := t.regs.Orig_rax
	if e.Reason != platform.Syscall {
		number = ^uint64(0)
	}
	c.Registers = t.regs
	c.Orig_rax = number
	return e, err
}

// take notes what the Sentry wants changed.
func (t *Thread) take(c *platform.Context) {
	dirty := c.Dirty
	c.Dirty = 0
	if c != t.last {
		t.last = c
		dirty |= platform.DirtyGPR | platform.DirtyBase
	}
	if dirty&platform.DirtyGPR != 0 {
		fs, gs := t.regs.Fs_base, t.regs.Gs_base
		t.regs = c.Registers
		t.regs.Fs_base, t.regs.Gs_base = fs, gs
	}
	if dirty&platform.DirtyBase != 0 {
		t.regs.Fs_base, t.regs.Gs_base = c.Fs_base, c.Gs_base
	}
	t.regs.Rax = c.Rax
	t.pending |= dirty
}

// enter makes the tracee in as the current one. The FPU state moves along.
func (t *Thread) enter(as *space) error {
	x := t.tracees[as]
	if x == nil || x.gone.Load() {
		var err error
		if x, err = t.adopt(as); err != nil {
			return err
		}
	}
	if t.pending&platform.DirtyFPU == 0 {
		if err := t.moveFPU(x); err != nil {
			return err
		}
	}
	t.as, t.x = as, x
	x.loaded = false
	return nil
}

func (t *Thread) adopt(as *space) (*tracee, error) {
	for other, x := range t.tracees {
		if x.gone.Load() {
			delete(t.tracees, other)
		}
	}
	x, err := as.proc.adopt()
	if err != nil {
		return nil, err
	}
	t.tracees[as] = x
	as.mu.Lock()
	defer as.mu.Unlock()
	as.tracees[t.tid], as.threads[t.tid] = x, t
	return x, nil
}

// loop runs the tracee until something happens that the Sentry must know.
func (t *Thread) loop(c *platform.Context) (platform.Event, error) {
	x, as := t.x, t.as
	resume := unix.PTRACE_SYSEMU
	if c.SingleStep {
		resume = unix.PTRACE_SYSEMU_SINGLESTEP
	}
	for again := 0; ; {
		if as.behind.Load() {
			if err := as.catchUp(x); err != nil {
				return platform.Event{}, err
			}
		}
		if err := t.load(c); err != nil {
			return platform.Event{}, err
		}
		if t.kicked.Load() && t.kicked.Swap(false) {
			return platform.Event{Reason: platform.Interrupted}, nil
		}
		changes := as.changes.Load()
		if err := request(resume, x.tid, 0, 0); err != nil {
			return platform.Event{}, fmt.Errorf("ptrace: resume stub %d: %w", x.tid, err)
		}
		ws, err := x.wait()
		if err == nil {
			err = t.stopped()
		}
		if err != nil {
			return platform.Event{}, err
		}
		e, err := t.event(ws)
		if err != nil {
			return e, err
		}
		if e.Reason == platform.Fault && again < retries && (as.behind.Load() || as.changes.Load() != changes) {
			again++ // another thread may have had this page mapped meanwhile
			continue
		}
		if e.Reason != 0 {
			return e, nil
		}
	}
}

// retries bounds how often a fault is tried again because mappings changed
// meanwhile. Reporting one too many is harmless: the page is mapped again.
const retries = 4

// stopped reads the registers of the stopped tracee.
func (t *Thread) stopped() error {
	if err := getRegs(t.x.tid, &t.regs); err != nil {
		return fmt.Errorf("ptrace: registers of stub %d: %w", t.x.tid, err)
	}
	t.x.loaded, t.rax = true, t.regs.Rax
	return nil
}

// load gives the tracee what it lacks of the application's state.
func (t *Thread) load(c *platform.Context) error {
	if t.pending&platform.DirtyFPU != 0 {
		if err := t.p.xstate.load(t.x.tid, c.FPU); err != nil {
			return err
		}
	}
	const errRestartLow, errRestartHigh = 512, 516 // include/linux/errno.h
	var err error
	switch n := -int64(t.regs.Rax); {
	case t.pending&(platform.DirtyGPR|platform.DirtyBase) != 0, !t.x.loaded,
		n >= errRestartLow && n <= errRestartHigh: // with orig_rax a number, the kernel would step back
		r := loadable(t.regs)
		err = setRegs(t.x.tid, &r)
	case t.regs.Rax != t.rax:
		err = setRAX(t.x.tid, t.regs.Rax)
	}
	if err != nil {
		return fmt.Errorf("ptrace: set registers of stub %d: %w", t.x.tid, err)
	}
	t.pending, t.x.loaded, t.rax = 0, true, t.regs.Rax
	return nil
}

// loadable is r as PTRACE_SETREGS takes it (arch/x86/kernel/ptrace.c, putreg):
// what it would refuse becomes what Linux gives a new program. Flags it masks itself.
func loadable(r platform.Registers) platform.Registers {
	const user32CS = 0x23
	if r.Cs != user32CS {
		r.Cs = userCS
	}
	r.Ss = userSS
	for _, s := range []*uint64{&r.Ds, &r.Es, &r.Fs, &r.Gs} {
		if *s &= 0xffff; *s&3 != 3 {
			*s = 0
		}
	}
	for _, b := range []*uint64{&r.Fs_base, &r.Gs_base} {
		if *b >= topOfUser {
			*b = 0
		}
	}
	r.Orig_rax = ^uint64(0)
	return r
}

// Fill implements platform.Thread: nothing is ever missing.
func (t *Thread) Fill(*platform.Context) {}

// Save implements platform.Thread. The bases came with the other registers.
// What the Sentry stored since the last Run is newer than what the tracee has: a
// second signal may be delivered, or one on the way out of a handler.
func (t *Thread) Save(c *platform.Context) error {
	if c.Dirty&platform.DirtyBase == 0 {
		c.Fs_base, c.Gs_base = t.regs.Fs_base, t.regs.Gs_base
	}
	switch {
	case c.Dirty&platform.DirtyFPU != 0 && c.FPU != nil:
		return nil
	case c.Dirty&platform.DirtyFPU != 0, t.x == nil, t.x.gone.Load():
		c.FPU = append(c.FPU[:0], t.p.xstate.fresh...)
		return nil
	}
	return t.p.xstate.save(t.x.tid, c)
}

// Interrupt implements platform.Thread. The signal stops the tracee if it
// runs; Run looks at kicked before it resumes and after each stop.
func (t *Thread) Interrupt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kicked.Store(true)
	if x := t.running.Load(); x != nil {
		unix.Tgkill(x.proc.pid, x.tid, kickSignal)
	}
}

// settleKicks returns when no kick is under way to a tracee that is not running.
func (t *Thread) settleKicks() {
	t.mu.Lock()
	t.mu.Unlock() //lint:ignore SA2001 the section of the other side is what counts
}

// Close implements platform.Thread: the tracees go back to sleep. If one does
// not, the OS thread ends with the goroutine, and that tracee with it.
func (t *Thread) Close() {
	if t.tracees == nil {
		return
	}
	ok := true
	for as, x := range t.tracees {
		as.mu.Lock()
		if !x.gone.Load() {
			delete(as.tracees, t.tid)
			delete(as.threads, t.tid)
			ok = as.proc.abandon(x) == nil && ok
		}
		as.mu.Unlock()
	}
	t.tracees, t.x, t.as = nil, nil, nil
	if t.p.cpus.remove(t) && ok {
		runtime.UnlockOSThread()
	}
}
