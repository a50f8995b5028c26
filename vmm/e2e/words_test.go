package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"bulkhead/hwtest/lab"
	"bulkhead/kvm"

	"golang.org/x/sys/unix"
)

// speaker is a kernel that says something at the serial port, and stays.
func speaker(t *testing.T, says string) string {
	t.Helper()
	code := []byte{0x66, 0xba, 0xf8, 0x03} // mov dx,0x3f8
	for _, c := range []byte(says) {
		code = append(code, 0xb0, c, 0xee) // mov al,c; out dx,al
	}
	path := filepath.Join(t.TempDir(), "speaker")
	writeKernel(t, path, append(code, 0xeb, 0xfe)) // jmp self
	return path
}

// TestConsoles: what a serial port says goes to a file, and to a terminal that is named.
func TestConsoles(t *testing.T) {
	sys, err := kvm.Open()
	if err != nil {
		t.Skip("needs /dev/kvm (load kvm-intel or kvm-amd; be root or in group kvm):", err)
	}
	sys.Close()
	const says = "hello there\n"
	t.Run("file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log")
		v := start(t, "--force", "--init", "own", "--serial", "file="+path, speaker(t, says))
		var b []byte
		for !strings.Contains(string(b), says) && t.Context().Err() == nil { // else the test ends by its deadline
			b, _ = os.ReadFile(path)
		}
		v.must("POST", "/v1/machine/shutdown", "", nil)
		if code := v.wait(); code != 103 || string(b) != says {
			t.Errorf("exit code %d, and the file holds %q", code, b)
		}
	})
	t.Run("pty", func(t *testing.T) {
		v := start(t, "--force", "--init", "own", "--serial", "pty", speaker(t, says))
		v.await("ttyS0 is at /dev/pts/", 0)
		v.await("\n", strings.Index(v.out.String(), "/dev/pts/"))
		name := regexp.MustCompile(`/dev/pts/[0-9]+`).FindString(v.out.String())
		tty, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
		must(t, err)
		defer tty.Close()
		line, err := bufio.NewReader(tty).ReadString('\n')
		if err != nil || !strings.Contains(line, "hello there") {
			t.Errorf("%s: %q, %v", name, line, err)
		}
		v.must("POST", "/v1/machine/shutdown", "", nil)
		if code := v.wait(); code != 103 {
			t.Errorf("exit code %d", code)
		}
	})
}

// TestGrace: a guest that does not hear its power button loses its power in time.
func TestGrace(t *testing.T) {
	sys, err := kvm.Open()
	if err != nil {
		t.Skip("needs /dev/kvm (load kvm-intel or kvm-amd; be root or in group kvm):", err)
	}
	sys.Close()
	v := start(t, "--force", "--init", "own", "--serial", "file="+filepath.Join(t.TempDir(), "log"), speaker(t, "up"))
	if _, err := waitFor(v, "/v1/machine"); err != nil {
		t.Fatal(err)
	}
	v.must("POST", "/v1/machine/shutdown", `{"grace_ms":50}`, nil)
	if code := v.wait(); code != 103 {
		t.Errorf("exit code %d, want 103", code)
	}
}

// TestWords: the power button, and a bundle.
func TestWords(t *testing.T) {
	if !inLinux(t, lab.Machine{}) {
		return
	}
	all := kernels(t)
	k := all[0]
	t.Run("power button", func(t *testing.T) {
		if len(k.args) > 0 {
			t.Skip("Debian's kernel makes an input device of it; needs ours (make kernel)")
		}
		v := start(t, k.with("echo up; sleep 1000")...)
		v.await("up\r\n", 0)
		v.must("POST", "/v1/machine/shutdown", `{"grace_ms":90000}`, nil)
		if code := v.wait(); code != 128+15 {
			t.Errorf("exit code %d, want that of a command that was asked to end", code)
		}
	})
	t.Run("bundle", func(t *testing.T) {
		busybox, err := exec.LookPath("busybox")
		if err != nil {
			t.Skip("needs busybox-static (apt-get install busybox-static):", err)
		}
		program, err := os.ReadFile(busybox)
		must(t, err)
		dir := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(dir, "rootfs/bin"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "rootfs/bin/busybox"), program, 0o755))
		must(t, os.MkdirAll(filepath.Join(dir, "data"), 0o777))
		must(t, os.Chmod(filepath.Join(dir, "data"), 0o777))
		spec, err := json.Marshal(map[string]any{
			"hostname": "box", "root": map[string]any{"path": "rootfs"},
			"process": map[string]any{"cwd": "/", "env": []string{"A=from the bundle"}, "user": map[string]any{"uid": 5},
				"args": []string{"/bin/busybox", "sh", "-c", `b=/bin/busybox; echo "$A, $($b hostname), $($b id -u)"; echo 1 >/data/new; exit 4`}},
			"mounts": []any{map[string]any{"destination": "/data", "source": "data", "options": []string{"bind"}}},
		})
		must(t, err)
		write(t, filepath.Join(dir, "config.json"), spec)
		code, out := run(t, append(append([]string{}, k.args...), "--bundle", dir, k.path)...)
		if _, err := os.Stat(filepath.Join(dir, "data/new")); code != 4 || err != nil || !strings.Contains(out, "from the bundle, box, 5\r\n") {
			t.Errorf("exit code %d, %v", code, err)
		}
	})
}
