package oci

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead/test/rig"
)

// TestNoDevMount: the default devices are there also where the bundle mounts nothing at /dev ("the
// runtime MUST also supply", config-linux.md, Default Devices), in a root that has no such directory.
func TestNoDevMount(t *testing.T) {
	rig.Need(t, "busybox")
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	eachRuntime(t, func(t *testing.T, p *program) {
		root := t.TempDir()
		for path, mode := range map[string]os.FileMode{root: 0o755, filepath.Dir(root): 0o755} {
			if err := os.Chmod(path, mode); err != nil { // the gofer is nobody here
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(root, "busybox"), text, 0o755); err != nil {
			t.Fatal(err)
		}
		r := p.run(t, func(s *specs.Spec) {
			s.Root = &specs.Root{Path: root}
			s.Mounts = []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}}
		}, "/busybox", "sh", "-c", "cd /dev; for d in full null random tty urandom zero; do /busybox stat -c '%n %F %t %T %a' $d; done; echo gone >null; /busybox head -c 3 zero | /busybox wc -c; /busybox readlink fd")
		const want = "full character special file 1 7 666\nnull character special file 1 3 666\nrandom character special file 1 8 666\n" +
			"tty character special file 5 0 666\nurandom character special file 1 9 666\nzero character special file 1 5 666\n3\n/proc/self/fd\n"
		if r.Code != 0 || r.Out != want {
			t.Errorf("%s%s", r, p.logged())
		}
	})
}
