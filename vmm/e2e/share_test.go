package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/hwtest/lab"
)

// These run virtio/fs's tests of Linux's client in a guest: its mount is the
// real one, and its tmpfs what random calls are compared with. mmap, locks, rename, files
// that are unlinked and open, links, attributes, holes, a git repository that is cloned.
func TestShareFiles(t *testing.T)  { testShare(t, "TestKernelFiles") }
func TestShareRandom(t *testing.T) { busy(t); testShare(t, "TestKernelRandom") }
func TestShareGit(t *testing.T)    { busy(t); testShare(t, "TestKernelGit") }

// busy leaves a test to `make lab` whose guest works for minutes in the lab, where the
// longer one works, the likelier it is to meet a fault of the emulation (docs/results/microvm.md).
func busy(t *testing.T) {
	t.Helper()
	if os.Getenv(lab.Variable) == "" && !slow(t) {
		t.Skip("the guest works for minutes in the lab: `make lab` runs it, as does a host with VMX or SVM")
	}
}

func testShare(t *testing.T, name string) {
	program := built(t, filepath.Join("share", "fs.test"), "test", "-c", "bulkhead/virtio/fs")
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git, for the guest (apt-get install git):", err)
	}
	if !inLinux(t, lab.Machine{}) {
		return
	}
	k := kernels(t)[0]
	work := t.TempDir()
	must(t, os.Chmod(work, 0o755))
	// The guest's root is the host's, read-only, so that it has git and all that git needs.
	// The share that is tested lies over its /mnt, and over /srv the test.
	cmdline := "console=ttyS0 quiet panic=-1 pci=off bulkhead.root=/mnt/root bulkhead.share=work:/mnt/root/mnt bulkhead.share=bin:/mnt/root/srv:ro " +
		"bulkhead.env=BULKHEAD_FS_TEST_GUEST=/mnt bulkhead.env=TMPDIR=/tmp"
	code, out := run(t, append(k.args, "--cmdline", cmdline, "--memory", "512M", "--cpus", processors(t),
		"--share", "root=/,ro", "--share", "work="+work, "--share", "bin="+filepath.Dir(program)+",ro",
		k.path, "--", "/srv/fs.test", "-test.v", "-test.run", "^"+name+"$")...)
	if code != 0 || !strings.Contains(out, "--- PASS: "+name+" ") {
		t.Errorf("exit code %d, or it did not pass", code)
	}
	if name != "TestKernelGit" {
		return
	}
	// What the guest cloned is a repository for the host as well.
	clones, err := filepath.Glob(work + "/*/two")
	must(t, err)
	if len(clones) == 0 {
		t.Fatal("the host sees no clone")
	}
	for _, dir := range clones {
		for _, command := range []string{"git fsck --full --strict", "git diff --exit-code"} {
			words := strings.Fields(command)
			c := exec.Command(words[0], words[1:]...)
			c.Dir = dir
			c.Env = append(os.Environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("%s on the host: %v\n%s", command, err, out)
			}
		}
	}
}
