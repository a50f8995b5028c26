package kvm

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The one file here that imports unsafe. It is sound because
//   - a slot is half a page (TestSlot) and a table is whole entries, both in our
//     own memory, which stays mapped until the last vCPU is closed;
//   - what the guest writes there at the same time is read as atomics, or once.

// address is where b lies.
func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// table is the page at gpa as page-table entries.
func (m *guestMemory) table(gpa uint64) *table {
	return (*table)(unsafe.Pointer(unsafe.SliceData(m.own[gpa : gpa+pageSize])))
}

// slot is the page at gpa as a context slot.
func (m *guestMemory) slot(gpa uint64) *slot {
	return (*slot)(unsafe.Pointer(unsafe.SliceData(m.own[gpa : gpa+pageSize])))
}

// frame is the page at gpa as a stack with an exception's frame at its top.
func (m *guestMemory) frame(gpa uint64) *frame {
	return (*frame)(unsafe.Pointer(unsafe.SliceData(m.own[gpa+pageSize-frameSize : gpa+pageSize])))
}

const frameSize = uint64(unsafe.Sizeof(frame{}))

// word is the aligned eight bytes at b, for a store that other CPUs see whole.
func word(b []byte) *atomic.Uint64 {
	_ = b[7]
	return (*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(b)))
}

// uffdIoctl passes one of the structures in notify.go, whose sizes the requests carry.
func uffdIoctl[T any](fd int, req uintptr, arg *T) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(arg))); errno != 0 {
		return errno
	}
	return nil
}
