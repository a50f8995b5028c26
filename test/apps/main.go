// Command apps runs the software that people really run, natively and in the
// sandbox on each platform, and prints a table: which of it passed, and how long it
// took. `make test-apps` installs what it needs. A program whose own tests are run
// passes if every test that passes natively passes inside.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// app is a row of the table of programs.
type app struct {
	name   string
	need   string         // what must be there: a program on PATH, or a file
	dir    string         // where it runs; empty: a directory of its own
	script string         // for sh; its exit code counts, if passed is nil
	passed *regexp.Regexp // what it prints of each test that passed, with its name as the group
}

// outcome is how an app went on one platform.
type outcome struct {
	seconds float64
	code    int
	tests   []string // that passed
	output  string
	late    bool
}

// result is a line of the report.
type result struct {
	app, platform string
	verdict       string // passed, failed or skipped
	detail        string
	seconds       float64
	native        float64
}

func main() {
	only := flag.String("only", "", "a regular expression: only the programs whose name it matches")
	platforms := flag.String("platforms", "kvm,ptrace", "comma-separated")
	report := flag.String("o", "", "file for the report, in Markdown; the table is printed in any case")
	limit := flag.Duration("timeout", 20*time.Minute, "for one program on one platform")
	onWire := flag.Bool("wire", false, "with an interface, natively and inside, whose cable leads to another network namespace")
	keep := flag.String("logs", "out/apps", "directory for what failed programs printed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	pattern, err := regexp.Compile(*only)
	if err == nil {
		r := runner{only: pattern, platforms: strings.Split(*platforms, ","), report: *report, logs: *keep, limit: *limit}
		if *onWire {
			r.wire, err = newWire()
		}
		if err == nil {
			err = errors.Join(r.run(ctx), r.wire.remove())
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "apps:", err)
		os.Exit(1)
	}
}

// runner is what the flags say.
type runner struct {
	only         *regexp.Regexp
	platforms    []string
	report, logs string
	limit        time.Duration
	wire         *wire // or nil
}

func (r *runner) run(ctx context.Context) error {
	platforms, logs, limit := r.platforms, r.logs, r.limit
	bulkhead, err := filepath.Abs("bin/bulkhead")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	if _, err := os.Stat("/dev/kvm"); err != nil && slices.Contains(platforms, "kvm") {
		fmt.Fprintln(os.Stderr, "apps: without kvm: no /dev/kvm")
		platforms = slices.DeleteFunc(platforms, func(p string) bool { return p == "kvm" })
	}
	var results []result
	failed := 0
	for _, a := range apps() {
		if !r.only.MatchString(a.name) {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		if why := a.missing(); why != "" {
			for _, p := range platforms {
				results = append(results, result{app: a.name, platform: p, verdict: "skipped", detail: why})
			}
			continue
		}
		fmt.Fprintf(os.Stderr, "apps: %s …", a.name)
		want, err := a.run(ctx, r.wire.natively(), limit)
		if ctx.Err() != nil {
			break
		} else if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, " native %.1f s", want.seconds)
		for _, p := range platforms {
			got, err := a.run(ctx, append([]string{bulkhead, "--platform=" + p, "do"}, r.wire.inside()...), limit)
			if ctx.Err() != nil {
				break // what is known is still reported
			} else if err != nil {
				return err
			}
			v := a.judge(want, got)
			v.platform = p
			results = append(results, v)
			fmt.Fprintf(os.Stderr, ", %s %.1f s %s", p, got.seconds, v.verdict)
			if v.verdict == "failed" {
				failed++
				name := strings.Map(func(c rune) rune {
					if strings.ContainsRune(" /:", c) {
						return '-'
					}
					return c
				}, a.name+"-"+p)
				_ = os.WriteFile(filepath.Join(logs, name+".log"), []byte(v.detail+"\n\n"+got.output), 0o644)
				_ = os.WriteFile(filepath.Join(logs, name+".native.log"), []byte(want.output), 0o644)
			}
		}
		fmt.Fprintln(os.Stderr)
	}
	table := markdown(results)
	fmt.Print(table)
	if r.report != "" {
		if err := os.WriteFile(r.report, []byte(table), 0o644); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d failed; what they printed is in %s", failed, logs)
	}
	return ctx.Err()
}

func (a *app) missing() string {
	if strings.HasPrefix(a.need, "/") {
		if _, err := os.Stat(a.need); err != nil {
			return "no " + a.need
		}
		return ""
	}
	if _, err := exec.LookPath(a.need); err != nil {
		return "no " + a.need + " on PATH"
	}
	return ""
}

// run runs the app's script behind the words of before.
func (a *app) run(ctx context.Context, before []string, limit time.Duration) (outcome, error) {
	dir := a.dir
	if dir == "" {
		own, err := os.MkdirTemp("/var/tmp", "bulkhead-apps-")
		if err != nil {
			return outcome{}, err
		}
		defer os.RemoveAll(own)
		dir = own
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	words := append(slices.Clone(before), "sh", "-c", a.script)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Dir = dir
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	o := outcome{seconds: time.Since(begin).Seconds(), output: string(out), late: errors.Is(ctx.Err(), context.DeadlineExceeded)}
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) && !o.late && !errors.Is(err, exec.ErrWaitDelay) {
		return o, fmt.Errorf("%s: %w", a.name, err)
	}
	o.code = cmd.ProcessState.ExitCode()
	if a.passed != nil {
		for _, m := range a.passed.FindAllStringSubmatch(o.output, -1) {
			o.tests = append(o.tests, m[1])
		}
		slices.Sort(o.tests)
		o.tests = slices.Compact(o.tests)
	}
	return o, nil
}

// judge compares what happened inside with what happened natively.
func (a *app) judge(want, got outcome) result {
	r := result{app: a.name, verdict: "passed", seconds: got.seconds, native: want.seconds}
	switch {
	case a.passed == nil && want.code != 0:
		r.verdict, r.detail = "skipped", fmt.Sprintf("natively it ends with %d", want.code)
	case got.late:
		r.verdict, r.detail = "failed", "it did not end in time"
	case a.passed == nil:
		if got.code != 0 {
			r.verdict, r.detail = "failed", fmt.Sprintf("exit code %d", got.code)
		}
	case len(want.tests) == 0:
		r.verdict, r.detail = "skipped", "natively no test passes"
	default:
		var lost []string
		for _, name := range want.tests {
			if _, ok := slices.BinarySearch(got.tests, name); !ok {
				lost = append(lost, name)
			}
		}
		r.detail = fmt.Sprintf("%d of %d", len(want.tests)-len(lost), len(want.tests))
		if len(lost) > 0 {
			r.verdict = "failed"
			r.detail += ", not: " + strings.Join(lost[:min(len(lost), 4)], ", ")
			if len(lost) > 4 {
				r.detail += " …"
			}
		}
	}
	return r
}
