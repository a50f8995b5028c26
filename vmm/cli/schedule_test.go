package cli

import (
	"os"
	"os/exec"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPatient changes a process of its own, for it cannot be undone for threads that come later.
func TestPatient(t *testing.T) {
	if os.Getenv("PATIENT") == "" {
		child := exec.Command(os.Args[0], "-test.run=^TestPatient$", "-test.v")
		child.Env = append(os.Environ(), "PATIENT=1")
		if out, err := child.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := patient(); err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		attr, err := unix.SchedGetAttr(id, 0)
		if err != nil {
			t.Fatal(err)
		}
		if attr.Policy != unix.SCHED_BATCH {
			t.Errorf("thread %d has policy %d, want %d", id, attr.Policy, unix.SCHED_BATCH)
		}
	}
}
