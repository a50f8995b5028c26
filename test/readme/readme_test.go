// Package readme runs the commands that README.md tells a person to run.
package readme

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"bulkhead/test/rig"
)

// blocks are the README's shell blocks, without comments.
func blocks(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(rig.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.SplitSeq(block[1], "\n") {
			if i := strings.Index(line, "  #"); i >= 0 {
				line = line[:i]
			}
			if line = strings.TrimSpace(line); line != "" {
				commands = append(commands, line)
			}
		}
	}
	return commands
}

func shell(t *testing.T, line string) (string, error) {
	t.Helper()
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = rig.Root()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestCommands(t *testing.T) {
	binary := rig.Bulkhead(t)
	ran := 0
	for _, line := range blocks(t) {
		switch {
		case strings.HasPrefix(line, "bin/bulkhead "):
			if out, err := shell(t, binary+strings.TrimPrefix(line, "bin/bulkhead")); err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			ran++
		case strings.HasPrefix(line, "make "):
			// Named only, or this test would run itself; TestDemo runs the demo.
			if out, err := shell(t, "make --dry-run "+strings.TrimPrefix(line, "make ")); err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			ran++
		case strings.Contains(line, "daemon.json"):
			text := line[strings.Index(line, "'")+1 : strings.LastIndex(line, "'")]
			if err := json.Unmarshal([]byte(text), &map[string]any{}); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			ran++
		}
	}
	if ran < 6 {
		t.Errorf("README.md has only %d commands that were tried", ran)
	}
}

// TestDemo has two minutes, and shows each platform, the kernel seen inside, and
// what auto measured.
func TestDemo(t *testing.T) {
	begin := time.Now()
	out, err := shell(t, "make demo")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if took := time.Since(begin); took > 2*time.Minute {
		t.Errorf("it took %v", took)
	}
	for _, platform := range rig.Platforms(t) {
		if !strings.Contains(out, "--platform="+platform+" do uname -a\nLinux ") {
			t.Errorf("%s ran nothing:\n%s", platform, out)
		}
	}
	for _, want := range []string{"-bulkhead ", "auto took: ", "measured:  ptrace: "} {
		if !strings.Contains(out, want) {
			t.Errorf("the demo does not print %q:\n%s", want, out)
		}
	}
}
