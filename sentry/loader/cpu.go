package loader

import (
	"encoding/binary"
	"os"
	"sync"
)

// Values that Linux finds in CPUID when it boots; the Sentry's own auxiliary
// vector has them.
var hostAuxv = sync.OnceValue(func() map[uint64]uint64 {
	b, _ := os.ReadFile("/proc/self/auxv")
	m := map[uint64]uint64{}
	for ; len(b) >= 16; b = b[16:] {
		m[binary.LittleEndian.Uint64(b)] = binary.LittleEndian.Uint64(b[8:])
	}
	return m
})

// Prepare reads what Load needs of the host, before the sandbox loses sight of
// it.
func Prepare() { hostAuxv() }

func hwcap() uint64 { return hostAuxv()[atHWCap] }

// hwcap2 tells of FSGSBASE (bit 1), which every platform of ours has on.
func hwcap2() uint64 { return hostAuxv()[atHWCap2] & 2 }

func minSigStack() uint64 {
	if v := hostAuxv()[atMinSigStack]; v != 0 {
		return v
	}
	return 3632
}
