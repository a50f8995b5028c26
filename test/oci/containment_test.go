package oci

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"bulkhead/test/rig"
)

// TestContainment looks at both processes of a running sandbox from outside: an
// empty root, no capability beyond the file server's, no new privileges, a list
// of system calls, and namespaces that are not ours. What the list lets through is
// tested beside it (sentry/boot, jail/seccomp, sentry/gofer).
func TestContainment(t *testing.T) {
	rig.NeedRoot(t)
	rig.EachPlatform(t, func(t *testing.T, platform string) {
		root := "--root=" + t.TempDir()
		cmd := exec.Command(rig.Bulkhead(t), root, "--platform="+platform, "do", "sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			cmd.Process.Kill()
			cmd.Wait()
			names, err := exec.Command(rig.Bulkhead(t), root, "list", "-q").Output()
			if err != nil {
				t.Error(err)
			}
			for _, name := range strings.Fields(string(names)) { // nobody was left to remove it
				if out, err := exec.Command(rig.Bulkhead(t), root, "delete", "--force", name).CombinedOutput(); err != nil {
					t.Errorf("delete: %v, %s", err, out)
				}
			}
		}()
		for name, caps := range map[string]string{"bulkhead-sandbox": "0000000000000000", "bulkhead-gofer": "00000000800000df"} {
			dir := childOf(t, cmd.Process.Pid, name)
			for limit := time.Now().Add(rig.Limit); !strings.Contains(read(t, dir+"/status"), "Seccomp:\t2"); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(limit) {
					t.Fatalf("%s has no list of system calls:\n%s", name, read(t, dir+"/status"))
				}
			}
			status := read(t, dir+"/status")
			for _, want := range []string{"CapEff:\t" + caps, "CapPrm:\t" + caps, "NoNewPrivs:\t1"} {
				if !strings.Contains(status, want+"\n") {
					t.Errorf("%s: want %s in:\n%s", name, want, status)
				}
			}
			if names, err := os.ReadDir(dir + "/root"); err != nil || len(names) != 0 {
				t.Errorf("%s: its root has %v, %v", name, names, err)
			}
			for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts"} {
				ours, _ := os.Readlink("/proc/self/ns/" + ns)
				if its, err := os.Readlink(filepath.Join(dir, "ns", ns)); err != nil || its == ours {
					t.Errorf("%s: %s namespace is the host's, %v", name, ns, err)
				}
			}
			if name == "bulkhead-sandbox" && !strings.Contains(status, "Uid:\t65534\t65534\t65534\t65534\n") {
				t.Errorf("the sandbox is not nobody:\n%s", status)
			}
		}
	})
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// childOf is the /proc directory of pid's child that shows as name, once there is one.
func childOf(t *testing.T, pid int, name string) string {
	t.Helper()
	for limit := time.Now().Add(rig.Limit); time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		out, _ := exec.Command("pgrep", "-f", "-P", strconv.Itoa(pid), "^"+name).Output()
		if id := strings.TrimSpace(string(out)); id != "" {
			return "/proc/" + id
		}
	}
	t.Fatalf("process %d has no child %s", pid, name)
	return ""
}
