package kvm

import (
	"fmt"
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
	for i := range 4 {
		start := time.Now()
		if _, err := t.enter(c, as); err != nil {
			return err
		}
		exit, err := v.VCPU.Run()
		if err != nil {
			return err
		}
		if exit != kvm.ExitIO || v.Port() != doorbell || v.slot.state.Load() != posted {
			return p.oddProbe(v, exit)
		}
		v.at = inCall
		if d := time.Since(start); i == 1 || i > 1 && d < p.exitCost {
			p.exitCost = d
		}
	}
	regs, err := v.Sregs()
	if err != nil {
		return err
	}
	if p.userStub = regs.CS.Selector&3 == 3; !p.userStub {
		if err := v.hideStub(); err != nil {
			return err
		}
	}
	t.Close()
	as.Release()
	p.mem.discard(page)
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
