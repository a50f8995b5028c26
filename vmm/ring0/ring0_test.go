package ring0

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/kvm"
)

func open(t testing.TB) *kvm.System {
	t.Helper()
	sys, err := kvm.Open()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		t.Skip("needs /dev/kvm (root, or the group kvm):", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Close() })
	return sys
}

// TestNative compares with what the kernel's name says where it says something.
func TestNative(t *testing.T) {
	sys := open(t)
	native, reason, err := Native(sys)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(native, reason)
	if _, err := os.Stat("/sys/module/kvm_pvm"); err == nil && native {
		t.Errorf("native under kvm_pvm: %s", reason)
	}
	for _, module := range []string{"kvm_intel", "kvm_amd"} {
		if _, err := os.Stat("/sys/module/" + module); err == nil && !native {
			t.Errorf("not native under %s: %s", module, reason)
		}
	}
}

// TestOften looks for a kick that outlives its vCPU, and for an answer that wavers.
func TestOften(t *testing.T) {
	sys := open(t)
	first, _, err := Native(sys)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if again, reason, err := Native(sys); err != nil || again != first {
			t.Fatalf("native %v (%s), %v; at first %v", again, reason, err, first)
		}
	}
}

// TestPatience: a guest has a second of a processor, however long that takes, and a minute at most.
func TestPatience(t *testing.T) {
	for _, row := range []struct {
		name    string
		had, of time.Duration // a processor's and the clock's, between two interruptions
		ends    int           // after so many
		fails   bool
	}{
		{"starved", 30 * time.Millisecond, time.Second, 25, false},
		{"at work", time.Second, time.Second, 3, true},
		{"asleep", 0, time.Second, 100, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			var worked time.Duration
			n := 0
			exit, err := runFor(func() (kvm.Exit, error) {
				time.Sleep(row.of)
				worked += row.had
				if n++; n > row.ends {
					return kvm.ExitIO, nil
				}
				return kvm.ExitInterrupted, nil
			}, func() time.Duration { return worked })
			if (err != nil) != row.fails || err == nil && exit != kvm.ExitIO {
				t.Errorf("%s: %v, %v after %d", row.name, exit, err, n)
			}
		})
	}
}

func TestFastest(t *testing.T) {
	for _, row := range []struct {
		name   string
		stamps [rounds][3]uint64
		want   uint64
	}{
		{"native", [rounds][3]uint64{{0, 30, 200}, {300, 330, 424}, {500, 530, 900}, {1000, 1030, 2000}}, 1},
		{"emulated", [rounds][3]uint64{{0, 3000, 100_000}, {0, 3000, 99_000}, {0, 3000, 120_000}, {0, 3000, 130_000}}, 1453},
		{"interrupted in nothing", [rounds][3]uint64{{0, 1 << 20, 1<<20 + 100}, {0, 10, 148}, {0, 10, 276}, {0, 10, 276}}, 2},
	} {
		stamps := make([]byte, rounds*24)
		for i, r := range row.stamps {
			for j, at := range r {
				binary.LittleEndian.PutUint64(stamps[24*i+8*j:], at)
			}
		}
		if got := fastest(stamps); got != row.want {
			t.Errorf("%s: %d cycles, want %d", row.name, got, row.want)
		}
	}
}

func BenchmarkNative(b *testing.B) {
	sys := open(b)
	for b.Loop() {
		if _, _, err := Native(sys); err != nil {
			b.Fatal(err)
		}
	}
}
