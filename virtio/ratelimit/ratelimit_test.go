package ratelimit

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

func TestTake(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	type step struct {
		rest time.Duration // before
		n    int
		want time.Duration
	}
	for _, row := range []struct {
		name   string
		limits Limits
		steps  []step
	}{
		{"no limits", Limits{}, []step{{0, math.MaxInt, 0}, {0, 1, 0}}},
		{"a burst, then at the rate", Limits{Bytes: Rate{1000, 500}},
			[]step{{0, 500, 0}, {0, 100, 100 * ms}, {0, 100, 200 * ms}, {200 * ms, 100, 100 * ms}}},
		{"a rest fills the bucket, and no further", Limits{Bytes: Rate{1000, 500}},
			[]step{{0, 500, 0}, {time.Hour, 500, 0}, {0, 1, ms}}},
		{"larger than the burst", Limits{Bytes: Rate{1000, 500}},
			[]step{{0, 2500, 2 * s}, {2 * s, 1, ms}}},
		{"operations", Limits{Ops: Rate{10, 2}},
			[]step{{0, 1 << 30, 0}, {0, 0, 0}, {0, 0, 100 * ms}, {100 * ms, 0, 100 * ms}}},
		{"the stricter of both", Limits{Bytes: Rate{1000, 1000}, Ops: Rate{1, 1}},
			[]step{{0, 100, 0}, {0, 100, s}, {s, 4000, 3 * s}}},
		{"no burst at all", Limits{Ops: Rate{PerSecond: 2}}, []step{{0, 0, 500 * ms}}},
		{"a debt of many years does not overflow", Limits{Bytes: Rate{1, 1}},
			[]step{{0, math.MaxInt, longest - s}, {0, math.MaxInt, 2*longest - s}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(row.limits)
				for i, step := range row.steps {
					time.Sleep(step.rest) // the bubble's clock
					if got := l.Take(step.n); got != step.want {
						t.Errorf("step %d: Take(%d) after %v = %v, want %v", i, step.n, step.rest, got, step.want)
					}
				}
			})
		})
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Limits{Bytes: Rate{PerSecond: 1000, Burst: 1}})
		start := time.Now()
		for range 10 {
			if !l.Wait(100, nil) {
				t.Fatal("Wait ended without a stop")
			}
		}
		if got, want := time.Since(start), 999*time.Millisecond; got != want {
			t.Errorf("1000 bytes at 1000/s took %v, want %v", got, want)
		}
	})
}

func TestWaitStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Limits{Bytes: Rate{PerSecond: 1, Burst: 1}})
		stop, done := make(chan struct{}), make(chan bool)
		go func() { done <- l.Wait(1000, stop) }()
		synctest.Wait()
		close(stop)
		if <-done {
			t.Error("Wait says that the operation may be done, after the stop")
		}
		// It was not done, so the bucket is as full as before.
		if got := l.Take(1); got != 0 {
			t.Errorf("a stopped Wait was charged: the next waits %v", got)
		}
	})
}

// TestQueues has several goroutines share a limit: together they get the rate.
func TestQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Limits{Ops: Rate{PerSecond: 100, Burst: 1}})
		start, done := time.Now(), make(chan bool)
		for range 4 {
			go func() {
				for range 50 {
					l.Wait(4096, nil)
				}
				done <- true
			}()
		}
		for range 4 {
			<-done
		}
		if got, want := time.Since(start), 1990*time.Millisecond; got != want {
			t.Errorf("200 operations at 100/s took %v, want %v", got, want)
		}
	})
}

func TestParse(t *testing.T) {
	for _, row := range []struct {
		in   string
		want Limits
	}{
		{"", Limits{}},
		{"bytes=10M/s,ops=1000/s,burst=64M", Limits{Rate{10 << 20, 64 << 20}, Rate{1000, 100}}},
		{"bytes=1024", Limits{Bytes: Rate{1024, 102}}},
		{"ops=5", Limits{Ops: Rate{5, 1}}},
		{"ops=2k/s,ops-burst=3K", Limits{Ops: Rate{2000, 3000}}},
		{"burst=1,bytes=1T/s", Limits{Bytes: Rate{1 << 40, 1}}},
	} {
		if got, err := Parse(row.in); err != nil || got != row.want {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", row.in, got, err, row.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"speed=1":           `rate limit "speed=1": unknown word "speed"; give bytes=, ops=, burst= (bytes) or ops-burst=`,
		"bytes":             `rate limit "bytes": bytes has no value, as in bytes=1000`,
		"ops=1,ops=2":       `rate limit "ops=1,ops=2": ops is given twice`,
		"ops=":              `rate limit "ops=": ops: "" is not a number with K, M, G or T behind it`,
		"ops=-1":            `rate limit "ops=-1": ops: "-1" is not a number with K, M, G or T behind it`,
		"bytes=1.5M":        `rate limit "bytes=1.5M": bytes: "1.5M" is not a number with K, M, G or T behind it`,
		"bytes=0/s":         `rate limit "bytes=0/s": bytes: "0" lets nothing through; leave it out for no limit`,
		"bytes=9999999999G": `rate limit "bytes=9999999999G": bytes: "9999999999G" is too large`,
		"burst=1M":          `rate limit "burst=1M": a burst without a rate; add bytes=`,
		"burst=1M/s":        `rate limit "burst=1M/s": burst: "1M/s" is not a number with K, M, G or T behind it`,
		"bytes=1,":          `rate limit "bytes=1,": unknown word ""; give bytes=, ops=, burst= (bytes) or ops-burst=`,
	} {
		if _, err := Parse(in); err == nil || err.Error() != want {
			t.Errorf("Parse(%q) says\n  %v, want\n  %s", in, err, want)
		}
	}
}

// FuzzParse also asks that what was understood can be written and read again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "bytes=10M/s,ops=1000/s,burst=64M", "ops=9223372036854775807", "ops=1/s/s", "burst=1,bytes=2T"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(l.String())
		if err != nil || again != l {
			t.Errorf("Parse(%q) = %+v, written as %q, read as %+v, %v", s, l, l, again, err)
		}
		if d := New(l).Take(1 << 20); d < 0 {
			t.Errorf("%q: a wait of %v", s, d)
		}
	})
}

func BenchmarkTake(b *testing.B) {
	l := New(Limits{Bytes: Rate{1 << 40, 1 << 40}, Ops: Rate{1 << 40, 1 << 40}})
	b.ReportAllocs()
	for b.Loop() {
		l.Take(4096)
	}
}
