package verdict

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"bulkhead/hwtest/cost"
	"bulkhead/hwtest/guest"
	"bulkhead/hwtest/probe"
)

// good is a host on which everything works.
func good() Evidence {
	e := Evidence{Ring0: Ring0{Native: true, Reason: "ring 0 is native: 1 cycles an instruction"}}
	e.Facts.KVM.Present = true
	e.Facts.KVM.Capabilities = []probe.Capability{
		{Name: "SYNC_REGS", Value: 7, For: []string{"sentry"}},
		{Name: "IRQFD", Value: 1, For: []string{"vmm", "firecracker", "cloud-hypervisor"}},
		{Name: "PIT2", Value: 1, For: []string{"vmm", "firecracker"}},
	}
	for _, name := range slices.Concat(machines, []string{"syscall", "second CPU by INIT and SIPI"}) {
		e.Behaviours = append(e.Behaviours, guest.Trial{Name: name, Status: guest.Works})
	}
	e.Instructions = []guest.Trial{{Name: "int3", Status: guest.Works}, {Name: "rdpid", Status: guest.Absent}}
	e.Costs = []cost.Cost{{ID: "sentry-kvm-trapped", Median: 1234}, {ID: "sentry-kvm-patched", Median: 65.4}, {ID: "exit-ring0", Median: 1500}, {ID: "ioeventfd", Error: "none"}}
	return e
}

func TestWalls(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*Evidence)
		class  Class
		no     []string // walls, in order
		says   string   // somewhere in the lines
	}{
		{"metal", func(*Evidence) {}, Full, nil, "yes, system call ≈ 1.23 µs, 65.4 ns from a patched site"},
		{"nested", func(e *Evidence) { e.Facts.Machine.Virtual = true }, Nested, nil, "yes, exit ≈ 1.50 µs"},
		{"user-only", func(e *Evidence) {
			e.Ring0 = Ring0{Reason: "ring 0 is emulated: 661 cycles an instruction, and popcnt fails"}
			e.Instructions[0].Status = guest.Fails
		}, UserOnly, []string{"vm", "firecracker", "cloud-hypervisor"}, "no, ring 0 is emulated: 661 cycles an instruction, and popcnt fails (and 1 more"},
		{"none", func(e *Evidence) {
			e.Facts.KVM = probe.KVM{Error: "kvm: open /dev/kvm: no such file or directory"}
		}, None, []string{"sentry-kvm", "vm", "firecracker", "cloud-hypervisor"}, "no, kvm: open /dev/kvm: no such file"},
		{"a broken kvm", func(e *Evidence) { e.Ring0 = Ring0{Error: "ring0: a guest ended with fail entry"} }, None,
			[]string{"sentry-kvm", "vm", "firecracker", "cloud-hypervisor"}, "KVM runs no guest"},
		{"no pit", func(e *Evidence) { e.Facts.KVM.Capabilities[2].Value = 0 }, Full, []string{"vm", "firecracker"}, "no, KVM lacks PIT2"},
		{"no irqfd", func(e *Evidence) {
			e.Behaviours[slices.IndexFunc(e.Behaviours, func(t guest.Trial) bool { return t.Name == "irqfd" })].Status = guest.Hangs
		}, Full, []string{"vm", "firecracker", "cloud-hypervisor"}, "no, irqfd: hangs"},
		{"no ptrace", func(e *Evidence) { e.NoPtrace = errors.New("operation not permitted") }, Full, []string{"sentry-ptrace"}, "no process can be traced: operation"},
	} {
		e := good()
		row.change(&e)
		var no, lines []string
		for _, w := range e.Walls() {
			lines = append(lines, w.Title+": "+w.Line)
			if !w.Yes {
				no = append(no, w.Name)
			}
			if w.Yes != (len(w.Reasons) == 0) || w.Yes != strings.HasPrefix(w.Line, "yes") {
				t.Errorf("%s: %+v contradicts itself", row.name, w)
			}
		}
		text := strings.Join(lines, "\n")
		if e.Of() != row.class || !slices.Equal(no, row.no) || !strings.Contains(text, row.says) {
			t.Errorf("%s: class %s, want %s; no to %v, want %v; want %q in\n%s", row.name, e.Of(), row.class, no, row.no, row.says, text)
		}
	}
}

// TestNames: each trial that a wall needs is one that package guest has.
func TestNames(t *testing.T) {
	known := guest.Names()
	for _, w := range walls {
		for _, need := range w.trials {
			if !slices.Contains(known, need) {
				t.Errorf("%s needs %q, which nobody tries", w.name, need)
			}
		}
	}
}

func TestNanos(t *testing.T) {
	for v, want := range map[float64]string{0.391: "0.39 ns", 99.96: "100 ns", 999.7: "1.00 µs", 1234: "1.23 µs", 30_410: "30.4 µs", 3.2e6: "3.20 ms", 2e9: "2.00 s"} {
		if got := Nanos(v); got != want {
			t.Errorf("%g: %s, want %s", v, got, want)
		}
	}
}

func TestAdvice(t *testing.T) {
	for _, row := range []struct {
		f    probe.Facts
		want string
	}{
		{probe.Facts{KVM: probe.KVM{Error: "kvm: open /dev/kvm: permission denied"}}, "as root"},
		{probe.Facts{CPU: probe.CPU{SVM: true}}, "kvm_amd"},
		{probe.Facts{Machine: probe.Machine{Virtual: true, Cloud: "Google Cloud"}}, "--enable-nested-virtualization"},
		{probe.Facts{Machine: probe.Machine{Virtual: true, Hypervisor: "Hyper-V"}}, "Hyper-V"},
		{probe.Facts{}, "firmware"},
	} {
		if got := noKVM(row.f); !strings.Contains(got, row.want) {
			t.Errorf("%+v: %q, want %q", row.f, got, row.want)
		}
	}
}
