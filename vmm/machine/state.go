package machine

import (
	"slices"

	"bulkhead/kvm"
)

// cpuState is all that a vCPU remembers.
type cpuState struct {
	CPUID     records[kvm.CPUIDEntry]
	MP        kvm.MPState
	Regs      record[kvm.Regs]
	Sregs     record[kvm.Sregs]
	XCRs      record[kvm.XCRs]
	XSave     []byte
	DebugRegs record[kvm.DebugRegs]
	LAPIC     []byte
	MSRs      records[kvm.MSR]
	Events    record[kvm.Events]
}

// msrTSC counts on while a machine is kept; msrDeadline is in its terms, and KVM
// takes it once the local APIC's timer is in that mode.
const (
	msrTSC      = 0x10
	msrDeadline = 0x6e0
)

// lists of what to read and write of a vCPU, in the order of restoring: CPUID
// says which of the rest there is, the APIC's base comes with sregs, its timer's
// mode before the deadline, and events last, for the others clear them.
func (s *cpuState) save(c *kvm.VCPU, msrs []uint32) error {
	var xsave kvm.XSave
	var lapic kvm.LAPIC
	steps := []func() error{
		// The kernel settles what MPState shows only when it is asked (api.rst,
		// KVM_GET_MP_STATE), and events depend on it.
		keep(&s.MP, c.MPState),
		func() (err error) { s.CPUID, err = c.CPUID(); return err },
		keep(&s.Regs.is, c.Regs), keep(&s.Sregs.is, c.Sregs), keep(&s.XCRs.is, c.XCRs),
		func() error { return c.XSave(&xsave) },
		keep(&s.DebugRegs.is, c.DebugRegs),
		func() error { return c.LAPIC(&lapic) },
		func() (err error) { s.MSRs, err = readMSRs(c, msrs); return err },
		keep(&s.Events.is, c.Events),
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	s.XSave, s.LAPIC = xsave[:], lapic[:]
	return nil
}

// keep is a step that reads into to.
func keep[T any](to *T, read func() (T, error)) func() error {
	return func() (err error) {
		*to, err = read()
		return err
	}
}

// restore gives c what save read; its TSC has advanced by ticks since.
func (s *cpuState) restore(c *kvm.VCPU, ticks uint64) error {
	var xsave kvm.XSave
	var lapic kvm.LAPIC
	copy(xsave[:], s.XSave)
	copy(lapic[:], s.LAPIC)
	msrs := slices.Clone(s.MSRs)
	for i := range msrs {
		if msrs[i].Index == msrTSC {
			msrs[i].Data += ticks
		}
	}
	steps := []func() error{
		func() error { return c.SetCPUID(s.CPUID) },
		func() error { return c.SetMPState(s.MP) },
		func() error { return c.SetRegs(&s.Regs.is) },
		func() error { return c.SetSregs(&s.Sregs.is) },
		func() error { return c.SetXCRs(&s.XCRs.is) },
		func() error { return c.SetXSave(&xsave) },
		func() error { return c.SetDebugRegs(&s.DebugRegs.is) },
		func() error { return c.SetLAPIC(&lapic) },
		func() error { return setMSRs(c, msrs) },
		func() error { return c.SetEvents(&s.Events.is) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// readMSRs reads those in list that this vCPU has, the deadline last.
func readMSRs(c *kvm.VCPU, list []uint32) ([]kvm.MSR, error) {
	var all []kvm.MSR
	for _, index := range list {
		if index != msrDeadline {
			all = append(all, kvm.MSR{Index: index})
		}
	}
	all = append(all, kvm.MSR{Index: msrDeadline})
	var got []kvm.MSR
	for len(all) > 0 {
		n, err := c.MSRs(all)
		if err != nil {
			return nil, err
		}
		got = append(got, all[:n]...)
		all = all[min(n+1, len(all)):]
	}
	return got, nil
}
