package oci

import (
	"bufio"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"bulkhead/runtime/agent"
)

// TestTrace: a container's calls are told as they are made, and only those asked for.
func TestTrace(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		leavesNothing(t, p, func() {
			name := p.started(t, nil, "sh", "-c", "trap 'exit 0' TERM; until cat /not/there; do :; done 2>/dev/null")
			args := append(p.args[1:], "trace", "--json", "--failed", "--path=not/there", name)
			c := exec.Command(p.args[0], args...)
			out, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for n := 0; n < 3 && lines.Scan(); n++ {
				var e agent.TraceEvent
				if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
					t.Fatalf("%q: %v", lines.Text(), err)
				}
				if e.Errno != "ENOENT" || !strings.Contains(strings.Join(e.Args, " "), `"/not/there"`) || e.Result == nil || e.PID < 2 {
					t.Errorf("told of %s", lines.Text())
				}
				if n > 0 {
					continue
				}
				if r := p.do(t, "trace", name); r.Code == 0 || !strings.Contains(r.String(), "already") {
					t.Errorf("a second listener: %s", r)
				}
			}
			p.must(t, "kill", name, "KILL")
			for lines.Scan() {
			}
			if err := c.Wait(); err != nil {
				t.Errorf("trace ends with %v", err)
			}
			p.must(t, "delete", "--force", name)
		})
	})
}
