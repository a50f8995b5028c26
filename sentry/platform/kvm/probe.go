package kvm

import (
	"fmt"
	"runtime"
	"time"

	"bulkhead/kvm"
	"bulkhead/sentry/platform"
)

// probeAt is where the probe's two instructions are mapped.
const probeAt = 0x10000

// probe finds out by doing whether SYSCALL enters ring 0 here, and what a round
// trip costs. The stub is at first mapped for both rings.
func (p *Platform) probe() error {
	p.userStub = true
	v, err := p.take()
	if err != nil {
		return err
	}
	page, err := p.mem.page()
	if err != nil {
		return err
	}
	copy(p.mem.own[page:], []byte{0x0f, 0x05, 0xeb, 0xfc}) // syscall; jmp .-2
	as := newAddressSpace(p)
	s := shootdown{as: as}
	if err := as.mapSmall(probeAt, 1, page|pteP|pteU|pteA, &s); err != nil {
		return err
	}
	t := &thread{p: p, v: v}
	c := &platform.Context{Dirty: platform.DirtyAll}
	c.Rip = probeAt
	runtime.LockOSThread()
	p.exitCost, err = t.probeCalls(c, as, 4)
	runtime.UnlockOSThread()
	if err != nil {
		return err
	}
	p.price = priceOf(p.exitCost)
	regs, err := v.Sregs()
	if err != nil {
		return err
	}
	if p.userStub = regs.CS.Selector&3 == 3; !p.userStub {
		if err := v.hideStub(); err != nil {
			return err
		}
	}
	if err := p.probeMove(t, c, as); err != nil {
		return err
	}
	t.Close()
	as.Release()
	p.mem.discard(page)
	return nil
}

// probeCalls makes n calls and returns the least that one but the first took.
func (t *thread) probeCalls(c *platform.Context, as *addressSpace, n int) (time.Duration, error) {
	v, least := t.v, time.Hour
	for i := range n {
		start := time.Now()
		if _, err := t.enter(c, as); err != nil {
			return 0, err
		}
		exit, err := v.VCPU.Run()
		for exit == kvm.ExitInterrupted && err == nil { // Go's runtime sends signals too
			exit, err = v.VCPU.Run()
		}
		if err != nil {
			return 0, err
		}
		if exit != kvm.ExitIO || v.Port() != doorbell || v.slot.state.Load() != posted {
			return 0, t.p.oddProbe(v, exit)
		}
		v.at = inCall
		if i > 0 || n == 1 {
			least = min(least, time.Since(start))
		}
	}
	return least, nil
}

// tooDear is what a vCPU's move to another thread costs in kernels that wait
// for a grace period of RCU then, at least.
const tooDear = time.Millisecond

// probeMove finds out whether vCPUs may change threads. The least of three counts,
// for another process can be in the way.
func (p *Platform) probeMove(t *thread, c *platform.Context, as *addressSpace) error {
	type result struct {
		d   time.Duration
		err error
	}
	least := time.Hour
	for range 3 {
		done := make(chan result)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends, and the next is another
			d, err := t.probeCalls(c, as, 1)
			done <- result{d, err}
		}()
		r := <-done
		if r.err != nil {
			return r.err
		}
		if least = min(least, r.d); least < tooDear {
			break
		}
	}
	p.pinned = least > tooDear+p.exitCost
	return nil
}

// hideStub makes the stub and the slot of a vCPU made for the probe ring 0's own.
func (v *vcpu) hideStub() error {
	m := v.p.mem
	t := m.table(m.table(m.table(v.half & pteFrame)[index(half, 2)].Load() & pteFrame)[index(half, 1)].Load() & pteFrame)
	for _, at := range []uint64{stubAt, slotAt} {
		e := &t[index(at, 0)]
		e.Store(e.Load() &^ pteU)
	}
	return m.flush()
}

func (p *Platform) oddProbe(v *vcpu, exit kvm.Exit) error {
	r, err := v.Regs()
	if err != nil {
		return err
	}
	port := -1
	if exit == kvm.ExitIO {
		port = int(v.Port())
	}
	return fmt.Errorf("platform/kvm: a probe left by %v (port %#x) at %#x, frame %+v", exit, port, r.RIP, *v.frame)
}
