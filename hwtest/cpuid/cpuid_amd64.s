#include "textflag.h"

// func Read(leaf, sub uint32) (eax, ebx, ecx, edx uint32)
// In: EAX leaf, ECX sub. Clobbers AX, BX, CX, DX, all of them Go's scratch in
// ABI0. No stack; CPUID does not fault at any privilege but where the kernel
// forbids it (ARCH_CPUID), which nobody asked for.
TEXT ·Read(SB), NOSPLIT, $0-24
	MOVL leaf+0(FP), AX
	MOVL sub+4(FP), CX
	CPUID
	MOVL AX, eax+8(FP)
	MOVL BX, ebx+12(FP)
	MOVL CX, ecx+16(FP)
	MOVL DX, edx+20(FP)
	RET
