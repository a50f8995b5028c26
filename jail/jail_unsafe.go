package jail

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// What SetCapabilities passes, global so that its address does not change while
// thread after thread reads it.
var (
	capHeader = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // of the calling thread
	capData   [2]unix.CapUserData
)

// SetCapabilities leaves every thread of this process the capabilities of set, all below 32, as
// effective and permitted ones (capset(2)). It is called once: it is sound because
// both arguments are globals, which never move, and nobody writes them afterwards.
func SetCapabilities(set uint32) error {
	capData[0] = unix.CapUserData{Effective: set, Permitted: set}
	return allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&capHeader)), uintptr(unsafe.Pointer(&capData)))
}
