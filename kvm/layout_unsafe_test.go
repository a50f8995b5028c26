package kvm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"
)

// layouts pairs what we pass with the requests that carry it and with the
// header's name and fields.
var layouts = []struct {
	ours uintptr
	reqs []uint32
	c    string // the structure in linux/kvm.h
}{
	{unsafe.Sizeof(userMemory{}), []uint32{setUserMemoryRegion}, "kvm_userspace_memory_region"},
	{unsafe.Sizeof(dirtyLog{}), []uint32{getDirtyLog}, "kvm_dirty_log"},
	{unsafe.Sizeof(clearLog{}), []uint32{clearDirtyLog}, "kvm_clear_dirty_log"},
	{unsafe.Sizeof(irqLevel{}), []uint32{irqLine}, "kvm_irq_level"},
	{unsafe.Sizeof(IRQChip{}), []uint32{getIRQChip, setIRQChip}, "kvm_irqchip"},
	{unsafe.Sizeof(irqfdArg{}), []uint32{irqfd}, "kvm_irqfd"},
	{unsafe.Sizeof(pitConfig{}), []uint32{createPIT2}, "kvm_pit_config"},
	{unsafe.Sizeof(ioeventfdArg{}), []uint32{ioeventfd}, "kvm_ioeventfd"},
	{unsafe.Sizeof(Clock{}), []uint32{getClock, setClock}, "kvm_clock_data"},
	{unsafe.Sizeof(PIT{}), []uint32{getPIT2, setPIT2}, "kvm_pit_state2"},
	{unsafe.Sizeof(enableCapArg{}), []uint32{enableCap}, "kvm_enable_cap"},
	{unsafe.Sizeof(MSI{}), []uint32{signalMSI}, "kvm_msi"},
	{unsafe.Sizeof(Regs{}), []uint32{getRegs, setRegs}, "kvm_regs"},
	{unsafe.Sizeof(Sregs{}), []uint32{getSregs, setSregs}, "kvm_sregs"},
	{unsafe.Sizeof(LAPIC{}), []uint32{getLAPIC, setLAPIC}, "kvm_lapic_state"},
	{unsafe.Sizeof(MPState(0)), []uint32{getMPState, setMPState}, "kvm_mp_state"},
	{unsafe.Sizeof(GuestDebug{}), []uint32{setGuestDebug}, "kvm_guest_debug"},
	{unsafe.Sizeof(Events{}), []uint32{getVCPUEvents, setVCPUEvents}, "kvm_vcpu_events"},
	{unsafe.Sizeof(DebugRegs{}), []uint32{getDebugRegs, setDebugRegs}, "kvm_debugregs"},
	{unsafe.Sizeof(XSave{}), []uint32{getXSave, setXSave}, "kvm_xsave"},
	{unsafe.Sizeof(XCRs{}), []uint32{getXCRs, setXCRs}, "kvm_xcrs"},
	{unsafe.Sizeof(deviceAttr{}), []uint32{setDeviceAttr, getDeviceAttr}, "kvm_device_attr"},
	{unsafe.Sizeof(MSR{}), nil, "kvm_msr_entry"},
	{unsafe.Sizeof(CPUIDEntry{}), nil, "kvm_cpuid_entry2"},
	{unsafe.Sizeof(Route{}), nil, "kvm_irq_routing_entry"},
	{unsafe.Sizeof(Segment{}), nil, "kvm_segment"},
	{unsafe.Sizeof(Table{}), nil, "kvm_dtable"},
	{unsafe.Sizeof(XCR{}), nil, "kvm_xcr"},
	{unsafe.Sizeof(PITChannel{}), nil, "kvm_pit_channel_state"},
	{unsafe.Sizeof(runPage{}), nil, "kvm_run"},
}

// offsets are fields that stand where the header has them.
var offsets = []struct {
	ours uintptr
	c    string // structure.field
}{
	{unsafe.Offsetof(runPage{}.exitReason), "kvm_run.exit_reason"},
	{unsafe.Offsetof(runPage{}.readyIRQ), "kvm_run.ready_for_interrupt_injection"},
	{unsafe.Offsetof(runPage{}.cr8), "kvm_run.cr8"},
	{unsafe.Offsetof(runPage{}.union), "kvm_run.io"},
	{unsafe.Offsetof(runPage{}.valid), "kvm_run.kvm_valid_regs"},
	{unsafe.Offsetof(runPage{}.dirty), "kvm_run.kvm_dirty_regs"},
	{unsafe.Offsetof(runPage{}.regs), "kvm_run.s.regs.regs"},
	{unsafe.Offsetof(runPage{}.sregs), "kvm_run.s.regs.sregs"},
	{unsafe.Offsetof(runPage{}.events), "kvm_run.s.regs.events"},
	{unsafe.Offsetof(exitIO{}.Offset) + 32, "kvm_run.io.data_offset"},
	{unsafe.Offsetof(exitIO{}.Port) + 32, "kvm_run.io.port"},
	{unsafe.Offsetof(exitMMIO{}.Write) + 32, "kvm_run.mmio.is_write"},
	{unsafe.Offsetof(exitInternal{}.Data) + 32, "kvm_run.internal.data"},
	{unsafe.Offsetof(exitSystemEvent{}.Data) + 32, "kvm_run.system_event.data"},
	{unsafe.Offsetof(exitDebug{}.DR6) + 32, "kvm_run.debug.arch.dr6"},
	{unsafe.Offsetof(exitMSR{}.Index) + 32, "kvm_run.msr.index"},
	{unsafe.Offsetof(exitMSR{}.Data) + 32, "kvm_run.msr.data"},
	{unsafe.Offsetof(Regs{}.RSP), "kvm_regs.rsp"},
	{unsafe.Offsetof(Regs{}.R15), "kvm_regs.r15"},
	{unsafe.Offsetof(Regs{}.RIP), "kvm_regs.rip"},
	{unsafe.Offsetof(Sregs{}.TR), "kvm_sregs.tr"},
	{unsafe.Offsetof(Sregs{}.CR3), "kvm_sregs.cr3"},
	{unsafe.Offsetof(Sregs{}.EFER), "kvm_sregs.efer"},
	{unsafe.Offsetof(Segment{}.Selector), "kvm_segment.selector"},
	{unsafe.Offsetof(Segment{}.Bad), "kvm_segment.unusable"},
	{unsafe.Offsetof(Events{}.SIPI), "kvm_vcpu_events.sipi_vector"},
	{unsafe.Offsetof(Events{}.Triple), "kvm_vcpu_events.triple_fault"},
	{unsafe.Offsetof(Events{}.Extra), "kvm_vcpu_events.exception_payload"},
	{unsafe.Offsetof(XCRs{}.XCR), "kvm_xcrs.xcrs"},
	{unsafe.Offsetof(PITChannel{}.LoadTime), "kvm_pit_channel_state.count_load_time"},
	{unsafe.Offsetof(MSI{}.DevID), "kvm_msi.devid"},
	{unsafe.Offsetof(Route{}.Body), "kvm_irq_routing_entry.u"},
	{unsafe.Offsetof(ioeventfdArg{}.FD), "kvm_ioeventfd.fd"},
	{unsafe.Offsetof(Clock{}.HostTSC), "kvm_clock_data.host_tsc"},
}

func TestLayout(t *testing.T) {
	for _, l := range layouts {
		for _, r := range l.reqs {
			if got := uintptr(r >> 16 & 0x3fff); got != l.ours {
				t.Errorf("%s: ours has %d bytes, request %#x carries %d", l.c, l.ours, r, got)
			}
		}
	}
}

// TestHeader asks the C compiler what linux/kvm.h says.
func TestHeader(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("no gcc to read linux/kvm.h with")
	}
	var src strings.Builder
	src.WriteString("#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\nint main(void){\n")
	var want []string
	for _, l := range layouts {
		fmt.Fprintf(&src, "printf(\"%s %%zu\\n\",sizeof(struct %s));\n", l.c, l.c)
		want = append(want, fmt.Sprintf("%s %d", l.c, l.ours))
	}
	for _, o := range offsets {
		s, f, _ := strings.Cut(o.c, ".")
		fmt.Fprintf(&src, "printf(\"%s %%zu\\n\",offsetof(struct %s,%s));\n", o.c, s, f)
		want = append(want, fmt.Sprintf("%s %d", o.c, o.ours))
	}
	for name, r := range requestNames {
		fmt.Fprintf(&src, "printf(\"%s %%#lx\\n\",(unsigned long)%s);\n", name, name)
		want = append(want, fmt.Sprintf("%s %#x", name, r))
	}
	src.WriteString("return 0;}\n")
	dir := t.TempDir()
	c, bin := filepath.Join(dir, "layout.c"), filepath.Join(dir, "layout")
	if err := os.WriteFile(c, []byte(src.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(gcc, "-o", bin, c).CombinedOutput(); err != nil {
		t.Skipf("linux/kvm.h does not compile here: %v\n%s", err, out)
	}
	out, err := exec.Command(bin).Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	for i, w := range want {
		if got[i] != w {
			t.Errorf("header: %s; ours: %s", got[i], w)
		}
	}
}

var requestNames = map[string]uint32{
	"KVM_GET_API_VERSION": getAPIVersion, "KVM_CREATE_VM": createVM, "KVM_GET_MSR_INDEX_LIST": getMSRIndexList,
	"KVM_CHECK_EXTENSION": checkExtension, "KVM_GET_VCPU_MMAP_SIZE": getVCPUMmapSize,
	"KVM_GET_SUPPORTED_CPUID": getSupportedCPUID, "KVM_GET_MSR_FEATURE_INDEX_LIST": getMSRFeatureIndexList,
	"KVM_CREATE_VCPU": createVCPU, "KVM_GET_DIRTY_LOG": getDirtyLog, "KVM_SET_USER_MEMORY_REGION": setUserMemoryRegion,
	"KVM_SET_TSS_ADDR": setTSSAddr, "KVM_SET_IDENTITY_MAP_ADDR": setIdentityMapAddr, "KVM_CREATE_IRQCHIP": createIRQChip,
	"KVM_IRQ_LINE": irqLine, "KVM_GET_IRQCHIP": getIRQChip, "KVM_SET_IRQCHIP": setIRQChip,
	"KVM_SET_GSI_ROUTING": setGSIRouting, "KVM_IRQFD": irqfd, "KVM_CREATE_PIT2": createPIT2, "KVM_IOEVENTFD": ioeventfd,
	"KVM_SET_CLOCK": setClock, "KVM_GET_CLOCK": getClock, "KVM_GET_PIT2": getPIT2, "KVM_SET_PIT2": setPIT2,
	"KVM_ENABLE_CAP": enableCap, "KVM_SIGNAL_MSI": signalMSI, "KVM_CLEAR_DIRTY_LOG": clearDirtyLog,
	"KVM_RUN": runVCPU, "KVM_GET_REGS": getRegs, "KVM_SET_REGS": setRegs, "KVM_GET_SREGS": getSregs,
	"KVM_SET_SREGS": setSregs, "KVM_INTERRUPT": interrupt, "KVM_GET_MSRS": getMSRs, "KVM_SET_MSRS": setMSRs,
	"KVM_GET_LAPIC": getLAPIC, "KVM_SET_LAPIC": setLAPIC, "KVM_SET_CPUID2": setCPUID2, "KVM_GET_CPUID2": getCPUID2,
	"KVM_GET_MP_STATE": getMPState, "KVM_SET_MP_STATE": setMPState, "KVM_NMI": nmi,
	"KVM_SET_GUEST_DEBUG": setGuestDebug, "KVM_GET_VCPU_EVENTS": getVCPUEvents, "KVM_SET_VCPU_EVENTS": setVCPUEvents,
	"KVM_GET_DEBUGREGS": getDebugRegs, "KVM_SET_DEBUGREGS": setDebugRegs, "KVM_SET_TSC_KHZ": setTSCKHz,
	"KVM_GET_TSC_KHZ": getTSCKHz, "KVM_GET_XSAVE": getXSave, "KVM_SET_XSAVE": setXSave, "KVM_GET_XCRS": getXCRs,
	"KVM_SET_XCRS": setXCRs, "KVM_KVMCLOCK_CTRL": kvmclockCtrl, "KVM_SET_DEVICE_ATTR": setDeviceAttr,
	"KVM_GET_DEVICE_ATTR": getDeviceAttr,
}
