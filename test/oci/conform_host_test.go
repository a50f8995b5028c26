package oci

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"bulkhead/test/rig"

	"golang.org/x/sys/unix"
)

// What the rules of the conformance suite look at on the host.

// alive tells whether a process runs.
func alive(pid int) bool { return unix.Kill(pid, 0) == nil && !zombie(pid) }

func zombie(pid int) bool {
	line, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "stat"))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(line), ") ")
	return strings.HasPrefix(rest, "Z")
}

// cgroupsOf are the control groups whose names have a container's in them.
func cgroupsOf(name string) (all []string) {
	filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && strings.Contains(entry.Name(), name) {
			all = append(all, path)
		}
		return nil
	})
	return all
}

// await waits for a sign that somebody is about to make.
func (x *trial) await(dir, name string) {
	for limit := time.Now().Add(rig.Limit); !x.marked(dir, name); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			x.fatalf("%s does not appear", name)
		}
	}
}

// copyRoot makes a root file system of the bundle's own, which may be written to.
func (x *trial) copyRoot(dir, name string) {
	from, err := rootfs()
	if err != nil {
		x.Fatal(err)
	}
	if out, err := exec.Command("cp", "-ax", from, filepath.Join(dir, name)).CombinedOutput(); err != nil {
		x.Fatalf("%v: %s", err, out)
	}
}

// preserved gives a command descriptors from 3 on, that read as texts.
func preserved(x *trial, texts ...string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		for _, text := range texts {
			f := x.file()
			x.Cleanup(func() { f.Close() })
			if _, err := f.WriteString(text); err != nil {
				x.Fatal(err)
			}
			if _, err := f.Seek(0, 0); err != nil {
				x.Fatal(err)
			}
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
	}
}
