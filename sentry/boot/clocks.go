package boot

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// timeOffsets are linux.timeOffsets, by which the clocks of the container's time namespace
// are off. One that has a clock begin before 0 is refused, as the kernel does
// (kernel/time/namespace.c, proc_timens_set_offset).
func (c *container) timeOffsets() (mono, boot time.Duration, err error) {
	if c.config.Spec.Linux == nil {
		return 0, 0, nil
	}
	for _, row := range []struct {
		name  string
		clock int32
		to    *time.Duration
	}{{"monotonic", unix.CLOCK_MONOTONIC, &mono}, {"boottime", unix.CLOCK_BOOTTIME, &boot}} {
		o, ok := c.config.Spec.Linux.TimeOffsets[row.name]
		if !ok {
			continue
		}
		var now unix.Timespec
		if err := unix.ClockGettime(row.clock, &now); err != nil {
			return 0, 0, fmt.Errorf("clock_gettime: %w", err)
		}
		*row.to = time.Duration(o.Secs)*time.Second + time.Duration(o.Nanosecs)
		if *row.to < -time.Duration(now.Nano()) {
			return 0, 0, fmt.Errorf("linux.timeOffsets.%s: %v is more than the clock has: %w", row.name, *row.to, unix.ERANGE)
		}
	}
	return mono, boot, nil
}
