package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what a person gets to read.
type report struct {
	results map[string][]result
	runs    int
}

// titles say what a part's table is of.
var titles = map[string]string{
	"boot":      "From a monitor's start to its guest's init",
	"disk":      "A guest's disk: direct I/O on a raw file on tmpfs; -1 one at a time, -8 eight at a time",
	"net":       "A guest's network: one TCP stream over a TAP, guest to lab and back",
	"container": "A container, from `bulkhead run` to its program's first words, and the guest's part of it",
	"memory":    "What each of 20 containers takes of the host's memory (PSS), of 128 MiB a guest",
}

// table prints a part: a line a monitor, a column a number, each with what
// it is to vmm's.
func (r report) table(to io.Writer, part string) {
	rows := r.rows(part)
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(to, "%s (%s)\n", titles[part], r.results[part][0].Unit)
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t")+"\t")
	}
	w.Flush()
	fmt.Fprintln(to)
}

// rows is a part's table, its heading first.
func (r report) rows(part string) [][]string {
	all := r.results[part]
	if len(all) == 0 {
		return nil
	}
	var names, whats []string
	medians := map[[2]string]float64{}
	for _, one := range all {
		if !slices.Contains(names, one.VMM) {
			names = append(names, one.VMM)
		}
		if !slices.Contains(whats, one.What) {
			whats = append(whats, one.What)
		}
		medians[[2]string{one.VMM, one.What}] = one.median()
	}
	rows := [][]string{append([]string{""}, whats...)}
	for _, name := range names {
		row := []string{name}
		for _, what := range whats {
			value, ok := medians[[2]string{name, what}]
			switch base := medians[[2]string{names[0], what}]; {
			case !ok:
				row = append(row, "–")
			case name == names[0] || base == 0:
				row = append(row, amount(value))
			default:
				row = append(row, fmt.Sprintf("%s (%.2f×)", amount(value), value/base))
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func amount(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.1f M", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.1f k", v/1e3)
	}
	return fmt.Sprintf("%.0f", v)
}

// page writes the results as docs/results has them.
func (r report) page(to io.Writer) error {
	commit, err := output("git", "describe", "--always", "--dirty")
	if err != nil {
		return err
	}
	version, err := output("qemu-system-x86_64", "--version")
	if err != nil {
		return err
	}
	kernel, err := output("uname", "-srm")
	if err != nil {
		return err
	}
	version, _, _ = strings.Cut(version, "\n")
	fmt.Fprintf(to, `# vmm beside other machine monitors

`+"`scripts/compare`"+`, %s, commit %s, on a host with %s
(%s). Machine class: the lab, an emulated EPYC with AMD-V and nested paging (TCG, %s),
one CPU, 2 GiB. Its clock counts instructions, one a nanosecond (-icount), and idle time
passes at once: the numbers are the same on any host, and say what a monitor, KVM and
the guest together execute, not how fast some processor does it. Medians of %d runs; in
brackets what another monitor needs for each instruction of vmm's: above 1 vmm is ahead.

All run the same kernel (`+"`make kernel`"+`) and the same initramfs, with 256 MiB, one CPU and
the same command line, %q, QEMU with -cpu host and
what its microvm can do without switched off; it uses an I/O thread for the disk, and no vhost
for the network. gokvm is %s.

`, time.Now().UTC().Format("2 January 2006"), commit, kernel, class(), strings.TrimPrefix(version, "QEMU emulator "), r.runs, cmdline, gokvmVersion())
	for _, part := range parts {
		rows := r.rows(part)
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(to, "## %s\n\n", titles[part])
		for i, row := range rows {
			fmt.Fprintf(to, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				fmt.Fprintf(to, "|---|%s\n", strings.Repeat("---:|", len(row)-1))
			}
		}
		fmt.Fprintf(to, "\n(%s)\n\n", r.results[part][0].Unit)
	}
	return nil
}

func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("describe this run: %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// class is the host's processor.
func class() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t: "))
		}
	}
	return "unknown processor"
}

// gokvmVersion is what its build says.
func gokvmVersion() string {
	out, err := output("go", "version", "-m", "out/lab/gokvm")
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(out) {
		if words := strings.Fields(line); len(words) >= 3 && words[0] == "mod" {
			return words[2]
		}
	}
	return "of unknown version"
}
