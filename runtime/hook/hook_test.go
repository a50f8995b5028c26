package hook

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func sh(script string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("LEAK", "1")
	one := 1
	slow := sh("sleep 30")
	slow.Timeout = &one
	env := sh(`echo "$A-$LEAK" > env`)
	env.Env = []string{"A=b"}
	for _, row := range []struct {
		name  string
		hooks []specs.Hook
		want  string // of the error
		file  string // what it must have written, as name=content
	}{
		{"none", nil, "", ""},
		{"state on stdin", []specs.Hook{sh("cat > state")}, "", `state={"ociVersion":"1.0.2","id":"c","status":"creating","pid":42,"bundle":"/b"}`},
		{"only its own environment", []specs.Hook{env}, "", "env=b-\n"},
		{"in order", []specs.Hook{sh("echo 1 >> order"), sh("echo 2 >> order")}, "", "order=1\n2\n"},
		{"stops at a failure", []specs.Hook{sh("echo oh no >&2; exit 3"), sh("echo 2 > never")}, "hook kind[0], /bin/sh: exit status 3: oh no", "never="},
		{"no such program", []specs.Hook{{Path: "/nonexistent"}}, "hook kind[0], /nonexistent: ", ""},
		{"timeout", []specs.Hook{slow}, "took longer than its 1 s", ""},
		{"does not read stdin", []specs.Hook{{Path: "/bin/true"}}, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := Run(context.Background(), "kind", row.hooks, &specs.State{Version: "1.0.2", ID: "c", Status: "creating", Pid: 42, Bundle: "/b"})
			switch {
			case row.want == "" && err != nil:
				t.Errorf("got %v", err)
			case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
				t.Errorf("got %v, want %s", err, row.want)
			}
			if name, want, ok := strings.Cut(row.file, "="); ok {
				got, _ := os.ReadFile(filepath.Join(dir, name))
				if string(got) != want {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
			}
		})
	}
}

// TestRunAll: a hook that fails keeps no other from running, and every failure is told.
func TestRunAll(t *testing.T) {
	t.Chdir(t.TempDir())
	err := RunAll(context.Background(), "kind", []specs.Hook{sh("exit 3"), sh("echo ran > ran"), sh("exit 4")}, &specs.State{ID: "c"})
	for _, want := range []string{"kind[0], /bin/sh: exit status 3", "kind[2], /bin/sh: exit status 4"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if got, _ := os.ReadFile("ran"); string(got) != "ran\n" {
		t.Errorf("the hook after one that fails left %q", got)
	}
}
