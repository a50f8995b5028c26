#include "textflag.h"

// func rdtsc() uint64
// The time stamp counter, read after all earlier loads. Clobbers AX, DX.
TEXT ·rdtsc(SB), NOSPLIT, $0-8
	LFENCE
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, ret+0(FP)
	RET

// func counter() uint64
// The time stamp counter, in no order with what stands around it. Clobbers AX, DX.
TEXT ·counter(SB), NOSPLIT, $0-8
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, ret+0(FP)
	RET
