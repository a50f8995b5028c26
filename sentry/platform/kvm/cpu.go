package kvm

// In cpu_amd64.s.

func pause()

// rdtsc is for a test that compares it with the guest's.
func rdtsc() uint64
