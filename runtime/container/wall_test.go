package container

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestChooseWall: auto takes a machine where everything speaks for one.
func TestChooseWall(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	beside := func(name string) string { return filepath.Join(filepath.Dir(self), name) }
	t.Cleanup(func() { os.Remove(beside("vmlinux")); os.Remove(beside("guestinit")) })
	for _, row := range []struct {
		name  string
		host  func() error
		files []string
		more  Create
		on    string // platform
		want  string
	}{
		{"a host without ring 0", func() error { return errors.New("emulated") }, []string{"vmlinux", "guestinit"}, Create{}, "auto", sentryWall},
		{"a build without machines", nil, []string{"vmlinux", "guestinit"}, Create{}, "auto", sentryWall},
		{"no kernel", func() error { return nil }, []string{"guestinit"}, Create{}, "auto", sentryWall},
		{"no init", func() error { return nil }, []string{"vmlinux"}, Create{}, "auto", sentryWall},
		{"descriptors", func() error { return nil }, []string{"vmlinux", "guestinit"}, Create{PreserveFDs: 1}, "auto", sentryWall},
		{"ptrace", func() error { return nil }, []string{"vmlinux", "guestinit"}, Create{}, "ptrace", sentryWall},
		{"the host's network", func() error { return nil }, []string{"vmlinux", "guestinit"}, Create{}, "auto", sentryWall},
		{"all there", func() error { return nil }, []string{"vmlinux", "guestinit"}, Create{}, "auto", vmWall},
	} {
		os.Remove(beside("vmlinux"))
		os.Remove(beside("guestinit"))
		for _, name := range row.files {
			if err := os.WriteFile(beside(name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		// What is found out of the made-up host is not for this one, nor for the next row.
		rt := &Runtime{Machine: row.host, Template: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
		spec := &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}}}
		if row.name == "the host's network" {
			spec.Linux.Namespaces = nil
		}
		n := &creation{Create: &row.more, rt: rt, spec: spec, c: &Container{State: &state.State{Platform: row.on}, rt: rt}}
		if got := n.chooseWall(); got != row.want || (got == vmWall) != (n.config.Machine != nil) {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
		for _, f := range n.own {
			f.Close()
		}
	}
}
