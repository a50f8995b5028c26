// Package readme runs the commands that README.md tells a person to run.
package readme

import (
	"bufio"
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
		case strings.HasPrefix(line, "bulkhead install "):
			// Elsewhere than on this host.
			args := strings.TrimPrefix(line, "bulkhead install") + " --yes --destdir=" + t.TempDir()
			if out, err := shell(t, binary+" install"+args); err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			ran++
		}
	}
	if ran < 6 {
		t.Errorf("README.md has only %d commands that were tried", ran)
	}
}

// TestDemo shows each platform, the kernel seen inside, and what auto measured, all
// within two minutes; and then the other wall.
func TestDemo(t *testing.T) {
	begin := time.Now()
	cmd := exec.Command("make", "demo")
	cmd.Dir = rig.Root()
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		out.WriteString(lines.Text() + "\n")
		if took := time.Since(begin); strings.HasPrefix(lines.Text(), "measured:") && took > 2*time.Minute {
			t.Errorf("the Sentry's part took %v", took)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	want := []string{"-bulkhead ", "auto took: ", "measured:  ptrace: ", "bulkhead --isolation=vm do ", "\nI am process 1\n"}
	for _, platform := range rig.Platforms(t) {
		want = append(want, "--platform="+platform+" do uname -a\nLinux ")
	}
	for _, text := range want {
		if !strings.Contains(out.String(), text) {
			t.Errorf("the demo does not print %q:\n%s", text, out.String())
		}
	}
	_, vm, _ := strings.Cut(out.String(), "--isolation=vm do ")
	if !regexp.MustCompile(`(?m)^Linux .* x86_64 GNU/Linux$`).MatchString(vm) || strings.Contains(vm, "-bulkhead ") || strings.Contains(vm, "level=") {
		t.Errorf("the machine's part is not right:\n%s", vm)
	}
}
