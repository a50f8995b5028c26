package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestFirstEntry(t *testing.T) {
	const text = `# tracer: nop
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
 qemu-system-x86-231     [000] d....    12.345678: kvm_fpu: load
 qemu-system-x86-231     [000] d....    12.999999: kvm_fpu: unload
 qemu-system-x86-231     [000] d....    13.000001: kvm_fpu: load
`
	if at, err := firstEntry(text); err != nil || at != 12345678*time.Microsecond {
		t.Errorf("the first entry is at %v (%v), want 12.345678s", at, err)
	}
	for _, text := range []string{"", "# tracer: nop\n", " x-1 [000] d.... soon: kvm_fpu: load\n"} {
		if at, err := firstEntry(text); err == nil {
			t.Errorf("%q has an entry at %v, want an error", text, at)
		}
	}
}

func TestOwnEntry(t *testing.T) {
	const text = `{"began_unix_us":1000000,"timing":[{"what":"machine built","ms":2},{"what":"first instruction","ms":2.5}],"code":103}`
	if at, ok := ownEntry(text); !ok || at != 1002500*time.Microsecond {
		t.Errorf("the first instruction is at %v (%v), want 1.0025s", at, ok)
	}
	for _, text := range []string{"", "qemu: terminating on signal 15", `{"timing":[]}`} {
		if at, ok := ownEntry(text); ok {
			t.Errorf("%q has a first instruction at %v, want none", text, at)
		}
	}
}

func TestTable(t *testing.T) {
	r := report{results: map[string][]result{"boot": {
		{"vmm", "to init", "instructions", []float64{3e8, 1e8, 2e8}},
		{"other", "to init", "instructions", []float64{5e8, 4e8, 3e8}},
		{"other", "to guest", "instructions", []float64{900}},
	}}}
	var text bytes.Buffer
	r.table(&text, "boot")
	got := strings.Join(strings.Fields(text.String()), " ")
	want := titles["boot"] + " (instructions) to init to guest vmm 200.0 M – other 400.0 M (2.00×) 900"
	if got != want {
		t.Errorf("the table reads\n%s\nwant\n%s", got, want)
	}
}
