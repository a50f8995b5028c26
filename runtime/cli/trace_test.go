package cli

import (
	"strings"
	"testing"

	"bulkhead/runtime/agent"
)

func TestTraceLine(t *testing.T) {
	result := func(n int64) *int64 { return &n }
	for name, c := range map[string]struct {
		e    agent.TraceEvent
		want string
	}{
		"a number":         {agent.TraceEvent{Result: result(3)}, "= 3 <"},
		"an address":       {agent.TraceEvent{Result: result(0x7f0000001000)}, "= 0x7f0000001000 <"},
		"an error":         {agent.TraceEvent{Result: result(-1), Errno: "ENOENT"}, "= -1 ENOENT <"},
		"a signal":         {agent.TraceEvent{Result: result(-1), Errno: "ERESTARTSYS"}, "= ? ERESTARTSYS (a signal came first) <"},
		"no end":           {agent.TraceEvent{}, "= ?"},
		"some were missed": {agent.TraceEvent{Lost: 7}, "… 7 calls lost … "},
	} {
		c.e.PID, c.e.TID, c.e.Command, c.e.Call, c.e.Args = 12, 12, "sh", "read", []string{"0"}
		got := traceLine(&c.e)
		if !strings.Contains(got, c.want) || !strings.Contains(got, "[12 sh] read(0)") {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
