//go:build !race

package jail

import (
	"fmt"
	"syscall"
)

// allThreads is for calls that the kernel keeps to one thread.
func allThreads(nr, a, b uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall(nr, a, b, 0)
	if errno == syscall.ENOTSUP {
		return fmt.Errorf("built with cgo, which hides its threads; build with CGO_ENABLED=0: %w", errno)
	}
	if errno != 0 {
		return errno
	}
	return nil
}
