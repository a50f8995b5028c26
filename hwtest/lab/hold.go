package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// hold is a program that keeps two virtual machines for as long as the lab's
// machine lives, one with interrupt controllers and one without, a vCPU in each.
//
// While there is a machine, and a vCPU of either kind, KVM has code patched into the
// scheduler and itself (static keys: kernel/sched/core.c, preempt_notifier_inc;
// arch/x86/kvm, kvm_has_noapic_vcpu and apic_sw_disabled); with the last one it is
// patched out. QEMU 7.2, with a thread for each processor, can go on executing a
// translation of the breakpoint that stands there meanwhile: it reads the code before it
// marks the page as translated, and a write between the two is not noticed.
// Linux finds no breakpoint where it was trapped, returns to try again
// (arch/x86/kernel/kprobes/core.c, kprobe_int3_handler), and both processors are lost in
// __schedule with interrupts off. Jobs that make a machine and end it, again and
// again, hung the lab that way. With these it is patched once, on a machine at rest.
var hold = program([]byte{
	0x48, 0x8d, 0x3d, 0x75, 0, 0, 0, // lea rdi, [rip+path]
	0xbe, 2, 0, 0, 0, // mov esi, O_RDWR
	0xb8, 2, 0, 0, 0, // mov eax, SYS_open
	0x0f, 0x05, // syscall
	0x89, 0xc3, // mov ebx, eax
	0x89, 0xdf, // mov edi, ebx
	0xbe, 0x01, 0xae, 0, 0, // mov esi, KVM_CREATE_VM
	0x31, 0xd2, // xor edx, edx
	0xb8, 16, 0, 0, 0, // mov eax, SYS_ioctl
	0x0f, 0x05, // syscall
	0x89, 0xc7, // mov edi, eax
	0xbe, 0x41, 0xae, 0, 0, // mov esi, KVM_CREATE_VCPU
	0xb8, 16, 0, 0, 0, // mov eax, SYS_ioctl
	0x0f, 0x05, // syscall
	0x89, 0xdf, // mov edi, ebx
	0xbe, 0x01, 0xae, 0, 0, // mov esi, KVM_CREATE_VM
	0xb8, 16, 0, 0, 0, // mov eax, SYS_ioctl
	0x0f, 0x05, // syscall
	0x89, 0xc3, // mov ebx, eax
	0x89, 0xdf, // mov edi, ebx
	0xbe, 0x60, 0xae, 0, 0, // mov esi, KVM_CREATE_IRQCHIP
	0xb8, 16, 0, 0, 0, // mov eax, SYS_ioctl
	0x0f, 0x05, // syscall
	0x89, 0xdf, // mov edi, ebx
	0xbe, 0x41, 0xae, 0, 0, // mov esi, KVM_CREATE_VCPU
	0xb8, 16, 0, 0, 0, // mov eax, SYS_ioctl
	0x0f, 0x05, // syscall
	0xb8, 57, 0, 0, 0, // mov eax, SYS_fork
	0x0f, 0x05, // syscall
	0x85, 0xc0, // test eax, eax
	0x75, 9, // jne parent
	0xb8, 34, 0, 0, 0, // child: mov eax, SYS_pause
	0x0f, 0x05, // syscall
	0xeb, 0xf7, // jmp child
	0x31, 0xff, // parent: xor edi, edi
	0xb8, 60, 0, 0, 0, // mov eax, SYS_exit
	0x0f, 0x05, // syscall
	'/', 'd', 'e', 'v', '/', 'k', 'v', 'm', 0, // path
})

// program is an ELF file of code that is entered at its beginning.
func program(code []byte) []byte {
	const at, head, entry = 0x400000, 64, 56
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1,
		Entry: at + head + entry, Phoff: head, Ehsize: head, Phentsize: entry, Phnum: 1}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	size := uint64(head + entry + len(code))
	load := elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: at, Filesz: size, Memsz: size, Align: 0x1000}
	var b bytes.Buffer
	for _, v := range []any{h, load, code} {
		_ = binary.Write(&b, binary.LittleEndian, v) // a Buffer takes all
	}
	return b.Bytes()
}
