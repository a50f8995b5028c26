package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/hwtest/lab"
)

// TestGeneration: a guest that is gone on from twice draws other random numbers each time.
// Its kernel hears by the generation id that it is a copy, and reseeds.
func TestGeneration(t *testing.T) {
	if os.Getenv(lab.Variable) == "" && !slow(t) {
		t.Skip("boots and restores guests, which is slow in the lab: make lab runs it (BULKHEAD_SLOW=1)")
	}
	bin := filepath.Dir(guestProgram(t))
	if !inLinux(t, lab.Machine{}) {
		return
	}
	snap := filepath.Join(t.TempDir(), "snap")
	share := []string{"--share", "bin=" + bin + ",ro", "--memory", "128M"}
	v := start(t, kernels(t)[0].with("/mnt/bin/guest forks >&2", share...)...)
	seen := map[string]bool{drawn(v, "booted"): true}
	v.must("POST", "/v1/machine/snapshot", fmt.Sprintf(`{"path":%q}`, snap), nil)
	if strings.Contains(v.out.String(), "forked") {
		t.Error("a guest that was never restored says that it was")
	}
	v.must("POST", "/v1/machine/shutdown", "", nil)
	v.wait()
	for range 2 {
		w := start(t, append(share, "--from-snapshot", snap)...)
		bytes := drawn(w, "forked")
		if seen[bytes] {
			t.Errorf("the same random numbers again: %s", bytes)
		}
		seen[bytes] = true
		_ = w.cmd.Process.Kill()
		w.wait()
	}
}

// drawn is what a guest that tells of it (vmm/e2e/guest, forks) drew when it was so.
func drawn(v *vm, when string) string {
	v.t.Helper()
	from := v.await(when+": random ", 0)
	to := v.await("\r\n", from)
	return v.out.String()[from:to]
}
