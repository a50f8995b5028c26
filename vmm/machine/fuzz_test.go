package machine

import (
	"crypto/rand"
	"encoding/binary"
	"testing"

	"bulkhead/kvm"
	"bulkhead/virtio/balloon"
	"bulkhead/virtio/console"
	"bulkhead/virtio/mmio"
	"bulkhead/virtio/rng"
)

// FuzzAccess is a guest that reads and writes any port and any address in any
// width, with its memory full of what it likes: the machine lives, and can stop.
// One machine takes all inputs of a process, for it costs more than they do.
func FuzzAccess(f *testing.F) {
	var op [16]byte
	for _, at := range []uint32{serialPort, 0x64, 0x70, sleepPort, resetPort, 0x5f0} {
		binary.LittleEndian.PutUint32(op[4:], at)
		f.Add(op[:], []byte("memory"))
	}
	op[0] = 1
	for _, at := range []uint32{0x70, 0x50, 0x44, 0x30, 0x100} {
		binary.LittleEndian.PutUint32(op[4:], windowsAt+at)
		f.Add(op[:], []byte{1, 2, 3})
	}
	mem := memory(f)
	out := console.New(nil, nil, nil)
	m, err := New(open(f), Config{CPUs: 1, Memory: mem, Devices: []Device{
		{"rng", rng.New(rand.Reader)}, {"console", out}, {"balloon", balloon.New(mem, mem, nil)},
	}})
	must(f, err)
	f.Cleanup(func() { must(f, m.Close()); must(f, out.Close()) })
	f.Fuzz(func(t *testing.T, ops, contents []byte) {
		copy(m.mem.Bytes()[4096:1<<20], contents)
		for ; len(ops) >= 16; ops = ops[16:] {
			at, width := binary.LittleEndian.Uint32(ops[4:]), 1<<(ops[1]&3)
			data := append([]byte(nil), ops[8:8+width]...)
			if ops[0]&1 == 0 {
				m.port(kvm.IO{In: ops[0]&2 != 0, Port: uint16(at), Size: min(width, 4), Data: data})
				continue
			}
			if ops[0]&4 != 0 { // near the devices, where it matters
				at = windowsAt + at%(4*mmio.Size)
			}
			m.access(kvm.MMIO{Write: ops[0]&2 != 0, Addr: kvm.GPA(at), Data: data})
		}
	})
}
