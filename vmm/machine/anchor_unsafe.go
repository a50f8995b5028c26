package machine

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawSleep is nanosleep(2) behind the scheduler's back: the thread keeps its
// processor. It is sound because the kernel is done with *t when the call returns. A signal
// ends it early.
func rawSleep(t *unix.Timespec) {
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(t)), 0, 0)
}
