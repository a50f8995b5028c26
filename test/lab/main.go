// Command lab compares vmm with other machine monitors, all of them inside one
// lab machine (hwtest lab): how many instructions they take to a guest's init,
// and how many to serve its disk and its network. The lab's clock counts
// instructions, one a nanosecond, so the numbers hold for any host and say
// nothing about its speed. scripts/compare builds what it needs and starts it:
//
//	scripts/compare          # the tables, also in out/lab/microvm.md
//	out/lab/compare -only disk -runs 1
//
// It starts itself again inside; results come back on that process's standard
// output, as JSON.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func main() {
	var o options
	only := flag.String("only", strings.Join(parts, ","), "what to compare")
	flag.IntVar(&o.runs, "runs", 3, "how often each number is measured; the median is told")
	flag.StringVar(&o.write, "o", "", "`file` to write the results to, in Markdown, beside the table here")
	flag.StringVar(&o.inside, "inside", "", "used by itself: measure this `part`, in the lab")
	flag.BoolVar(&o.exits, "exits", false, "print why each guest exited, and how often")
	flag.StringVar(&o.vmms, "vmms", "", "only `these`, separated by commas")
	flag.Parse()
	if err := o.run(strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

// parts are what is compared, each in a machine of its own.
var parts = []string{"boot", "disk", "net", "container", "memory"}

type options struct {
	runs   int
	write  string
	inside string
	exits  bool
	vmms   string
}

func (o options) run(only []string) error {
	for _, part := range only {
		if !slices.Contains(parts, part) {
			return fmt.Errorf("compare %q: there are %v", part, parts)
		}
	}
	if o.inside != "" {
		return o.measure()
	}
	r := report{results: map[string][]result{}, runs: o.runs}
	for _, part := range only {
		got, err := o.enter(part)
		if err != nil {
			return err
		}
		r.results[part] = got
		r.table(os.Stdout, part)
	}
	if o.write == "" {
		return nil
	}
	var page bytes.Buffer
	if err := r.page(&page); err != nil {
		return err
	}
	if err := os.WriteFile(o.write, page.Bytes(), 0o644); err != nil {
		return fmt.Errorf("keep the results: %w", err)
	}
	return nil
}

// enter runs this program in the lab, to measure part. The program's directory
// is the job's, with everything that scripts/compare put there.
func (o options) enter(part string) ([]result, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("measure %s: %w", part, err)
	}
	dir := filepath.Dir(self)
	fmt.Fprintf(os.Stderr, "lab: %s, in the lab …\n", part)
	cmd := exec.Command(filepath.Join(dir, "hwtest"), "lab", "--icount", "--memory", "2048", "--",
		self, "-inside", part, "-runs", strconv.Itoa(o.runs), "-vmms", o.vmms, "-exits="+strconv.FormatBool(o.exits))
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("measure %s in the lab: %w", part, err)
	}
	var results []result
	if err := json.Unmarshal(out, &results); err != nil {
		return nil, fmt.Errorf("measure %s in the lab: it answered %q: %w", part, out, err)
	}
	return results, nil
}

// result is one number of one monitor, in every run.
type result struct {
	VMM  string    `json:"vmm"`
	What string    `json:"what"`
	Unit string    `json:"unit"`
	Runs []float64 `json:"runs"`
}

func (r result) median() float64 {
	sorted := slices.Sorted(slices.Values(r.Runs))
	return sorted[len(sorted)/2]
}
