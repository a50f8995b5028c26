package fs

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/virtio"
	"bulkhead/virtio/virtiotest"
)

// pages is room for n bytes as a guest gives it, page by page.
func pages(n int) [][]byte {
	var all [][]byte
	for b := make([]byte, n+n/4096*64); n > 0; n -= 4096 {
		all = append(all, b[:min(n, 4096)])
		b = b[4096+64:] // not one after the other
	}
	return all
}

// BenchmarkIO is one request without a queue, and a bare preadv or pwritev of
// the same pages beside it: the difference is ours.
func BenchmarkIO(b *testing.B) {
	for _, size := range []int{4096, 128 << 10, maxIO} {
		d := newDevice(b, Options{Dir: fastDir(b)})
		c := direct(b, d)
		node, handle, err := c.create(root, "f", unix.O_RDWR)
		must(b, err)
		data := pages(size)
		for at := 0; at < size; at += 4096 {
			_, err := c.write(node, handle, uint64(at), data[at/4096])
			must(b, err)
		}
		h, err := d.session.tree.handles.get(handle)
		must(b, err)
		args := words(handle, uint64(0), uint32(size), uint32(0), uint64(0), uint32(0), uint32(0))
		read := append(c.header(opRead, node, len(args)), args...)
		write := append(c.header(opWrite, node, len(args)+size), args...)
		out := append([][]byte{make([]byte, replySize)}, data...)
		in := append([][]byte{write}, data...)
		short := [][]byte{make([]byte, replySize+8)}
		handle2 := func(in, out [][]byte, want int) {
			if n, err := d.session.handle(in, out); n != want || err != nil {
				b.Fatal(n, err)
			}
		}
		for _, bench := range []struct {
			name string
			do   func()
		}{
			{"read", func() { handle2([][]byte{read}, out, replySize+size) }},
			{"preadv", func() { _, _ = unix.Preadv(h.fd, data, 0) }},
			{"write", func() { handle2(in, short, replySize+8) }},
			{"pwritev", func() { _, _ = unix.Pwritev(h.fd, data, 0) }},
		} {
			b.Run(fmt.Sprintf("%s/%d", bench.name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					bench.do()
				}
			})
		}
		d.session.tree.handles.put(h)
	}
}

// BenchmarkQueue is a request through the queue, one at a time.
func BenchmarkQueue(b *testing.B) {
	d := newDevice(b, Options{Dir: fastDir(b)})
	driver := virtiotest.Start(b, d, ringFeatures|virtio.FeatureVersion1)
	c := &client{t: b}
	c.send = func(queue int, out [][]byte, in []int) []byte { return driver.Send(queue, out, in).Wait() }
	c.begin()
	_, _, err := c.create(root, "f", unix.O_RDWR)
	must(b, err)
	b.Run("lookup", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, err := c.lookup(root, "f")
			must(b, err)
		}
	})
	b.Run("getattr", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, err := c.getattr(root)
			must(b, err)
		}
	})
}
