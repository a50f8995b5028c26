package kvm

import (
	"os"
	"testing"
)

// TestTSC: the application reads the host's counter, so that the Sentry can give
// it a clock that needs no exit.
func TestTSC(t *testing.T) {
	if os.Getenv("BULKHEAD_LAB") != "" {
		t.Skip("the counters of the lab's emulated processors lie microseconds apart: to be run on a processor")
	}
	w := newWorld(t)
	// rdtsc; shl rdx,32; or rax,rdx; mov rdi,rax; mov eax,1; syscall; jmp
	w.text(0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x48, 0x89, 0xc7, 0xb8, 1, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xeb)
	for range 2 { // on each of two vCPUs
		th := w.thread()
		c := start()
		for range 3 {
			before := rdtsc()
			w.call(th, c, 1)
			if after := rdtsc(); c.Rdi < before || c.Rdi > after {
				t.Errorf("the guest's counter is %d, the host's was %d and is %d", c.Rdi, before, after)
			}
		}
		defer th.Close()
	}
}
