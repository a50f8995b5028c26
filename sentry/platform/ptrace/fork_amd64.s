#include "textflag.h"

// func forkAt(flags, pc uintptr) (pid int)
//
// clone(flags) without a stack of its own: the child goes to pc at once and
// executes no Go. In: flags, pc. Out: the child's pid or a negative errno.
// Clobbers what syscall does, and R12. The caller blocks all signals.
TEXT ·forkAt(SB), NOSPLIT, $0-24
	MOVQ flags+0(FP), DI
	MOVQ pc+8(FP), R12
	XORL SI, SI
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	MOVL $56, AX // SYS_clone
	SYSCALL
	TESTQ AX, AX
	JZ   child
	MOVQ AX, pid+16(FP)
	RET

child:
	JMP R12
