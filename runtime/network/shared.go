package network

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Shared finds another process in the network namespace of pid, 0 if there is none. Its
// addresses are not to be taken: it may be the host's own namespace, or that of a
// container of another runtime.
func Shared(pid int) (other int, err error) {
	ours, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return 0, fmt.Errorf("network: %w", err)
	}
	all, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return 0, err
	}
	for _, path := range all {
		p, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		if err != nil || p == pid {
			continue
		}
		if theirs, err := os.Readlink(path); err == nil && theirs == ours { // it may have ended
			return p, nil
		}
	}
	return 0, nil
}
