package kvm

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
	"bulkhead/sentry/platform/platformtest"
)

func newPlatform(t testing.TB) platform.Platform {
	t.Helper()
	p, err := New(-1)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		t.Skip("needs /dev/kvm (load kvm-intel or kvm-amd; be root or in group kvm):", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestConformance(t *testing.T) { platformtest.Run(t, newPlatform) }

func BenchmarkPlatform(b *testing.B) { platformtest.Bench(b, newPlatform) }
