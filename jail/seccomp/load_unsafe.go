package seccomp

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// load gives the filter to the kernel for all threads. It is sound because the
// kernel copies the program before the call returns (kernel/seccomp.c,
// seccomp_prepare_filter), and prog stays alive until then.
func load(prog program) error {
	f := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	// A TSYNC that fails returns the id of the thread that could not follow.
	id, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&f)))
	runtime.KeepAlive(prog)
	switch {
	case errno != 0:
		return errno
	case id != 0:
		return fmt.Errorf("thread %d has another filter", id)
	}
	return nil
}
