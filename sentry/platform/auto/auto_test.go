package auto_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform/auto"
)

// openKVM is what the runtime does for a sandbox.
func openKVM() auto.Config {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return auto.Config{KVM: -1, NoKVM: fmt.Errorf("open /dev/kvm: %w", err)}
	}
	return auto.Config{KVM: fd}
}

func TestAuto(t *testing.T) {
	begin := time.Now()
	p, report, err := auto.New(openKVM())
	took := time.Since(begin)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("in %v:\n%v", took, report)
	if p.Name() != report.Chosen || len(report.Costs) != 2 {
		t.Errorf("got %s, report %+v", p.Name(), report)
	}
	var best, other auto.Cost
	for _, c := range report.Costs {
		if c.Name == report.Chosen {
			best = c
		} else {
			other = c
		}
	}
	if best.Trapped <= 0 || best.Patched <= 0 || best.Fault <= 0 {
		t.Errorf("measured nothing: %+v", best)
	}
	if other.Err == nil && other.Mix() < best.Mix() {
		t.Errorf("%s is cheaper than %s", other.Name, best.Name)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestWithoutKVM(t *testing.T) {
	why := errors.New("open /dev/kvm: " + os.ErrNotExist.Error())
	p, report, err := auto.New(auto.Config{Name: "auto", KVM: -1, NoKVM: why})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Name() != "ptrace" || !strings.Contains(report.Reason, why.Error()) {
		t.Errorf("took %s: %s", p.Name(), report.Reason)
	}
}

func TestNamed(t *testing.T) {
	p, report, err := auto.New(auto.Config{Name: "ptrace", KVM: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Name() != "ptrace" || report.Chosen != "ptrace" || report.Costs != nil {
		t.Errorf("got %s, %+v", p.Name(), report)
	}
	why := errors.New("no such file")
	if _, _, err := auto.New(auto.Config{Name: "kvm", KVM: -1, NoKVM: why}); !errors.Is(err, why) {
		t.Errorf("kvm without /dev/kvm: got %v", err)
	}
	if _, _, err := auto.New(auto.Config{Name: "xen"}); err == nil {
		t.Error("platform xen was made")
	}
}
