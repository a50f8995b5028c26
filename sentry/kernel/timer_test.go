package kernel

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestPatientTimer: it goes off once, however long nobody takes that, and has
// counted the rest when somebody does.
func TestPatientTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, fired := time.Now(), 0
		p := NewPatientTimer(func() time.Duration { return time.Since(begin) }, false, func(missed int64) { fired += 1 + int(missed) })
		p.Set(time.Second, time.Second)
		time.Sleep(10*time.Second + time.Second/2)
		synctest.Wait()
		if left, _ := p.Left(); fired != 1 || left != time.Second/2 {
			t.Errorf("untaken: went off %d times, %v left; want 1 and 500ms", fired, left)
		}
		if n := p.Take(); n != 9 {
			t.Errorf("%d missed, want 9", n)
		}
		if n := p.Take(); n != 0 {
			t.Errorf("%d missed at once, want 0", n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if fired != 2 {
			t.Errorf("taken: went off %d times, want 2", fired)
		}
		p.Set(0, 0)
	})
}

// TestStaleTimer: a timer that is set anew, or stopped, while it is about to tell that it went
// off says no more of that (it_signal_seq in kernel/time/posix-timers.c).
func TestStaleTimer(t *testing.T) {
	g := &ThreadGroup{k: &Kernel{}}
	g.Timers.init(g)
	timer := NewPatientTimer(func() time.Duration { return 0 }, false, func(int64) {})
	timer.Sigev.Signal = 10
	gen := timer.gen.Load()
	g.Timers.Settime(timer, 0, 0)
	g.timerFired(timer, gen, 0) // would look for a thread to send to, of which there is none
	if g.pending.set != 0 {
		t.Errorf("pending: %#x", g.pending.set)
	}
}

// TestEarlyTimer: a timer that goes off while it is still being set keeps its signal.
func TestEarlyTimer(t *testing.T) {
	g := &ThreadGroup{k: &Kernel{}}
	g.Timers.init(g)
	var timer *Timer
	timer = NewPatientTimer(func() time.Duration { // asked for when it is armed
		g.pending.add(TimerInfo(10, timer.ID, 0, 0), 1, true)
		return 0
	}, false, func(int64) {})
	timer.Sigev.Signal = 10
	g.Timers.Settime(timer, time.Hour, 0)
	if g.pending.of(timer) == nil {
		t.Error("its signal is lost")
	}
	timer.timer.Stop()
}
