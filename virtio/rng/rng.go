// Package rng is the entropy device (virtio 1.3 §5.4): it fills the buffers of
// its one queue with random bytes. It knows chains; how the guest runs and how
// it hears of a used buffer is the transport's business.
package rng

import (
	"fmt"
	"io"

	"bulkhead/virtio"
)

// limit keeps a 4 GiB request from holding the worker; a short answer is allowed (§5.4.6.2).
const limit = 64 << 10 // bytes

// Device implements virtio.Server.
type Device struct {
	src io.Reader
}

// New is a device that fills buffers from src: crypto/rand.Reader, except in tests.
func New(src io.Reader) *Device { return &Device{src} }

func (*Device) ID() virtio.DeviceID { return virtio.Entropy }
func (*Device) Features() uint64    { return 0 }
func (*Device) Queues() []uint16    { return []uint16{64} } // entries

// Serve fills c and reports how many bytes it wrote.
func (d *Device) Serve(_ int, c *virtio.Chain) (int, error) {
	if n := c.Readable(); n > 0 {
		return 0, fmt.Errorf("rng: %d readable bytes in a request, against §5.4.6.1", n)
	}
	n, err := io.CopyN(c, d.src, int64(min(c.Writable(), limit)))
	return int(n), err
}
