package ram

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The one file of ram that imports unsafe. It is sound because addresses are
// compared and never made, and because what replace and overlay are given is whole pages of
// a mapping that Memory owns, which stays readable and writable throughout.

// replace puts zeroed memory in the place of b, a piece of a private file
// mapping, of which MADV_DONTNEED would bring the file's old bytes back.
func replace(b []byte) error {
	at := unsafe.Pointer(unsafe.SliceData(b))
	_, err := unix.MmapPtr(-1, 0, at, uintptr(len(b)), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_FIXED|unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	return err
}

// overlay puts a file's bytes from offset at in the place of b, privately.
func overlay(b []byte, fd int, at int64) error {
	p := unsafe.Pointer(unsafe.SliceData(b))
	_, err := unix.MmapPtr(fd, at, p, uintptr(len(b)), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_FIXED|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	return err
}

// offset is where in whole part begins, if all of it lies there.
func offset(whole, part []byte) (uint64, bool) {
	base, at := uintptr(unsafe.Pointer(unsafe.SliceData(whole))), uintptr(unsafe.Pointer(unsafe.SliceData(part)))
	off := uint64(at - base) // wraps to a large number where part lies before
	return off, off <= uint64(len(whole)) && uint64(len(part)) <= uint64(len(whole))-off
}

// ahead is how far into b the first address lies that is a multiple of align, a
// power of two.
func ahead(b []byte, align int) int {
	return int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & uintptr(align-1))
}
