package oci

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"bulkhead/test/rig"

	"golang.org/x/sys/unix"
)

// traces is what a container can leave on a host.
type traces struct{ processes, mounts, cgroups, files []string }

// look finds what is there now of this test's containers; root is the state
// directory. Whatever else runs on this machine does not count: processes are
// ours by descent (TestMain adopts orphans), the rest by our containers' names.
func look(t *testing.T, root string) traces {
	t.Helper()
	now := traces{processes: descendants(os.Getpid())}
	ours := func(name string) bool {
		return strings.Contains(name, fmt.Sprintf("test-%d-", os.Getpid())) || strings.Contains(name, root)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if ours(line) {
			now.mounts = append(now.mounts, line)
		}
	}
	for _, dir := range []string{"/sys/fs/cgroup", root} {
		filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil || name == dir:
			case dir == root:
				now.files = append(now.files, name)
			case entry.IsDir() && ours(name):
				now.cgroups = append(now.cgroups, name)
			}
			return nil
		})
	}
	return now
}

// descendants lists the processes below pid. Adopted ones that ended are reaped,
// as a shim would reap them.
func descendants(pid int) []string {
	var all []string
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		children, _ := os.ReadFile(task)
		for child := range strings.FieldsSeq(string(children)) {
			number, err := strconv.Atoi(child)
			if err != nil {
				continue
			}
			line, err := os.ReadFile(filepath.Join("/proc", child, "cmdline"))
			if err == nil && len(line) == 0 { // a zombie, or one that is just ending
				unix.Wait4(number, nil, unix.WNOHANG, nil)
				continue
			}
			all = append(all, child+" "+strings.ReplaceAll(string(line), "\x00", " "))
			all = append(all, descendants(number)...)
		}
	}
	return all
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
