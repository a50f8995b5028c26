// Package ring0 has the Sentry on kvm run where SYSCALL enters ring 0, as on every host
// with VMX or SVM: in the lab. Elsewhere its stub stays in ring 3, another path
// through the same code (sentry/platform/kvm, stub.go).
package ring0

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/hwtest/lab"
	"bulkhead/test/rig"
)

// out is where the programs are built: the lab sees it, as it does not see /tmp.
const out = "../../out/ring0"

// run runs a command in the lab, in the directory dir below this tree's root.
func run(t *testing.T, dir string, command ...string) (code int, printed string) {
	t.Helper()
	if os.Getenv(lab.Variable) != "" {
		t.Skip("this is the lab; run it outside")
	}
	if testing.Short() {
		t.Skip("-short: the lab takes seconds to start; without -short it runs")
	}
	if err := lab.Check(); err != nil {
		t.Skip(err)
	}
	root := rig.Root()
	var b bytes.Buffer
	code, err := lab.Machine{Memory: 3072, HostRoot: true}.Run(t.Context(), lab.Job{
		// One pipe for both streams keeps their order.
		Cmd: append([]string{"/bin/sh", "-c", `exec "$@" 2>&1`, "sh"}, command...), Dir: filepath.Join(root, dir),
		Shares: []lab.Share{{Host: root, Inside: root}},
		Stdout: &b, Timeout: 4 * time.Minute,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, &b)
	}
	return code, b.String()
}

// build makes a program with go, and returns its path.
func build(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(out, name))
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("go", append(args[:1:1], append([]string{"-o", path}, args[1:]...)...)...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", c, err, b)
	}
	return path
}

// TestPlatform runs the platform's own tests, its conformance suite among them.
func TestPlatform(t *testing.T) {
	program := build(t, "kvm.test", "test", "-c", "bulkhead/sentry/platform/kvm")
	code, printed := run(t, "sentry/platform/kvm", program, "-test.v", "-test.timeout", "3m")
	if code != 0 || !strings.Contains(printed, "--- PASS: TestConformance ") || !strings.Contains(printed, "stub in user mode false") {
		t.Errorf("exit code %d, want 0, the suite, and a stub in ring 0\n%s", code, printed)
	}
}

// TestDo runs a program in a sandbox, as a person does, with processes and pipes.
func TestDo(t *testing.T) {
	const script = `for i in 1 2 3; do echo $i; done | sort -r | tr '\n' ' '; uname -s; (exit 5) || exit 6`
	code, printed := run(t, "", rig.Bulkhead(t), "--platform=kvm", "do", "/bin/sh", "-c", script)
	if code != 6 || !strings.Contains(printed, "3 2 1 Linux\n") {
		t.Errorf("exit code %d, want 6 and the script's output\n%s", code, printed)
	}
}
