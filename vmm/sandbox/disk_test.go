package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/runtime/agent"
	"bulkhead/virtio/blk"

	"golang.org/x/sys/unix"
)

// TestSlots: containers that come later have slots of their own, no more than there are, and
// leave them.
func TestSlots(t *testing.T) {
	s := &sandbox{config: &agent.BootConfig{DiskSlots: 3}, disks: []*blk.Device{nil}}
	devices, err := s.makeSlots()
	if err != nil || len(devices) != 3 || devices[2].Name != "slot2" {
		t.Fatalf("%v, %v", devices, err)
	}
	t.Cleanup(func() {
		for _, slot := range s.slots {
			slot.device.Close()
		}
	})
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	// A container's with a disk at each of these, which are to be read.
	insert := func(c *container, nodes ...string) (string, error) {
		t.Helper()
		var list []agent.Disk
		var files []*os.File
		for _, node := range nodes {
			f, err := os.Open(path)
			if node == "/dev/bad" {
				f, err = os.Open(t.TempDir())
			}
			if err != nil {
				t.Fatal(err)
			}
			list, files = append(list, agent.Disk{Node: node, ReadOnly: true}), append(files, f)
		}
		all, err := s.insertDisks(c, list, files)
		for i, f := range files {
			if f.Close() == nil {
				t.Errorf("file %d was left open", i)
			}
		}
		var said []string
		for _, d := range all {
			said = append(said, d.Node)
		}
		return strings.Join(said, " "), err
	}
	a, b, c := &container{name: "a"}, &container{name: "b"}, &container{name: "c"}
	for _, step := range []struct {
		of    *container
		nodes []string // nil: it leaves
		want  string   // disk and slots
		err   error
	}{
		{a, []string{"/dev/a", "/dev/b"}, " /dev/a /dev/b ", nil},
		{b, []string{"/dev/c"}, "   /dev/c", nil},
		{c, []string{"/dev/d"}, "", unix.ENOSPC},
		{b, nil, "", nil},
		{c, []string{"/dev/d", "/dev/e"}, "", unix.ENOSPC},
		{c, []string{"/dev/d"}, "   /dev/d", nil},
		{a, nil, "", nil},
		{b, []string{"/dev/x", "/dev/bad"}, "", errors.ErrUnsupported},
		{b, []string{"/dev/x", "/dev/y"}, " /dev/x /dev/y ", nil},
	} {
		if step.nodes == nil {
			s.ejectDisks(step.of)
			continue
		}
		got, err := insert(step.of, step.nodes...)
		if got != step.want || (err == nil) != (step.err == nil) || step.err == unix.ENOSPC && !errors.Is(err, step.err) {
			t.Errorf("%s with %v: %q, %v; want %q, %v", step.of.name, step.nodes, got, err, step.want, step.err)
		}
	}
	if got, err := insert(a); got != "" || err != nil {
		t.Errorf("no disks: %q, %v", got, err)
	}
}
