package docker

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

// machines is the runtime with --isolation=vm: the same tests, in the lab where the host
// runs no guest of Linux.
const machines = "bulkhead-vm"

// inLab tells that machines are what is tested, whose column the lab has alone.
func inLab() bool { return os.Getenv(lab.Variable) != "" }

// byNature are rows of TestRun that end otherwise in a machine than with runc.
var byNature = map[string]rig.Result{
	// The guest's kernel has no such file (CONFIG_PROC_KCORE), so none to mask.
	"kcore": {Err: "sh: can't open /proc/kcore: no such file\n", Code: 1},
}

// patience is when a command is taken to hang.
func patience() time.Duration {
	if inLab() {
		return 3 * rig.Limit
	}
	return rig.Limit
}

func home() string { return filepath.Join(rig.Root(), "out", "docker") }

// build makes what a machine needs, each beside the other.
var build = sync.OnceValue(func() error {
	for program, dir := range map[string]string{"bulkhead": "runtime", "guestinit": "guestinit"} {
		c := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(home(), program), "./"+dir)
		c.Dir = rig.Root()
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", c, err, out)
		}
	}
	return nil
})

// programs is the path of bulkhead.
func programs(t *testing.T) string {
	t.Helper()
	if inLab() {
		return filepath.Join(home(), "bulkhead")
	}
	return rig.Bulkhead(t)
}

// withMachines is true where machines are run: in the lab, which it has this test started
// again in. It takes minutes there: make lab.
func withMachines(t *testing.T) bool {
	t.Helper()
	if inLab() {
		return true
	}
	if os.Getenv("BULKHEAD_SLOW") == "" {
		t.Skip("docker takes minutes to start in the lab: make lab")
	}
	rig.NeedRoot(t)
	rig.Need(t, "dockerd", "docker", "runc", "busybox", "debootstrap")
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
	debianTar(t)
	return labtest.Inside(t, lab.Machine{Memory: 6144}, lab.Share{Host: home(), Inside: home(), ReadOnly: true}, lab.Share{Host: cache, Inside: cache, ReadOnly: true})
}
