package ram

import "unsafe"

// addressOf is for mincore(2), which is done with it when it returns.
func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
