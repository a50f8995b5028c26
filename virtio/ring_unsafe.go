package virtio

import (
	"sync/atomic"
	"unsafe"
)

// The one file of virtio that imports unsafe. Go has no 16-bit atomics; a ring
// index is reached through the aligned 32-bit word that it lies in. It is sound
// because
//   - word slices ring before it takes an address, so that all four bytes are
//     in it, and ring's first byte is aligned to 4 (aligned, which NewQueue asks);
//   - the neighbour in the word may be the driver's: a store exchanges the word
//     only while both halves are what was seen, so that it is never undone, except
//     for a driver that writes it all the time;
//   - the machine keeps guest memory mapped for as long as its devices live;
//   - x86-64 and arm64 keep an index in our byte order, which is the ring's.
//
// Both are sequentially consistent, which on x86 makes a store a full barrier:
// what the rings need between "I publish" and "do you wait?" (§2.7.13.4.1).

// LoadIndex is the 16-bit field of a ring at offset at. It pairs with the other
// side's store: what was written before that is seen after this.
func LoadIndex(ring []byte, at int) uint16 {
	return uint16(atomic.LoadUint32(word(ring, at)) >> shift(at))
}

// StoreIndex publishes a 16-bit field of a ring, and with it what was written before.
func StoreIndex(ring []byte, at int, value uint16) {
	const patience = 100 // a guest that spoils every exchange does not hold us up
	w, by := word(ring, at), shift(at)
	for range patience {
		old := atomic.LoadUint32(w)
		if atomic.CompareAndSwapUint32(w, old, old&^(0xffff<<by)|uint32(value)<<by) {
			return
		}
	}
	atomic.StoreUint32(w, atomic.LoadUint32(w)&^(0xffff<<by)|uint32(value)<<by)
}

func word(ring []byte, at int) *uint32 {
	return (*uint32)(unsafe.Pointer(unsafe.SliceData(ring[at&^3:][:4])))
}

// shift is where the field begins in its word.
func shift(at int) int { return at & 2 * 8 }

func aligned(ring []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(ring)))%4 == 0 }
