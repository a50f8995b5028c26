package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"bulkhead/kvm"
)

// step is something to try on a host.
type step struct {
	name string
	why  string
	do   func(*kvm.System) (saw string, err error)
}

func (s step) try(sys *kvm.System) Trial {
	return try(s.name, s.why, func() (string, error) { return s.do(sys) })
}

// modes is every way to run that somebody uses.
var modes = []step{
	{"16-bit real mode", "firmware, boot sectors, the first bytes of a second CPU", realMode},
	{"32-bit protected mode", "PVH entry of a kernel", protectedMode},
	{"32-bit paging", "old kernels", paged32},
	{"64-bit, ring 0", "a kernel", ring0Code},
	{"64-bit, ring 3", "programs: the sentry's guests", ring3Code},
	{"32-bit code in ring 3", "32-bit programs on a 64-bit kernel", compatCode},
	{"exceptions from ring 3", "faults of programs, through IDT and TSS", faults3},
	{"exceptions from ring 0", "faults of a kernel", faults0},
	{"two CPUs at once", "SMP", twoCPUs},
	{"second CPU by INIT and SIPI", "how a kernel starts its other CPUs", startup},
}

// Modes tries each.
func Modes(sys *kvm.System, progress func(string)) []Trial { return attempt(sys, modes, progress) }

func attempt(sys *kvm.System, steps []step, progress func(string)) []Trial {
	var trials []Trial
	for _, s := range steps {
		progress(s.name)
		t, over := giveUp(trials, s.name, s.why)
		if !over {
			t = s.try(sys)
		}
		trials = append(trials, t)
	}
	return trials
}

// sum adds, and reads and writes a port: 01 d8 is add eax,ebx or add ax,bx.
var sum = []byte{0x01, 0xd8, 0xe4, 0x43, 0xe6, DonePort}

func flat(sys *kvm.System, protected bool) error {
	m, err := New(sys, Options{})
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Flat(m.CPU, protected, sum...); err != nil {
		return err
	}
	return done(m.CPU)
}

func realMode(sys *kvm.System) (string, error)      { return "", flat(sys, false) }
func protectedMode(sys *kvm.System) (string, error) { return "", flat(sys, true) }

// paged32 has one directory of 4 MiB pages.
func paged32(sys *kvm.System) (string, error) {
	m, err := New(sys, Options{Size: 4 << 20})
	if err != nil {
		return "", err
	}
	defer m.Close()
	if err := m.Flat(m.CPU, true, sum...); err != nil {
		return "", err
	}
	binary.LittleEndian.PutUint32(m.Mem[pml4:], 0x83)
	s, err := m.CPU.Sregs()
	if err != nil {
		return "", err
	}
	s.CR3, s.CR4, s.CR0 = pml4, 1<<4, s.CR0|1<<31
	if err := m.CPU.SetSregs(&s); err != nil {
		return "", err
	}
	return "", done(m.CPU)
}

// long runs code in 64-bit mode to a port.
func long(sys *kvm.System, ring uint8, want uint16, code ...byte) error {
	m, err := New(sys, Options{})
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Long(m.CPU, ring, code...); err != nil {
		return err
	}
	return port(m.CPU, want)
}

func ring0Code(sys *kvm.System) (string, error) { return "", long(sys, 0, DonePort, sum...) }
func ring3Code(sys *kvm.System) (string, error) { return "", long(sys, 3, DonePort, sum...) }

// compatCode leaves 64-bit code for 32-bit code and comes back by an exception:
// inc ecx is a prefix in 64-bit code, so a wrong mode makes no count.
func compatCode(sys *kvm.System) (string, error) {
	m, err := New(sys, Options{})
	if err != nil {
		return "", err
	}
	defer m.Close()
	err = m.Long(m.CPU, 3,
		0x31, 0xc9, // xor ecx,ecx
		0x6a, userCode32, // push 32-bit cs
		0x48, 0x8d, 0x05, 3, 0, 0, 0, 0x50, // lea rax,[rip+3]; push rax
		0x48, 0xcb, // lretq
		0x41, 0x0f, 0x0b) // inc ecx; ud2 (in 64-bit code: a prefixed ud2)
	if err != nil {
		return "", err
	}
	if err := port(m.CPU, FaultPort+6); err != nil {
		return "", err
	}
	r, err := m.CPU.Regs()
	if err == nil && r.RCX != 1 {
		err = errSaw("the code ran in 64-bit mode")
	}
	return "", err
}

// fault is code and the vector it ends in.
type fault struct {
	vector uint16
	code   []byte
}

var faultTable = []fault{
	{6, []byte{0x0f, 0x0b}},                                         // ud2
	{0, []byte{0x31, 0xc9, 0xf7, 0xf1}},                             // xor ecx,ecx; div ecx
	{14, []byte{0x8a, 0x04, 0x25, 0, 0, 0x20, 0}},                   // mov al,[0x200000]
	{13, []byte{0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x8a, 0x00}}, // mov rax,1<<63; mov al,[rax]
}

func faultsIn(sys *kvm.System, ring uint8, table []fault) (string, error) {
	for _, f := range table {
		if err := long(sys, ring, FaultPort+f.vector, f.code...); err != nil {
			return "", fmt.Errorf("want %s: %w", exceptions[f.vector], err)
		}
	}
	return "", nil
}

func faults0(sys *kvm.System) (string, error) { return faultsIn(sys, 0, faultTable) }

func faults3(sys *kvm.System) (string, error) {
	return faultsIn(sys, 3, append(slices.Clone(faultTable),
		fault{3, []byte{0xcc}},              // int3
		fault{13, []byte{0x0f, 0x22, 0xd8}}, // mov cr3,rax
		fault{13, []byte{0xf4}}))            // hlt
}

// twoCPUs lets each wait for the other's store, in ring 3.
func twoCPUs(sys *kvm.System) (string, error) {
	m, err := New(sys, Options{})
	if err != nil {
		return "", err
	}
	defer m.Close()
	b, err := m.AddCPU(1)
	if err != nil {
		return "", err
	}
	// cmp dword [0x20000],1; jne .; mov dword [0x20000],2; out DonePort,al
	wait := []byte{0x83, 0x3c, 0x25, 0, 0, 2, 0, 1, 0x75, 0xf6, 0xc7, 0x04, 0x25, 0, 0, 2, 0, 2, 0, 0, 0, 0xe6, DonePort}
	// mov dword [0x20000],1; cmp dword [0x20000],2; jne .-8; out DonePort,al
	lead := []byte{0xc7, 0x04, 0x25, 0, 0, 2, 0, 1, 0, 0, 0, 0x83, 0x3c, 0x25, 0, 0, 2, 0, 2, 0x75, 0xf6, 0xe6, DonePort}
	if err := errors.Join(m.Long(m.CPU, 3, wait...), m.Long(b, 3)); err != nil {
		return "", err
	}
	copy(m.Mem[CodeAt+0x800:], lead)
	if err := b.SetRegs(&kvm.Regs{RIP: CodeAt + 0x800, RFLAGS: IOPL3 | Flags}); err != nil {
		return "", err
	}
	other := make(chan error, 1)
	go func() { other <- done(m.CPU) }()
	err = done(b)
	return "", errors.Join(err, <-other)
}

// startup sends INIT and SIPI from CPU 0's local APIC; CPU 1 begins in real mode.
func startup(sys *kvm.System) (string, error) {
	m, err := New(sys, Options{Chips: true})
	if err != nil {
		return "", err
	}
	defer m.Close()
	b, err := m.AddCPU(1)
	if err != nil {
		return "", err
	}
	code := []byte{0xb9, 0x30, 0x08, 0, 0, 0xba, 1, 0, 0, 0} // mov ecx,0x830 (ICR); mov edx,1 (to whom)
	for _, command := range []byte{0x45, 0x46} {             // INIT, SIPI, at page 0x0d
		code = append(code, 0xb8, 0x0d, command, 0, 0, 0x0f, 0x30) // mov eax,…; wrmsr
	}
	if err := m.Long(m.CPU, 0, append(code, sayDone...)...); err != nil {
		return "", err
	}
	copy(m.Mem[0xd000:], []byte{0xe6, DonePort})
	if err := m.x2APIC(m.CPU); err != nil {
		return "", err
	}
	other := make(chan error, 1)
	go func() { other <- waitForStart(b) }()
	err = done(m.CPU)
	if err != nil {
		err = fmt.Errorf("CPU 0: %w", err)
	}
	return "", errors.Join(err, <-other)
}

// waitForStart runs a CPU that KVM_RUN leaves with EAGAIN until it was started.
func waitForStart(c *kvm.VCPU) error {
	w := Within(c, patience)
	defer w.Stop()
	for {
		exit, err := w.Run()
		switch {
		case err != nil:
			return fmt.Errorf("CPU 1: %w", err)
		case exit == kvm.ExitAgain:
		case exit == kvm.ExitIO && c.IO().Port == DonePort:
			return nil
		default:
			return errSaw("CPU 1: " + describe(c, exit))
		}
	}
}

// x2APIC switches c's local APIC on, in the mode that needs no MMIO.
func (m *Machine) x2APIC(c *kvm.VCPU) error {
	s, err := c.Sregs()
	if err != nil {
		return err
	}
	s.APICBase |= 1<<10 | 1<<11
	if err := c.SetSregs(&s); err != nil {
		return err
	}
	n, err := c.SetMSRs([]kvm.MSR{{Index: 0x80f, Data: 0x1ff}})
	if err == nil && n != 1 {
		err = errSaw("the local APIC cannot be switched on by its MSR")
	}
	return err
}
