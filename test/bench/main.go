// Command bench compares what things cost natively, in a sandbox on each
// platform of this host, and under every other OCI runtime on PATH, in one run
// of one machine, so that the columns may be compared. See README.md, "Speed".
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one line of the table: a median for each runtime, and what it is of.
type row struct {
	Name   string               `json:"name"`
	Unit   string               `json:"unit"`
	Median map[string]float64   `json:"median"`
	Runs   map[string][]float64 `json:"runs"`
}

func main() {
	asJSON := flag.Bool("json", false, "print JSON")
	runs := flag.Int("runs", 5, "how often each number is measured; the median is printed")
	starts := flag.Int("starts", 15, "how often a container is started")
	only := flag.String("only", "", "comma-separated columns, such as native,kvm; all by default")
	network := flag.Bool("network", false, "only what goes over a network")
	programs := flag.Bool("programs", false, "only programs that people run")
	flag.Parse()
	if err := bench(*asJSON, *network, *programs, *runs, *starts, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(asJSON, network, programs bool, runs, starts int, only string) error {
	dir, err := os.MkdirTemp("", "bulkhead-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // a server is not root
		return err
	}
	if err := adopt(); err != nil {
		return err
	}
	root, err := makeRoot(dir)
	if err != nil {
		return err
	}
	var t table
	for _, c := range columns(dir, root) {
		if only != "" && !slices.Contains(strings.Split(only, ","), c.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s …\n", c.name)
		measure := func() error { return t.fill(c, runs, starts) }
		if network {
			measure = func() error { return t.network(c, runs) }
		}
		if programs {
			measure = func() error { return t.programs(c, runs) }
		}
		if err := measure(); err != nil {
			// One runtime that fails here does not keep the others from being measured.
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", c.name, err)
		}
	}
	if asJSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		return out.Encode(map[string]any{"host": host(), "time": time.Now().UTC(), "columns": t.columns, "rows": t.rows})
	}
	return t.print(runs, starts)
}

func host() string {
	uname, err := exec.Command("uname", "-srm").Output()
	if err != nil {
		return err.Error()
	}
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.SplitSeq(string(b), "\n") {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				model = strings.TrimLeft(name, "\t: ")
				break
			}
		}
	}
	_, err = os.Stat("/sys/module/kvm_pvm")
	if err == nil {
		model += ", user-only KVM (kvm_pvm)"
	}
	return strings.TrimSpace(string(uname)) + ", " + model
}

// makeRoot is a root file system with the loops, busybox and a file to read.
func makeRoot(dir string) (string, error) {
	root := filepath.Join(dir, "rootfs")
	for _, name := range []string{"bin", "proc", "dev", "tmp", "sys", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return "", err
		}
	}
	source := filepath.Join(dir, "loops.c")
	if err := os.WriteFile(source, loops, 0o644); err != nil {
		return "", err
	}
	if out, err := exec.Command("gcc", "-O2", "-static", "-o", filepath.Join(root, "bin/loops"), source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the loops: %w\n%s", err, out)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"busybox", "true", "sleep"} {
		if err := os.WriteFile(filepath.Join(root, "bin", name), b, 0o755); err != nil {
			return "", err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "file"), make([]byte, 64<<10), 0o644); err != nil {
		return "", err
	}
	return root, furnish(dir, root)
}

type table struct {
	columns []string
	rows    []row
}

func (t *table) add(column, name, unit string, values []float64) {
	if len(values) == 0 {
		return
	}
	if !slices.Contains(t.columns, column) {
		t.columns = append(t.columns, column)
	}
	at := slices.IndexFunc(t.rows, func(r row) bool { return r.Name == name })
	if at < 0 {
		t.rows = append(t.rows, row{name, unit, map[string]float64{}, map[string][]float64{}})
		at = len(t.rows) - 1
	}
	t.rows[at].Runs[column] = values
	t.rows[at].Median[column] = median(values)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func (t *table) print(runs, starts int) error {
	fmt.Printf("%s\nmedians of %d runs, of %d starts; in brackets: times native\n\n", host(), runs, starts)
	names := 0
	for _, r := range t.rows {
		names = max(names, len(r.Name))
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%*s\t%s\t\n", names, "", strings.Join(t.columns, "\t"))
	for _, r := range t.rows {
		fmt.Fprintf(w, "%-*s", names, r.Name) // the numbers are right-aligned, the names are not
		for _, column := range t.columns {
			value, ok := r.Median[column]
			if !ok {
				fmt.Fprint(w, "\t–")
				continue
			}
			fmt.Fprintf(w, "\t%s", quantity(value, r.Unit))
			if native, ok := r.Median["native"]; ok && native > 0 && column != "native" {
				fmt.Fprintf(w, " (%.3g×)", value/native)
			}
		}
		fmt.Fprintln(w, "\t")
	}
	return w.Flush()
}

// quantity prints nanoseconds in the unit that a person reads best.
func quantity(value float64, unit string) string {
	switch {
	case unit != "ns":
		return fmt.Sprintf("%.1f %s", value, unit)
	case value < 1e3:
		return fmt.Sprintf("%.3g ns", value)
	case value < 1e6:
		return fmt.Sprintf("%.3g µs", value/1e3)
	case value < 1e9:
		return fmt.Sprintf("%.3g ms", value/1e6)
	}
	return fmt.Sprintf("%.3g s", value/1e9)
}
