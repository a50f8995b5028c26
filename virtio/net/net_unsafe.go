package net

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file hands guest memory to the kernel. It is sound because
//   - a vector holds the addresses of slices as Go pointers, with the lengths
//     of those slices (piece); the vector is alive during the call;
//   - the kernel keeps none of it when the call returns.
//
// x/sys/unix has Readv and Writev as well, but builds the vector anew, on the
// heap, for every call.

// vector is memory for one call of the kernel; never empty.
type vector []unix.Iovec

// maxVector is UIO_MAXIOV.
const maxVector = 1024

// piece is b, which is not empty, as part of a vector.
func piece(b []byte) unix.Iovec { return unix.Iovec{Base: &b[0], Len: uint64(len(b))} }

func readv(fd int, v vector) (int, error)  { return vectored(unix.SYS_READV, fd, v) }
func writev(fd int, v vector) (int, error) { return vectored(unix.SYS_WRITEV, fd, v) }

func vectored(call uintptr, fd int, v vector) (int, error) {
	for {
		n, _, errno := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
