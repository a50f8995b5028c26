package lab

import "time"

// pulse is a byte every now and then, for ever, to a port of the machine, that an
// interrupt arrives which is nobody's. QEMU's VMRUN and #VMEXIT change the word of pending
// interrupts without the lock that its timers and devices set bits of it under (target/i386,
// svm_helper.c: cs->interrupt_request), so an interrupt can be lost; if it was the timer's,
// the machine sleeps, or spins in a guest's lock, until the next. This is the next.
type pulse struct{}

const (
	pulseName = "pulse"
	beat      = 50 * time.Millisecond
)

func (pulse) Read(b []byte) (int, error) {
	time.Sleep(beat)
	return copy(b, "."), nil
}
