package kvm

import (
	"fmt"
	"strings"
)

// Cap is a capability's number (KVM_CAP_…).
type Cap int

// The capabilities that somebody below asks for.
const (
	CapIRQChip            Cap = 0
	CapUserMemory         Cap = 3
	CapSetTSSAddr         Cap = 4
	CapExtCPUID           Cap = 7
	CapNrVCPUs            Cap = 9
	CapNrMemslots         Cap = 10
	CapMPState            Cap = 14
	CapSyncMMU            Cap = 16
	CapUserNMI            Cap = 22
	CapSetGuestDebug      Cap = 23
	CapIRQRouting         Cap = 25
	CapIRQFD              Cap = 32
	CapPIT2               Cap = 33
	CapPITState2          Cap = 35
	CapIOEventFD          Cap = 36
	CapSetIdentityMapAddr Cap = 37
	CapAdjustClock        Cap = 39
	CapInternalErrorData  Cap = 40
	CapVCPUEvents         Cap = 41
	CapDebugRegs          Cap = 50
	CapEnableCap          Cap = 54
	CapXSave              Cap = 55
	CapXCRs               Cap = 56
	CapTSCControl         Cap = 60
	CapGetTSCKHz          Cap = 61
	CapMaxVCPUs           Cap = 66
	CapTSCDeadlineTimer   Cap = 72
	CapSyncRegs           Cap = 74
	CapSignalMSI          Cap = 77
	CapReadonlyMem        Cap = 81
	CapIRQFDResample      Cap = 82
	CapEnableCapVM        Cap = 98
	CapIOEventFDNoLength  Cap = 100
	CapSplitIRQChip       Cap = 121
	CapIOEventFDAnyLength Cap = 122
	CapVCPUAttributes     Cap = 127
	CapMaxVCPUID          Cap = 128
	CapX2APICAPI          Cap = 129
	CapImmediateExit      Cap = 136
	CapX86DisableExits    Cap = 143
	CapGetMSRFeatures     Cap = 153
	CapManualDirtyLog     Cap = 168
	CapX86UserSpaceMSR    Cap = 188
	CapXSave2             Cap = 208
	CapDisableQuirks2     Cap = 213
	CapMemoryFaultInfo    Cap = 232
)

// User is who cannot work without a capability.
type User uint8

const (
	Sentry User = 1 << iota // sentry/platform/kvm
	VMM                     // vmm
	Firecracker
	CloudHypervisor
)

var userNames = []string{"sentry", "vmm", "firecracker", "cloud-hypervisor"}

// Has tells whether v is among u.
func (u User) Has(v User) bool { return u&v != 0 }

func (u User) String() string {
	var names []string
	for i, n := range userNames {
		if u.Has(1 << i) {
			names = append(names, n)
		}
	}
	return strings.Join(names, " ")
}

// Capability is a row of Capabilities.
type Capability struct {
	Cap   Cap
	Name  string
	For   User   // who needs it; 0: worth reporting only
	Why   string // what for
	Since string // first kernel with it on x86
}

const all = Sentry | VMM | Firecracker | CloudHypervisor
const machines = VMM | Firecracker | CloudHypervisor

// Capabilities is what hwtest prints, what New in vmm and sentry check, and what
// the tests expect of a kernel not older than Since. The needs of the neighbours
// are from their own lists: Firecracker src/vmm/src/vstate/kvm.rs
// (DEFAULT_CAPABILITIES), Cloud Hypervisor hypervisor/src/kvm/mod.rs
// (check_required_extensions).
var Capabilities = []Capability{
	{CapUserMemory, "USER_MEMORY", all, "guest memory is ours", "2.6.25"},
	{CapSyncMMU, "SYNC_MMU", Sentry | VMM, "a change of the host mapping reaches the guest", "2.6.27"},
	{CapSetTSSAddr, "SET_TSS_ADDR", all, "real mode on older Intel", "2.6.25"},
	{CapExtCPUID, "EXT_CPUID", all, "KVM_SET_CPUID2", "2.6.26"},
	{CapImmediateExit, "IMMEDIATE_EXIT", Sentry | VMM | CloudHypervisor, "a kick that cannot be lost", "4.13"},
	{CapSyncRegs, "SYNC_REGS", Sentry, "registers without ioctls", "4.17"},
	{CapXSave, "XSAVE", all, "FPU and vector state", "2.6.36"},
	{CapXCRs, "XCRS", all, "XCR0, which enables AVX", "2.6.36"},
	{CapInternalErrorData, "INTERNAL_ERROR_DATA", Sentry | VMM, "which instruction could not be emulated", "2.6.33"},
	{CapNrMemslots, "NR_MEMSLOTS", Sentry | VMM, "how many pieces memory may have", "2.6.27"},
	{CapNrVCPUs, "NR_VCPUS", 0, "recommended number of vCPUs", "2.6.27"},
	{CapMaxVCPUs, "MAX_VCPUS", Sentry, "one vCPU an application thread", "3.1"},
	{CapMaxVCPUID, "MAX_VCPU_ID", 0, "highest APIC id", "4.8"},
	{CapIRQChip, "IRQCHIP", machines, "interrupt controllers in the kernel", "2.6.25"},
	{CapSplitIRQChip, "SPLIT_IRQCHIP", CloudHypervisor, "IOAPIC in user space", "4.5"},
	{CapIRQFD, "IRQFD", machines, "a device interrupts without an ioctl", "2.6.32"},
	{CapIRQFDResample, "IRQFD_RESAMPLE", 0, "level-triggered interrupts by eventfd", "3.9"},
	{CapIRQRouting, "IRQ_ROUTING", VMM | CloudHypervisor, "GSI to pin or message", "2.6.30"},
	{CapSignalMSI, "SIGNAL_MSI", VMM | CloudHypervisor, "an interrupt message by ioctl", "3.5"},
	{CapIOEventFD, "IOEVENTFD", machines, "a queue's doorbell without an exit", "2.6.32"},
	{CapIOEventFDNoLength, "IOEVENTFD_NO_LENGTH", 0, "a doorbell of any width", "3.14"},
	{CapIOEventFDAnyLength, "IOEVENTFD_ANY_LENGTH", 0, "the same for MMIO", "4.4"},
	{CapPIT2, "PIT2", VMM | Firecracker, "the timer that kernels calibrate by", "2.6.32"},
	{CapPITState2, "PIT_STATE2", VMM | Firecracker, "snapshot of the timer", "2.6.33"},
	{CapMPState, "MP_STATE", machines, "halted or running, kept in a snapshot", "2.6.27"},
	{CapVCPUEvents, "VCPU_EVENTS", machines, "pending exceptions and NMIs", "2.6.33"},
	{CapDebugRegs, "DEBUGREGS", machines, "debug registers in a snapshot", "2.6.35"},
	{CapAdjustClock, "ADJUST_CLOCK", machines, "the guest's clock after a restore", "2.6.33"},
	{CapSetIdentityMapAddr, "SET_IDENTITY_MAP_ADDR", CloudHypervisor, "real mode on older Intel", "2.6.33"},
	{CapGetTSCKHz, "GET_TSC_KHZ", VMM | CloudHypervisor, "frequency for CPUID and clocks", "2.6.39"},
	{CapTSCControl, "TSC_CONTROL", 0, "a scaled TSC after migration", "2.6.39"},
	{CapTSCDeadlineTimer, "TSC_DEADLINE_TIMER", CloudHypervisor, "local APIC timer", "3.2"},
	{CapUserNMI, "USER_NMI", CloudHypervisor, "inject an NMI", "2.6.28"},
	{CapVCPUAttributes, "VCPU_ATTRIBUTES", 0, "TSC offset of a vCPU", "5.16"},
	{CapX2APICAPI, "X2APIC_API", 0, "more than 255 vCPUs", "4.7"},
	{CapReadonlyMem, "READONLY_MEM", 0, "ROM and flash", "3.7"},
	{CapManualDirtyLog, "MANUAL_DIRTY_LOG_PROTECT2", 0, "dirty log cleared by ranges", "5.2"},
	{CapXSave2, "XSAVE2", 0, "AMX state", "5.17"},
	{CapGetMSRFeatures, "GET_MSR_FEATURES", 0, "feature MSRs", "4.17"},
	{CapX86UserSpaceMSR, "X86_USER_SPACE_MSR", 0, "unknown MSRs exit", "5.10"},
	{CapX86DisableExits, "X86_DISABLE_EXITS", 0, "guest may halt and pause the CPU itself", "4.17"},
	{CapSetGuestDebug, "SET_GUEST_DEBUG", 0, "single step from outside", "2.6.30"},
	{CapEnableCap, "ENABLE_CAP", 0, "switch abilities on for a vCPU", "3.0"},
	{CapEnableCapVM, "ENABLE_CAP_VM", 0, "switch abilities on for a VM", "3.14"},
	{CapDisableQuirks2, "DISABLE_QUIRKS2", 0, "leave out bugs kept for old users", "5.18"},
	{CapMemoryFaultInfo, "MEMORY_FAULT_INFO", 0, "where a host fault was", "6.8"},
}

func (c Cap) String() string {
	for _, row := range Capabilities {
		if row.Cap == c {
			return "KVM_CAP_" + row.Name
		}
	}
	return fmt.Sprintf("KVM_CAP_%d", int(c))
}

// Missing lists what u needs and s lacks.
func (s *System) Missing(u User) ([]Capability, error) {
	var missing []Capability
	for _, row := range Capabilities {
		if !row.For.Has(u) {
			continue
		}
		n, err := s.Check(row.Cap)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			missing = append(missing, row)
		}
	}
	return missing, nil
}
