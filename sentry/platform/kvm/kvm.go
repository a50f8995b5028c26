// Package kvm runs application code in ring 3 of a KVM guest that holds nothing
// but the application and a stub of a few dozen instructions. Of a system call
// the stub tells the Sentry through a page that both see, and it waits there for
// the answer: no VM exit, if somebody answers in time (architecture.md, A system
// call's life). It follows kvm-hosts.md in what a host may do, and imports
// bulkhead/kvm for the mechanism.
//
// A sandbox is one VM. A thread has a vCPU for as long as it lives, and a vCPU
// has its own top-level page table in each address space, so that its slot is
// mapped for it alone. A vCPU is run by the thread's own goroutine, inside
// Thread.Run, where each event is an exit; or, while calls follow each other
// closely, by a runner on another OS thread, so that the goroutine can answer
// them without any (runner.go). For that there is room for one thread in two CPUs, and
// so those that call a lot take turns (lane.go).
//
// Locks: addressSpace.sitesMu, the patcher's, addressSpace.mu, then Platform.mu or guestMemory.mu, then guestMemory.flushMu.
// lanes.mu is held for a few assignments, and no other with it.
package kvm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"bulkhead/kvm"
	"bulkhead/sentry/platform"
)

// Platform implements platform.Platform.
type Platform struct {
	sys *kvm.System
	vm  *kvm.VM
	mem *guestMemory

	cpuid   []kvm.CPUIDEntry
	xcr0    uint64
	fpuSize int

	exitCost time.Duration // of a call by exit and entry
	price    int           // of a runner (priceOf)

	// userStub: SYSCALL leaves the CPU in ring 3, and so the stub is the application's to run.
	userStub bool

	// cookie begins each page of trampolines, so that one is known when met.
	cookie [16]byte

	// pinned: a vCPU stays on one OS thread, for moving it is slow (before Linux 6.12).
	pinned bool

	stubPage, gatePage, idtPage, tablePage uint64

	lanes lanes

	sites [siteOutcomes]atomic.Uint64

	mu   sync.Mutex
	all  []*vcpu
	idle []*vcpu
	max  int
}

// New makes a machine on an open /dev/kvm, fd, or one that it opens itself if fd
// is negative.
func New(fd int) (*Platform, error) {
	sys, err := openSystem(fd)
	if err != nil {
		return nil, err
	}
	p := &Platform{sys: sys}
	rand.Read(p.cookie[:])
	if err := p.start(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func openSystem(fd int) (*kvm.System, error) {
	if fd < 0 {
		return kvm.Open()
	}
	return kvm.New(fd)
}

func (p *Platform) start() error {
	missing, err := p.sys.Missing(kvm.Sentry)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("platform/kvm: this kernel lacks %v: %s", missing[0].Cap, missing[0].Why)
	}
	slots, err := p.sys.Check(kvm.CapNrMemslots)
	if err != nil {
		return err
	}
	if p.max, err = p.sys.Check(kvm.CapMaxVCPUs); err != nil {
		return err
	}
	if p.cpuid, err = p.sys.CPUID(); err != nil {
		return err
	}
	p.xcr0, p.fpuSize = xstate(p.cpuid)
	if p.vm, err = p.sys.NewVM(); err != nil {
		return err
	}
	if err = p.vm.SetTSSAddr(0xfffb_d000); err != nil {
		return err
	}
	if p.mem, err = newGuestMemory(p.vm, slots); err != nil {
		return err
	}
	if err = p.newTables(); err != nil {
		return err
	}
	p.lanes.open()
	return p.probe()
}

// Name implements platform.Platform.Name.
func (*Platform) Name() string { return "kvm" }

// Private implements platform.Platform.Private: huge pages make a first touch
// cheaper than native small ones (kvm-hosts.md).
func (*Platform) Private() bool { return true }

// AddMemory implements platform.Platform.AddMemory.
func (p *Platform) AddMemory(region []byte) error { return p.mem.add(region) }

// NewAddressSpace implements platform.Platform.NewAddressSpace.
func (p *Platform) NewAddressSpace() (platform.AddressSpace, error) { return newAddressSpace(p), nil }

// NewThread implements platform.Platform.NewThread.
func (p *Platform) NewThread() (platform.Thread, error) {
	v, err := p.take()
	if err != nil {
		return nil, err
	}
	return &thread{p: p, v: v}, nil
}

// take gets a vCPU from the pool or makes one.
func (p *Platform) take() (*vcpu, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		v := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return v, nil
	}
	if len(p.all) >= p.max {
		return nil, platform.ErrMemory
	}
	v, err := p.newVCPU(len(p.all))
	if err != nil {
		return nil, err
	}
	p.all = append(p.all, v)
	return v, nil
}

// put gives a vCPU back that is out of the guest.
func (p *Platform) put(v *vcpu) {
	*v.frame = frame{}
	v.slot.wipe()
	v.at = nowhere
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, v)
}

// Close implements platform.Platform.Close. Runners end first, for they hold
// vCPUs; memory goes last, for the machine sees it until it is closed.
func (p *Platform) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lanes.close()
	var errs []error
	for _, v := range p.all {
		errs = append(errs, v.VCPU.Close())
	}
	p.all, p.idle = nil, nil
	if p.vm != nil {
		errs = append(errs, p.vm.Close())
		p.vm = nil
	}
	if p.mem != nil {
		errs = append(errs, p.mem.close())
		p.mem = nil
	}
	if p.sys != nil {
		errs = append(errs, p.sys.Close())
		p.sys = nil
	}
	return errors.Join(errs...)
}
