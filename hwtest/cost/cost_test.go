package cost

import (
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"bulkhead/kvm"
)

// TestMeasure takes every figure on the host at hand; what has an error says why.
func TestMeasure(t *testing.T) {
	sys, err := kvm.Open()
	if err != nil {
		t.Log("needs /dev/kvm for most figures (root, or the group kvm):", err)
		sys = nil
	} else {
		defer sys.Close()
	}
	seen := map[string]bool{}
	for _, c := range Measure(Host{KVM: sys, NoKVM: err, CPUs: runtime.NumCPU(), Budget: 20 * time.Millisecond, Progress: func(string) {}}) {
		t.Logf("%-20s %-40s %12.1f ns  %12.1f to %.1f, %d samples %s", c.ID, c.Name, c.Median, c.Low, c.High, c.Samples, c.Error)
		if seen[c.ID] || c.Name == "" || c.Note == "" || !slices.Contains(Groups, c.Group) {
			t.Errorf("row %+v: twice, or without a name, a note or a group", c)
		}
		seen[c.ID] = true
		if c.Error == "" && (c.Median <= 0 || c.Low > c.Median || c.Median > c.High || c.Min > c.Low) {
			t.Errorf("%s: %+v is no order", c.ID, c)
		}
		if sys != nil && c.Error != "" && runtime.NumCPU() > 1 {
			t.Errorf("%s: %s", c.ID, c.Error)
		}
	}
}

func TestWithoutKVM(t *testing.T) {
	h := Host{NoKVM: errors.New("no such file"), CPUs: 1, Budget: time.Millisecond, Progress: func(string) {}}
	for _, m := range measurements {
		if !m.kvm && m.cpus < 2 {
			continue
		}
		if c := h.one(m); c.Error == "" || c.Samples != 0 {
			t.Errorf("%s: %+v without kvm and with one CPU", m.id, c)
		}
	}
}

func TestFill(t *testing.T) {
	var c Cost
	c.fill([]float64{5, 1, 2, 4, 3, 100, 6, 7, 8, 9, 10}, nil)
	if c.Median != 6 || c.Low != 2 || c.High != 10 || c.Min != 1 || c.Samples != 11 {
		t.Errorf("%+v", c)
	}
	if c = (Cost{}); true {
		c.fill(nil, nil)
	}
	if c.Error == "" {
		t.Error("no samples make a figure")
	}
}
