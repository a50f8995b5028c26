package programs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/hwtest/lab"
	"bulkhead/hwtest/lab/labtest"
	"bulkhead/kernels/linux"
	"bulkhead/test/rig"

	"golang.org/x/sys/unix"
)

// without is what QEMU's emulation does not tell its hypervisors of, by which a guest's AVX is an
// illegal instruction (vmm/e2e), and AVX itself, of which cksum does not ask whether it is enabled.
const without = "xsave,avx"

// TestProgramsInMachine runs the same in machines, in the lab where this host runs no guest of
// Linux: what they print natively there and in a guest must agree.
func TestProgramsInMachine(t *testing.T) {
	home := filepath.Join(rig.Root(), "out", "programs")
	inLab := os.Getenv(lab.Variable) != ""
	if !inLab {
		if os.Getenv("BULKHEAD_SLOW") == "" {
			t.Skip("programs take minutes in the lab: make lab")
		}
		rig.NeedRoot(t)
		buildMachine(t, home)
	}
	if !labtest.Inside(t, lab.Machine{Memory: 4096}, lab.Share{Host: home, Inside: home, ReadOnly: true}) {
		return
	}
	// Go's programs have raised the soft limit for themselves, which is what do hands on; the
	// same for what runs natively.
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	files.Cur = files.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	same := func(t *testing.T, command ...string) {
		t.Helper()
		want := rig.Command{Args: command, Dir: t.TempDir(), Limit: patience}.Native(t)
		if want.Out == "" {
			t.Fatalf("natively it prints nothing: %s", want)
		}
		inside := append([]string{filepath.Join(home, "bulkhead"), "--isolation=vm", "do", "--annotation", "dev.bulkhead.vm.cpu-without=" + without, "--"}, command...)
		rig.Compare(t, want, rig.Command{Args: inside, Dir: t.TempDir(), Limit: patience}.Native(t))
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			rig.Need(t, row.need)
			same(t, append(strings.Fields(row.shell), file(t, row.script))...)
		})
	}
	for _, name := range []string{"goroutines", "timers", "collector", "child_processes", "files", "signals", "preemption"} {
		t.Run("go_"+name, func(t *testing.T) { same(t, filepath.Join(home, "goprogram"), name) })
	}
}

// patience is for what an emulated processor does.
const patience = 5 * time.Minute

// buildMachine puts what a machine needs into dir, side by side, and the Go program.
func buildMachine(t *testing.T, dir string) {
	t.Helper()
	image, found, err := linux.Find()
	if err != nil {
		t.Fatal(err)
	}
	if !found {
		t.Skip("needs our kernel for the guest: make kernel")
	}
	for program, of := range map[string]string{"bulkhead": "./runtime", "guestinit": "./guestinit", "goprogram": "./test/differential/testdata/goprogram"} {
		c := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(dir, program), of)
		c.Dir = rig.Root()
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", c, err, out)
		}
	}
	link := filepath.Join(dir, "vmlinux")
	_ = os.Remove(link)
	if err := os.Symlink(image.ELF, link); err != nil {
		t.Fatal(err)
	}
}
