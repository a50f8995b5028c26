package kernel

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// meterClock is the clock that CPU time is counted by: the time since the Sentry's
// start, read by two instructions where the vDSO takes a tenth of a quick system
// call, and every call reads it twice. It follows Clock.sinceStart to within
// a millisecond (TestMeterClock).
type meterClock struct {
	line atomic.Pointer[line] // base is since the start; nil: too young to tell
	tsc0 uint64
	at0  time.Duration
}

// How long a line holds, and how old the clock must be to draw the first.
const (
	meterLine  = time.Second
	meterYoung = 5 * time.Millisecond
)

func (m *meterClock) init(c *Clock) {
	m.tsc0, m.at0 = bestReading(c.sinceStart)
}

// now is the time since the start.
func (m *meterClock) now(c *Clock) time.Duration {
	if l := m.line.Load(); l != nil {
		if tsc := counter(); tsc-l.from < l.limit {
			return l.at(tsc)
		}
	}
	return m.draw(c)
}

// draw reads the real clock, and draws a line from there if it can.
func (m *meterClock) draw(c *Clock) time.Duration {
	tsc, now := bestReading(c.sinceStart)
	span := now - m.at0
	if span < meterYoung || tsc <= m.tsc0 {
		return now
	}
	l := &line{from: tsc, base: now}
	l.mult, _ = bits.Div64(uint64(span)>>32, uint64(span)<<32, tsc-m.tsc0)
	if l.mult == 0 {
		return now
	}
	l.limit, _ = bits.Div64(uint64(meterLine)>>32, uint64(meterLine)<<32, l.mult)
	m.line.Store(l)
	return now
}
