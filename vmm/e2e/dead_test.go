package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/hwtest/lab"
	"bulkhead/kernels/debian"
)

// deaths are how a guest ends without its init saying so. The container's program, which
// has more rights than most, does it.
var deaths = []struct {
	name, script string
	watchdog     string
	want         []string // of what the runtime says
}{
	{"panics", "echo c >/proc/sysrq-trigger; sleep 1000", "0", []string{"the guest ended, and the container with it: ", "how=reset", "Kernel panic - not syncing: sysrq triggered crash"}},
	// A program that gives no processor back, not even for the kernel's twentieth.
	{"hangs", "exec /bin/guest hog", "24s",
		[]string{"the guest ended, and the container with it: ", "hung: its init has not answered for 24s"}},
}

// TestDead: a guest that panics or hangs takes its container with it, and its last words
// are told.
func TestDead(t *testing.T) {
	runtimeProgram(t)
	if !slow(t) {
		t.Skip("takes as long as a watchdog does: make lab")
	}
	path := built(t, "guest", "build", "bulkhead/vmm/e2e/guest")
	if !inLinux(t, lab.Machine{Memory: 2048}) {
		return
	}
	for _, d := range deaths {
		c := box(t, d.script)
		c.spec.Annotations = map[string]string{"dev.bulkhead.vm.watchdog": d.watchdog, "dev.bulkhead.vm.cpus": "1"}
		c.spec.Linux.ReadonlyPaths, c.spec.Linux.MaskedPaths = nil, nil
		program, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(c.dir, "rootfs/bin/guest"), program, 0o755))
		for _, set := range []*[]string{&c.spec.Process.Capabilities.Bounding, &c.spec.Process.Capabilities.Effective, &c.spec.Process.Capabilities.Permitted} {
			*set = append(*set, "CAP_SYS_NICE")
		}
		got := finish(t, c.command("vm", "run", "one"))
		if got.code != 70 {
			t.Errorf("%s: exit code %d, want 70\n%s%s", d.name, got.code, got.out, got.err)
		}
		for _, want := range d.want {
			if !strings.Contains(got.err, want) {
				t.Errorf("%s: %q is not told of:\n%s", d.name, want, got.err)
			}
		}
	}
}

// TestLackingKernel: a guest's kernel without the drivers that a container needs is told with the
// options that it was built without. Debian's has virtio as modules, which nobody loads here.
func TestLackingKernel(t *testing.T) {
	runtimeProgram(t)
	if !slow(t) {
		t.Skip("guestinit/agent has the list; that it reaches a person takes another kernel's boot: make lab")
	}
	guest, err := debian.FetchGuest(t.Context())
	if err != nil {
		t.Skip("needs Debian's kernel; make kernel-debian with a network:", err)
	}
	if !inLinux(t, lab.Machine{Memory: 2048}) {
		return
	}
	c := box(t, "true")
	dir := t.TempDir()
	for _, name := range []string{"bulkhead", "guestinit"} {
		program, err := os.ReadFile(filepath.Join(filepath.Dir(c.program), name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), program, 0o755))
	}
	must(t, os.Symlink(guest.Image, filepath.Join(dir, "vmlinux")))
	c.program = filepath.Join(dir, "bulkhead")
	got := finish(t, c.command("vm", "run", "lacking"))
	for _, want := range []string{"this kernel lacks ", "devices of virtio's by MMIO (CONFIG_VIRTIO_MMIO,", "CONFIG_VIRTIO_VSOCKETS", "CONFIG_VIRTIO_FS"} {
		if got.code != 1 || !strings.Contains(got.err, want) {
			t.Errorf("%q is not told of: %+v", want, got)
		}
	}
	if left, err := os.ReadDir(c.state); len(left) > 0 {
		t.Errorf("%v is left behind, %v", left, err)
	}
}
