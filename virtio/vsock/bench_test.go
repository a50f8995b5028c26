package vsock

import (
	"io"
	"testing"
)

// BenchmarkGuestToHost and BenchmarkHostToGuest are one connection's throughput
// through the queues and a Unix socket, with a guest that costs little.
func BenchmarkGuestToHost(b *testing.B) {
	path := socketPath(b)
	_, g := startDevice(b, path)
	const piece = 64 << 10
	g.listen(5, func(c *guestConn) {
		p := make([]byte, piece)
		for {
			if _, err := c.Write(p); err != nil {
				return
			}
		}
	})
	host := connect(b, path, 5)
	p := make([]byte, piece)
	b.SetBytes(piece)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.ReadFull(host, p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHostToGuest(b *testing.B) {
	path := socketPath(b)
	_, g := startDevice(b, path)
	const piece = 64 << 10
	done := make(chan struct{})
	g.listen(5, func(c *guestConn) {
		io.Copy(io.Discard, struct{ io.Reader }{c})
		close(done)
	})
	host := connect(b, path, 5)
	p := make([]byte, piece)
	b.SetBytes(piece)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := host.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	host.CloseWrite()
	<-done
}
