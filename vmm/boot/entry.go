package boot

import "bulkhead/kvm"

// Entry is where and how the first vCPU begins.
type Entry struct {
	Protocol Protocol
	RIP      uint64
	Info     uint64 // address of hvm_start_info (PVH) or boot_params (Linux64)

	Kernel Span // from the first byte of the kernel to the end of its .bss
	Initrd Span // empty without one
}

// Span is a range of guest-physical addresses.
type Span struct{ Start, End uint64 }

// Registers are the general registers to enter with.
func (e Entry) Registers() kvm.Regs { return kvm.Regs{} }

// Sregs is s, a vCPU's state after reset, changed to what the protocol asks for.
func (e Entry) Sregs(s kvm.Sregs) kvm.Sregs { return s }
