package kernel

import (
	"math/bits"
	"testing"
	"time"
)

// A line through the counter tells the time at both of its ends.
func TestLine(t *testing.T) {
	const hz = 2_300_000_000
	l := line{from: 1 << 40, base: time.Hour}
	l.mult, _ = bits.Div64(uint64(time.Second)>>32, uint64(time.Second)<<32, hz)
	for _, ticks := range []uint64{0, hz / 1000, hz, 3600 * hz} {
		want := time.Hour + time.Duration(float64(ticks)/hz*1e9)
		got := l.at(l.from + ticks)
		if d := got - want; d < -2*time.Microsecond || d > 2*time.Microsecond {
			t.Errorf("%d ticks on: %v, want %v", ticks, got, want)
		}
	}
}

// The counter goes on between readings, and monotonic time with it.
func TestReading(t *testing.T) {
	tsc, mono := reading()
	for range 1000 {
		nextTSC, next := reading()
		if nextTSC <= tsc || next < mono {
			t.Fatalf("from %d, %v to %d, %v", tsc, mono, nextTSC, next)
		}
		tsc, mono = nextTSC, next
	}
}
