package unix

// The host's calls with addresses as plain bytes. The kernel is done with every
// pointer when a call returns.

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func ptr(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }

func errOf(e unix.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}

func rawName(nr uintptr, fd int, name []byte) error {
	_, _, e := unix.Syscall(nr, uintptr(fd), uintptr(ptr(name)), uintptr(len(name)))
	return errOf(e)
}

func rawGetName(nr uintptr, fd int) ([]byte, error) {
	b, n := make([]byte, maxName+1), uint32(maxName+1)
	_, _, e := unix.Syscall(nr, uintptr(fd), uintptr(ptr(b)), uintptr(unsafe.Pointer(&n)))
	if e != 0 {
		return nil, e
	}
	return b[:n], nil
}

func rawOption(fd, name int, b []byte) (int, error) {
	n := uint32(len(b))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, uintptr(name), uintptr(ptr(b)), uintptr(unsafe.Pointer(&n)), 0)
	return int(n), errOf(e)
}

func rawReceive(fd int, buf, oob []byte, flags int) (n int, from []byte, oobn, rflags int, err error) {
	name := make([]byte, maxName+1)
	iov := unix.Iovec{Base: unsafe.SliceData(buf)}
	iov.SetLen(len(buf))
	m := unix.Msghdr{Name: unsafe.SliceData(name), Namelen: uint32(len(name)), Iov: &iov, Iovlen: 1,
		Control: unsafe.SliceData(oob), Controllen: uint64(len(oob))}
	r, _, e := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&m)), uintptr(flags|unix.MSG_CMSG_CLOEXEC))
	if e != 0 {
		return 0, nil, 0, 0, e
	}
	if m.Namelen > 0 {
		from = name[:m.Namelen]
	}
	return int(r), from, int(m.Controllen), int(m.Flags), nil
}
