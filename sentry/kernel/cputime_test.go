package kernel

import (
	"errors"
	"testing"
	"time"
)

// host is a scheduler's clock that the test sets.
type host struct {
	used time.Duration
	err  error
}

func (h *host) read() (time.Duration, error) { return h.used, h.err }

func TestMeter(t *testing.T) {
	h := &host{used: time.Hour} // what was before does not count
	m := newMeter(h.read, 0)
	var a, b spent
	a.join(m, 0)
	b.join(m, 0)
	step := func(what string, host, a1, b1, wantA, wantB time.Duration) {
		t.Helper()
		h.used += host
		a.clock.Add(int64(a1))
		b.clock.Add(int64(b1))
		m.weigh(m.at + time.Second)
		if gotA, gotB := a.tell(), b.tell(); gotA != wantA || gotB != wantB {
			t.Errorf("%s: %v and %v, want %v and %v", what, gotA, gotB, wantA, wantB)
		}
	}
	const s = time.Second
	step("all that was counted", 4*s, s, 3*s, s, 3*s)
	step("half", 2*s, s, 3*s, s+s/2, 4*s+s/2)
	step("others' time is not theirs", 9*s, s, 0, 2*s+s/2, 4*s+s/2)
	step("nothing", 0, s, s, 2*s+s/2, 4*s+s/2)
	step("a clock that went back", -5*s, s, s, 2*s+s/2, 4*s+s/2)

	// In between the share of before is taken, and what was told does not go back.
	step("a whole share", 2*s, s, s, 3*s+s/2, 5*s+s/2)
	a.clock.Add(int64(s))
	if got := a.tell(); got != 4*s+s/2 {
		t.Errorf("before the meter is read again: %v", got)
	}
	step("less than was told", s/2, 0, 0, 4*s+s/2, 5*s+s/2)
	step("the rest makes up for it", s, s/2, s/2, 4*s+s/2, 6*s)

	b.leave(m.at)
	b.clock.Add(int64(s))
	if got := b.tell(); got != 7*s {
		t.Errorf("of none: %v", got)
	}
	h.err = errors.New("no such process")
	a.clock.Add(int64(s))
	m.weigh(m.at + s)
	if got := a.tell(); got != 5*s+s/2 {
		t.Errorf("a meter that cannot be read: %v", got)
	}
	a.leave(m.at)
	if len(m.of) != 0 {
		t.Error("left, and still there")
	}
}
