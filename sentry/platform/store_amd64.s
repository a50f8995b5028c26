#include "textflag.h"

// func Store64(p *atomic.Int64, v int64)
// Clobbers AX, CX. The value is all that an atomic.Int64 consists of (TestStore).
TEXT ·Store64(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), CX
	MOVQ v+8(FP), AX
	MOVQ AX, (CX)
	RET

// func Store32(p *atomic.Uint32, v uint32)
// Clobbers AX, CX.
TEXT ·Store32(SB), NOSPLIT, $0-12
	MOVQ p+0(FP), CX
	MOVL v+8(FP), AX
	MOVL AX, (CX)
	RET
