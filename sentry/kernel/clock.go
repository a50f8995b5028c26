package kernel

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Clock tells the time. CLOCK_MONOTONIC is the host's, so that what a vDSO reads
// and what a call answers agree.
type Clock struct {
	start     time.Time     // of the Sentry, with Go's monotonic reading
	monoStart time.Duration // CLOCK_MONOTONIC at start
	bootDelta time.Duration // CLOCK_BOOTTIME - CLOCK_MONOTONIC
	realDelta atomic.Int64  // CLOCK_REALTIME as the container set it, less the host's
	boot      time.Duration // CLOCK_MONOTONIC when the container booted
	raw       time.Duration // CLOCK_MONOTONIC_RAW - CLOCK_MONOTONIC at start
	meter     meterClock
}

func newClock() *Clock {
	read := func(id int32) time.Duration {
		var ts unix.Timespec
		unix.ClockGettime(id, &ts)
		return time.Duration(ts.Nano())
	}
	c := &Clock{}
	m1 := read(unix.CLOCK_MONOTONIC)
	c.start = time.Now()
	m2 := read(unix.CLOCK_MONOTONIC)
	c.monoStart = (m1 + m2) / 2
	c.bootDelta = read(unix.CLOCK_BOOTTIME) - m2
	c.raw = read(unix.CLOCK_MONOTONIC_RAW) - m2
	c.boot = c.monoStart
	c.meter.init(c)
	return c
}

// monotonic is CLOCK_MONOTONIC, by Go's own vDSO.
func monotonic() time.Duration { return base.monoStart + time.Since(base.start) }

var base = newClock()

func (c *Clock) sinceStart() time.Duration { return time.Since(c.start) }

// forCPUTime is sinceStart for who counts CPU time.
func (c *Clock) forCPUTime() time.Duration { return c.meter.now(c) }

// Monotonic is CLOCK_MONOTONIC.
func (c *Clock) Monotonic() time.Duration { return c.monoStart + c.sinceStart() }

// MonotonicRaw is CLOCK_MONOTONIC_RAW.
func (c *Clock) MonotonicRaw() time.Duration { return c.Monotonic() + c.raw }

// Boottime is CLOCK_BOOTTIME.
func (c *Clock) Boottime() time.Duration { return c.Monotonic() + c.bootDelta }

// Uptime is how long the container has run.
func (c *Clock) Uptime() time.Duration { return c.sinceStart() }

// Realtime is CLOCK_REALTIME in nanoseconds since 1970.
func (c *Clock) Realtime() int64 { return time.Now().UnixNano() + c.realDelta.Load() }

// SetRealtime is clock_settime(2) within the container; the host's clock stays.
func (c *Clock) SetRealtime(ns int64) { c.realDelta.Store(ns - time.Now().UnixNano()) }

// MonotonicOf turns a CLOCK_REALTIME deadline into a monotonic one.
func (c *Clock) MonotonicOf(real int64) time.Duration {
	return c.Monotonic() + time.Duration(real-c.Realtime())
}
