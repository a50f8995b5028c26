package cost

import (
	"sync/atomic"
	"unsafe"
)

// A word of guest memory that host and guest pass to and fro. It is sound because
//   - callers give four aligned bytes inside a machine's memory (bounds are checked
//     here), and let go of the word before they close the machine;
//   - the guest's loads and stores of an aligned word are atomic (SDM, "Guaranteed
//     Atomic Operations"), as Go's are.
func word(mem []byte, at int) *atomic.Uint32 {
	four := mem[at : at+4]
	return (*atomic.Uint32)(unsafe.Pointer(unsafe.SliceData(four)))
}
