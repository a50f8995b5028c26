package boot

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/guestinit/config"
)

func TestReadModuleList(t *testing.T) {
	file := filepath.Join(t.TempDir(), "modules.list")
	text := "# by depmod\nkernel/virtio.ko\n\n/abs/x.ko.xz # why\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := readModuleList(file)
	want := []string{filepath.Join(filepath.Dir(file), "kernel/virtio.ko"), "/abs/x.ko.xz"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if got, err := readModuleList(file + ".none"); got != nil || err != nil {
		t.Errorf("no list: got %q, %v", got, err)
	}
}

func TestMountOptions(t *testing.T) {
	flags, data := mountOptions([]string{"ro", "noexec", "size=1M", "rw", "dax=always"})
	if want := uintptr(unix.MS_RDONLY | unix.MS_NOEXEC); flags != want || data != "size=1M,dax=always" {
		t.Errorf("got %#x, %q", flags, data)
	}
}

func TestDiskBySerial(t *testing.T) {
	block := t.TempDir()
	for disk, serial := range map[string]string{"vda": "root\n", "vdb": "data\n"} {
		if err := os.Mkdir(filepath.Join(block, disk), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(block, disk, "serial"), []byte(serial), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if dev, err := diskBySerial(block, "data"); dev != "/dev/vdb" || err != nil {
		t.Errorf("got %q, %v", dev, err)
	}
	if _, err := diskBySerial(block, "x"); err == nil || !strings.Contains(err.Error(), `"root", "data"`) {
		t.Errorf("got %v, want the serials that there are", err)
	}
}

func TestStorage(t *testing.T) {
	got := storage("rootfs / rootfs rw 0 0\nproc /proc proc rw 0 0\n/dev/vda /new ext4 rw 0 0\ndata /new/a\\040b virtiofs ro 0 0\nshort\n")
	if want := []string{"/new/a b", "/new"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNameFiles(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	files := nameFiles(&config.Config{Network: config.Network{
		Nameservers: []netip.Addr{addr}, Search: []string{"a.org", "b.org"},
		Hosts: map[string]netip.Addr{"z": addr, "host": addr},
	}})
	if got, want := files["/etc/resolv.conf"], "nameserver 10.0.0.1\nsearch a.org b.org\n"; got != want {
		t.Errorf("resolv.conf: got %q, want %q", got, want)
	}
	if got, want := files["/etc/hosts"], "127.0.0.1 localhost\n::1 localhost\n10.0.0.1 host\n10.0.0.1 z\n"; got != want {
		t.Errorf("hosts: got %q, want %q", got, want)
	}
	for file, text := range nameFiles(new(config.Config)) {
		if text != "" {
			t.Errorf("%s of nothing: %q", file, text)
		}
	}
}

func TestActiveConsole(t *testing.T) {
	file := filepath.Join(t.TempDir(), "active")
	if got := activeConsole(file); got != "null" {
		t.Errorf("without a list: %q", got)
	}
	if err := os.WriteFile(file, []byte("tty0 ttyS0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := activeConsole(file); got != "ttyS0" {
		t.Errorf("got %q", got)
	}
}

func TestReadConfig(t *testing.T) {
	dir := t.TempDir()
	file, line := filepath.Join(dir, "json"), filepath.Join(dir, "cmdline")
	if err := os.WriteFile(line, []byte("quiet bulkhead.hostname=line\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if c, err := readConfig(file, line); err != nil || c.Hostname != "line" {
		t.Errorf("without a file: %+v, %v", c, err)
	}
	if err := os.WriteFile(file, []byte(`{"hostname":"file","cwd":"/x"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if c, err := readConfig(file, line); err != nil || c.Hostname != "line" || c.Cwd != "/x" {
		t.Errorf("the command line wins: %+v, %v", c, err)
	}
	if err := os.WriteFile(file, []byte(`{`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readConfig(file, line); err == nil {
		t.Error("a broken file was taken")
	}
}

// TestReap makes this process the parent of orphans, as PID 1 is.
func TestReap(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	children := make(chan os.Signal, 16)
	signal.Notify(children, unix.SIGCHLD)
	defer signal.Stop(children)

	// The shell ends with 3 and leaves two behind, which wait for our word.
	cmd := exec.Command("/bin/sh", "-c", "cat & cat & exit 3")
	word, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found := false
	for !found {
		<-children
		var status unix.WaitStatus
		if status, found = reap(cmd.Process.Pid); found && exitCode(status) != 3 {
			t.Errorf("exit code %d, want 3", exitCode(status))
		}
	}
	word.Close()
	for !errors.Is(unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil), unix.ECHILD) {
		<-children
		reap(0)
	}
}

func TestExitCode(t *testing.T) {
	for status, want := range map[unix.WaitStatus]int{0: 0, 3 << 8: 3, 255 << 8: 255, 9: 137, 11 | 0x80: 139} {
		if got := exitCode(status); got != want {
			t.Errorf("status %#x: got %d, want %d", uint32(status), got, want)
		}
	}
}

func TestClockWithoutRTC(t *testing.T) {
	if at, err := readRTC("/dev/null"); err == nil {
		t.Errorf("/dev/null has the time %v", at)
	}
	// A clock that is right is left alone: setting it would need rights, and
	// a test must not move the host's.
	g := &guest{config: &config.Config{Time: time.Now().Add(-sinceBoot())}}
	if err := g.setClock(); err != nil {
		t.Error(err)
	}
}

// TestPortDevice writes to a file in place of the machine's ports.
func TestPortDevice(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "ports"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	writePortDevice(f, config.ExitPort, 42)
	writePortDevice(f, config.ReadyPort, 3)
	b, err := os.ReadFile(f.Name())
	if err != nil || len(b) != config.ReadyPort+1 || b[config.ExitPort] != 42 || b[config.ReadyPort] != 3 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if device, err := openPortDevice(dir); err == nil {
		device.Close()
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}
