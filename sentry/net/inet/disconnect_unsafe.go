package inet

// The one file of inet that imports unsafe. It is sound because the kernel is done with
// the address when the call returns, and reads no more of it than its length.

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// disconnect makes an idle socket of one that is connected or failed to be
// (connect(2), AF_UNSPEC), which package unix has no address for.
func disconnect(fd int) {
	nobody := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&nobody)), unsafe.Sizeof(nobody))
}
