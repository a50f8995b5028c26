package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestMountPoints(t *testing.T) {
	host := t.TempDir()
	root := filepath.Join(host, "root")
	for _, d := range []string{"root/etc", "root/real", "outside"} {
		if err := os.MkdirAll(filepath.Join(host, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"link": "/real", "escape": "../../outside", "absolute": host + "/outside", "dangling": "/nowhere"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	bind := func(source, to string) specs.Mount {
		return specs.Mount{Source: source, Destination: to, Type: "bind", Options: []string{"rbind"}}
	}
	for _, row := range []struct {
		mount specs.Mount
		made  string // in host
		err   string
	}{
		{specs.Mount{Destination: "/proc", Type: "proc"}, "root/proc/", ""},
		{bind(host, "/a/b/c"), "root/a/b/c/", ""},
		{bind("/etc/passwd", "/etc/hosts"), "root/etc/hosts", ""},
		{bind("/etc/passwd", "/etc/hosts"), "root/etc/hosts", ""}, // there already
		{bind(host, "/link/x"), "root/real/x/", ""},
		{bind(host, "/escape/x"), "", "no such file or directory"}, // .. ends at the root
		{bind(host, "/absolute/x"), "", "no such file or directory"},
		{bind(host, "/dangling"), "", ""},
	} {
		err := makeMountPoints(root, []specs.Mount{row.mount})
		if (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
			t.Errorf("%s: %v, want %q", row.mount.Destination, err, row.err)
		}
		if row.made != "" {
			info, err := os.Stat(filepath.Join(host, row.made))
			if err != nil || info.IsDir() != strings.HasSuffix(row.made, "/") {
				t.Errorf("%s: %v, %v", row.made, info, err)
			}
		}
	}
	if left, _ := os.ReadDir(filepath.Join(host, "outside")); len(left) != 0 {
		t.Errorf("outside of the root: %v", left)
	}
	if err := makeMountPoints(root, []specs.Mount{{Destination: "/dev"}, {Destination: "/dev/pts"}}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "dev/pts")); err == nil {
		t.Error("made a mount point beneath another mount")
	}
}
