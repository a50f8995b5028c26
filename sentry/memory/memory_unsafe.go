package memory

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The one file of memory that imports unsafe. It is sound because
//   - place only maps over address space that reserve gave this package and that
//     stays reserved until the arena is closed, so nothing of Go's is hit;
//   - word and word64 are given four and eight aligned bytes of the arena or of a window, which the
//     caller keeps mapped (a page pinned, or Space.mu held) while it is used;
//   - nothing here is Go's memory, so the collector neither moves nor frees it.

// place maps over all of at, which is part of a reserved region: fd at off, or
// anonymous memory for fd -1.
func place(at []byte, prot, flags, fd int, off int64) error {
	_, err := unix.MmapPtr(fd, off, unsafe.Pointer(unsafe.SliceData(at)), uintptr(len(at)),
		prot, flags|unix.MAP_FIXED)
	return err
}

// misaligned is how far b begins behind a multiple of n.
func misaligned(b []byte, n uint64) uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) % n
}

func word(b []byte) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer((*[4]byte)(b)))
}

func word64(b []byte) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer((*[8]byte)(b)))
}
