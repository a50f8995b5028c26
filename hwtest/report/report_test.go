package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/hwtest/cost"
	"bulkhead/hwtest/guest"
	"bulkhead/hwtest/probe"
	"bulkhead/hwtest/verdict"
)

// sample is a report with one of everything, hostile names included.
func sample() *Report {
	return &Report{
		Schema: Schema, Tool: "hwtest", Commit: "abc", Taken: time.Date(2026, 11, 23, 16, 0, 0, 0, time.UTC), TookMS: 4000,
		Load: Load{CPUs: 2, Before: 3.5}, Class: verdict.UserOnly, ClassMeaning: verdict.Meaning[verdict.UserOnly],
		Ring0: verdict.Ring0{Reason: "ring 0 is emulated: 661 cycles an instruction"},
		Walls: []verdict.Wall{
			{Name: "sentry-kvm", Title: "sentry on kvm", Yes: true, Line: "yes, system call ≈ 1.23 µs", Reasons: []string{}},
			{Name: "vm", Title: "vm", Line: "no, ring 0 is emulated", Reasons: []string{"ring 0 is emulated", "KVM lacks PIT2"}, Advice: "take another host"},
			{Name: "firecracker", Title: "Firecracker", Line: "no, ring 0 is emulated", Reasons: []string{"ring 0 is emulated"}, Advice: "take another host"},
		},
		Host: probe.Facts{
			CPU:     probe.CPU{Vendor: "GenuineIntel", Model: "A <script>CPU</script>", Online: "0-1"},
			Machine: probe.Machine{Virtual: true, Hypervisor: "KVM", Signature: "KVMKVMKVM"},
			KVM: probe.KVM{Present: true, Modules: []string{"kvm"}, MMU: "EPT", Parameters: map[string]string{"kvm/halt_poll_ns": "200000"},
				Capabilities: []probe.Capability{{Name: "PIT2", For: []string{"vmm"}, Why: "a timer", Since: "2.6.32"}, {Name: "IRQFD", Value: 1, For: []string{"vmm"}, Why: "interrupts", Since: "2.6.32"}}},
			Devices:     []probe.Device{{Path: "/dev/kvm", State: "opens"}, {Path: "/dev/vhost-net", State: "absent", Reason: "net"}},
			Cgroup:      probe.Cgroup{Version: "v2", Controllers: []string{"cpu"}, FavorDynMods: true},
			Mitigations: map[string]string{"retbleed": "Vulnerable", "mds": "Not affected"},
		},
		Modes:        []guest.Trial{{Name: "64-bit, ring 3", Status: guest.Works, Why: "programs"}},
		Instructions: []guest.Trial{{Name: "int3", Status: guest.Fails, Saw: "KVM cannot emulate it", Why: "kernels"}, {Name: "rdpid", Status: guest.Absent, Saw: "none", Why: "x"}},
		Behaviours:   []guest.Trial{{Name: "irqfd", Status: guest.Hangs, Saw: "kicked", Why: "devices"}, {Name: "kvmclock", Status: guest.Works, Saw: "stable", Why: "clock"}},
		Costs: []cost.Cost{
			{ID: "getppid", Group: cost.Crossing, Name: "native system call", Note: "n", Median: 120, Low: 110, High: 130, Min: 100, Samples: 50},
			{ID: "exit-ring0", Group: cost.Crossing, Name: "exit from ring 0", Note: "n", Median: 10_000, Low: 9000, High: 12_000, Min: 8500, Samples: 1000},
			{ID: "kick", Group: cost.Waking, Name: "kick", Note: "n", Error: "needs 2 CPUs"},
		},
	}
}

func TestText(t *testing.T) {
	var plain, colour, verbose bytes.Buffer
	r := sample()
	if err := errors.Join(r.WriteText(&plain, Style{}), r.WriteText(&colour, Style{Colour: true}), r.WriteText(&verbose, Style{Verbose: true})); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"class user-only: ring 3", "  sentry on kvm  yes, system call ≈ 1.23 µs", "  vm             no, ring 0 is emulated",
		"→ vm, Firecracker: take another host", "cgroup                        v2, favordynmods: cpu", "1, lacks PIT2",
		"int3", "fails: KVM cannot emulate it", "10.0 µs   9.00 µs … 12.0 µs", "–   needs 2 CPUs", "the host was busy (load 3.5 on 2 CPUs)",
		"ring 0, an instruction at a time  0 of 2 work, 1 fail, 1 not offered",
	} {
		if !strings.Contains(plain.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, plain.String())
		}
	}
	if strings.ContainsRune(plain.String(), '\x1b') || !strings.Contains(colour.String(), "\x1b[32myes, system call") {
		t.Error("colours where none were asked for, or none where they were")
	}
	for _, silent := range []string{"rdpid", "mds"} {
		if strings.Contains(plain.String(), silent) || !strings.Contains(verbose.String(), silent) {
			t.Errorf("%s is for --verbose alone", silent)
		}
	}
}

// TestPage looks for what would leave the page or break it.
func TestPage(t *testing.T) {
	var b bytes.Buffer
	if err := sample().WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, bad := range []string{"http:", "https:", "src=", "@import", "url(", "<script", "ZgotmplZ", "NaN", "+Inf"} {
		if strings.Contains(text, bad) {
			t.Errorf("the page has %q in it", bad)
		}
	}
	for _, want := range []string{"A &lt;script&gt;CPU", "<svg viewBox", "10.0 µs", "needs 2 CPUs", "take another host", "KVM lacks PIT2", "retbleed"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for rest := text; ; { // each chart is well-formed XML
		_, after, found := strings.Cut(rest, "<svg")
		if !found {
			break
		}
		chart, after, _ := strings.Cut(after, "</svg>")
		d := xml.NewDecoder(strings.NewReader("<svg" + chart + "</svg>"))
		for {
			_, err := d.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("a chart is not well-formed: %v", err)
			}
		}
		rest = after
	}
}

func TestChart(t *testing.T) {
	c := newChart("x", []cost.Cost{{Name: "native a", Low: 100, Median: 1000, High: 10_000, Samples: 1}, {Name: "b", Low: 1e5, Median: 1e6, High: 1e6}, {Error: "none"}})
	if len(c.Bars) != 2 || len(c.Missing) != 1 || !c.Bars[0].ForScale || c.Bars[1].ForScale {
		t.Fatalf("%+v", c)
	}
	// Decades are equally far apart.
	step := c.Ticks[1].X - c.Ticks[0].X
	for i := 1; i < len(c.Ticks); i++ {
		if d := c.Ticks[i].X - c.Ticks[i-1].X - step; d > 0.2 || d < -0.2 {
			t.Errorf("tick %d is %g from the last, want %g", i, c.Ticks[i].X-c.Ticks[i-1].X, step)
		}
	}
	if got, want := c.Bars[1].W-c.Bars[0].W, 3*step; got-want > 0.5 || want-got > 0.5 {
		t.Errorf("a thousand times is %g, want %g", got, want)
	}
	for _, b := range c.Bars {
		if b.Low > b.X+b.W || b.High < b.X+b.W || b.High > chartNames+chartBars {
			t.Errorf("bar %+v", b)
		}
	}
	if none := newChart("y", []cost.Cost{{Error: "none"}}); len(none.Bars) != 0 || none.Height != 0 {
		t.Errorf("%+v", none)
	}
}

func TestCompare(t *testing.T) {
	a, b := sample(), sample()
	if list := Compare(a, b); len(list) != 0 {
		t.Errorf("the same host differs: %+v", list)
	}
	b.Class, b.Walls[1].Line, b.Walls[1].Yes = verdict.Full, "yes", true
	b.Host.KVM.Capabilities[0].Value = 1
	b.Instructions[0].Status, b.Instructions[0].Saw = guest.Works, ""
	b.Costs[0].Median, b.Costs[0].Low, b.Costs[0].High = 125, 115, 135 // within the spread
	b.Costs[1].Median, b.Costs[1].Low, b.Costs[1].High = 1000, 900, 1200
	b.Costs[2] = cost.Cost{ID: "kick", Group: cost.Waking, Name: "kick", Median: 5000, Low: 4000, High: 6000, Samples: 9}
	b.Behaviours = b.Behaviours[:1]
	var text bytes.Buffer
	if err := WriteComparison(&text, a, b, Style{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"user-only  →  full", "no, ring 0 is emulated  →  yes", "PIT2", "fails: KVM cannot emulate it  →  works",
		"10.0 µs  →  1.00 µs, 10× cheaper", "needs 2 CPUs  →  5.00 µs", "works: stable  →  –"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the comparison lacks %q:\n%s", want, text.String())
		}
	}
	if strings.Contains(text.String(), "native system call") {
		t.Errorf("a cost within its spread differs:\n%s", text.String())
	}
}

func TestRead(t *testing.T) {
	var b bytes.Buffer
	if err := sample().WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	good := b.String()
	console := "[    0.1] Linux\r\n" + Begin + "\r\n" + strings.ReplaceAll(good, "\n", "\r\n") + End + "\r\nlogin: "
	for _, row := range []struct{ name, text, want string }{
		{"json", good, ""},
		{"console", console, ""},
		{"cut short", console[:len(console)/2], "cut short"},
		{"nothing", "", "not a report"},
		{"other json", `{"tool":"lshw"}`, `tool is "lshw"`},
		{"newer", strings.Replace(good, `"schema": 1`, `"schema": 2`, 1), "schema 2"},
	} {
		path := filepath.Join(t.TempDir(), "r")
		if err := os.WriteFile(path, []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := ReadFile(path)
		switch {
		case row.want == "" && (err != nil || r.Costs[1].Median != 10_000):
			t.Errorf("%s: %v", row.name, err)
		case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want) || strings.Contains(fmt.Sprint(err), "\n")):
			t.Errorf("%s: got %v, want %q", row.name, err, row.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	sample().WriteJSON(&b)
	f.Add(b.Bytes())
	f.Add([]byte(Begin + b.String() + End))
	f.Add([]byte(`{"tool":"hwtest","schema":1,"costs":[{"median_ns":1e308,"p10_ns":-1,"group":"crossing"}],"host":{"devices":[]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Read(text)
		if err != nil {
			return
		}
		// A report from elsewhere is shown whatever it says.
		if err := errors.Join(r.WriteText(io.Discard, Style{Verbose: true}), r.WriteHTML(io.Discard), WriteComparison(io.Discard, sample(), r, Style{})); err != nil {
			t.Error(err)
		}
	})
}
