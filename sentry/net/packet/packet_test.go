package packet

import (
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/net/inet"
	"bulkhead/sentry/vfs"
)

type caller struct{ vfs.Context }

func (caller) PID() int32            { return 7 }
func (caller) FS() *kernel.FSContext { return nil }

// TestOpensWhileFramesPass opens and closes sockets while frames pass another: neither
// waits for the other.
func TestOpensWhileFramesPass(t *testing.T) {
	n := inet.New(true, nil)
	c := caller{vfs.SentryContext()}
	hears, err := New(c, n, unix.SOCK_RAW, int(network(unix.ETH_P_ALL)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		var first error
		packet := append([]byte{0x60, 0, 0, 0, 0, 0, 59, 64}, make([]byte, 32)...) // no next header
		for range 5000 {
			if err := n.Enclose(inet.Loopback, unix.ETH_P_IPV6, make([]byte, 6), packet); err != nil && first == nil {
				first = err
			}
		}
		done <- first
	}()
	for range 5000 {
		s, err := New(c, n, unix.SOCK_RAW, int(network(unix.ETH_P_ALL)))
		if err != nil {
			t.Fatal(err)
		}
		s.Release()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if hears.seen == 0 {
		t.Error("no frame was heard")
	}
	held := n.Held().Load()
	if held != int64(hears.size) || hears.size > hears.opts.Receive()+(64<<10) {
		t.Errorf("%d bytes wait, %d are held", hears.size, held)
	}
	hears.Release()
	if n.Held().Load() != 0 {
		t.Errorf("%d bytes are held of none", n.Held().Load())
	}
}
