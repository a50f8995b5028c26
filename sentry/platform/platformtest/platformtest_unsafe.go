package platformtest

// The one file of platformtest that imports unsafe. word is sound because it is
// only called on page-aligned memory mapped for the whole test, at multiples of eight.

import (
	"sync/atomic"
	"unsafe"
)

// word is the eight bytes at off, which a guest changes meanwhile.
func word(b []byte, off int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&b[off : off+8][0]))
}
