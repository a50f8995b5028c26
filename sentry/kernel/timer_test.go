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
