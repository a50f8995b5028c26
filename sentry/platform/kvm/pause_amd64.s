#include "textflag.h"

// func pause()
// Tells the CPU that this is a loop that waits. No registers, no stack.
TEXT ·pause(SB), NOSPLIT, $0-0
	PAUSE
	RET
