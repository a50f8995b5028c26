package proc

import (
	"testing"
	"time"
)

func TestLoad(t *testing.T) {
	var l load
	var m [3]float64
	for s := time.Duration(0); s <= 10*60; s += 5 {
		m = l.look(s*time.Second, 2*s*time.Second) // two threads that run all the time
	}
	for i, want := range [3]float64{2.00, 1.73, 0.97} { // 2·(1-e^(-600/period))
		if d := m[i] - want; d > 0.01 || d < -0.01 {
			t.Errorf("average %d is %.2f, want %.2f", i, m[i], want)
		}
	}
	if again := l.look(600*time.Second+time.Millisecond, 1200*time.Second); again != m {
		t.Errorf("a second look at once: %v, was %v", again, m)
	}
	m = l.look(60*60*time.Second, 1200*time.Second)
	if m[0] > 0.01 {
		t.Errorf("after fifty idle minutes: %.2f", m[0])
	}
}
