package containerd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"bulkhead/hwtest/lab"
	"bulkhead/hwtest/lab/labtest"
	"bulkhead/kernels/linux"
	"bulkhead/test/rig"
)

// inLab tells that machines are what is tested, whose columns the lab has alone.
func inLab() bool { return os.Getenv(lab.Variable) != "" }

// patience is when what is waited for is taken to hang.
func patience() time.Duration {
	if inLab() {
		return 3 * rig.Limit
	}
	return rig.Limit
}

// home is where what a machine needs is built for the lab.
func home() string { return filepath.Join(rig.Root(), "out", "containerd") }

var build = sync.OnceValue(func() error {
	for program, dir := range map[string]string{"bulkhead": "runtime", "guestinit": "guestinit", shim: "runtime/" + shim} {
		c := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(home(), program), "./"+dir)
		c.Dir = rig.Root()
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", c, err, out)
		}
	}
	return nil
})

// withMachines is true where machines are run: in the lab, in which it has this test started
// again. It takes minutes there: BULKHEAD_SLOW=1.
func withMachines(t *testing.T) bool {
	t.Helper()
	if inLab() {
		return true
	}
	if os.Getenv("BULKHEAD_SLOW") == "" {
		t.Skip("containerd's machines take minutes in the lab: BULKHEAD_SLOW=1 go test -run TestMachines ./test/containerd")
	}
	rig.NeedRoot(t)
	rig.Need(t, "containerd", "ctr", "runc", "busybox")
	image, found, err := linux.Find()
	if err != nil {
		t.Fatal(err)
	}
	if !found {
		t.Skip("needs our kernel for the guest: make kernel")
	}
	if err := build(); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(home(), "vmlinux")
	_ = os.Remove(link)
	if err := os.Symlink(image.ELF, link); err != nil {
		t.Fatal(err)
	}
	return labtest.Inside(t, lab.Machine{Memory: 4096}, lab.Share{Host: home(), Inside: home(), ReadOnly: true})
}

// TestMachines: the sessions and the pods of the other tests, with a kernel of their own.
func TestMachines(t *testing.T) {
	t.Run("sessions", func(t *testing.T) {
		if withMachines(t) {
			TestSessions(t)
		}
	})
	t.Run("pods", func(t *testing.T) {
		if withMachines(t) {
			TestPods(t)
		}
	})
	t.Run("shims", func(t *testing.T) {
		if withMachines(t) {
			TestPodHasOneShim(t)
		}
	})
}
