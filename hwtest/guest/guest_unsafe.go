package guest

import "unsafe"

// This file only computes with an address; nothing is loaded or stored through
// it, and the slice that goes out lies within the one that came in.

// aligned is the first size bytes of all that begin at a multiple of align.
func aligned(all []byte, size int) []byte {
	at := int(-uintptr(unsafe.Pointer(unsafe.SliceData(all))) & (align - 1))
	return all[at : at+size : at+size]
}
