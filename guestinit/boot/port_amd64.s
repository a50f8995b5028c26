#include "textflag.h"

// func outb(port uint16, value byte)
// In: port, value on the stack. Clobbers AX, DX. No stack of its own. Without
// ioperm(2) for the port the instruction faults, and Go makes SIGSEGV of it.
TEXT ·outb(SB), NOSPLIT, $0-3
	MOVW port+0(FP), DX
	MOVB value+2(FP), AX
	OUTB
	RET
