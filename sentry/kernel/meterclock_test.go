package kernel

import (
	"testing"
	"time"
)

// TestMeterClock compares the clock with the real one, read before and after, on many lines.
func TestMeterClock(t *testing.T) {
	c := newClock()
	if got := c.meter.line.Load(); got != nil {
		t.Fatalf("a line without a slope: %+v", *got)
	}
	const off = time.Millisecond
	lines := map[*line]bool{}
	for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
		before := c.sinceStart()
		got := c.forCPUTime()
		after := c.sinceStart()
		if got < before-off || got > after+off {
			t.Fatalf("between %v and %v it is %v", before, after, got)
		}
		if l := c.meter.line.Load(); l != nil {
			lines[l] = true
			if got-l.base > 5*time.Millisecond { // before its slope's error is one of the clock
				c.meter.draw(c)
			}
		}
	}
	if len(lines) < 5 {
		t.Errorf("%d lines were drawn", len(lines))
	}
}
