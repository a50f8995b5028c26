package kvm

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/kvm"
	"bulkhead/sentry/platform"
)

// thread implements platform.Thread.
type thread struct {
	p *Platform
	v *vcpu

	dirty    platform.Dirty // what the vCPU has not got yet
	rax      uint64         // what the application would find in RAX now
	reload   bool           // the vCPU's general registers are not the application's
	stepping bool
	absent   bool // the last KVM_RUN found no page
	locked   bool // to the OS thread

	crewed  bool // a runner has the vCPU, or the vCPU queues for one
	quick   int  // calls in a row that came soon after the last
	served  int  // calls that runners have saved an exit since one was judged
	settled bool // one was, and none hired since
	credit  int  // exits that runners have saved beyond their price

	since time.Time // when it got the lane

	// Interrupt sets intr, then kicks; Run looks at intr, and whoever is kicked
	// before it enters the guest leaves that at once.
	intr atomic.Bool
}

// Run implements platform.Thread.Run.
func (t *thread) Run(c *platform.Context, space platform.AddressSpace) (platform.Event, error) {
	as, ok := space.(*addressSpace)
	if !ok {
		return platform.Event{}, fmt.Errorf("platform/kvm: address space of another platform: %T", space)
	}
	if t.p.pinned && !t.locked {
		runtime.LockOSThread()
		t.locked = true
	}
	t.dirty, c.Dirty = t.dirty|c.Dirty, 0
	if t.intr.Load() && t.intr.Swap(false) {
		return platform.Event{Reason: platform.Interrupted}, nil
	}
	if ev, err := t.enter(c, as); ev.Reason != 0 || err != nil {
		return ev, err
	}
	for {
		ev, err := t.next(c)
		if ev.Reason != 0 || err != nil {
			t.rax = c.Rax
			return ev, err
		}
	}
}

// enter brings c to the vCPU: the answer of a call if that is all, or a load of
// registers, for which the vCPU must be out.
func (t *thread) enter(c *platform.Context, as *addressSpace) (platform.Event, error) {
	v := t.v
	if t.crewed {
		var err error
		if v.out.Load() { // the stub did not wait for so long
			t.settle(t.p.price)
			err = t.bringOut()
		} else if t.p.lanes.queued.Load() > 0 {
			err = t.endSlice()
		}
		if err != nil {
			return platform.Event{}, err
		}
	}
	full := t.dirty != 0 || t.reload || v.as != as || v.at == nowhere || c.SingleStep || t.stepping ||
		v.at != inCall && c.Rax != t.rax
	if !full {
		c.Partial = false // soon untrue; nobody asks before the next event
		if v.at == inCall {
			v.slot.rax = c.Rax
			platform.Store32(&v.slot.state, answered)
		}
		return platform.Event{}, nil
	}
	t.Fill(c)
	if err := t.bringOut(); err != nil {
		return platform.Event{}, err
	}
	if !canonical(c.Rip) {
		return badAddress(), nil
	}
	root := uint64(0)
	if v.as != as {
		var err error
		if root, err = as.attach(v); err != nil {
			return platform.Event{}, err
		}
	}
	if err := v.load(c, t.dirty, root); err != nil {
		return platform.Event{}, err
	}
	if root != 0 {
		if v.as != nil {
			v.as.detach(v)
		}
		v.as = as
	}
	v.slot.state.Store(running)
	v.at, t.dirty, t.reload, t.stepping = inApp, 0, false, c.SingleStep
	return platform.Event{}, nil
}

// next runs the vCPU until there is something to look at. Without an event the
// caller tries again.
func (t *thread) next(c *platform.Context) (platform.Event, error) {
	if !t.crewed && t.p.lanes.total > 0 && t.hot() && !t.intr.Load() {
		if t.settled {
			t.served, t.settled = 0, false
		}
		t.v.slot.spin.Store(stubRounds)
		t.crewed, t.since = true, time.Now()
		t.p.lanes.engage(t.v)
	}
	if t.crewed {
		return t.watch(c)
	}
	t.v.slot.spin.Store(0)
	start := time.Now()
	exit, err := t.v.VCPU.Run()
	t.v.tally.add(tallyExits)
	ev, err := t.decode(exit, err, c)
	t.judge(ev, start)
	return ev, err
}

// decode says what an exit means.
func (t *thread) decode(exit kvm.Exit, err error, c *platform.Context) (platform.Event, error) {
	v := t.v
	if err != nil {
		return t.broken(c, err)
	}
	if exit != kvm.ExitMemoryFault {
		t.absent = false
	}
	switch exit {
	case kvm.ExitIO:
		port := int(v.Port())
		if port >= gatePorts && port < gatePorts+vectors {
			return t.gate(port-gatePorts, c)
		}
		if port == doorbell && v.slot.state.Load() == posted {
			v.tally.add(tallyExitCalls)
			return t.call(c), nil
		}
		return t.strayed(c)
	case kvm.ExitInterrupted:
		if !t.intr.Load() {
			return platform.Event{}, nil
		}
		return t.interrupted(c)
	case kvm.ExitInternalError:
		// An instruction that KVM cannot emulate, and that Linux could not run either.
		if _, err := v.fetch(c); err != nil {
			return platform.Event{}, err
		}
		if c.Rip >= half {
			return platform.Event{}, v.InternalError()
		}
		v.at = inApp
		return platform.Event{Reason: platform.Signal, Signal: unix.SIGILL, Code: illOpn, Addr: platform.Addr(c.Rip), Trap: 6}, nil
	case kvm.ExitMemoryFault:
		return t.broken(c, unix.EFAULT)
	}
	return platform.Event{}, fmt.Errorf("platform/kvm: vcpu %d left by %v", v.ID(), exit)
}

// call is the event of a posted call.
func (t *thread) call(c *platform.Context) platform.Event {
	s := t.v.slot
	s.call(c)
	t.v.at = inCall
	if s.trapped.Load() != 0 {
		s.trapped.Store(0)
		t.v.tally.add(tallyTrapped)
		t.Fill(c)
		t.consider(c)
	}
	if !c.Lazy || t.stepping {
		t.Fill(c)
	}
	if t.stepping {
		c.Eflags &^= flagTF
		c.R11 = c.Eflags
	}
	return platform.Event{Reason: platform.Syscall}
}

// gate is the event of an exception.
func (t *thread) gate(vector int, c *platform.Context) (platform.Event, error) {
	v := t.v
	ev, err := v.trap(vector, c)
	if err != nil {
		return ev, err
	}
	v.at = inGate
	if vector == 6 && t.resumePatched(c.Rip) {
		return platform.Event{}, nil
	}
	if ev.Reason == platform.Fault {
		v.tally.add(tallyFaults)
	} else {
		v.tally.add(tallyExceptions)
	}
	if inStub(c.Rip) {
		if vector == 1 { // a single step that went through SYSCALL
			v.frame.flags &^= flagTF
			return platform.Event{}, nil
		}
		// The application made its own slot nonsense.
		c.Rip = v.slot.rip
		t.reload = true
	}
	if vector == 1 && c.Eflags&flagTF == 0 {
		ev.Code = trapBrkpt // INT1; the application sets no breakpoints in debug registers
	}
	if t.stepping {
		c.Eflags &^= flagTF
	}
	return ev, nil
}

// strayed is an OUT that the stub did not make, or made for leave.
func (t *thread) strayed(c *platform.Context) (platform.Event, error) {
	v := t.v
	if _, err := v.fetch(c); err != nil {
		return platform.Event{}, err
	}
	if inStub(c.Rip) {
		v.slot.state.CompareAndSwap(leave, posted)
		if v.slot.state.Load() == posted {
			v.tally.add(tallyExitCalls)
			return t.call(c), nil
		}
		return platform.Event{}, nil // answered meanwhile: it goes on
	}
	v.at = inApp
	return platform.Event{Reason: platform.Signal, Signal: unix.SIGSEGV, Code: siKernel, Trap: 13}, nil
}

func inStub(rip uint64) bool { return rip >= stubAt && rip < stubEnd }

// interrupted finds out where a kick met the vCPU, and brings it to where the
// registers are the application's.
func (t *thread) interrupted(c *platform.Context) (platform.Event, error) {
	v := t.v
	cs, err := v.fetch(c)
	if err != nil {
		return platform.Event{}, err
	}
	rip, state := c.Rip, v.slot.state.Load()
	switch {
	case !inStub(rip) && cs&3 == 0:
		return platform.Event{}, nil // in a handler, just before its OUT
	case !inStub(rip):
		v.at = inApp
		c.Rip = t.original(c.Rip)
		t.reload = c.Rip != rip
	case rip < postedAt || rip >= patchedAt:
		return platform.Event{}, nil // on its way to post a call
	case state == posted || state == leave:
		v.slot.state.Store(posted)
		v.tally.add(tallyExitCalls)
		return t.call(c), nil
	default: // answered: what the stub would do is done by the next load
		rax := v.slot.rax
		v.slot.call(c)
		v.slot.fill(c)
		c.Rax, c.Orig_rax = rax, ^uint64(0)
		v.at, t.reload = inCall, true
	}
	if t.stepping {
		c.Eflags &^= flagTF
	}
	t.intr.Store(false)
	v.tally.add(tallyKicks)
	return platform.Event{Reason: platform.Interrupted}, nil
}

// broken is a KVM_RUN that failed. EFAULT is a page that the host cannot give,
// behind the end of a file that was cut: Linux sends SIGBUS. The address is not
// told; the instruction's is better than none. Once is not enough: a shootdown
// may have had the page between two protections (guestMemory.touch).
func (t *thread) broken(c *platform.Context, err error) (platform.Event, error) {
	if !isFault(err) {
		return platform.Event{}, err
	}
	if t.absent = !t.absent; t.absent {
		t.p.mem.settle()
		return platform.Event{}, nil
	}
	if _, err := t.v.fetch(c); err != nil {
		return platform.Event{}, err
	}
	if c.Rip >= half {
		return platform.Event{}, err
	}
	t.v.at = inApp
	return platform.Event{Reason: platform.Signal, Signal: unix.SIGBUS, Code: busAdrErr, Addr: platform.Addr(c.Rip), Trap: 14}, nil
}

// Fill implements platform.Thread.Fill.
func (t *thread) Fill(c *platform.Context) {
	if c.Partial {
		t.v.slot.fill(c)
	}
}

// Save implements platform.Thread.Save.
func (t *thread) Save(c *platform.Context) (err error) {
	t.Fill(c)
	dirty := t.dirty | c.Dirty // what is not loaded yet is newer in c
	if t.v.at == nowhere {
		dirty = platform.DirtyAll
	}
	if dirty&platform.DirtyFPU != 0 && c.FPU == nil {
		c.FPU = t.v.freshFPU()
	}
	if t.v.at == nowhere {
		return nil
	}
	if err := t.bringOut(); err != nil {
		return err
	}
	if dirty&platform.DirtyFPU == 0 {
		if c.FPU, err = t.v.saveFPU(c.FPU); err != nil {
			return err
		}
	}
	if dirty&platform.DirtyBase == 0 {
		s, err := t.v.Sregs()
		if err != nil {
			return err
		}
		c.Fs_base, c.Gs_base = s.FS.Base, s.GS.Base
	}
	return nil
}

// Interrupt implements platform.Thread.Interrupt.
func (t *thread) Interrupt() {
	t.intr.Store(true)
	t.v.Kick()
	t.p.lanes.cast(t.v)
}

// Close implements platform.Thread.Close.
func (t *thread) Close() {
	v := t.v
	if t.locked {
		runtime.UnlockOSThread()
	}
	if err := t.bringOut(); err != nil {
		return // the vCPU is lost, and the platform's Close will have it
	}
	if v.as != nil {
		v.as.detach(v)
		v.as = nil
	}
	t.p.put(v)
}
