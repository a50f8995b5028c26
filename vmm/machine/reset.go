package machine

import (
	"encoding/binary"

	"bulkhead/kvm"
	"bulkhead/vmm/boot"
)

// bootMSRs are what a firmware would have left.
var bootMSRs = []kvm.MSR{
	{Index: 0x1a0, Data: 1},         // MISC_ENABLE: fast strings
	{Index: 0x2ff, Data: 1<<11 | 6}, // MTRRdefType: all memory is write-back
	{Index: 0x10, Data: 0},          // TSC
}

// prepare gives a vCPU what a firmware leaves. The first is entered as the boot
// protocol says; the others wait, as after power-on, for the first to wake them.
func (m *Machine) prepare(c *kvm.VCPU, e boot.Entry) error {
	if err := setMSRs(c, bootMSRs); err != nil {
		return err
	}
	if err := wire(c); err != nil {
		return err
	}
	if c.ID() != 0 {
		return nil
	}
	s, err := c.Sregs()
	if err != nil {
		return err
	}
	s = e.Sregs(s)
	if err := c.SetSregs(&s); err != nil {
		return err
	}
	r := e.Registers()
	return c.SetRegs(&r)
}

// setMSRs writes what this host takes of list: a short count names the register
// that it does not know, or not for this guest.
func setMSRs(c *kvm.VCPU, list []kvm.MSR) error {
	for len(list) > 0 {
		n, err := c.SetMSRs(list)
		if err != nil {
			return err
		}
		list = list[min(n+1, len(list)):]
	}
	return nil
}

// Local APIC registers, and how the machine's two lines arrive (SDM, "Local
// Vector Table").
const (
	lint0, lint1 = 0x350, 0x360
	deliverNMI   = 4 << 8
	deliverExt   = 7 << 8 // from the PIC
)

func wire(c *kvm.VCPU) error {
	var l kvm.LAPIC
	if err := c.LAPIC(&l); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(l[lint0:], deliverExt)
	binary.LittleEndian.PutUint32(l[lint1:], deliverNMI)
	return c.SetLAPIC(&l)
}
