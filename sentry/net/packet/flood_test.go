package packet

import (
	"encoding/binary"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// ip4 is a packet from 10.x.y.z of a number to the stack, in a frame.
func ip4(from uint32, protocol byte, flags uint16, id uint16, data []byte) []byte {
	be := binary.BigEndian
	b := []byte{0x45, 0}
	b = be.AppendUint16(b, uint16(20+len(data)))
	b = be.AppendUint16(be.AppendUint16(b, id), flags)
	b = append(be.AppendUint32(append(b, 64, protocol, 0, 0), 10<<24|from&0xffffff), names4[0]...)
	be.PutUint16(b[10:], uint16(^sum(0, b)))
	f := append(append(append([]byte(nil), hardware[0]...), hardware[1]...), 8, 0)
	return append(append(f, b...), data...)
}

// tcp4 is a segment.
func tcp4(from uint32, port uint16, seq, ack uint32, flags byte, data []byte) []byte {
	be := binary.BigEndian
	b := be.AppendUint16(be.AppendUint16(nil, port), 80)
	b = be.AppendUint32(be.AppendUint32(b, seq), ack)
	b = append(append(b, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0), data...)
	f := ip4(from, unix.IPPROTO_TCP, 0, 1, b)
	s := f[34:]
	be.PutUint16(s[16:], uint16(^sum(pseudo(names4[0], f[26:30], unix.IPPROTO_TCP, len(s)), s)))
	return f
}

// floods are what a neighbour sends without end. What it makes the stack hold has a bound.
var floods = []struct {
	name     string
	answered bool // the next frame goes by the answer
	frame    func(i uint32, w *wire) []byte
}{
	{"SYN", false, func(i uint32, _ *wire) []byte { return tcp4(1<<16|i, uint16(i*7), i, 0, 2, nil) }},
	{"connections that nobody accepts", true, func(i uint32, w *wire) []byte {
		if i%2 == 0 {
			return tcp4(1, uint16(i), i, 0, 2, nil)
		}
		for _, f := range w.flows {
			if f.here == uint16(i-1) {
				return tcp4(1, uint16(i-1), i, f.ack, 0x18, make([]byte, 1000))
			}
		}
		return tcp4(1, uint16(i), i, 1, 0x10, nil)
	}},
	{"ACK", false, func(i uint32, _ *wire) []byte { return tcp4(i, uint16(i), i, i, 0x10, []byte("data")) }},
	{"neighbours", false, func(i uint32, _ *wire) []byte {
		f := append(append([]byte(nil), hardware[2]...), 2, 1, byte(i>>24), byte(i>>16), byte(i>>8), byte(i), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
		return append(append(append(append(f, f[6:12]...), 10, 0, byte(i>>8), byte(i)), make([]byte, 6)...), names4[0]...)
	}},
	{"pieces without an end", false, func(i uint32, _ *wire) []byte {
		return ip4(1, unix.IPPROTO_UDP, 0x2000, uint16(i), make([]byte, 8000)) // as large as one comes from another namespace
	}},
	{"datagrams that nobody reads", false, func(i uint32, _ *wire) []byte {
		return ip4(1, unix.IPPROTO_UDP, 0, 1, append([]byte{0, 53, 0, 53, 4, 8, 0, 0}, make([]byte, 1024)...))
	}},
	{"echo", false, func(i uint32, _ *wire) []byte {
		b := append([]byte{8, 0, 0, 0, 1, 1, byte(i >> 8), byte(i)}, make([]byte, 1000)...)
		binary.BigEndian.PutUint16(b[2:], uint16(^sum(0, b)))
		return ip4(i, unix.IPPROTO_ICMP, 0, 1, b)
	}},
}

// TestFloods: whatever comes without end, memory does not follow: what there is to hold is held
// after the first frames, and many more add next to nothing. (The library's buffers are a MiB, now
// full and now empty.)
func TestFloods(t *testing.T) {
	const first, all, bound = 1000, 5000, 3 << 20
	for _, row := range floods {
		t.Run(row.name, func(t *testing.T) {
			w := newWire(t, false)
			defer w.close()
			i := w.sockets()
			var before int64
			for n := range uint32(all) {
				if n == first {
					w.settle()
					before = heap()
				}
				if w.put(row.frame(n, w)); n%16 == 0 || n%2 == 0 && row.answered {
					w.settle()
				}
			}
			w.settle()
			if more := heap() - before; more > bound {
				t.Errorf("%d frames more, and %d KiB more are held", all-first, more>>10)
			}
			for _, s := range i.all {
				s.Release()
			}
		})
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools keep through one
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
