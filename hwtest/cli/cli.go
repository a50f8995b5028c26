// Package cli is the program hwtest as people and scripts type it: what is
// wanted of a report, and the exit status that says it without words.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"bulkhead/hwtest/cost"
	"bulkhead/hwtest/lab"
	"bulkhead/hwtest/report"
	"bulkhead/hwtest/verdict"
)

// Commit is set by the linker (Makefile).
var Commit = "unknown"

// Exit status.
const (
	refused = 1 // --require: this host cannot
	failed  = 2 // hwtest could not do what it was asked to
)

// errRefused carries an exit status; what there was to say is said.
var errRefused = errors.New("this host cannot")

// app is one invocation.
type app struct {
	out, errs io.Writer
	outTerm   bool // out is a terminal
	errTerm   bool

	json, labels        bool
	verbose, quick      bool
	html, from, compare string
	require             []string
	budget              time.Duration
}

// Main runs the program and gives its exit status.
func Main(args []string) int {
	a := &app{out: os.Stdout, errs: os.Stderr, outTerm: terminal(os.Stdout), errTerm: terminal(os.Stderr)}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	return a.main(ctx, args)
}

func (a *app) main(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(a.errs)
	err := root.ExecuteContext(ctx)
	var job lab.Exit
	switch {
	case err == nil:
		return 0
	case errors.As(err, &job):
		return int(job)
	case errors.Is(err, errRefused):
		return refused
	}
	fmt.Fprintln(a.errs, "hwtest: "+strings.ReplaceAll(err.Error(), "\n", "; "))
	return failed
}

func terminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Command is the program's tree of commands, for what is made of it: manual pages, completions.
func Command() *cobra.Command { return (&app{}).root() }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "hwtest",
		Short: "What this host can do for Bulkhead, proven by doing",
		Long: `hwtest finds out what this host can do: it runs guests of a few bytes in every mode
of the processor, tries each instruction that a kernel needs, fires doorbells and
interrupts, and measures what making, entering and leaving a guest costs. It says
which walls can stand here, and why not where they cannot:

  sentry-kvm        Bulkhead's application kernel, programs in ring 3 of a KVM guest
  sentry-ptrace     the same without KVM
  vm                a microVM with a Linux kernel of its own (vmm boot)
  firecracker       its neighbours, for comparison
  cloud-hypervisor

A host is of one of four classes:

` + classes() + `
It takes about five seconds, needs /dev/kvm (root, or the group that owns it) to
say anything about KVM, asks nothing of the network and changes nothing.

Exit status: 0, or 1 if --require names a wall that cannot stand, or 2 for an error.`,
		Example: `  hwtest                                  the table
  hwtest --json > here.json               for programs and for later
  hwtest --html here.html                 a page with charts, to hand on
  hwtest --require vm && vmm boot …       in a script, without measuring
  kubectl label node N $(hwtest --quick --labels)
  hwtest --compare here.json there.json   what differs; with one file: from this host
  hwtest --from here.json --html h.html   a page from an old report, or a console's log`,
		Args:              a.args,
		RunE:              a.run,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	f := root.Flags()
	f.SortFlags = false
	f.BoolVar(&a.json, "json", false, "write the report as JSON (hwtest/schema.json)")
	f.BoolVar(&a.labels, "labels", false, "write the verdict as labels of a Kubernetes node, KEY=VALUE a line")
	f.StringVar(&a.html, "html", "", "write it as one self-contained page to `FILE` (- for standard output)")
	f.StringSliceVar(&a.require, "require", nil, "say only whether `WALL` can stand, by the exit status too: "+strings.Join(verdict.Names(), ", "))
	f.StringVar(&a.compare, "compare", "", "say how the report in the argument, or this host, differs from `A.json`")
	f.StringVar(&a.from, "from", "", "show the report in `FILE`, JSON or a serial console's log, and try nothing")
	f.BoolVar(&a.quick, "quick", false, "try, but do not measure: half a second")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "list every capability and trial, also those that say nothing")
	f.DurationVar(&a.budget, "budget", cost.DefaultBudget, "`TIME` for each figure; more on a busy host")
	root.AddCommand(lab.Command(), a.gcpScript())
	return root
}

func classes() string {
	var b strings.Builder
	for _, c := range []verdict.Class{verdict.Full, verdict.Nested, verdict.UserOnly, verdict.None} {
		fmt.Fprintf(&b, "  %-17s %s\n", c, verdict.Meaning[c])
	}
	return b.String()
}

// args are none, but for the second report of --compare.
func (a *app) args(_ *cobra.Command, args []string) error {
	switch {
	case a.compare == "" && len(args) > 0:
		return fmt.Errorf("argument %q: hwtest takes none but with --compare; commands are lab and gcp-script", args[0])
	case len(args) > 1:
		return fmt.Errorf("--compare takes two reports, not %d", len(args)+1)
	case a.compare != "" && len(args) == 1 && a.from != "":
		return errors.New("--compare with two reports and --from a third: leave one out")
	case a.json && a.labels:
		return errors.New("--json and --labels: both write to standard output; leave one out")
	case a.budget <= 0:
		return fmt.Errorf("--budget %v: it must be more than nothing", a.budget)
	}
	return nil
}

func (a *app) run(_ *cobra.Command, args []string) error {
	if len(a.require) > 0 {
		return a.demand()
	}
	if a.compare != "" {
		return a.differ(args)
	}
	r, err := a.report()
	if err != nil {
		return err
	}
	if a.html != "" {
		if err := a.write(a.html, r.WriteHTML); err != nil {
			return err
		}
		if a.html == "-" {
			return nil
		}
	}
	switch {
	case a.json:
		return r.WriteJSON(a.out)
	case a.labels:
		return r.WriteLabels(a.out)
	}
	return r.WriteText(a.out, a.style())
}

func (a *app) style() report.Style {
	return report.Style{Colour: a.outTerm && os.Getenv("NO_COLOR") == "", Verbose: a.verbose}
}

// report is of a file or of this host.
func (a *app) report() (*report.Report, error) {
	if a.from != "" {
		return report.ReadFile(a.from)
	}
	p := newProgress(a.errs, a.errTerm)
	defer p.end()
	return collect(collection{costs: !a.quick, budget: a.budget, progress: p.say}), nil
}

// write makes a file, whole or not at all.
func (a *app) write(path string, to func(io.Writer) error) error {
	if path == "-" {
		return to(a.out)
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	if err := errors.Join(to(f), f.Close()); err != nil {
		os.Remove(path)
		return fmt.Errorf("write the page %s: %w", path, err)
	}
	return nil
}

// demand says whether each required wall can stand. It measures nothing.
func (a *app) demand() error {
	for _, name := range a.require {
		if !known(name) {
			return fmt.Errorf("--require %q: want one of %s", name, strings.Join(verdict.Names(), ", "))
		}
	}
	a.quick = true
	r, err := a.report()
	if err != nil {
		return err
	}
	var refusal error
	for _, name := range a.require {
		for _, w := range r.Walls {
			if w.Name != name {
				continue
			}
			fmt.Fprintf(a.out, "%s: %s\n", w.Title, w.Line)
			if !w.Yes {
				refusal = errRefused
				if w.Advice != "" {
					fmt.Fprintf(a.errs, "%s: %s\n", w.Title, w.Advice)
				}
			}
		}
	}
	return refusal
}

func known(name string) bool {
	for _, n := range verdict.Names() {
		if n == name {
			return true
		}
	}
	return false
}

// differ compares A with the argument, or with --from, or with this host.
func (a *app) differ(args []string) error {
	before, err := report.ReadFile(a.compare)
	if err != nil {
		return err
	}
	if len(args) == 1 {
		a.from = args[0]
	}
	after, err := a.report()
	if err != nil {
		return err
	}
	return report.WriteComparison(a.out, before, after, a.style())
}
