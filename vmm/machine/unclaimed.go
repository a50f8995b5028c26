package machine

import (
	"log/slog"
	"sync/atomic"
)

// counter counts accesses to where nothing is: kernels probe, so each one is not
// worth a line.
type counter struct{ port, mmio atomic.Uint64 }

func (c *counter) report(log *slog.Logger) {
	if p, m := c.port.Load(), c.mmio.Load(); p+m > 0 {
		log.Debug("accesses to where nothing is", "ports", p, "mmio", m)
	}
}
