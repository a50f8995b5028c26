package sys

import (
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

type still struct{ platform.Platform }

func (still) Private() bool          { return true }
func (still) AddMemory([]byte) error { return nil }

func newKernel(t *testing.T, cpus int) *kernel.Kernel {
	arena, err := memory.NewArena(still{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { arena.Close() })
	k, err := kernel.New(kernel.Config{Platform: still{}, Arena: arena, CPUs: cpus, Memory: 1 << 30,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func start(fs *kernfs.FileSystem) vfs.Start {
	r := vfs.NewNamespace(fs, vfs.MountOptions{}).Root()
	return vfs.Start{Root: r, At: r}
}

func read(s vfs.Start, name string) (string, error) {
	d, err := vfs.Open(vfs.SentryContext(), s, name, vfs.OpenHow{})
	if err != nil {
		return "", err
	}
	defer d.Unref()
	buf := make([]byte, 64<<10)
	n, err := d.Read(vfs.SentryContext(), memory.Buffers{buf})
	return string(buf[:n]), err
}

// TestLikeHost compares with a host of two CPUs, whatever this one has.
func TestLikeHost(t *testing.T) {
	s := start(New(Config{Cgroup: newKernel(t, 2).Cgroup(), Caches: HostCaches(), Interfaces: func() []Interface { return []Interface{loopback(t)} }}))
	number := regexp.MustCompile(`[0-9a-f]+`)
	for _, name := range []string{
		"devices/system/cpu/online", "devices/system/cpu/possible", "devices/system/cpu/present",
		"devices/system/cpu/cpu0/topology/core_id", "devices/system/cpu/cpu0/topology/core_siblings",
		"devices/system/cpu/cpu0/topology/thread_siblings_list", "devices/system/cpu/cpu0/topology/physical_package_id",
		"devices/system/node/online", "class/net/lo/mtu", "class/net/lo/flags", "class/net/lo/type", "class/net/lo/uevent",
		"class/net/lo/address", "kernel/mm/transparent_hugepage/hpage_pmd_size", "devices/system/cpu/cpu0/cache/index0/size",
		"devices/system/cpu/cpu0/cache/index0/shared_cpu_map", "devices/system/cpu/cpu0/cache/index0/level",
		"kernel/cpu_byteorder", "bus/cpu/devices/cpu0/topology/core_id",
	} {
		b, err := os.ReadFile("/sys/" + name)
		if err != nil {
			t.Logf("the host's /sys/%s: %v", name, err)
			continue
		}
		got, err := read(s, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		hide := func(s string) string { return number.ReplaceAllString(s, "0") }
		if strings.HasPrefix(name, "class") || strings.HasPrefix(name, "kernel") {
			hide = func(s string) string { return s }
		}
		if hide(got) != hide(string(b)) {
			t.Errorf("%s: got %q, host %q", name, got, b)
		}
	}
}

func TestMasks(t *testing.T) {
	for _, row := range []struct {
		from, to int
		want     string
	}{{0, 1, "1"}, {0, 4, "f"}, {3, 4, "8"}, {0, 33, "1,ffffffff"}, {40, 41, "100,00000000"}} {
		if got := mask(row.from, row.to); got != row.want {
			t.Errorf("[%d,%d): got %s, want %s", row.from, row.to, got, row.want)
		}
	}
	if got := list(1) + " " + list(3); got != "0 0-2" {
		t.Errorf("lists: %q", got)
	}
}

func TestCgroup(t *testing.T) {
	l := Limits{}
	k := newKernel(t, 3)
	s := start(NewCgroup(k.Cgroup(), func() Limits { return l }))
	for _, row := range []struct {
		l          Limits
		name, want string
	}{
		{Limits{}, "memory.max", "max\n"},
		{Limits{Memory: 64 << 20}, "memory.max", "67108864\n"},
		{Limits{}, "cpu.max", "max 100000\n"},
		{Limits{Quota: 150000}, "cpu.max", "150000 100000\n"},
		{Limits{}, "pids.max", "max\n"},
		{Limits{Pids: 100}, "pids.max", "100\n"},
		{Limits{}, "pids.current", "0\n"},
		{Limits{}, "cpuset.cpus.effective", "0-2\n"},
		{Limits{}, "cgroup.controllers", "cpuset cpu io memory pids\n"},
	} {
		l = row.l
		if got, err := read(s, row.name); got != row.want || err != nil {
			t.Errorf("%s with %+v: got %q %v, want %q", row.name, row.l, got, err, row.want)
		}
	}
}

func TestNothingCanBeChanged(t *testing.T) {
	s := start(New(Config{Cgroup: newKernel(t, 1).Cgroup()}))
	ctx := vfs.SentryContext()
	if err := vfs.Mkdir(ctx, s, "fs/x", 0o755); err != unix.EPERM {
		t.Errorf("mkdir: %v, want EPERM", err)
	}
	if _, err := vfs.Open(ctx, s, "kernel/fscaps", vfs.OpenHow{Flags: unix.O_WRONLY}); err != unix.EACCES {
		t.Errorf("open to write: %v, want EACCES", err)
	}
	st, err := vfs.Statfs(ctx, s.Root)
	if err != nil || st.Type != unix.SYSFS_MAGIC {
		t.Errorf("statfs: %x %v", st.Type, err)
	}
}
