package cli

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// patient makes threads of this process, and those that they will make, SCHED_BATCH (sched(7)): one that is
// woken waits until who runs on its processor stops or has had its turn, and pushes nobody
// aside. A guest rings a device's doorbell in the midst of its work; with a processor for each
// that changes nothing. On one processor the device had each frame alone, and now has all that the guest
// had to send before it waits: 1.3 k instructions a KiB sent and not 2.3 k, 26 k a write of 4 KiB of eight at
// once and not 64 k. One alone has 70 k and not 63 k, for the device waits until the guest is
// idle (docs/results/microvm.md).
//
// Threads that somebody gave another policy than the usual keep it.
func patient() error {
	// A thread that was still to change may have made another meanwhile.
	for range 10 {
		changed, err := patientOnce()
		if err != nil {
			return fmt.Errorf("schedule the machine's threads: %w", err)
		}
		if !changed {
			break
		}
	}
	return nil
}

func patientOnce() (changed bool, err error) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return false, err
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		if err != nil {
			continue
		}
		attr, err := unix.SchedGetAttr(id, 0)
		if err == unix.ESRCH || err == nil && attr.Policy != unix.SCHED_NORMAL {
			continue
		}
		if err == nil {
			attr.Policy = unix.SCHED_BATCH
			err = unix.SchedSetAttr(id, attr, 0)
		}
		if err != nil && err != unix.ESRCH {
			return changed, os.NewSyscallError("sched_setattr", err)
		}
		changed = true
	}
	return changed, nil
}
