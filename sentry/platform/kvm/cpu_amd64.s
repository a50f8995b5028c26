#include "textflag.h"

// func pause()
// Tells the CPU that this is a loop that waits. No registers, no stack.
TEXT ·pause(SB), NOSPLIT, $0-0
	PAUSE
	RET

// func rdtsc() uint64
// Reads the time-stamp counter. Clobbers AX, DX.
TEXT ·rdtsc(SB), NOSPLIT, $0-8
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, ret+0(FP)
	RET
