package oci

import (
	"regexp"
	"strings"
	"testing"
)

// TestDebug: each view of a sandbox is there, names what runs inside, and its columns
// line up, whatever a program there calls itself.
func TestDebug(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		leavesNothing(t, p, func() {
			name := p.started(t, nil, "sh", "-c", `printf 'a\tb' >/proc/self/comm; exec 7</etc/passwd; : >/tmp/done; while :; do sleep 1000; done`)
			p.must(t, "exec", name, "sh", "-c", "until [ -e /tmp/done ]; do sleep 0.01; done")
			for _, row := range []struct {
				view string
				want []string
			}{
				{"", []string{`(?m)^platform +` + p.name + ` \(`, `(?m)^tasks +\d+ in \d+ processes$`, `(?m)^system calls +\d+$`, `(?m)^platform page faults +\d+$`}},
				{"stacks", []string{`goroutine \d+ \[`, `sentry/kernel`}},
				{"tasks", []string{`(?m)^PID +TID +STATE +CALL +USER +SYSTEM +FAULTS +COMM$`, `(?m)^1 +1 +S +wait4 .* a\?b$`}},
				{"maps", []string{`(?m)^process 1 \(a\?b\)$`, `(?m)^  [0-9a-f]{12}-[0-9a-f]{12} +r-xp .*/bin/busybox$`, `\[stack\]`}},
				{"fds", []string{`(?m)^process 1 \(a\?b\)$`, `(?m)^  7 +0\d+ +\d+ +/etc/passwd$`}},
				{"mounts", []string{`(?m)^  ID +PARENT +TYPE +SOURCE`, `(?m)^  \d+ +\d+ +proc +proc +/ +/proc `}},
				{"calls", []string{`(?m)^ +DONE +FAILED +INTERRUPTED +CALL$`, `(?m)^ +\d+ +\d+ +\d+ +openat$`}},
			} {
				out := p.must(t, append([]string{"debug", name}, strings.Fields(row.view)...)...)
				for _, want := range row.want {
					if !regexp.MustCompile(want).MatchString(trimmed(out)) {
						t.Errorf("debug %s says nothing like %s:\n%s", row.view, want, out)
					}
				}
			}
			if r := p.do(t, "debug", name, "nonsense"); r.Code == 0 {
				t.Errorf("debug nonsense: %s", r)
			}
			p.must(t, "kill", name, "KILL")
			p.must(t, "delete", "--force", name)
		})
	})
}

// trimmed has no spaces at the ends of lines.
func trimmed(s string) string { return regexp.MustCompile(`(?m) +$`).ReplaceAllString(s, "") }
