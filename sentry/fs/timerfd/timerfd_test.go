package timerfd

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// TestExpiresAtOnce: an expiry that comes while its timer is being set is not forgotten with those of the old
// setting; nothing would arm the timer again.
func TestExpiresAtOnce(t *testing.T) {
	const limit = 30 * time.Second // of all
	begin := time.Now()
	d := New(func() time.Duration { return time.Since(begin) + 1 }, unix.CLOCK_MONOTONIC, 0)
	defer d.Unref()
	f := d.File().(*File)
	for i := range 200_000 {
		f.Set(1, time.Hour, 0)
		for n := 0; f.Ready(vfs.EventIn) == 0; n++ {
			if runtime.Gosched(); n%1000 == 999 && time.Since(begin) > limit {
				t.Fatalf("setting %d: no expiry", i)
			}
		}
	}
}
