package kvm

import (
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// VCPU is one virtual CPU. All methods but Kick belong to one goroutine at a time.
type VCPU struct {
	id     int
	fd     int
	run    *runPage
	shared []byte // the mapping that run is the start of

	// tid is the thread inside Run, 0 outside. Run's store pairs with Kick's
	// load: Kick sets immediate_exit first and then looks at tid, Run stores tid
	// and then enters, so that one of the two sees the other.
	tid atomic.Int32
}

// ID is the number given to NewVCPU.
func (c *VCPU) ID() int { return c.id }

// Run enters the guest and says why it came back. It returns Interrupted after
// a Kick, for any signal, and never retries. It holds the goroutine to its
// thread only while it is inside: a vCPU may run on another thread next time,
// which kernels before 6.12 make slow (virt/kvm/kvm_main.c, kvm_vcpu_ioctl: synchronize_rcu).
func (c *VCPU) Run() (Exit, error) {
	runtime.LockOSThread()
	c.tid.Store(int32(unix.Gettid()))
	err := runOnce(c.fd)
	c.tid.Store(0)
	runtime.UnlockOSThread()
	switch err {
	case nil:
		return Exit(c.run.exitReason), nil
	case unix.EINTR:
		// A kick that arrives from here on finds its caller's condition looked at
		// after this, or leaves the flag for the next Run.
		c.run.leave(false)
		return ExitInterrupted, nil
	case unix.EAGAIN: // an application processor that waits for its SIPI
		return ExitAgain, nil
	case unix.EFAULT:
		if c.run.exitReason == uint32(ExitMemoryFault) {
			return ExitMemoryFault, nil
		}
	}
	return ExitUnknown, fmt.Errorf("kvm: run vcpu %d: %w", c.id, err)
}

// Kick makes a Run under way, or else the next one, return ExitInterrupted. Any
// goroutine may call it. The signal is one that Go's runtime handles and expects
// at any time, SIGURG; it only ends the sleep or the guest's time, the
// immediate_exit flag is what cannot be lost (api.rst, struct kvm_run).
func (c *VCPU) Kick() {
	c.run.leave(true)
	if tid := c.tid.Load(); tid != 0 {
		// ESRCH: the thread has left Run and ended since; nothing is lost.
		_ = unix.Tgkill(unix.Getpid(), int(tid), unix.SIGURG)
	}
}

// Regs reads the general registers.
func (c *VCPU) Regs() (Regs, error) { return fetch[Regs](c, "regs", getRegs) }

// SetRegs sets them.
func (c *VCPU) SetRegs(r *Regs) error { return c.set("regs", ioctl(c.fd, setRegs, r)) }

// Sregs reads segments, control registers and tables.
func (c *VCPU) Sregs() (Sregs, error) { return fetch[Sregs](c, "sregs", getSregs) }

// SetSregs sets them.
func (c *VCPU) SetSregs(s *Sregs) error { return c.set("sregs", ioctl(c.fd, setSregs, s)) }

// XSave reads the FPU and vector state into x.
func (c *VCPU) XSave(x *XSave) error { return c.get("xsave", ioctl(c.fd, getXSave, x)) }

// SetXSave sets it.
func (c *VCPU) SetXSave(x *XSave) error { return c.set("xsave", ioctl(c.fd, setXSave, x)) }

// XCRs reads the extended control registers.
func (c *VCPU) XCRs() (XCRs, error) { return fetch[XCRs](c, "xcrs", getXCRs) }

// SetXCRs sets them.
func (c *VCPU) SetXCRs(x *XCRs) error { return c.set("xcrs", ioctl(c.fd, setXCRs, x)) }

// SetXCR0 enables vector state. SetCPUID comes first and must offer it.
func (c *VCPU) SetXCR0(v uint64) error {
	return c.SetXCRs(&XCRs{N: 1, XCR: [16]XCR{{Index: 0, Value: v}}})
}

// Events reads pending exceptions, interrupts and the like.
func (c *VCPU) Events() (Events, error) { return fetch[Events](c, "events", getVCPUEvents) }

// SetEvents sets them.
func (c *VCPU) SetEvents(e *Events) error { return c.set("events", ioctl(c.fd, setVCPUEvents, e)) }

// MPState reads what the vCPU waits for.
func (c *VCPU) MPState() (MPState, error) { return fetch[MPState](c, "mp state", getMPState) }

// SetMPState sets it.
func (c *VCPU) SetMPState(s MPState) error { return c.set("mp state", ioctl(c.fd, setMPState, &s)) }

// DebugRegs reads the debug registers.
func (c *VCPU) DebugRegs() (DebugRegs, error) {
	return fetch[DebugRegs](c, "debug registers", getDebugRegs)
}

// SetDebugRegs sets them.
func (c *VCPU) SetDebugRegs(d *DebugRegs) error {
	return c.set("debug registers", ioctl(c.fd, setDebugRegs, d))
}

// SetGuestDebug makes breakpoints or single steps exit.
func (c *VCPU) SetGuestDebug(g *GuestDebug) error {
	return c.set("guest debug", ioctl(c.fd, setGuestDebug, g))
}

// LAPIC reads the local APIC's registers.
func (c *VCPU) LAPIC(l *LAPIC) error { return c.get("lapic", ioctl(c.fd, getLAPIC, l)) }

// SetLAPIC sets them.
func (c *VCPU) SetLAPIC(l *LAPIC) error { return c.set("lapic", ioctl(c.fd, setLAPIC, l)) }

// CPUID reads what SetCPUID set.
func (c *VCPU) CPUID() ([]CPUIDEntry, error) {
	list := make([]CPUIDEntry, 256)
	n, _, err := ioctlList(c.fd, getCPUID2, list)
	return list[:n], c.get("cpuid", err)
}

// SetCPUID says what the guest's CPUID shows; before the first Run.
func (c *VCPU) SetCPUID(list []CPUIDEntry) error {
	_, _, err := ioctlList(c.fd, setCPUID2, list)
	return c.set("cpuid", err)
}

// MSRs reads the registers named in list into it and returns how many it read: the
// kernel stops at the first that it does not know.
func (c *VCPU) MSRs(list []MSR) (int, error) {
	_, n, err := ioctlList(c.fd, getMSRs, list)
	return n, c.get("msrs", err)
}

// SetMSRs writes list and returns how many it wrote; a short count is not an
// error (kvm-hosts.md: skip the one at n, never assert).
func (c *VCPU) SetMSRs(list []MSR) (int, error) {
	_, n, err := ioctlList(c.fd, setMSRs, list)
	return n, c.set("msrs", err)
}

// Interrupt injects vector n, where no interrupt controller is in the kernel.
func (c *VCPU) Interrupt(n uint32) error { return c.set("interrupt", ioctl(c.fd, interrupt, &n)) }

// NMI injects a non-maskable interrupt.
func (c *VCPU) NMI() error {
	_, err := ioctlInt(c.fd, nmi, 0)
	return c.set("nmi", err)
}

// TSCKHz is the guest's TSC frequency.
func (c *VCPU) TSCKHz() (int, error) {
	n, err := ioctlInt(c.fd, getTSCKHz, 0)
	return n, c.get("tsc frequency", err)
}

// SetTSCKHz sets it.
func (c *VCPU) SetTSCKHz(khz int) error {
	_, err := ioctlInt(c.fd, setTSCKHz, uintptr(khz))
	return c.set("tsc frequency", err)
}

// Paused tells a guest with kvmclock that it stood still, so that its
// watchdogs do not bite.
func (c *VCPU) Paused() error {
	_, err := ioctlInt(c.fd, kvmclockCtrl, 0)
	return c.set("paused", err)
}

// TSCOffset is what is added to the host's TSC (KVM_VCPU_TSC_OFFSET).
func (c *VCPU) TSCOffset() (int64, error) {
	var v uint64
	err := ioctlAttr(c.fd, getDeviceAttr, 0, 0, &v)
	return int64(v), c.get("tsc offset", err)
}

// SetTSCOffset sets it; 0 shows the host's own TSC.
func (c *VCPU) SetTSCOffset(offset int64) error {
	v := uint64(offset)
	return c.set("tsc offset", ioctlAttr(c.fd, setDeviceAttr, 0, 0, &v))
}

// fetch reads a whole structure.
func fetch[T any](c *VCPU, what string, req uint32) (T, error) {
	var v T
	err := ioctl(c.fd, req, &v)
	return v, c.get(what, err)
}

func (c *VCPU) get(what string, err error) error {
	if err != nil {
		return fmt.Errorf("kvm: get %s of vcpu %d: %w", what, c.id, err)
	}
	return nil
}

func (c *VCPU) set(what string, err error) error {
	if err != nil {
		return fmt.Errorf("kvm: set %s of vcpu %d: %w", what, c.id, err)
	}
	return nil
}

// Close ends the vCPU. Nobody is in Run, and no Kick follows.
func (c *VCPU) Close() error {
	if c.shared == nil {
		return nil
	}
	err := unix.Munmap(c.shared)
	c.shared, c.run = nil, nil
	if e := unix.Close(c.fd); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("kvm: close vcpu %d: %w", c.id, err)
	}
	return nil
}
