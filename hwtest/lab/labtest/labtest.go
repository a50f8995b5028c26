// Package labtest runs a test in the lab: the test's own binary is started
// again in there, for that one test.
//
//	func TestBoot(t *testing.T) {
//		if !labtest.Inside(t, lab.Machine{Memory: 4096}) {
//			return // it ran in the lab, and t knows how it went
//		}
//		… /dev/kvm is full here …
//	}
package labtest

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"bulkhead/hwtest/lab"
)

// bound ends a machine that hangs with all that is in it, and that test alone. A test
// bounds what it runs, by much less, to say more. What `make lab` runs may do more in one
// machine, as docker's tests do, of which each command takes seconds there.
func bound() time.Duration {
	if os.Getenv(slow) != "" {
		return 30 * time.Minute
	}
	return 5 * time.Minute
}

// Inside is true in the lab. Elsewhere it runs t, with its subtests, in m, as a
// process that sees this host's root directory and, read-write, the package's; t
// fails if that does, and is skipped where the host has no QEMU or if it is in there.
func Inside(t testing.TB, m lab.Machine, shares ...lab.Share) bool {
	t.Helper()
	if os.Getenv(lab.Variable) != "" {
		return true
	}
	if testing.Short() {
		t.Skip("-short: the lab takes seconds to start; without -short it runs")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	m.HostRoot = true
	var printed *output
	var code int
	for try := range machines() {
		if try > 0 {
			t.Logf("in the lab, exit code %d, %v; once more in a fresh machine:\n%s", code, err, printed)
		}
		printed = new(output)
		code, err = m.Run(t.Context(), lab.Job{
			Cmd:     []string{"/lab.test", "-test.v", "-test.run", only(t.Name())},
			Dir:     here,
			Env:     passed(),
			Files:   map[string]string{"/lab.test": self},
			Timeout: bound(),
			Shares:  append(shares, lab.Share{Host: here, Inside: here}),
			Stdout:  printed, Stderr: printed,
		})
		if err == nil && code == 0 || errors.Is(err, lab.ErrMissing) {
			break
		}
	}
	switch {
	case errors.Is(err, lab.ErrMissing):
		t.Skip(err)
	case err != nil:
		t.Fatalf("%v\n%s", err, printed)
	case code != 0:
		t.Errorf("in the lab: exit code %d\n%s", code, printed)
	case strings.Contains(printed.String(), "--- SKIP: "+t.Name()+" "):
		t.Skipf("in the lab:\n%s", printed)
	case !strings.Contains(printed.String(), "--- PASS: "+t.Name()+" "):
		t.Errorf("in the lab: %s did not run\n%s", t.Name(), printed)
	default:
		t.Logf("in the lab:\n%s", printed)
	}
	return false
}

// machines is how many a test may have. QEMU's emulation of a guest's guest went wrong by
// itself (lab.Machine, CPUs) in ways that tell nothing of the test; what fails
// twice, fails. `make lab` gives one, to see all of it.
func machines() int {
	if os.Getenv(slow) != "" {
		return 1
	}
	return 2
}

// only is the pattern for -test.run that matches the test name alone.
func only(name string) string {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	return strings.Join(parts, "/")
}

// slow is what asks for tests that take long (Makefile, lab).
const slow = "BULKHEAD_SLOW"

// passed is what a test finds of its environment in the lab.
func passed() []string {
	if v, set := os.LookupEnv(slow); set {
		return []string{slow + "=" + v}
	}
	return nil
}
