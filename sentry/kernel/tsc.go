package kernel

// rdtsc is the time stamp counter.
func rdtsc() uint64

// counter is the time stamp counter, maybe a few instructions too early or too late.
func counter() uint64
