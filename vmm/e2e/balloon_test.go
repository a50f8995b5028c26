package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/hwtest/lab"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestBalloon: the host has memory again that a container has used and may use no more, of
// a machine that booted and of one that is a copy; and the container has it back.
func TestBalloon(t *testing.T) {
	runtimeProgram(t)
	if !slow(t) {
		t.Skip("that the guest gives it back is seen in TestContainer; this measures, and takes long: make lab")
	}
	if !inLinux(t, lab.Machine{Memory: 2048}) {
		return
	}
	limit := int64(100 << 20)
	for _, use := range []string{"kept", "copied"} {
		t.Run(use, func(t *testing.T) {
			c := box(t, "sleep 1000")
			c.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
			ok := func(got outcome) {
				t.Helper()
				if got.code != 0 {
					t.Fatalf("%+v", got)
				}
			}
			t.Cleanup(func() { finish(t, c.command("vm", "delete", "--force", "one")) })
			ok(c.detached("run", "--detach", "one"))
			if text, _ := os.ReadFile(filepath.Join(c.dir, "log")); !strings.Contains(string(text), "use="+use) {
				t.Errorf("its template was not %s", use)
			}
			hog := func() {
				ok(finish(t, c.command("vm", "exec", "one", "dd", "if=/dev/zero", "of=/dev/null", "bs=80M", "count=1")))
			}
			hog()
			before := resident(t, c.known("one").Sandbox.PID)
			ok(finish(t, c.command("vm", "update", "--memory", "20m", "one")))
			awaitBalloon(t, c, 80)
			after := resident(t, c.known("one").Sandbox.PID)
			t.Logf("the machine has %d MiB in memory after 80 were used, and %d when it may use 80 less", before, after)
			if after >= before {
				t.Error("the host has nothing of it")
			}
			ok(finish(t, c.command("vm", "update", "--memory", "100m", "one")))
			awaitBalloon(t, c, 0)
			hog()
		})
	}
}

// awaitBalloon waits until a machine has given back what it was asked to.
func awaitBalloon(t *testing.T, c *container, mib int) {
	t.Helper()
	want := fmt.Sprintf("guest memory given back %d MiB of %[1]d\n", mib)
	for limit := time.Now().Add(bound); ; {
		got := finish(t, c.command("vm", "debug", "one"))
		if strings.Contains(got.out, want) {
			return
		}
		if got.code != 0 || time.Now().After(limit) {
			t.Errorf("%+v, want %s", got, want)
			return
		}
	}
}
