package profile

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// install is sound as jail/seccomp's load is: the kernel copies the program before the
// call returns.
func install(prog []unix.SockFilter, flags uint32) error {
	f := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&f))); errno != 0 {
		return errno
	}
	return nil
}
