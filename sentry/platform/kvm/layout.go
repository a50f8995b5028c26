package kvm

// The guest's kernel half: one 2 MiB table of pages at its very top, the same
// addresses in every vCPU's view, so that LSTAR, the IDT and the call sites'
// trampolines need not know which vCPU they run on. What is a vCPU's own (slot,
// stack) is another page behind the same address.
const (
	half      = uint64(0xffffffff_80000000)
	stubAt    = half           // code, shared
	slotAt    = half + 0x1000  // context slot, a vCPU's own
	gatesAt   = half + 0x2000  // handlers of exceptions, shared
	idtAt     = half + 0x3000  // shared
	tablesAt  = half + 0x4000  // GDT and TSS, shared
	stackAt   = half + 0x5000  // stack of the handlers, a vCPU's own
	stackTop  = stackAt + 4096 // RSP0
	tssOffset = 0x800          // in the page of tablesAt
)

// compatAt is where SYSCALL in 32-bit code lands on AMD (CSTAR), in ring 0. Nothing is
// there, nor at its lower half, which is all that KVM's emulator loads: no
// application can map what lies below platform.MinAddr.
const compatAt = uint64(0xffffffff_00000000)

// Ports that the guest may write to. Ring 3 reaches the doorbell alone (TSS
// bitmap); a handler's port says which exception it serves.
const (
	doorbell  = 0x10
	gatePorts = 0x20 // + vector
	vectors   = 32
)

// Selectors, as Linux has them (arch/x86/include/asm/segment.h).
const (
	kernelCS = 0x10
	kernelSS = 0x18
	userSS   = 0x2b
	userCS   = 0x33
	taskSel  = 0x40
)

// gdt is flat; what Linux has at 0x23 (32-bit code) is there for SYSRET's arithmetic.
var gdt = [10]uint64{
	0,
	0x00cf9b000000ffff, // 0x08 32-bit kernel code
	0x00af9b000000ffff, // 0x10 kernel code
	0x00cf93000000ffff, // 0x18 kernel data
	0x00cffb000000ffff, // 0x20 32-bit user code
	0x00cff3000000ffff, // 0x28 user data
	0x00affb000000ffff, // 0x30 user code
	0,
	// 0x40: the task segment, two entries, filled in by newTables.
}

// The task segment: RSP0, seven interrupt stacks, and a bitmap of ports that
// ends just behind the doorbell's bit (APM vol. 2 §12.2.5: a last byte of ones).
// Every gate uses the first interrupt stack, so that a fault in ring 0 cannot
// push its frame to where the application's RSP points.
const (
	tssRSP0   = 0x04
	tssIST1   = 0x24
	tssBitmap = 0x66
	tssSize   = 0x68
	tssLimit  = tssSize + doorbell/8 + 1
)

// Model-specific registers.
const (
	msrSTAR   = 0xc0000081
	msrLSTAR  = 0xc0000082
	msrCSTAR  = 0xc0000083
	msrSFMASK = 0xc0000084
)

// Flags.
const (
	flagsFixed = 0x2
	flagTF     = 1 << 8
	flagIF     = 1 << 9
	flagDF     = 1 << 10
	flagNT     = 1 << 14
	flagRF     = 1 << 16
	flagAC     = 1 << 18
	flagID     = 1 << 21
	// flagsUser is what an application may set (arch/x86/kernel/signal_64.c, FIX_EFLAGS, and ID).
	flagsUser = 0xcd5 | flagTF | flagNT | flagRF | flagAC | flagID
	// flagsMasked is cleared by SYSCALL (arch/x86/kernel/cpu/common.c, syscall_init).
	flagsMasked = 0x47fd5
)

// Control registers: protected, paged 64-bit mode with NX, SSE, XSAVE, FSGSBASE.
const (
	cr0  = 0x80050033
	cr4  = 1<<5 | 1<<7 | 1<<9 | 1<<10 | 1<<16 | 1<<18 // PAE PGE OSFXSR OSXMMEXCPT FSGSBASE OSXSAVE
	efer = 0xd01                                      // SCE LME LMA NXE
)
