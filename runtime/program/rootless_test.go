package program

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestRootless: what a user namespace calls root is not the host's.
func TestRootless(t *testing.T) {
	if os.Getenv("BULKHEAD_TEST_ROOTLESS") != "" {
		if os.Geteuid() != 0 || !Rootless() {
			t.Errorf("user %d, rootless: %v", os.Geteuid(), Rootless())
		}
		return
	}
	c := exec.Command("/proc/self/exe", "-test.run", "^TestRootless$")
	c.Env = append(os.Environ(), "BULKHEAD_TEST_ROOTLESS=1")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("in a user namespace: %v\n%s", err, out)
	}
	if os.Geteuid() == 0 && Rootless() {
		// CI may be in a user namespace, where there is nothing to compare with.
		if text, err := os.ReadFile("/proc/self/uid_map"); err == nil && string(text) == "         0          0 4294967295\n" {
			t.Error("the host's root is said to be rootless")
		}
	}
}
