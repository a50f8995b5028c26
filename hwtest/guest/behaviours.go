package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"bulkhead/hwtest/cpuid"
	"bulkhead/kvm"
)

// behaviours is what a host may advertise and not do, or do its own way.
var behaviours = []step{
	{"ioeventfd, port", "a device's doorbell without an exit", doorbellPort},
	{"ioeventfd, MMIO with a value", "a virtio queue's doorbell", doorbellMMIO},
	{"irqfd", "a device interrupts its guest: vmm, Firecracker, Cloud Hypervisor", irqfd},
	{"irqfd ends hlt", "a guest that sleeps is woken by a device", irqfdHalt},
	{"timer of the local APIC", "a guest's clock ticks", apicTimer},
	{"dirty log", "snapshots that copy only what changed, live migration", dirtyLog},
	{"read-only memory", "ROM: a store becomes an exit", readOnly},
	{"state out and in", "snapshot and restore of a vm", state},
	{"syscall", "how the sentry is entered", syscallRing},
	{"IOPL 3", "ring 3 reaches ports by its flags alone", iopl},
	{"wrfsbase in ring 3", "thread-local storage of Go and musl programs", wrfsbase3},
	{"AVX state of ring 3", "survives exits", avxState},
	{"page taken from a running CPU", "munmap and mprotect reach a guest by the MMU notifier", takeAway},
	{"CPUID as it was set", "a machine shows its guest what it likes, in ring 0 and ring 3", cpuidSet},
	{"CPUID leaf 0x40000000", "a guest finds kvmclock", cpuidKVM},
	{"kvmclock", "a guest's clock without exits", kvmclock},
	{"MSRs of a guest", "snapshot and restore of a vm", msrs},
	{"unknown MSR", "#GP to the guest, not silence", unknownMSR},
	{"MSR exit", "an unknown MSR reaches user space", exitMSR},
	{"TSC frequency", "clocks of guests", tscFrequency},
	{"TSC offset", "a clock that goes on after a restore", tscOffset},
	{"kick", "a running guest comes back when asked", kick},
}

// Behaviours tries each.
func Behaviours(sys *kvm.System, progress func(string)) []Trial {
	return attempt(sys, behaviours, progress)
}

func doorbellPort(sys *kvm.System) (string, error) {
	// out 0x43,al; out DonePort,al
	return "", doorbell(sys, kvm.Doorbell{Addr: 0x43, Len: 1, Port: true}, 0xe6, 0x43, 0xe6, DonePort)
}

func doorbellMMIO(sys *kvm.System) (string, error) {
	// mov dword [HoleAt],5; out DonePort,al
	return "", doorbell(sys, kvm.Doorbell{Addr: HoleAt, Len: 4, Match: true, Data: 5},
		0xc7, 0x04, 0x25, 0, 0, 0, 0x40, 5, 0, 0, 0, 0xe6, DonePort)
}

func doorbell(sys *kvm.System, d kvm.Doorbell, code ...byte) error {
	m, err := New(sys, Options{})
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Long(m.CPU, 0, code...); err != nil {
		return err
	}
	m.MapHole()
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("guest: eventfd: %w", err)
	}
	defer unix.Close(fd)
	if err := m.BindDoorbell(fd, d); err != nil {
		return err
	}
	if err := done(m.CPU); err != nil {
		return err
	}
	var count [8]byte
	if _, err := unix.Read(fd, count[:]); err != nil {
		return errSaw("the guest's store made no event")
	}
	return nil
}

// InterruptPort is what the handler of the guest's one interrupt writes to.
const (
	interruptVector = Vectors - 1
	InterruptPort   = FaultPort + interruptVector
)

// HaltLoop sleeps with interrupts on for ever: sti; hlt; jmp to it.
var HaltLoop = []byte{0xfb, 0xf4, 0xeb, 0xfd}

// message is the interrupt for CPU 0.
var message = kvm.MSI{Address: 0xfee0_0000, Data: interruptVector}

// Interruptible puts the CPU of a machine with chips into ring 0 at code, and gives
// an eventfd that interrupts it. The handler writes to InterruptPort and returns.
func (m *Machine) Interruptible(code ...byte) (irq int, err error) {
	if err := m.Long(m.CPU, 0, code...); err != nil {
		return -1, err
	}
	// out InterruptPort,al; then the end of interrupt: mov ecx,0x80b; wrmsr of 0; iretq
	m.Gate(interruptVector, 0xe6, InterruptPort, 0xb9, 0x0b, 0x08, 0, 0, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30, 0x48, 0xcf)
	if err := m.x2APIC(m.CPU); err != nil {
		return -1, err
	}
	if irq, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return -1, fmt.Errorf("guest: eventfd: %w", err)
	}
	const gsi = 24
	if err := errors.Join(m.SetRoutes([]kvm.Route{kvm.MSIRoute(gsi, message)}), m.BindIRQ(irq, gsi)); err != nil {
		unix.Close(irq)
		return -1, err
	}
	return irq, nil
}

func irqfd(sys *kvm.System) (string, error) {
	return "", fireIRQ(sys, 0xfb, 0xeb, 0xfe) // sti; jmp .
}

func irqfdHalt(sys *kvm.System) (string, error) { return "", fireIRQ(sys, HaltLoop...) }

// fireIRQ interrupts a guest that has said, by a port, that it begins with code.
func fireIRQ(sys *kvm.System, code ...byte) error {
	m, err := New(sys, Options{Chips: true})
	if err != nil {
		return err
	}
	defer m.Close()
	irq, err := m.Interruptible(append([]byte{0xe6, 0x43}, code...)...) // out 0x43,al
	if err != nil {
		return err
	}
	defer unix.Close(irq)
	if err := port(m.CPU, 0x43); err != nil {
		return fmt.Errorf("before the interrupt: %w", err)
	}
	raised := make(chan error, 1)
	go func() {
		_, err := unix.Write(irq, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		raised <- err
	}()
	err = port(m.CPU, InterruptPort)
	return errors.Join(err, <-raised)
}

func apicTimer(sys *kvm.System) (string, error) {
	code := []byte{0x31, 0xd2} // xor edx,edx
	for _, r := range []struct {
		register byte // of the x2APIC, less 0x800
		value    byte
	}{{0x3e, 0xb}, {0x32, interruptVector}, {0x38, 0xff}} { // divide by 1; one shot; start
		code = append(code, 0xb9, r.register, 0x08, 0, 0, 0xb8, r.value, 0, 0, 0, 0x0f, 0x30) // mov ecx; mov eax; wrmsr
	}
	m, err := New(sys, Options{Chips: true})
	if err != nil {
		return "", err
	}
	defer m.Close()
	irq, err := m.Interruptible(append(code, HaltLoop...)...)
	if err != nil {
		return "", err
	}
	defer unix.Close(irq)
	return "", port(m.CPU, InterruptPort)
}

func dirtyLog(sys *kvm.System) (string, error) {
	m, err := New(sys, Options{})
	if err != nil {
		return "", err
	}
	defer m.Close()
	// mov byte [0x20000],1; out DonePort,al
	if err := m.Long(m.CPU, 3, 0xc6, 0x04, 0x25, 0, 0, 2, 0, 1, 0xe6, DonePort); err != nil {
		return "", err
	}
	if err := m.SetMemory(0, 0, m.Mem, kvm.LogDirty); err != nil {
		return "", err
	}
	if err := done(m.CPU); err != nil {
		return "", err
	}
	bitmap := make([]uint64, len(m.Mem)/kvm.PageSize/64)
	const page = Scratch / kvm.PageSize
	for _, want := range []bool{true, false} { // the second look finds what the first cleared
		if err := m.DirtyLog(0, bitmap); err != nil {
			return "", err
		}
		if got := bitmap[page/64]>>(page%64)&1 == 1; got != want {
			return "", errSaw(fmt.Sprintf("a page written to is in the log: %v, want %v", got, want))
		}
	}
	return "", nil
}

func readOnly(sys *kvm.System) (string, error) {
	if n, err := sys.Check(kvm.CapReadonlyMem); err != nil || n == 0 {
		return "", errors.Join(err, errAbsent("KVM_CAP_READONLY_MEM is 0"))
	}
	m, err := New(sys, Options{})
	if err != nil {
		return "", err
	}
	defer m.Close()
	// mov byte [0x1ff000],1
	if err := m.Long(m.CPU, 3, 0xc6, 0x04, 0x25, 0, 0xf0, 0x1f, 0, 1); err != nil {
		return "", err
	}
	last := len(m.Mem) - kvm.PageSize
	if err := errors.Join(m.DropMemory(0), m.SetMemory(0, 0, m.Mem[:last], 0), m.SetMemory(1, kvm.GPA(last), m.Mem[last:], kvm.ReadOnly)); err != nil {
		return "", err
	}
	exit, err := until(m.CPU)
	if err == nil && (exit != kvm.ExitMMIO || !m.CPU.MMIO().Write || m.Mem[last] != 0) {
		err = errSaw(describe(m.CPU, exit))
	}
	return "", err
}

// state reads each piece that a snapshot has and writes it back.
func state(sys *kvm.System) (string, error) {
	m, err := New(sys, Options{Chips: true})
	if err != nil {
		return "", err
	}
	defer m.Close()
	if err := m.Long(m.CPU, 3, sum...); err != nil {
		return "", err
	}
	c := m.CPU
	var lapic kvm.LAPIC
	var xsave kvm.XSave
	parts := []struct {
		name string
		do   func() error
	}{
		{"events", func() error { v, err := c.Events(); return errors.Join(err, c.SetEvents(&v)) }},
		{"xcrs", func() error { v, err := c.XCRs(); return errors.Join(err, c.SetXCRs(&v)) }},
		{"xsave", func() error { return errors.Join(c.XSave(&xsave), c.SetXSave(&xsave)) }},
		{"debug registers", func() error { v, err := c.DebugRegs(); return errors.Join(err, c.SetDebugRegs(&v)) }},
		{"local APIC", func() error { return errors.Join(c.LAPIC(&lapic), c.SetLAPIC(&lapic)) }},
		{"mp state", func() error { v, err := c.MPState(); return errors.Join(err, c.SetMPState(v)) }},
		{"IOAPIC", func() error { v, err := m.IRQChip(2); return errors.Join(err, m.SetIRQChip(v)) }},
		{"clock", func() error { v, err := m.Clock(); return errors.Join(err, m.SetClock(kvm.Clock{Clock: v.Clock})) }},
	}
	for _, p := range parts {
		if err := p.do(); err != nil {
			return "", errSaw(fmt.Sprintf("%s: %v", p.name, err))
		}
	}
	return "", done(c)
}

// syscallRing says in which ring SYSCALL lands; either serves the sentry.
func syscallRing(sys *kvm.System) (string, error) {
	m, err := New(sys, Options{})
	if err != nil {
		return "", err
	}
	defer m.Close()
	if err := m.Long(m.CPU, 3, 0x0f, 0x05); err != nil {
		return "", err
	}
	copy(m.Mem[LSTAR:], sayDone)
	if err := done(m.CPU); err != nil {
		return "", err
	}
	s, err := m.CPU.Sregs()
	if err != nil {
		return "", err
	}
	if s.CS.Selector&3 == 3 {
		return "enters LSTAR in ring 3, against the manuals; the sentry's stub takes both", nil
	}
	return "enters LSTAR in ring 0", nil
}

func iopl(sys *kvm.System) (string, error) {
	// mov eax,1; mov dx,0x200, which is past the bitmap; out dx,al
	return "", long(sys, 3, 0x200, 0xb8, 1, 0, 0, 0, 0x66, 0xba, 0, 2, 0xee)
}

// ring3With makes a machine in ring 3 with bits of CR4 set that KVM may not show.
func ring3With(sys *kvm.System, f cpuid.Feature, cr4 uint64, code ...byte) (*Machine, error) {
	if !f.Here() {
		return nil, errAbsent("this processor has no " + f.Name)
	}
	m, err := New(sys, Options{})
	if err != nil {
		return nil, err
	}
	if err = m.Long(m.CPU, 3, code...); err == nil {
		var s kvm.Sregs
		if s, err = m.CPU.Sregs(); err == nil {
			s.CR4 |= cr4
			err = m.CPU.SetSregs(&s)
		}
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func wrfsbase3(sys *kvm.System) (string, error) {
	// mov eax,0x20000; wrfsbase rax; mov byte fs:[1],7; out DonePort,al
	m, err := ring3With(sys, cpuid.FSGSBase, cr4FSGSBase, 0xb8, 0, 0, 2, 0, 0xf3, 0x48, 0x0f, 0xae, 0xd0,
		0x64, 0xc6, 0x04, 0x25, 1, 0, 0, 0, 7, 0xe6, DonePort)
	if err != nil {
		return "", err
	}
	defer m.Close()
	if err := done(m.CPU); err != nil {
		return "", err
	}
	if m.Mem[Scratch+1] != 7 {
		return "", errSaw("fs had another base")
	}
	return "", nil
}

func avxState(sys *kvm.System) (string, error) {
	// vpcmpeqd ymm1,ymm1,ymm1; out 0x43,al; vmovdqu [rdi],ymm1; out DonePort,al
	m, err := ring3With(sys, cpuid.AVX, cr4OSXSave, 0xc5, 0xf5, 0x76, 0xc9, 0xe6, 0x43, 0xc5, 0xfe, 0x7f, 0x0f, 0xe6, DonePort)
	if err != nil {
		return "", err
	}
	defer m.Close()
	if err := m.CPU.SetXCR0(7); err != nil {
		return "", err
	}
	if err := port(m.CPU, 0x43); err != nil {
		return "", err
	}
	if err := done(m.CPU); err != nil {
		return "", err
	}
	if !bytes.Equal(m.Mem[Scratch:Scratch+32], bytes.Repeat([]byte{0xff}, 32)) {
		return "", errSaw(fmt.Sprintf("ymm1 is % x", m.Mem[Scratch:Scratch+32]))
	}
	return "", nil
}

// takeAway drops the host page that a running CPU reads: it must read zero then.
func takeAway(sys *kvm.System) (string, error) {
	m, err := New(sys, Options{})
	if err != nil {
		return "", err
	}
	defer m.Close()
	// out 0x43,al; again: cmp byte [rdi],0; jne again; out DonePort,al
	if err := m.Long(m.CPU, 3, 0xe6, 0x43, 0x80, 0x3f, 0, 0x75, 0xfb, 0xe6, DonePort); err != nil {
		return "", err
	}
	m.Mem[Scratch] = 1
	if err := port(m.CPU, 0x43); err != nil {
		return "", err
	}
	dropped := make(chan error, 1)
	go func() {
		dropped <- unix.Madvise(m.Mem[Scratch:Scratch+kvm.PageSize], unix.MADV_DONTNEED)
	}()
	err = done(m.CPU)
	return "", errors.Join(err, <-dropped)
}

// kick ends an endless loop in ring 3 and one in ring 0.
func kick(sys *kvm.System) (string, error) {
	for _, ring := range []uint8{3, 0} {
		m, err := New(sys, Options{})
		if err != nil {
			return "", err
		}
		if err = m.Long(m.CPU, ring, 0xe6, 0x43, 0xeb, 0xfe); err == nil { // out 0x43,al; jmp .
			if err = port(m.CPU, 0x43); err == nil {
				err = kicked(m.CPU)
			}
		}
		if err := errors.Join(err, m.Close()); err != nil {
			return "", fmt.Errorf("ring %d: %w", ring, err)
		}
	}
	return "", nil
}

func kicked(c *kvm.VCPU) error {
	w := Within(c, patience)
	defer w.Stop()
	go w.Kick()
	if exit, err := w.Run(); !errors.Is(err, ErrLate) {
		return errors.Join(err, errSaw(describe(c, exit)))
	}
	return nil
}

// vendorLeaf is what cpuidSet shows: twelve letters as a processor's maker.
const vendorLeaf = "BulkheadHere"

func cpuidSet(sys *kvm.System) (string, error) {
	list, err := sys.CPUID()
	if err != nil {
		return "", err
	}
	list = slices.Clone(list)
	for i := range list {
		if e := &list[i]; e.Function == 0 {
			le := binary.LittleEndian
			e.EBX, e.EDX, e.ECX = le.Uint32([]byte(vendorLeaf)), le.Uint32([]byte(vendorLeaf[4:])), le.Uint32([]byte(vendorLeaf[8:]))
		}
	}
	var seen [2]string
	for i, ring := range []uint8{0, 3} {
		if seen[i], err = showLeaf(sys, list, ring, 0); err != nil {
			return "", fmt.Errorf("ring %d: %w", ring, err)
		}
	}
	switch {
	case seen[0] != vendorLeaf:
		return "", errSaw(fmt.Sprintf("ring 0 sees %q as the vendor, not what was set", seen[0]))
	case seen[1] != vendorLeaf:
		return "", errSaw(fmt.Sprintf("ring 0 sees what was set, ring 3 sees the host's: %q", seen[1]))
	}
	return "", nil
}

func cpuidKVM(sys *kvm.System) (string, error) {
	list, err := sys.CPUID()
	if err != nil {
		return "", err
	}
	sign, err := showLeaf(sys, list, 0, 0x4000_0000)
	if err == nil && sign[:4]+sign[8:]+sign[4:8] != "KVMKVMKVM\x00\x00\x00" {
		err = errSaw(fmt.Sprintf("the guest sees %q", sign))
	}
	return "", err
}

// showLeaf is what a guest sees in EBX, EDX, ECX of a leaf.
func showLeaf(sys *kvm.System, list []kvm.CPUIDEntry, ring uint8, leaf uint32) (string, error) {
	m, err := New(sys, Options{CPUID: list})
	if err != nil {
		return "", err
	}
	defer m.Close()
	code := binary.LittleEndian.AppendUint32([]byte{0xb8}, leaf) // mov eax,leaf
	code = append(code, 0x31, 0xc9, 0x0f, 0xa2,                  // xor ecx,ecx; cpuid
		0x89, 0x1f, 0x89, 0x57, 0x04, 0x89, 0x4f, 0x08) // mov [rdi],ebx; mov [rdi+4],edx; mov [rdi+8],ecx
	if err := m.Long(m.CPU, ring, append(code, sayDone...)...); err != nil {
		return "", err
	}
	if err := done(m.CPU); err != nil {
		return "", err
	}
	return string(m.Mem[Scratch : Scratch+12]), nil
}

// kvmclock asks for the clock's page (Documentation/virt/kvm/x86/msr.rst,
// MSR_KVM_SYSTEM_TIME_NEW) and finds it filled on the next entry.
func kvmclock(sys *kvm.System) (string, error) {
	m, err := New(sys, Options{})
	if err != nil {
		return "", err
	}
	defer m.Close()
	// mov ecx,0x4b564d01; mov eax,Scratch|1; xor edx,edx; wrmsr; out 0x43,al; out DonePort,al
	if err := m.Long(m.CPU, 0, 0xb9, 0x01, 0x4d, 0x56, 0x4b, 0xb8, 1, 0, 2, 0, 0x31, 0xd2, 0x0f, 0x30, 0xe6, 0x43, 0xe6, DonePort); err != nil {
		return "", err
	}
	if err := port(m.CPU, 0x43); err != nil {
		return "", err
	}
	if err := done(m.CPU); err != nil {
		return "", err
	}
	if multiplier := binary.LittleEndian.Uint32(m.Mem[Scratch+24:]); multiplier == 0 {
		return "", errSaw("the clock's page stays empty")
	}
	if m.Mem[Scratch+29]&1 == 0 {
		return "filled, but not stable: the guest must not read it on two CPUs without care", nil
	}
	return "filled, and stable across CPUs", nil
}

func msrs(sys *kvm.System) (string, error) {
	m, err := New(sys, Options{Chips: true})
	if err != nil {
		return "", err
	}
	defer m.Close()
	if err := m.Long(m.CPU, 0, sum...); err != nil {
		return "", err
	}
	list, err := sys.MSRs()
	if err != nil {
		return "", err
	}
	var unread, unwritten []string
	for _, index := range list {
		one := []kvm.MSR{{Index: index}}
		if n, err := m.CPU.MSRs(one); err != nil || n != 1 {
			unread = append(unread, fmt.Sprintf("%#x", index))
		} else if n, err := m.CPU.SetMSRs(one); err != nil || n != 1 {
			unwritten = append(unwritten, fmt.Sprintf("%#x", index))
		}
	}
	saw := fmt.Sprintf("%d in the list", len(list))
	if len(unread) > 0 {
		saw += fmt.Sprintf(", not readable: %v", unread)
	}
	if len(unwritten) > 0 {
		saw += fmt.Sprintf(", what was read is refused: %v", unwritten)
	}
	if len(list) == 0 {
		return "", errSaw("the list is empty")
	}
	return saw, nil
}

// readNoMSR is mov ecx,0x12345678, which no processor has; rdmsr; out DonePort,al.
var readNoMSR = []byte{0xb9, 0x78, 0x56, 0x34, 0x12, 0x0f, 0x32, 0xe6, DonePort}

func unknownMSR(sys *kvm.System) (string, error) { return "", long(sys, 0, FaultPort+13, readNoMSR...) }

func exitMSR(sys *kvm.System) (string, error) {
	m, err := New(sys, Options{})
	if err != nil {
		return "", err
	}
	defer m.Close()
	if n, err := m.Check(kvm.CapX86UserSpaceMSR); err != nil || n == 0 {
		return "", errors.Join(err, errAbsent("KVM_CAP_X86_USER_SPACE_MSR is 0"))
	}
	const unknown = 1 << 1 // KVM_MSR_EXIT_REASON_UNKNOWN
	if err := m.Enable(kvm.CapX86UserSpaceMSR, unknown); err != nil {
		return "", err
	}
	if err := m.Long(m.CPU, 0, readNoMSR...); err != nil {
		return "", err
	}
	exit, err := until(m.CPU)
	if err != nil {
		return "", err
	}
	if exit != kvm.ExitReadMSR {
		return "", errSaw(describe(m.CPU, exit))
	}
	m.CPU.SetMSRExit(42, false)
	return "", done(m.CPU)
}

func tscFrequency(sys *kvm.System) (string, error) {
	m, err := New(sys, Options{})
	if err != nil {
		return "", err
	}
	defer m.Close()
	khz, err := m.CPU.TSCKHz()
	if err != nil {
		return "", err
	}
	if khz == 0 {
		return "", errSaw("0 kHz")
	}
	scaling := "cannot be scaled"
	if n, err := sys.Check(kvm.CapTSCControl); err == nil && n != 0 {
		scaling = "can be scaled"
	}
	return fmt.Sprintf("%d kHz, %s", khz, scaling), nil
}

// tscOffset sets the guest's TSC back by far more than the trial takes.
func tscOffset(sys *kvm.System) (string, error) {
	if n, err := sys.Check(kvm.CapVCPUAttributes); err != nil || n == 0 {
		return "", errors.Join(err, errAbsent("KVM_CAP_VCPU_ATTRIBUTES is 0"))
	}
	m, err := New(sys, Options{})
	if err != nil {
		return "", err
	}
	defer m.Close()
	read := func(ring uint8) (uint64, error) {
		// rdtsc; mov [rdi],eax; mov [rdi+4],edx
		if err := m.Long(m.CPU, ring, 0x0f, 0x31, 0x89, 0x07, 0x89, 0x57, 0x04, 0xe6, DonePort); err != nil {
			return 0, err
		}
		return m.Word(Scratch), done(m.CPU)
	}
	for _, ring := range []uint8{0, 3} {
		offset, err := m.CPU.TSCOffset()
		if err != nil {
			return "", err
		}
		if _, err := read(ring); err != nil {
			return "", err
		}
		before := m.Word(Scratch)
		const forward = 1 << 50
		if err := m.CPU.SetTSCOffset(offset + forward); err != nil {
			return "", err
		}
		if _, err := read(ring); err != nil {
			return "", err
		}
		if after := m.Word(Scratch); after-before < forward {
			return "", errSaw(fmt.Sprintf("ring %d does not see the offset", ring))
		}
	}
	return "", nil
}
