package gofer_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"

	"bulkhead/sentry/gofer"
	"bulkhead/sentry/gofer/gofertest"
	"bulkhead/sentry/gofer/wire"
)

// TestMemory asks what an idle gofer has for itself. The bound leaves room for a
// bigger binary than this one.
func TestMemory(t *testing.T) {
	g := gofertest.Start(t, gofer.Config{Root: gofer.Mount{Source: tree(t)}})
	c, err := wire.NewConn(g.Socket)
	must(t, err)
	call(t, c, wire.Request{Op: wire.Walk, Names: []string{"a"}, Flags: wire.WalkList})
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", g.Cmd.Process.Pid))
	must(t, err)
	private := 0
	for _, m := range regexp.MustCompile(`Private_\w+: +(\d+) kB`).FindAllSubmatch(b, -1) {
		n, _ := strconv.Atoi(string(m[1]))
		private += n
	}
	t.Logf("%d KiB private", private)
	if private > 5<<10 {
		t.Errorf("%d KiB private, want at most 5120:\n%s", private, b)
	}
}
