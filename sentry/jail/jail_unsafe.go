package jail

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// What capsetAll passes, global so that its address does not change while
// thread after thread reads it.
var (
	capHeader = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // of the calling thread
	capData   [2]unix.CapUserData
)

// capsetAll empties the sets of every thread. It is sound because both arguments
// are globals, which never move, and nobody writes them.
func capsetAll() error {
	return allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&capHeader)), uintptr(unsafe.Pointer(&capData)))
}
