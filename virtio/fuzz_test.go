package virtio_test

import (
	"encoding/binary"
	"testing"

	"bulkhead/virtio"
	"bulkhead/virtio/virtiotest"
)

// FuzzQueue gives the queue a memory full of the fuzzer's bytes, rings and
// tables included, which change between the requests. Whatever it says to be a
// chain lies in RAM and adds up.
func FuzzQueue(f *testing.F) {
	const size = 16 << 10 // bytes
	seed := make([]byte, 4096)
	copy(seed[16:], virtiotest.Table(virtiotest.Desc{Addr: 256, Len: 32, Flags: indirect}, virtiotest.Desc{Addr: 512, Len: 8, Flags: next, Next: 2}, virtiotest.Desc{Addr: 600, Len: 8, Flags: write}))
	copy(seed[256:], virtiotest.Table(virtiotest.Desc{Addr: 512, Len: 8, Flags: next, Next: 1}, virtiotest.Desc{Addr: 600, Len: 100, Flags: write}))
	binary.LittleEndian.PutUint16(seed[130:], 2) // available index
	binary.LittleEndian.PutUint16(seed[134:], 1)
	f.Add(uint64(16), uint64(128), uint64(1024), uint16(4), uint64(virtio.FeatureIndirectDesc), uint16(0), seed)
	f.Add(uint64(16), uint64(130), uint64(132), uint16(1), ^uint64(0), uint16(65535), seed)
	f.Fuzz(func(t *testing.T, desc, avail, used uint64, entries uint16, features uint64, start uint16, ram []byte) {
		mem := virtiotest.NewMemory(size)
		copy(mem.Bytes(0, size), ram)
		l := virtio.Layout{Size: entries, Desc: virtio.Addr(desc), Avail: virtio.Addr(avail), Used: virtio.Addr(used)}
		q, err := virtio.NewQueue(mem, l, features, 256)
		if err != nil {
			return
		}
		q.Restore(virtio.QueueState{NextAvail: start, NextUsed: start})
		var held []*virtio.Chain
		for range 50 {
			c, err := q.Next()
			if err != nil {
				return
			}
			if c == nil {
				break
			}
			check(t, c, size)
			held = append(held, c)
			if len(held) > int(entries) {
				t.Fatalf("%d chains at once from a queue of %d", len(held), entries)
			}
			if c.Head%3 == 0 {
				continue // kept for now
			}
			if len(held) > 1 && c.Head%5 == 0 {
				q.Unpop(c)
				break
			}
			if err := q.Push(held[0], min(c.Written(), held[0].Written())); err != nil {
				t.Fatal(err)
			}
			held = held[1:]
		}
		q.Notify()
	})
}

// check reads and fills all of c, by segments and by bytes.
func check(t *testing.T, c *virtio.Chain, ram int) {
	t.Helper()
	readable, writable := 0, 0
	for _, s := range c.ReadSegments() {
		readable += len(s)
	}
	for _, s := range c.WriteSegments() {
		writable += len(s)
	}
	if readable != c.Readable() || writable != c.Writable() || readable+writable >= 1<<32 {
		t.Fatalf("segments of %d and %d bytes, said to be %d and %d", readable, writable, c.Readable(), c.Writable())
	}
	b := make([]byte, ram)
	n, _ := c.Read(b[:min(len(b), 100)])
	c.SkipRead(1)
	m, _ := c.Write(b[:min(len(b), 100)])
	c.SkipWrite(1)
	if n > readable || m > writable || c.Readable() > readable-n || c.Written() > writable || c.Written()+c.Writable() != writable {
		t.Fatalf("of %d and %d bytes: read %d, wrote %d, left %d and %d", readable, writable, n, m, c.Readable(), c.Writable())
	}
}
