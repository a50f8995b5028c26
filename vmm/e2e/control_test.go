package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/vmm/terminal"

	"golang.org/x/sys/unix"
)

// TestTerminal: Ctrl-A x ends a guest, and the terminal is as it was.
func TestTerminal(t *testing.T) {
	needKVM(t)
	pty, err := terminal.PTY()
	must(t, err)
	defer pty.Close()
	tty, err := os.OpenFile(pty.Name, os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	defer tty.Close()
	modes := func() unix.Termios {
		t.Helper()
		m, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		must(t, err)
		return *m
	}
	sane := modes()
	sane.Lflag |= unix.ICANON | unix.ECHO | unix.ISIG
	must(t, unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, &sane))
	before := modes()
	for _, quit := range []func(v *vm){
		func(*vm) { _, err := pty.Out.Write([]byte("abc\x01x")); must(t, err) },
		func(v *vm) { must(t, v.cmd.Process.Signal(unix.SIGTERM)) },
	} {
		v := startOn(t, tty, "--force", "--init", "own", microGuest(t, t.TempDir()))
		if _, err := waitFor(v, "/v1/machine"); err != nil {
			t.Fatal(err)
		}
		if now := modes(); now.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
			t.Errorf("while the guest runs the terminal is not raw: %#x", now.Lflag)
		}
		quit(v)
		if code := v.wait(); code != 103 {
			t.Errorf("exit code %d, want 103", code)
		}
		if after := modes(); after != before {
			t.Errorf("the terminal is left as %+v, was %+v", after, before)
		}
	}
}

// TestControl pauses, saves and ends a guest that is no Linux, on any host with /dev/kvm.
func TestControl(t *testing.T) {
	needKVM(t)
	dir := t.TempDir()
	disk := sparse(t, dir, 1<<20)
	snap := filepath.Join(dir, "snap")
	flags := []string{"--force", "--disk", disk + ",id=data", "--balloon", "--vsock", "CID=9,uds=" + filepath.Join(dir, "vsock"), "--seccomp", "on"}
	v := start(t, append(flags, "--init", "own", "--cpus", "3", "--memory", "64M", "--memory-backing", "memfd", "--snapshot-to", snap, microGuest(t, dir))...)
	if _, err := waitFor(v, "/v1/machine"); err != nil {
		t.Fatal(err)
	}
	var state struct {
		State   string
		CPUs    int
		MiB     int `json:"memory_mib"`
		Devices []string
	}
	for _, step := range []struct{ method, path, body, want string }{
		{"POST", "/v1/machine/pause", "", "paused"},
		{"POST", "/v1/machine/pause", "", "paused"},
		{"POST", "/v1/machine/resume", "", "running"},
		{"POST", "/v1/machine/resume", "", "running"},
		{"POST", "/v1/machine/snapshot", fmt.Sprintf(`{"path":%q,"resume":true}`, snap), "running"},
		{"POST", "/v1/machine/snapshot", fmt.Sprintf(`{"path":%q}`, snap+"2"), "paused"},
		{"POST", "/v1/machine/resume", "", "running"},
		{"PUT", "/v1/balloon", `{"target_mib":16}`, "running"},
	} {
		v.must(step.method, step.path, step.body, nil)
		if v.must("GET", "/v1/machine", "", &state); state.State != step.want {
			t.Errorf("after %s %s the machine is %s, want %s", step.method, step.path, state.State, step.want)
		}
	}
	if fmt.Sprint(state) != "{running 3 64 [data vsock balloon rng]}" {
		t.Errorf("the machine is %v", state)
	}
	for _, bad := range []struct{ path, body, want string }{
		{"/v1/balloon", `{"target_mib":65}`, "has 64 MiB"},
		{"/v1/machine/snapshot", `{"path":"/no/such/dir/snap"}`, "/no/such/dir"},
	} {
		method := "POST"
		if bad.path == "/v1/balloon" {
			method = "PUT"
		}
		if err := v.ask(method, bad.path, bad.body, nil); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s %s: %v, want %q", bad.path, bad.body, err, bad.want)
		}
	}
	if v.must("GET", "/v1/machine", "", &state); state.State != "running" {
		t.Errorf("after a snapshot that failed the machine is %s", state.State)
	}
	must(t, v.cmd.Process.Signal(unix.SIGUSR1))
	if code := v.wait(); code != 0 {
		t.Errorf("saved by a signal, exit code %d", code)
	}

	w := start(t, append(flags, "--from-snapshot", snap)...)
	if _, err := waitFor(w, "/v1/machine"); err != nil {
		t.Fatal(err)
	}
	if w.must("GET", "/v1/machine", "", &state); state.CPUs != 3 || state.MiB != 64 {
		t.Errorf("restored: %v", state)
	}
	w.must("POST", "/v1/machine/shutdown", "", nil)
	if code := w.wait(); code != 103 {
		t.Errorf("ended by the API, exit code %d, want 103", code)
	}
	if _, err := net.Dial("unix", w.api); err == nil {
		t.Error("the API's socket still answers")
	}

	x := start(t, "--force", "--from-snapshot", snap)
	if code := x.wait(); code != 1 || !strings.Contains(x.out.String(), "it has the devices [data vsock balloon rng], this machine [rng]") {
		t.Errorf("restored without its devices: exit code %d", code)
	}
}
