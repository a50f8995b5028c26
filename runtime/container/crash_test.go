package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/runtime/state"
)

// TestEnded: how a sandbox ended that was none of its program's doing is told in one line.
func TestEnded(t *testing.T) {
	for _, row := range []struct{ name, log, want string }{
		{"nothing of the kind", "level=INFO msg=\"init ended\" code=70\n", ""},
		{"a guest", `time=x level=ERROR msg="guest ended" sandbox=c how=reset console="a | b"` + "\n",
			`the guest ended, and the container with it: sandbox=c how=reset console="a | b"`},
		{"a guest, as JSON", `{"time":"x","level":"ERROR","msg":"guest ended","sandbox":"c","how":"hung"}` + "\n",
			`the guest ended, and the container with it: "sandbox":"c","how":"hung"}`},
		{"a gofer", `time=x level=ERROR msg="gofer ended" sandbox=c how="the process with the container's files has ended"` + "\n",
			`the gofer ended, and the container with it: sandbox=c how="the process with the container's files has ended"`},
		{"words of a guest's", `level=INFO msg="something" console="level=ERROR msg=\"gofer ended\" x"` + "\n", ""},
	} {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, []byte("level=INFO msg=first\n"+row.log), 0o600); err != nil {
			t.Fatal(err)
		}
		c := &Container{State: &state.State{Log: path}, dir: &state.Dir{}}
		got := ""
		if err := c.Crash(ExitCrash); err != nil {
			got = err.Error()
		}
		if got != row.want || strings.Contains(got, "\n") {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}
