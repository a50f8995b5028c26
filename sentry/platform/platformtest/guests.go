package platformtest

import (
	"encoding/hex"
	"strings"
)

// The guests: a line an instruction, its bytes and what they mean (as objdump
// -d has it, branch targets counted from the guest's first byte).
const (
	// complements every general register that syscall keeps, and calls
	guestInvert = `
48 f7 d3                       ; not %rbx
48 f7 d2                       ; not %rdx
48 f7 d6                       ; not %rsi
48 f7 d7                       ; not %rdi
48 f7 d5                       ; not %rbp
49 f7 d0                       ; not %r8
49 f7 d1                       ; not %r9
49 f7 d2                       ; not %r10
49 f7 d4                       ; not %r12
49 f7 d5                       ; not %r13
49 f7 d6                       ; not %r14
49 f7 d7                       ; not %r15
0f 05                          ; syscall
eb d8                          ; jmp 0x0
`

	// calls for ever
	guestCall = `
0f 05                          ; syscall
eb fc                          ; jmp 0x0
`

	// #UD
	guestUd2 = `
0f 0b                          ; ud2
`

	// #DE
	guestDiv = `
31 c9                          ; xor %ecx,%ecx
f7 f1                          ; div %ecx
`

	// #BP
	guestInt3 = `
cc                             ; int3
`

	// #DB
	guestInt1 = `
f1                             ; int1
`

	// #GP, a privileged instruction
	guestHlt = `
f4                             ; hlt
`

	// #GP, a port
	guestIn = `
ec                             ; in (%dx),%al
`

	// the 32-bit entry
	guestInt80 = `
cd 80                          ; int $0x80
`

	// the other 32-bit entry
	guestSysenter = `
0f 34                          ; sysenter
`

	// reads through RDI
	guestLoad = `
48 8b 07                       ; mov (%rdi),%rax
0f 05                          ; syscall
`

	// writes through RDI
	guestStore = `
48 89 07                       ; mov %rax,(%rdi)
0f 05                          ; syscall
`

	// reads and writes through RDI
	guestAdd = `
48 01 07                       ; add %rax,(%rdi)
0f 05                          ; syscall
`

	// locked by nature
	guestXchg = `
48 87 07                       ; xchg %rax,(%rdi)
0f 05                          ; syscall
`

	guestMovupsLoad = `
0f 10 07                       ; movups (%rdi),%xmm0
0f 05                          ; syscall
`

	guestMovupsStore = `
0f 11 07                       ; movups %xmm0,(%rdi)
0f 05                          ; syscall
`

	// RCX quadwords to RDI
	guestStos = `
f3 48 ab                       ; rep stos %rax,%es:(%rdi)
0f 05                          ; syscall
`

	// one byte from RSI to RDI
	guestMovs = `
a4                             ; movsb %ds:(%rsi),%es:(%rdi)
0f 05                          ; syscall
`

	// writes below RSP
	guestPush = `
50                             ; push %rax
0f 05                          ; syscall
`

	// reads at RSP
	guestPop = `
58                             ; pop %rax
0f 05                          ; syscall
`

	// writes the return address
	guestCallq = `
ff d0                          ; call *%rax
0f 05                          ; syscall
`

	// goes to RDI
	guestJump = `
ff e7                          ; jmp *%rdi
`

	// #SS where RSP is not canonical
	guestLoadstack = `
48 8b 04 24                    ; mov (%rsp),%rax
`

	// #AC where the flag is set and RDI odd
	guestAligned = `
9c                             ; pushf
48 81 0c 24 00 00 04 00        ; orq $0x40000,(%rsp)
9d                             ; popf
48 8b 07                       ; mov (%rdi),%rax
9c                             ; pushf
48 81 24 24 ff ff fb ff        ; andq $0xfffffffffffbffff,(%rsp)
9d                             ; popf
0f 05                          ; syscall
`

	// unmasks divide by zero, and divides
	guestSimd = `
c7 44 24 f8 80 1d 00 00        ; movl $0x1d80,-0x8(%rsp)
0f ae 54 24 f8                 ; ldmxcsr -0x8(%rsp)
0f 57 c9                       ; xorps %xmm1,%xmm1
c7 44 24 f8 00 00 80 3f        ; movl $0x3f800000,-0x8(%rsp)
f3 0f 10 44 24 f8              ; movss -0x8(%rsp),%xmm0
f3 0f 5e c1                    ; divss %xmm1,%xmm0
0f 05                          ; syscall
`

	// the same on the old stack
	guestX87 = `
66 c7 44 24 f8 7b 03           ; movw $0x37b,-0x8(%rsp)
d9 6c 24 f8                    ; fldcw -0x8(%rsp)
d9 ee                          ; fldz
d9 e8                          ; fld1
de f1                          ; fdivp %st,%st(1)
9b                             ; fwait
0f 05                          ; syscall
`

	// sets the trap flag
	guestTrap = `
9c                             ; pushf
48 81 0c 24 00 01 00 00        ; orq $0x100,(%rsp)
9d                             ; popf
90                             ; nop
90                             ; nop
0f 05                          ; syscall
`

	guestSteps = `
90                             ; nop
48 ff c0                       ; inc %rax
48 ff c3                       ; inc %rbx
0f 05                          ; syscall
90                             ; nop
0f 05                          ; syscall
`

	// the words at both bases
	guestBases = `
64 48 8b 04 25 00 00 00 00     ; mov %fs:0x0,%rax
65 48 8b 1c 25 08 00 00 00     ; mov %gs:0x8,%rbx
0f 05                          ; syscall
eb ea                          ; jmp 0x0
`

	// sets both bases itself
	guestWrbase = `
f3 48 0f ae d7                 ; wrfsbase %rdi
f3 48 0f ae de                 ; wrgsbase %rsi
0f 05                          ; syscall
`

	// writes the immediate of the instruction behind
	guestPatch = `
89 3d 01 00 00 00              ; mov %edi,0x1(%rip) -> 0x7
b8 00 00 00 00                 ; mov $0x0,%eax
0f 05                          ; syscall
eb f1                          ; jmp 0x0
`

	// RCX times: one more at RDI, atomically, and a call
	guestCount = `
f0 48 ff 07                    ; lock incq (%rdi)
0f 05                          ; syscall
48 ff cb                       ; dec %rbx
75 f5                          ; jne 0x0
31 c0                          ; xor %eax,%eax
0f 05                          ; syscall
`

	// says that it runs, then spins until RAX is not zero
	guestSpin = `
48 c7 07 01 00 00 00           ; movq $0x1,(%rdi)
48 85 c0                       ; test %rax,%rax
74 fb                          ; je 0x7
0f 05                          ; syscall
`

	// counts up at RDI for ever
	guestWriter = `
48 ff c0                       ; inc %rax
48 89 07                       ; mov %rax,(%rdi)
eb f8                          ; jmp 0x0
`

	// RCX pages from RDI, RSI bytes apart
	guestTouch = `
48 ff 07                       ; incq (%rdi)
48 01 f7                       ; add %rsi,%rdi
48 ff c9                       ; dec %rcx
75 f5                          ; jne 0x0
0f 05                          ; syscall
`

	// a thousand reads of the clock, like the vDSO's
	guestClock = `
b9 e8 03 00 00                 ; mov $0x3e8,%ecx
0f ae e8                       ; lfence
0f 31                          ; rdtsc
48 c1 e2 20                    ; shl $0x20,%rdx
48 09 d0                       ; or %rdx,%rax
48 39 d8                       ; cmp %rbx,%rax
72 09                          ; jb 0x1f
48 89 c3                       ; mov %rax,%rbx
ff c9                          ; dec %ecx
75 e8                          ; jne 0x5
0f 05                          ; syscall
0f 0b                          ; ud2
`

	// loads AX into the data segments
	guestSelectors = `
8e d8                          ; mov %eax,%ds
8e c0                          ; mov %eax,%es
8e e0                          ; mov %eax,%fs
8e e8                          ; mov %eax,%gs
0f 05                          ; syscall
`

	// to 32-bit code at the address that RDI points to
	guestFar = `
ff 2f                          ; ljmp *(%rdi)
`

	// 32-bit code: int $0x80
	guestCompat = `
cd 80                          ; int $0x80
0f 0b                          ; ud2
`

	// 32-bit code: syscall
	guestCompatsys = `
0f 05                          ; syscall
0f 0b                          ; ud2
`

	// XMM0..15 from RDI, a call, back to RSI
	guestSse = `
0f 10 07                       ; movups (%rdi),%xmm0
0f 10 4f 10                    ; movups 0x10(%rdi),%xmm1
0f 10 57 20                    ; movups 0x20(%rdi),%xmm2
0f 10 5f 30                    ; movups 0x30(%rdi),%xmm3
0f 10 67 40                    ; movups 0x40(%rdi),%xmm4
0f 10 6f 50                    ; movups 0x50(%rdi),%xmm5
0f 10 77 60                    ; movups 0x60(%rdi),%xmm6
0f 10 7f 70                    ; movups 0x70(%rdi),%xmm7
44 0f 10 87 80 00 00 00        ; movups 0x80(%rdi),%xmm8
44 0f 10 8f 90 00 00 00        ; movups 0x90(%rdi),%xmm9
44 0f 10 97 a0 00 00 00        ; movups 0xa0(%rdi),%xmm10
44 0f 10 9f b0 00 00 00        ; movups 0xb0(%rdi),%xmm11
44 0f 10 a7 c0 00 00 00        ; movups 0xc0(%rdi),%xmm12
44 0f 10 af d0 00 00 00        ; movups 0xd0(%rdi),%xmm13
44 0f 10 b7 e0 00 00 00        ; movups 0xe0(%rdi),%xmm14
44 0f 10 bf f0 00 00 00        ; movups 0xf0(%rdi),%xmm15
0f 05                          ; syscall
0f 11 06                       ; movups %xmm0,(%rsi)
0f 11 4e 10                    ; movups %xmm1,0x10(%rsi)
0f 11 56 20                    ; movups %xmm2,0x20(%rsi)
0f 11 5e 30                    ; movups %xmm3,0x30(%rsi)
0f 11 66 40                    ; movups %xmm4,0x40(%rsi)
0f 11 6e 50                    ; movups %xmm5,0x50(%rsi)
0f 11 76 60                    ; movups %xmm6,0x60(%rsi)
0f 11 7e 70                    ; movups %xmm7,0x70(%rsi)
44 0f 11 86 80 00 00 00        ; movups %xmm8,0x80(%rsi)
44 0f 11 8e 90 00 00 00        ; movups %xmm9,0x90(%rsi)
44 0f 11 96 a0 00 00 00        ; movups %xmm10,0xa0(%rsi)
44 0f 11 9e b0 00 00 00        ; movups %xmm11,0xb0(%rsi)
44 0f 11 a6 c0 00 00 00        ; movups %xmm12,0xc0(%rsi)
44 0f 11 ae d0 00 00 00        ; movups %xmm13,0xd0(%rsi)
44 0f 11 b6 e0 00 00 00        ; movups %xmm14,0xe0(%rsi)
44 0f 11 be f0 00 00 00        ; movups %xmm15,0xf0(%rsi)
0f 05                          ; syscall
`

	// YMM0, 7, 15 likewise
	guestAvx = `
c5 fc 10 07                    ; vmovups (%rdi),%ymm0
c5 fc 10 7f 20                 ; vmovups 0x20(%rdi),%ymm7
c5 7c 10 7f 40                 ; vmovups 0x40(%rdi),%ymm15
0f 05                          ; syscall
c5 fc 11 06                    ; vmovups %ymm0,(%rsi)
c5 fc 11 7e 20                 ; vmovups %ymm7,0x20(%rsi)
c5 7c 11 7e 40                 ; vmovups %ymm15,0x40(%rsi)
0f 05                          ; syscall
`

	// ZMM0, 15, 16, 31 and K1..2 likewise
	guestAvx512 = `
62 f1 7c 48 10 07              ; vmovups (%rdi),%zmm0
62 71 7c 48 10 7f 01           ; vmovups 0x40(%rdi),%zmm15
62 e1 7c 48 10 47 02           ; vmovups 0x80(%rdi),%zmm16
62 61 7c 48 10 7f 03           ; vmovups 0xc0(%rdi),%zmm31
c4 e1 f8 90 8f 00 01 00 00     ; kmovq 0x100(%rdi),%k1
c4 e1 f8 90 97 08 01 00 00     ; kmovq 0x108(%rdi),%k2
0f 05                          ; syscall
62 f1 7c 48 11 06              ; vmovups %zmm0,(%rsi)
62 71 7c 48 11 7e 01           ; vmovups %zmm15,0x40(%rsi)
62 e1 7c 48 11 46 02           ; vmovups %zmm16,0x80(%rsi)
62 61 7c 48 11 7e 03           ; vmovups %zmm31,0xc0(%rsi)
c4 e1 f8 91 8e 00 01 00 00     ; kmovq %k1,0x100(%rsi)
c4 e1 f8 91 96 08 01 00 00     ; kmovq %k2,0x108(%rsi)
0f 05                          ; syscall
`

	// MXCSR and the x87 control word to RSI
	guestControl = `
0f ae 1e                       ; stmxcsr (%rsi)
d9 7e 04                       ; fnstcw 0x4(%rsi)
0f 11 46 10                    ; movups %xmm0,0x10(%rsi)
0f 05                          ; syscall
eb f2                          ; jmp 0x0
`

	// loads RDI's double, a call, stores it at RSI
	guestFx87 = `
dd 07                          ; fldl (%rdi)
0f 05                          ; syscall
dd 1e                          ; fstpl (%rsi)
0f 05                          ; syscall
`

	// gettimeofday on the vsyscall page
	guestVsyscall = `
48 c7 c0 00 00 60 ff           ; mov $0xffffffffff600000,%rax
ff d0                          ; call *%rax
0f 05                          ; syscall
`

	// a call, then says so and spins
	guestCallspin = `
0f 05                          ; syscall
48 c7 07 01 00 00 00           ; movq $0x1,(%rdi)
eb fe                          ; jmp 0x9
`
)

// code is the bytes of a guest.
func code(guest string) []byte {
	var out []byte
	for line := range strings.Lines(guest) {
		octets, _, _ := strings.Cut(line, ";")
		b, err := hex.DecodeString(strings.Join(strings.Fields(octets), ""))
		if err != nil {
			panic("platformtest: guest line " + line + ": " + err.Error())
		}
		out = append(out, b...)
	}
	return out
}
