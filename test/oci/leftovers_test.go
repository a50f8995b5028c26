package oci

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bulkhead/test/rig"
)

// traces is what a container can leave on a host.
type traces struct{ processes, mounts, cgroups, files []string }

// look finds what is there now of containers of ours; root is the state directory.
func look(t *testing.T, root string) traces {
	t.Helper()
	var now traces
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		line, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil || len(line) == 0 {
			continue
		}
		text := strings.ReplaceAll(string(line), "\x00", " ")
		if strings.HasPrefix(text, "bulkhead-") || strings.Contains(text, root) {
			now.processes = append(now.processes, entry.Name()+" "+text)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	now.mounts = strings.Split(string(mounts), "\n")
	for _, dir := range []string{"/sys/fs/cgroup", root} {
		filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil || name == dir:
			case dir == root:
				now.files = append(now.files, name)
			case entry.IsDir():
				now.cgroups = append(now.cgroups, name)
			}
			return nil
		})
	}
	return now
}

func (now traces) beyond(before traces) []string {
	var more []string
	for _, pair := range [][2][]string{{now.processes, before.processes}, {now.mounts, before.mounts}, {now.cgroups, before.cgroups}, {now.files, before.files}} {
		for _, line := range pair[0] {
			if !slices.Contains(pair[1], line) {
				more = append(more, line)
			}
		}
	}
	return more
}

// leavesNothing runs f and fails if it leaves a process, mount, cgroup or file.
// Processes may take a moment to be reaped, which nobody can be told of.
func leavesNothing(t *testing.T, p *program, f func()) {
	t.Helper()
	before := look(t, p.root)
	f()
	var left []string
	for limit := time.Now().Add(rig.Limit / 10); ; time.Sleep(10 * time.Millisecond) {
		if left = look(t, p.root).beyond(before); len(left) == 0 {
			return
		}
		if time.Now().After(limit) {
			break
		}
	}
	t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
}
