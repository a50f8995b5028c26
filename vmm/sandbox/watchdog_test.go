package sandbox

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead/runtime/agent"
)

func TestWatchdog(t *testing.T) {
	silent := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for _, row := range []struct {
		name   string
		ask    func(since time.Duration) func(context.Context) error
		paused func(since time.Duration) bool
		dead   time.Duration // 0: it lives for an hour
	}{
		{"answers", func(time.Duration) func(context.Context) error {
			return func(context.Context) error { return nil }
		}, nil, 0},
		{"answers late", func(time.Duration) func(context.Context) error {
			return func(ctx context.Context) error { time.Sleep(9 * time.Second); return ctx.Err() }
		}, nil, 0},
		{"never answers", func(time.Duration) func(context.Context) error { return silent }, nil, time.Minute},
		{"refuses", func(time.Duration) func(context.Context) error {
			return func(context.Context) error { return errors.New("no") }
		}, nil, time.Minute},
		{"is silent for half a minute in each", func(since time.Duration) func(context.Context) error {
			if since%time.Minute < 30*time.Second {
				return silent
			}
			return func(context.Context) error { return nil }
		}, nil, 0},
		{"is paused", func(time.Duration) func(context.Context) error { return silent },
			func(since time.Duration) bool { return since < 10*time.Minute }, 10*time.Minute + 50*time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			w := &watchdog{
				patience: time.Minute, late: func(time.Duration) {},
				ask:    func(ctx context.Context) error { return row.ask(time.Since(began))(ctx) },
				paused: func() bool { return row.paused != nil && row.paused(time.Since(began)) },
			}
			dead := w.watch(ctx)
			took := time.Since(began)
			if dead != (row.dead != 0) || dead && (took < row.dead || took > row.dead+30*time.Second) {
				t.Errorf("%s: dead %v after %v, want %v", row.name, dead, took, row.dead)
			}
		})
	}
}

func TestPatience(t *testing.T) {
	for text, want := range map[string]time.Duration{"90s": 90 * time.Second, "0": 0, "2m": 2 * time.Minute} {
		if got, err := patienceOf(map[string]string{agent.WatchdogAnnotation: text}); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if got, err := patienceOf(nil); err != nil || got != silence {
		t.Errorf("without: %v, %v", got, err)
	}
	for _, text := range []string{"", "-1s", "1ms", "soon", "5"} {
		if _, err := patienceOf(map[string]string{agent.WatchdogAnnotation: text}); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
