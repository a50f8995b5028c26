package guest

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/kvm"
	"bulkhead/vmm/ring0"
)

func open(t testing.TB) *kvm.System {
	t.Helper()
	sys, err := kvm.Open()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		t.Skip("needs /dev/kvm (root, or the group kvm):", err)
	}
	must(t, err)
	t.Cleanup(func() { sys.Close() })
	return sys
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func native(t testing.TB, sys *kvm.System) bool {
	t.Helper()
	yes, reason, err := ring0.Native(sys)
	must(t, err)
	t.Log(reason)
	return yes
}

// missing is what KVM's emulator lacks, and what ring 0 of a user-only host
// therefore cannot do (kvm-hosts.md).
var missing = map[string]Status{"int3": Fails, "clac": Fails, "stac": Fails, "popcnt": Fails, "xsave": Fails, "xrstor": Fails, "vmcall": Hangs}

func TestInstructions(t *testing.T) {
	sys := open(t)
	here := native(t, sys)
	trials := Instructions(sys, "GenuineIntel", func(string) {})
	if len(trials) != len(instructions)+1 {
		t.Errorf("%d trials of %d instructions", len(trials), len(instructions)+1)
	}
	for _, got := range trials {
		t.Logf("%-16s %-6s %s", got.Name, got.Status, got.Saw)
		want, lacks := missing[got.Name]
		switch {
		case got.Why == "":
			t.Errorf("%s: for nobody", got.Name)
		case got.Status == Stuck:
			t.Errorf("%s: %s", got.Name, got.Saw)
		case here && got.Status != Works && got.Status != Absent && got.Name != "vmcall": // a vmcall is AMD's #UD
			t.Errorf("%s: %s: %s, on a host with native ring 0", got.Name, got.Status, got.Saw)
		case !here && lacks && got.Status != want && got.Status != Absent:
			t.Errorf("%s: %s: %s; want %s of an emulator", got.Name, got.Status, got.Saw, want)
		}
	}
}

func TestModes(t *testing.T) {
	sys := open(t)
	here := native(t, sys)
	for _, got := range Modes(sys, func(string) {}) {
		t.Logf("%-28s %-6s %s", got.Name, got.Status, got.Saw)
		if here && got.Status != Works || got.Status == Stuck {
			t.Errorf("%s: %s: %s", got.Name, got.Status, got.Saw)
		}
		if got.Name == "64-bit, ring 3" && got.Status != Works {
			t.Errorf("ring 3: %s: %s", got.Status, got.Saw)
		}
	}
}

// vital are those without which the sentry does not run on any host.
var vital = []string{"syscall", "page taken from a running CPU", "kick", "dirty log", "ioeventfd, port"}

func TestBehaviours(t *testing.T) {
	sys := open(t)
	here := native(t, sys)
	for _, got := range Behaviours(sys, func(string) {}) {
		t.Logf("%-30s %-6s %s", got.Name, got.Status, got.Saw)
		if (here && got.Status == Fails || got.Status == Stuck) || slices.Contains(vital, got.Name) && got.Status != Works {
			t.Errorf("%s: %s: %s", got.Name, got.Status, got.Saw)
		}
	}
}
