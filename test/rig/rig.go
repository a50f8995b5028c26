// Package rig is what the end-to-end tests stand on: it builds bulkhead and the
// test programs, names the platforms of this host, runs a command natively and
// in a sandbox, and compares the two. It sees bulkhead as a person does: by its
// command line.
package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Limit ends a program that hangs; no test's outcome depends on it otherwise.
const Limit = 60 * time.Second

// Root is the module's directory.
var Root = sync.OnceValue(func() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			panic("rig: no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
})

var build = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("BULKHEAD"); path != "" {
		return path, nil
	}
	path := filepath.Join(Root(), "out", "bulkhead")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./runtime")
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("rig: build bulkhead: %w\n%s", err, out)
	}
	return path, nil
})

// Bulkhead is the path of the program, built from this tree or named by $BULKHEAD.
func Bulkhead(tb testing.TB) string {
	tb.Helper()
	path, err := build()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Platforms are those of this host; $BULKHEAD_PLATFORMS narrows them.
func Platforms(tb testing.TB) []string {
	tb.Helper()
	if only := os.Getenv("BULKHEAD_PLATFORMS"); only != "" {
		return strings.Split(only, ",")
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		tb.Logf("ptrace alone: %v", err)
		return []string{"ptrace"}
	}
	kvm.Close()
	return []string{"kvm", "ptrace"}
}

// EachPlatform runs test once a platform, as a subtest.
func EachPlatform(t *testing.T, test func(t *testing.T, platform string)) {
	for _, platform := range Platforms(t) {
		t.Run(platform, func(t *testing.T) { test(t, platform) })
	}
}

// NeedRoot skips where the test cannot do its work.
func NeedRoot(tb testing.TB) {
	if os.Getuid() != 0 {
		tb.Skip("needs root: run as root")
	}
}

// Need skips unless every program is on PATH.
func Need(tb testing.TB, programs ...string) {
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			tb.Skipf("needs %s: scripts/need test installs it", program)
		}
	}
}

// Result is what a command left behind.
type Result struct {
	Out  string // standard output
	Err  string // standard error
	Code int    // exit status; 128+n for a native death by signal n, as a sandbox reports it
}

func (r Result) String() string {
	return fmt.Sprintf("%s-- stderr\n%s-- exit %d\n", r.Out, r.Err, r.Code)
}

// Command is a program to run natively or in a sandbox.
type Command struct {
	Args  []string
	Dir   string        // the working directory; empty means /tmp
	Stdin string        // what it reads
	Env   []string      // beyond PATH, HOME and LANG
	Flags []string      // of `bulkhead do`, in the sandbox only
	Limit time.Duration // after which it is taken to hang; 0 is Limit
}

func (c Command) cmd(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = c.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/tmp"
	}
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}, c.Env...)
	cmd.Stdin = strings.NewReader(c.Stdin)
	// A group of its own, so that the time limit ends its children too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// Native runs the command on this host.
func (c Command) Native(tb testing.TB) Result {
	tb.Helper()
	return run(tb, c.Limit, func(ctx context.Context) *exec.Cmd { return c.cmd(ctx, c.Args) })
}

// In runs the command by `bulkhead do` on platform.
func (c Command) In(tb testing.TB, platform string) Result {
	tb.Helper()
	args := append([]string{Bulkhead(tb), "--platform=" + platform, "do"}, c.Flags...)
	args = append(append(args, "--"), c.Args...)
	return run(tb, c.Limit, func(ctx context.Context) *exec.Cmd { return c.cmd(ctx, args) })
}

func run(tb testing.TB, limit time.Duration, command func(context.Context) *exec.Cmd) Result {
	tb.Helper()
	if limit == 0 {
		limit = Limit
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := command(ctx)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	result := Result{Out: out.String(), Err: errs.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		tb.Fatalf("%q hung for %v; so far:\n%s", cmd.Args, limit, result)
	case errors.As(err, &exit):
		status := exit.Sys().(syscall.WaitStatus)
		result.Code = status.ExitStatus()
		if status.Signaled() {
			result.Code = 128 + int(status.Signal())
		}
	case err != nil:
		tb.Fatalf("%q: %v", cmd.Args, err)
	}
	return result
}

// Same runs the command natively and on platform and fails with a diff where they differ.
func (c Command) Same(t *testing.T, platform string) {
	t.Helper()
	Compare(t, c.Native(t), c.In(t, platform))
}

// Compare fails with a diff where got is not want.
func Compare(t *testing.T, want, got Result) {
	t.Helper()
	if want == got {
		return
	}
	t.Errorf("native (-) and sandbox (+) differ:\n%s", Diff(t, want.String(), got.String()))
}

// Diff is `diff -u` of two texts, cut to what a person reads.
func Diff(tb testing.TB, want, got string) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, text := range map[string]string{"native": want, "sandbox": got} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	cmd := exec.Command("diff", "--text", "-U", "2", "native", "sandbox")
	cmd.Dir = dir
	out, _ := cmd.Output() // exits 1 where they differ
	lines := strings.SplitAfter(string(out), "\n")
	if len(lines) > 60 {
		lines = append(lines[:60], fmt.Sprintf("… %d more lines\n", len(lines)-60))
	}
	return strings.Join(lines[min(2, len(lines)):], "")
}

// Compile builds C sources into dir/name with the compiler and flags given.
func Compile(tb testing.TB, out string, compiler ...string) {
	tb.Helper()
	Need(tb, compiler[0])
	cmd := exec.Command(compiler[0], append(compiler[1:], "-o", out)...)
	if text, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%q: %v\n%s", cmd.Args, err, text)
	}
}
