package proc

import (
	"math"
	"sync"
	"time"
)

// load is /proc/loadavg's averages. Linux samples the number of runnable threads
// every five seconds; nobody wakes a sleeping container for that. What threads have
// run, waiting for a CPU included, says the same over the time since somebody looked
// last: it is taken for constant in between.
type load struct {
	mu   sync.Mutex
	at   time.Duration // uptime of the last look
	ran  time.Duration // by all threads until then
	mean [3]float64
}

// periods are those of the three averages.
var periods = [3]time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute}

// look brings the averages up to now, when threads have run for ran in all.
func (l *load) look(now, ran time.Duration) [3]float64 {
	const least = 100 * time.Millisecond // less is noise
	l.mu.Lock()
	defer l.mu.Unlock()
	d := now - l.at
	if d < least {
		return l.mean
	}
	n := max(0, float64(ran-l.ran)) / float64(d)
	l.at, l.ran = now, ran
	for i, p := range periods {
		keep := math.Exp(-float64(d) / float64(p))
		l.mean[i] = l.mean[i]*keep + n*(1-keep)
	}
	return l.mean
}
