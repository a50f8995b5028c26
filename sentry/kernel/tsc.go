package kernel

// rdtsc is the time stamp counter.
func rdtsc() uint64
