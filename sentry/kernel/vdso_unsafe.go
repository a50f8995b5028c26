package kernel

import (
	"sync/atomic"
	"unsafe"
)

// store writes w to the page of numbers, with the sequence number odd meanwhile.
// It is sound because
//   - page is a whole page of the arena that vdso keeps, so every word lies in it
//     and is aligned;
//   - programs can only read it;
//   - the caller holds vdso.mu: nobody else writes.
//
// The stores pair with the loads of vdsoCode in the loader. x86 keeps them in
// order.
func (w *vvarWords) store(page []byte) {
	_ = page[vvarBase+8*len(w.base)-1]
	word := func(at int) *uint64 { return (*uint64)(unsafe.Pointer(&page[at])) }
	seq := (*uint32)(unsafe.Pointer(&page[vvarSeq]))
	atomic.AddUint32(seq, 1)
	atomic.StoreUint64(word(vvarTSC), w.tsc)
	atomic.StoreUint64(word(vvarLimit), w.limit)
	atomic.StoreUint64(word(vvarMult), w.mult)
	for i, b := range w.base {
		atomic.StoreUint64(word(vvarBase+8*i), b)
	}
	atomic.AddUint32(seq, 1)
}
