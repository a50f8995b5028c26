package programs

import (
	"os"
	"path/filepath"
	"testing"

	"bulkhead/test/rig"
)

// TestRings runs a program of liburing's and libaio's.
func TestRings(t *testing.T) {
	rig.NeedRoot(t)
	rig.Need(t, "gcc")
	for _, header := range []string{"/usr/include/liburing.h", "/usr/include/libaio.h"} {
		if _, err := os.Stat(header); err != nil {
			t.Skipf("%v; scripts/need test installs it", err)
		}
	}
	program := filepath.Join(t.TempDir(), "rings")
	rig.Compile(t, program, "gcc", "-O1", "-w", "-static", "testdata/rings.c", "-luring", "-laio", "-lpthread")
	command := rig.Command{Args: []string{"sh", "-c", "cd $(mktemp -d) && " + program + "; s=$?; rm -r $PWD; exit $s"}}
	want := command.Native(t)
	rig.EachPlatform(t, func(t *testing.T, platform string) {
		rig.Compare(t, want, command.In(t, platform))
	})
}
