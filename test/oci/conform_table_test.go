package oci

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bulkhead/test/rig"
)

var update = flag.Bool("update", false, "rewrite docs/results/conformance.md")

// TestConformanceTable: docs/results/conformance.md is what the rules say. It needs no
// run: a rule is kept unless it has a reason, and TestConformance fails for either.
func TestConformanceTable(t *testing.T) {
	path := filepath.Join(rig.Root(), "docs/results/conformance.md")
	want := conformanceTable()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("docs/results/conformance.md is not what the rules say: go test ./test/oci -run TestConformanceTable -update\n%s", rig.Diff(t, want, string(got)))
	}
}

func conformanceTable() string {
	rules := conformance()
	slices.SortFunc(rules, func(a, b rule) int { return strings.Compare(a.in+"\x00"+a.name, b.in+"\x00"+b.name) })
	ours, runcs := 0, 0
	for i := range rules {
		if rules[i].ours != "" {
			ours++
		}
		if first(rules[i].runc, runcReasons[rules[i].name]) != "" {
			runcs++
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# The OCI runtime specification, sentence by sentence

%d rules, each written from a sentence of runtime-spec 1.3.0, in test/oci/conform_*_test.go.
Every one is tried with bulkhead (the Sentry; make test, and the slow ones with
BULKHEAD_SLOW=1), and with BULKHEAD_SLOW=1 by runc 1.1.5 too, as a control. bulkhead does not
keep %d of them, runc %d; a rule that is said not to be kept and is kept fails the test as the opposite
does. This file is written by
`+"`go test ./test/oci -run TestConformanceTable -update`"+`.

## What bulkhead does not keep

| rule | sentence | why | runc |
|---|---|---|---|
`, len(rules), ours, runcs)
	for i := range rules {
		if r := &rules[i]; r.ours != "" {
			fmt.Fprintf(&b, "| %s | %s: %s | %s | %s |\n", r.name, r.in, cell(r.says), cell(r.ours), verdictOf(first(r.runc, runcReasons[r.name])))
		}
	}
	b.WriteString("\n## All\n")
	var sections []string
	bySection := map[string][]*rule{}
	for i := range rules {
		r := &rules[i]
		if bySection[r.in] == nil {
			sections = append(sections, r.in)
		}
		bySection[r.in] = append(bySection[r.in], r)
	}
	for _, section := range sections {
		fmt.Fprintf(&b, "\n### %s\n\n| rule | sentence | bulkhead | runc |\n|---|---|---|---|\n", section)
		for _, r := range bySection[section] {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.name, cell(r.says), verdictOf(r.ours), verdictOf(first(r.runc, runcReasons[r.name])))
		}
	}
	return b.String()
}

func verdictOf(reason string) string {
	if reason == "" {
		return "kept"
	}
	return "not: " + cell(reason)
}

func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", `\<`).Replace(text)
}
