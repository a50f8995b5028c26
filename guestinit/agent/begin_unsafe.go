package agent

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// addEntropy is RNDADDENTROPY with struct rand_pool_info (include/uapi/linux/random.h):
// the number of random bits, the number of bytes, and they. It is sound because the
// kernel reads as many bytes as the second number says, which are in b, and b lives
// until the call is over.
func addEntropy(fd int, entropy []byte) error {
	b := binary.NativeEndian.AppendUint32(nil, uint32(8*len(entropy)))
	b = binary.NativeEndian.AppendUint32(b, uint32(len(entropy)))
	b = append(b, entropy...)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&b[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
