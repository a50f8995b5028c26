package kvm

// The structures of arch/x86/include/uapi/asm/kvm.h that a vCPU's state is made
// of, field for field. TestLayout compares them with the header.

// Regs is struct kvm_regs.
type Regs struct {
	RAX, RBX, RCX, RDX uint64
	RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11   uint64
	R12, R13, R14, R15 uint64
	RIP, RFLAGS        uint64
}

// Segment is struct kvm_segment.
type Segment struct {
	Base                                uint64
	Limit                               uint32
	Selector                            uint16
	Type                                uint8
	Present, DPL, DB, S, L, G, AVL, Bad uint8 // Bad: unusable
	_                                   uint8
}

// Table is struct kvm_dtable: where the GDT or the IDT is.
type Table struct {
	Base  uint64
	Limit uint16
	_     [3]uint16
}

// Sregs is struct kvm_sregs.
type Sregs struct {
	CS, DS, ES, FS, GS, SS, TR, LDT Segment
	GDT, IDT                        Table
	CR0, CR2, CR3, CR4, CR8         uint64
	EFER, APICBase                  uint64
	Interrupts                      [4]uint64
}

// Events is struct kvm_vcpu_events.
type Events struct {
	Exception struct {
		Injected, Nr, HasErrorCode, Pending uint8
		ErrorCode                           uint32
	}
	Interrupt struct{ Injected, Nr, Soft, Shadow uint8 }
	NMI       struct{ Injected, Pending, Masked, _ uint8 }
	SIPI      uint32
	Flags     uint32
	SMI       struct{ SMM, Pending, InsideNMI, LatchedInit uint8 }
	Triple    uint8
	_         [26]uint8
	HasExtra  uint8 // exception_has_payload
	Extra     uint64
}

// XSave is struct kvm_xsave: the XSAVE area in the standard format, as far as
// features go that need no arch_prctl.
type XSave [4096]byte

// XCR is an extended control register.
type XCR struct {
	Index uint32
	_     uint32
	Value uint64
}

// XCRs is struct kvm_xcrs.
type XCRs struct {
	N, Flags uint32
	XCR      [16]XCR
	_        [16]uint64
}

// MSR is struct kvm_msr_entry.
type MSR struct {
	Index uint32
	_     uint32
	Data  uint64
}

// CPUIDEntry is struct kvm_cpuid_entry2.
type CPUIDEntry struct {
	Function, Index, Flags uint32
	EAX, EBX, ECX, EDX     uint32
	_                      [3]uint32
}

// CPUIDSubleaf in CPUIDEntry.Flags says that Index counts.
const CPUIDSubleaf = 1

// DebugRegs is struct kvm_debugregs.
type DebugRegs struct {
	DB       [4]uint64
	DR6, DR7 uint64
	Flags    uint64
	_        [9]uint64
}

// LAPIC is struct kvm_lapic_state: the registers as they lie in memory.
type LAPIC [1024]byte

// MPState is what a vCPU waits for.
type MPState uint32

const (
	Runnable MPState = iota
	Uninitialized
	InitReceived
	Halted
	SIPIReceived
)

// GuestDebug is struct kvm_guest_debug.
type GuestDebug struct {
	Control uint32
	_       uint32
	DR      [8]uint64
}

// Bits of GuestDebug.Control.
const (
	DebugEnable     = 1 << 0
	DebugSingleStep = 1 << 1
	DebugSoftware   = 1 << 16
	DebugHardware   = 1 << 17
)

// PITChannel is struct kvm_pit_channel_state.
type PITChannel struct {
	Count                                           uint32
	LatchedCount                                    uint16
	CountLatched, StatusLatched, Status, ReadState  uint8
	WriteState, WriteLatch, RWMode, Mode, BCD, Gate uint8
	LoadTime                                        int64
}

// PIT is struct kvm_pit_state2.
type PIT struct {
	Channels [3]PITChannel
	Flags    uint32
	_        [9]uint32
}

// Clock is struct kvm_clock_data.
type Clock struct {
	Clock    uint64 // ns
	Flags    uint32
	_        uint32
	Realtime uint64
	HostTSC  uint64
	_        [4]uint32
}

// IRQChip is struct kvm_irqchip: the state of one PIC or of the IOAPIC.
type IRQChip struct {
	ID    uint32 // 0 master PIC, 1 slave PIC, 2 IOAPIC
	_     uint32
	State [512]byte
}

// MSI is struct kvm_msi: an interrupt message.
type MSI struct {
	Address uint64
	Data    uint32
	Flags   uint32
	DevID   uint32
	_       [12]uint8
}

// Structures that do not leave the package.
type (
	userMemory struct {
		slot, flags          uint32
		gpa, size, userspace uint64
	}
	msrIndexes struct {
		N     uint32
		Index [1024]uint32
	}
	dirtyLog struct {
		Slot, _ uint32
		Bitmap  uint64
	}
	clearLog struct {
		Slot, Pages uint32
		First       uint64
		Bitmap      uint64
	}
	irqLevel struct{ GSI, Level uint32 }
	irqfdArg struct {
		FD, GSI, Flags, Resample uint32
		_                        [16]uint8
	}
	pitConfig struct {
		Flags uint32
		_     [15]uint32
	}
	ioeventfdArg struct {
		Match, Addr uint64
		Len         uint32
		FD          int32
		Flags       uint32
		_           [36]uint8
	}
	enableCapArg struct {
		Cap, Flags uint32
		Args       [4]uint64
		_          [64]uint8
	}
	deviceAttr struct {
		Flags, Group uint32
		Attr, Addr   uint64
	}
)
