package blk

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file hands guest memory and small structs to the kernel. It is sound because
//   - a vector holds the addresses of slices of guest memory as Go pointers,
//     with lengths of those slices (gather); the vector is alive during the call;
//   - the kernel keeps none of it when the call returns.
//
// x/sys/unix has Preadv2 as well, but builds the vector anew, on the heap, for
// every call.

// vector is guest memory for one call of the kernel; never empty.
type vector []unix.Iovec

func preadv2(fd int, v vector, at int64, flags int) (int, error) {
	return vectored(unix.SYS_PREADV2, fd, v, at, flags)
}

func pwritev2(fd int, v vector, at int64, flags int) (int, error) {
	return vectored(unix.SYS_PWRITEV2, fd, v, at, flags)
}

func vectored(call uintptr, fd int, v vector, at int64, flags int) (int, error) {
	n, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)), uintptr(at), 0, uintptr(flags))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// discardBlocks is BLKDISCARD, which wants two numbers.
func discardBlocks(fd int, e extent) error {
	arg := [2]uint64{uint64(e.at), uint64(e.n)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKDISCARD, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return errno
	}
	return nil
}
