package boot

import "bulkhead/kvm"

// Bits of the control registers and of EFER (SDM vol. 3, "Control Registers").
const (
	cr0PE, cr0ET, cr0PG = 1 << 0, 1 << 4, 1 << 31
	cr4PAE              = 1 << 5
	eferLME, eferLMA    = 1 << 8, 1 << 10
)

// Types of segments (SDM vol. 3, "Code- and Data-Segment Descriptor Types").
const (
	dataWrite = 3  // read, write, accessed
	codeRead  = 11 // execute, read, accessed
	tssBusy   = 11
)

// Selectors of boot.rst, "64-bit Boot Protocol"; PVH asks for none.
const bootCS, bootDS = 0x10, 0x18

// gdt backs the selectors for Linux64: four descriptors, two of them null.
var gdt = [4]uint64{2: 0x00af9b000000ffff, 3: 0x00cf93000000ffff}

// Registers are the general registers to enter with.
func (e Entry) Registers() kvm.Regs {
	r := kvm.Regs{RIP: e.RIP, RFLAGS: 1 << 1} // bit 1 reads one always
	if e.Protocol == PVH {
		r.RBX = e.Info
	} else {
		r.RSI = e.Info
	}
	return r
}

// Sregs is s, what a new vCPU has, changed to what the protocol asks for.
func (e Entry) Sregs(s kvm.Sregs) kvm.Sregs {
	s.CS = flat(bootCS, codeRead)
	s.DS = flat(bootDS, dataWrite)
	s.ES, s.FS, s.GS, s.SS = s.DS, s.DS, s.DS, s.DS
	s.CR0, s.CR2, s.CR3, s.CR4, s.EFER = cr0PE|cr0ET, 0, 0, 0, 0
	if e.Protocol == PVH {
		s.TR = kvm.Segment{Limit: 0x67, Type: tssBusy, Present: 1}
		return s
	}
	s.CS.L, s.CS.DB = 1, 0
	s.GDT = kvm.Table{Base: gdtAt, Limit: 8*uint16(len(gdt)) - 1}
	s.CR0 |= cr0PG
	s.CR3 = tablesAt
	s.CR4 = cr4PAE
	s.EFER = eferLME | eferLMA
	return s
}

// flat is a 32-bit segment over all addresses.
func flat(selector uint16, kind uint8) kvm.Segment {
	return kvm.Segment{Limit: 1<<32 - 1, Selector: selector, Type: kind, Present: 1, DB: 1, S: 1, G: 1}
}
