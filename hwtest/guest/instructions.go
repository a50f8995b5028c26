package guest

import (
	"fmt"
	"slices"

	"bulkhead/hwtest/cpuid"
	"bulkhead/kvm"
)

// instruction is a row: what is executed in ring 0 of a 64-bit guest, and how it
// must end. RDI points to zeroes aligned to 4096, RSI to operands for LGDT and LIDT.
type instruction struct {
	name  string
	needs cpuid.Feature
	ends  int // the vector of an exception, or one of those below
	why   string
	code  []byte // with what it needs set up before it
}

// Ends of an instruction that are no exception's vector.
const (
	goesOn = -1 // to what follows it
	halts  = -2
)

var always cpuid.Feature

// instructions is in the order of kinship. A Linux kernel executes each of them
// in ring 0 (its alternatives see to it where the processor has it).
var instructions = []instruction{
	{"mov cr0", always, goesOn, "paging, task switches", []byte{0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0}},
	{"mov cr3", always, goesOn, "switch of address space", []byte{0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8}},
	{"mov cr4", always, goesOn, "features, global TLB flush", []byte{0x0f, 0x20, 0xe0, 0x0f, 0x22, 0xe0}},
	{"mov dr7", always, goesOn, "breakpoints, exit to user mode", []byte{0x31, 0xc0, 0x0f, 0x23, 0xf8}},
	{"lgdt", always, goesOn, "boot of each CPU", []byte{0x0f, 0x01, 0x16}},
	{"lidt", always, goesOn, "boot of each CPU", []byte{0x0f, 0x01, 0x5e, 0x10}},
	{"ltr", always, goesOn, "boot of each CPU", []byte{0xb8, taskState, 0, 0, 0, 0x0f, 0x00, 0xd8}},
	{"invlpg", always, goesOn, "TLB", []byte{0x0f, 0x01, 0x3f}},
	{"invpcid", cpuid.INVPCID, goesOn, "TLB with PCIDs", []byte{0xb8, 2, 0, 0, 0, 0x66, 0x0f, 0x38, 0x82, 0x07}},
	{"wbinvd", always, goesOn, "MTRR set-up", []byte{0x0f, 0x09}},
	{"clts", always, goesOn, "FPU of older kernels", []byte{0x0f, 0x06}},

	{"swapgs", always, goesOn, "every entry from user mode", []byte{0x0f, 0x01, 0xf8}},
	{"iretq", always, goesOn, "return from an interrupt", []byte{
		0x48, 0x89, 0xe0, // mov rax,rsp
		0x6a, kernelData, 0x50, 0x9c, 0x6a, kernelCode, // push ss; push rax; pushfq; push cs
		0x48, 0x8d, 0x0d, 3, 0, 0, 0, 0x51, // lea rcx,[rip+3]; push rcx
		0x48, 0xcf}},
	{"sysretq", always, 6, "return from a system call", []byte{
		0x48, 0x8d, 0x0d, 9, 0, 0, 0, // lea rcx,[rip+9]: the ud2
		0x41, 0xbb, 0x02, 0, 0, 0, // mov r11d,2
		0x48, 0x0f, 0x07, 0x0f, 0x0b}},
	{"lretq", always, goesOn, "loading CS at boot", []byte{
		0x6a, kernelCode, 0x48, 0x8d, 0x0d, 3, 0, 0, 0, 0x51, 0x48, 0xcb}}, // push cs; lea rcx,[rip+3]; push rcx; lretq
	{"int3", always, 3, "self-modifying text: static keys, ftrace, alternatives", []byte{0xcc}},
	{"int n", always, 30, "soft interrupts", []byte{0xcd, 30}},
	{"ud2", always, 6, "BUG() and WARN()", []byte{0x0f, 0x0b}},
	{"div by zero", always, 0, "an exception in ring 0", []byte{0x31, 0xc9, 0xf7, 0xf1}},
	{"hlt", always, halts, "idle", []byte{0xf4}},
	{"cli, sti", always, goesOn, "everywhere", []byte{0xfa, 0xfb}},
	{"pushf, popf", always, goesOn, "irqsave", []byte{0x9c, 0x9d}},
	{"in, out", always, goesOn, "serial port, PCI, ACPI", []byte{0xe4, 0x43}},

	{"rdmsr", always, goesOn, "set-up of each CPU", []byte{0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32}},
	{"wrmsr", always, goesOn, "APIC timer, per-CPU base", []byte{0xb9, 0x02, 0x01, 0, 0xc0, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30}},
	{"cpuid", always, goesOn, "boot, serialization", []byte{0x31, 0xc0, 0x0f, 0xa2}},
	{"rdtsc", always, goesOn, "clock", []byte{0x0f, 0x31}},
	{"rdtscp", cpuid.RDTSCP, goesOn, "clock", []byte{0x0f, 0x01, 0xf9}},
	{"rdpid", cpuid.RDPID, goesOn, "per-CPU data on paranoid entries", []byte{0xf3, 0x0f, 0xc7, 0xf8}},
	{"wrfsbase", cpuid.FSGSBase, goesOn, "task switch", []byte{0x31, 0xc0, 0xf3, 0x48, 0x0f, 0xae, 0xd0}},
	{"rdfsbase", cpuid.FSGSBase, goesOn, "task switch", []byte{0xf3, 0x48, 0x0f, 0xae, 0xc0}},
	{"rdgsbase", cpuid.FSGSBase, goesOn, "paranoid entries", []byte{0xf3, 0x48, 0x0f, 0xae, 0xc8}},
	{"wrgsbase", cpuid.FSGSBase, goesOn, "task switch", []byte{0x31, 0xc0, 0xf3, 0x48, 0x0f, 0xae, 0xd8}},
	{"mov gs", always, goesOn, "task switch", []byte{0x31, 0xc0, 0x8e, 0xe8}},

	{"clac", cpuid.SMAP, goesOn, "every copy to and from user memory", []byte{0x0f, 0x01, 0xca}},
	{"stac", cpuid.SMAP, goesOn, "every copy to and from user memory", []byte{0x0f, 0x01, 0xcb}},
	{"verw", always, goesOn, "MDS mitigation on return to user mode", []byte{0xb8, kernelData, 0, 0, 0, 0x0f, 0x00, 0xe8}},
	{"indirect call", always, goesOn, "retpolines and what they replace", []byte{
		0x48, 0x8d, 0x05, 4, 0, 0, 0, // lea rax,[rip+4]: the ret
		0xff, 0xd0, // call rax
		0xeb, 0x01, // jmp over it
		0xc3}},
	{"endbr64", always, goesOn, "indirect branch tracking", []byte{0xf3, 0x0f, 0x1e, 0xfa}},
	{"lfence", always, goesOn, "speculation barrier", []byte{0x0f, 0xae, 0xe8}},
	{"mfence", always, goesOn, "memory barrier", []byte{0x0f, 0xae, 0xf0}},
	{"pause", always, goesOn, "spin locks", []byte{0xf3, 0x90}},
	{"lock xadd", always, goesOn, "atomics", []byte{0xf0, 0x0f, 0xc1, 0x07}},
	{"lock cmpxchg16b", cpuid.CX16, goesOn, "slab allocator", []byte{0xf0, 0x48, 0x0f, 0xc7, 0x0f}},
	{"clflush", always, goesOn, "page attributes", []byte{0x0f, 0xae, 0x3f}},
	{"clflushopt", cpuid.CLFLUSHOPT, goesOn, "page attributes", []byte{0x66, 0x0f, 0xae, 0x3f}},
	{"rep stosq", always, goesOn, "clearing memory", []byte{0xb9, 16, 0, 0, 0, 0xf3, 0x48, 0xab}},
	{"movnti", always, goesOn, "clearing pages", []byte{0x0f, 0xc3, 0x07}},

	{"popcnt", cpuid.POPCNT, goesOn, "bitmaps, CPU masks", []byte{0xf3, 0x0f, 0xb8, 0xc1}},
	{"tzcnt", cpuid.BMI1, goesOn, "bit search", []byte{0xf3, 0x0f, 0xbc, 0xc1}},
	{"crc32", cpuid.SSE42, goesOn, "file systems' checksums", []byte{0xf2, 0x0f, 0x38, 0xf1, 0xc1}},
	{"movbe", cpuid.MOVBE, goesOn, "network byte order, BPF", []byte{0x0f, 0x38, 0xf0, 0x07}},
	{"rdrand", cpuid.RDRAND, goesOn, "random seed", []byte{0x0f, 0xc7, 0xf0}},
	{"rdseed", cpuid.RDSEED, goesOn, "random seed", []byte{0x0f, 0xc7, 0xf8}},

	{"fninit", always, goesOn, "FPU set-up", []byte{0xdb, 0xe3}},
	{"fxsave", always, goesOn, "FPU, without xsave", []byte{0x0f, 0xae, 0x07}},
	{"fxrstor", always, goesOn, "FPU, without xsave", []byte{0x0f, 0xae, 0x0f}},
	{"ldmxcsr", always, goesOn, "FPU set-up", []byte{0x0f, 0xae, 0x17}},
	{"xgetbv", cpuid.XSave, goesOn, "FPU", []byte{0x31, 0xc9, 0x0f, 0x01, 0xd0}},
	// The value that is there: QEMU's translator does not intercept it, and what a
	// guest writes stays behind for its host, which misses its AVX then.
	{"xsetbv", cpuid.XSave, goesOn, "FPU set-up", []byte{0x31, 0xc9, 0x0f, 0x01, 0xd0, 0x0f, 0x01, 0xd1}}, // xor ecx,ecx; xgetbv; xsetbv
	{"xsave", cpuid.XSave, goesOn, "FPU: every task switch, signals", []byte{0xb8, 3, 0, 0, 0, 0x31, 0xd2, 0x0f, 0xae, 0x27}},
	{"xrstor", cpuid.XSave, goesOn, "FPU: every task switch", []byte{0xb8, 3, 0, 0, 0, 0x31, 0xd2, 0x0f, 0xae, 0x2f}},
	{"xsaves, xrstors", cpuid.XSaveS, goesOn, "FPU: every task switch", []byte{
		0xb8, 3, 0, 0, 0, 0x31, 0xd2, 0x48, 0x0f, 0xc7, 0x2f, 0x48, 0x0f, 0xc7, 0x1f}},
	{"movaps", always, goesOn, "RAID, crypto", []byte{0x0f, 0x28, 0x07}},
	{"vmovdqu ymm", cpuid.AVX, goesOn, "crypto", []byte{0xc5, 0xfe, 0x6f, 0x07}},
}

// hypercalls are a guest's ways to call KVM; call 100 is none, and must answer so.
var hypercalls = []instruction{
	{"vmcall", always, goesOn, "hypercalls on Intel: pvclock, kicks, TLB flush", []byte{0xb8, 100, 0, 0, 0, 0x0f, 0x01, 0xc1}},
	{"vmmcall", always, goesOn, "hypercalls on AMD", []byte{0xb8, 100, 0, 0, 0, 0x0f, 0x01, 0xd9}},
}

// out DonePort,al
var sayDone = []byte{0xe6, DonePort}

// Instructions tries each, in a machine of its own. vendor decides which
// hypercall is tried.
func Instructions(sys *kvm.System, vendor string, progress func(string)) []Trial {
	list := slices.Clone(instructions)
	if vendor == "AuthenticAMD" || vendor == "HygonGenuine" {
		list = append(list, hypercalls[1])
	} else {
		list = append(list, hypercalls[0])
	}
	var trials []Trial
	for _, i := range list {
		progress("ring 0: " + i.name)
		t, over := giveUp(trials, i.name, i.why)
		if !over {
			t = try(i.name, i.why, func() (string, error) { return "", i.run(sys) })
		}
		trials = append(trials, t)
	}
	return trials
}

func (i instruction) run(sys *kvm.System) error {
	if !i.needs.Here() {
		return errAbsent("this processor has no " + i.needs.Name)
	}
	m, err := New(sys, Options{})
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Long(m.CPU, 0, slices.Concat(i.code, sayDone)...); err != nil {
		return err
	}
	err = i.expect(m.CPU)
	if err != nil && !i.needs.In(m.cpuid) {
		// The guest is told not to, so this takes nothing from it.
		return errAbsent(fmt.Sprintf("KVM shows no %s to guests; executed all the same: %v", i.needs.Name, err))
	}
	return err
}

func (i instruction) expect(c *kvm.VCPU) error {
	switch i.ends {
	case goesOn:
		return done(c)
	case halts:
		exit, err := until(c)
		if err == nil && exit != kvm.ExitHalt {
			err = errSaw(describe(c, exit))
		}
		return err
	}
	return port(c, FaultPort+uint16(i.ends))
}
