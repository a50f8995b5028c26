package ptrace_test

import (
	"testing"

	"bulkhead/sentry/platform"
	"bulkhead/sentry/platform/platformtest"
	"bulkhead/sentry/platform/ptrace"
)

func newPlatform(tb testing.TB) platform.Platform {
	tb.Helper()
	p, err := ptrace.New()
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestConformance(t *testing.T) { platformtest.Run(t, newPlatform) }

func BenchmarkPlatform(b *testing.B) { platformtest.Bench(b, newPlatform) }
