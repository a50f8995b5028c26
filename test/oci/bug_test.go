package oci

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead/test/rig"
)

// bugs are put into the Sentry by an overlay at build time, so that the product
// has no hook for them.
var bugs = []struct{ file, function string }{
	{"sentry/syscalls/misc.go", "func sethostname(t *kernel.Task, a *Args) (uintptr, error) {"},
	{"sentry/boot/agent.go", "func (s *sandbox) Processes(_ context.Context, container string) ([]agent.Process, error) {"},
}

// broken is bulkhead with the bugs.
func broken(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	replace := map[string]string{}
	for _, bug := range bugs {
		source, err := os.ReadFile(filepath.Join(top, bug.file))
		if err != nil {
			t.Fatal(err)
		}
		before, after, found := strings.Cut(string(source), bug.function)
		if !found {
			t.Fatalf("%s has no %q any more", bug.file, bug.function)
		}
		function := strings.TrimSuffix(bug.function, "{")
		path := filepath.Join(dir, filepath.Base(filepath.Dir(bug.file))+filepath.Base(bug.file))
		text := before + function + "{\n\tif true {\n\t\tpanic(\"a bug of ours\")\n\t}\n" + strings.TrimPrefix(strings.TrimSpace(after), "{")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(top, bug.file)] = path
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	list, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "bulkhead")
	if err := os.WriteFile(list, overlay, 0o644); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-overlay", list, "-o", program, "./runtime")
	build.Dir, build.Env = top, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build with the bugs: %v\n%s", err, out)
	}
	return program
}

// TestBugOfOurs: a panic of the Sentry ends that container alone, with its stack in
// the log and an exit code of its own, and leaves nothing else behind.
func TestBugOfOurs(t *testing.T) {
	rig.NeedRoot(t)
	bug := broken(t)
	eachPlatform(t, func(t *testing.T, p *program) {
		p.args[0] = bug
		leavesNothing(t, p, func() {
			neighbour := p.started(t, nil, "sleep", "1000")

			r := p.run(t, nil, "sh", "-c", "echo before; hostname other; echo after")
			if r.Code != 70 || !strings.Contains(r.Out, "before\n") || strings.Contains(r.Out, "after") {
				t.Errorf("a panic in a call: exit code %d, want 70, after \"before\"\n%s", r.Code, r)
			}
			if strings.Count(r.Err, "\n") != 1 || !strings.Contains(r.Err, "a bug of ours") || strings.Contains(r.Err, "goroutine") {
				t.Errorf("a panic in a call says:\n%s\nwant one line with its value and no stack", r.Err)
			}
			if log := p.logged(); !strings.Contains(log, "syscalls.sethostname") {
				t.Errorf("the log has no stack of the panic:\n%s", log)
			}

			listed := p.started(t, nil, "sleep", "1000")
			if r := p.do(t, "ps", listed); r.Code == 0 || strings.Count(r.Err, "\n") != 1 {
				t.Errorf("ps of a sandbox that dies of it: %s", r)
			}
			p.until(t, listed, specs.StateStopped)
			if log := p.logged(); !strings.Contains(log, "boot.(*sandbox).Processes") {
				t.Errorf("the log has no stack of the panic in an agent's call:\n%s", log)
			}

			if s := p.state(t, neighbour); s.Status != specs.StateRunning {
				t.Errorf("the neighbour is %s", s.Status)
			}
			if r := p.do(t, "exec", neighbour, "echo", "alive"); r.Out != "alive\n" {
				t.Errorf("exec in the neighbour: %s", r)
			}
			p.must(t, "delete", "--force", listed)
			p.must(t, "delete", "--force", neighbour)
		})
	})
}
