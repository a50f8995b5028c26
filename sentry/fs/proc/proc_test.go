package proc

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/tmpfs"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

// still is a platform that runs nothing.
type still struct{ platform.Platform }

func (still) Private() bool                                   { return true }
func (still) AddMemory([]byte) error                          { return nil }
func (still) NewAddressSpace() (platform.AddressSpace, error) { return stillSpace{}, nil }

type stillSpace struct{ platform.AddressSpace }

func (stillSpace) Map(platform.Addr, platform.Segment, platform.Access) error { return nil }
func (stillSpace) Protect(platform.Addr, uint64, platform.Access) error       { return nil }
func (stillSpace) Unmap(platform.Addr, uint64) error                          { return nil }
func (stillSpace) Release()                                                   {}

// world is a container with one process that never runs.
type world struct {
	*testing.T
	k    *kernel.Kernel
	fs   *FileSystem
	init *kernel.Task
	at   vfs.Start
}

func newWorld(t *testing.T) *world {
	arena, err := memory.NewArena(still{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { arena.Close() })
	w := &world{T: t}
	w.k, err = kernel.New(kernel.Config{Platform: still{}, Arena: arena, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Hostname: "bulk", CPUs: 2, Memory: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	info, _ := os.ReadFile("/proc/cpuinfo")
	w.fs = New(Config{Kernel: w.k, OSRelease: "6.12.0-bulkhead", OSVersion: "#1 SMP", CPUInfo: info, Filesystems: []string{"nodev\tproc", "nodev\ttmpfs"}})
	ctx := vfs.SentryContext()
	ns := vfs.NewNamespace(tmpfs.New(arena, tmpfs.Options{Mode: 0o755}), vfs.MountOptions{Source: "none"})
	w.at = vfs.Start{Root: ns.Root(), At: ns.Root()}
	if err := vfs.Mkdir(ctx, w.at, "proc", 0o555); err != nil {
		t.Fatal(err)
	}
	on, err := vfs.Resolve(ctx, w.at, "proc", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Mount(ctx, on, w.fs, vfs.MountOptions{Source: "proc", Flags: unix.MS_NOSUID | unix.MS_RELATIME}); err != nil {
		t.Fatal(err)
	}
	mm, err := memory.NewSpace(arena, still{})
	if err != nil {
		t.Fatal(err)
	}
	all := ^uint64(0)
	w.init, err = w.k.Spawn(kernel.NewProcess{FS: kernel.NewFSContext(ns, ns.Root(), ns.Root(), 0o22), FDs: vfs.NewFDTable(), MM: mm,
		Creds: &vfs.Creds{Groups: []uint32{0, 5}, Permitted: all, Effective: all, Bounding: all}, Limits: kernel.DefaultLimits(), Comm: "in) it"})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// read is a file's text as init reads it.
func (w *world) read(name string) string {
	w.Helper()
	s, err := w.try(name)
	if err != nil {
		w.Fatalf("read %s: %v", name, err)
	}
	return s
}

func (w *world) try(name string) (string, error) {
	d, err := vfs.Open(w.init, w.at, "/proc/"+name, vfs.OpenHow{})
	if err != nil {
		return "", err
	}
	defer d.Unref()
	var out []byte
	buf := make([]byte, 1000)
	for {
		n, err := d.Read(w.init, memory.Buffers{buf})
		if n == 0 || err != nil {
			return string(out), err
		}
		out = append(out, buf[:n]...)
	}
}

func (w *world) write(name, text string) error {
	d, err := vfs.Open(w.init, w.at, "/proc/"+name, vfs.OpenHow{Flags: unix.O_WRONLY | unix.O_TRUNC})
	if err != nil {
		return err
	}
	defer d.Unref()
	_, err = d.Write(w.init, memory.Buffers{[]byte(text)})
	return err
}

func host(t *testing.T, name string) string {
	b, err := os.ReadFile("/proc/" + name)
	if err != nil {
		t.Skipf("the host's /proc/%s: %v", name, err)
	}
	return string(b)
}

// keys are the words before the colons.
func keys(s string) (ks []string) {
	for line := range strings.Lines(s) {
		if k, _, ok := strings.Cut(line, ":"); ok {
			ks = append(ks, k)
		}
	}
	return ks
}

// TestKeysLikeHost compares which lines there are and their order. optional
// depend on the host's configuration.
func TestKeysLikeHost(t *testing.T) {
	w := newWorld(t)
	for name, optional := range map[string][]string{
		"self/status": {"HugetlbPages", "x86_Thread_features", "x86_Thread_features_locked", "Speculation_Store_Bypass",
			"SpeculationIndirectBranch", "Seccomp", "Seccomp_filters", "untag_mask", "THP_enabled", "Kthread", "CoreDumping"},
		"self/io":       nil,
		"self/limits":   nil,
		"self/fdinfo/0": nil,
		"meminfo": {"HardwareCorrupted", "CmaTotal", "CmaFree", "Unaccepted", "DirectMap4k", "DirectMap2M", "DirectMap1G", "Balloon",
			"GPUActive", "GPUReclaim", "Zswap", "Zswapped", "AnonHugePages", "ShmemHugePages", "ShmemPmdMapped", "FileHugePages",
			"FilePmdMapped", "HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp", "Hugepagesize", "Hugetlb",
			"VmallocTotal", "VmallocUsed", "VmallocChunk", "KReclaimable", "SecPageTables", "Bounce", "NFS_Unstable", "Percpu", "WritebackTmp"},
	} {
		if name == "self/fdinfo/0" {
			d := vfs.NewAnonymous(vfs.NoFile{}, "x", 0)
			w.init.FDs().Install(d, 0, false, 10)
			d.Unref()
		}
		drop := func(k string) bool { return slices.Contains(optional, k) }
		got, want := slices.DeleteFunc(keys(w.read(name)), drop), slices.DeleteFunc(keys(host(t, name)), drop)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got  %q\n host %q", name, got, want)
		}
	}
}

// TestShapeLikeHost compares texts with every number made 0 and its width kept
// where columns matter.
func TestShapeLikeHost(t *testing.T) {
	w := newWorld(t)
	number := regexp.MustCompile(`[0-9]+`)
	for _, name := range []string{"self/statm", "uptime", "self/cgroup", "self/uid_map", "self/schedstat", "self/oom_score_adj",
		"self/loginuid", "self/setgroups", "self/personality", "self/coredump_filter", "swaps",
		"sys/kernel/pid_max", "sys/kernel/random/boot_id", "sys/fs/file-nr", "sys/kernel/sem", "sys/kernel/ostype", "self/timerslack_ns",
		"self/cpuset", "self/sessionid", "self/timens_offsets"} {
		hide := func(s string) string {
			if strings.Contains(name, "boot_id") {
				s = regexp.MustCompile(`[0-9a-f]`).ReplaceAllString(s, "0")
			}
			return number.ReplaceAllString(s, "0")
		}
		got, want := hide(w.read(name)), hide(host(t, name))
		if name == "swaps" || name == "self/cgroup" { // the host may have some
			want = want[strings.LastIndex(want[:len(want)-1], "\n")+1:]
			want, got = strings.Split(want, "/")[0], strings.Split(got, "/")[0]
			if name == "swaps" {
				continue
			}
		}
		if got != want {
			t.Errorf("%s: got %q, host %q", name, got, want)
		}
	}
}

func TestHeadsLikeHost(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"net/dev", "net/tcp", "net/tcp6", "net/udp", "net/udp6", "net/raw", "net/route", "net/arp", "net/unix",
		"net/netlink", "net/packet", "self/limits", "swaps", "partitions", "net/igmp"} {
		got, _, _ := strings.Cut(w.read(name), "\n")
		want, _, _ := strings.Cut(host(t, name), "\n")
		if got != want {
			t.Errorf("%s:\n got  %q\n host %q", name, got, want)
		}
	}
}

func TestLimitsLikeHost(t *testing.T) {
	w := newWorld(t)
	for i := range 16 {
		var l unix.Rlimit
		if err := unix.Getrlimit(i, &l); err != nil {
			t.Fatal(err)
		}
		w.init.Group().Limits.Set(i, kernel.Limit{Cur: l.Cur, Max: l.Max})
	}
	if got, want := w.read("self/limits"), host(t, "self/limits"); got != want {
		t.Errorf("got\n%s\nhost\n%s", got, want)
	}
}

func TestMapLineLikeHost(t *testing.T) {
	for line := range strings.Lines(host(t, "self/maps")) {
		var v memory.VMA
		var flags string
		var major, minor uint32
		if _, err := fmt.Sscanf(line, "%x-%x %s %x %x:%x %d", &v.Start, &v.End, &flags, &v.Offset, &major, &minor, &v.Ino); err != nil {
			t.Fatal(line, err)
		}
		v.Dev = unix.Mkdev(major, minor)
		for i, c := range "rwx" {
			if flags[i] == byte(c) {
				v.Access |= 1 << i
			}
		}
		v.Shared = flags[3] == 's'
		if i := strings.IndexAny(line, "/["); i >= 0 {
			v.Name = strings.TrimSuffix(line[i:], "\n")
		}
		var b bytes.Buffer
		mapLine(&b, &v)
		if b.String() != line {
			t.Errorf("got  %q\nhost %q", b.String(), line)
		}
	}
}

func TestSmapsKeysLikeHost(t *testing.T) {
	var b bytes.Buffer
	var u usage
	u.print(&b, false)
	want := host(t, "self/smaps")
	block := strings.Join(strings.SplitAfter(want, "\n")[1:], "")
	block = block[:strings.Index(block, "THPeligible")]
	shape := regexp.MustCompile(` *[0-9]+ kB`)
	for _, s := range []string{block} {
		g, h := strings.Split(b.String(), "\n"), strings.Split(s, "\n")
		for i := range min(len(g), len(h)) {
			gs, hs := shape.ReplaceAllString(g[i], ""), shape.ReplaceAllString(h[i], "")
			if gs != hs || len(g[i]) != len(h[i]) {
				t.Errorf("line %d: got %q, host %q", i, g[i], h[i])
			}
		}
		if len(g) != len(h) {
			t.Errorf("%d lines, host %d", len(g), len(h))
		}
	}
}

func TestStat(t *testing.T) {
	w := newWorld(t)
	s := w.read("1/stat")
	rest, ok := strings.CutPrefix(s, "1 (in) it) ")
	if !ok {
		t.Fatalf("got %q", s)
	}
	want := len(strings.Fields(host(t, "1/stat")))
	if n := len(strings.Fields(rest)) + 2; n != want {
		t.Errorf("%d fields, host has %d: %q", n, want, s)
	}
}

func TestTree(t *testing.T) {
	w := newWorld(t)
	for name, want := range map[string]string{
		"self": "1", "thread-self": "1/task/1", "mounts": "self/mounts", "net": "self/net",
		"self/cwd": "/", "self/root": "/", "self/ns/net": "net:[4026531833]", "self/ns/mnt": "mnt:[4026531832]",
	} {
		p, err := vfs.Resolve(w.init, w.at, "/proc/"+name, vfs.ResolveNoFollow)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := vfs.Readlink(w.init, p); got != want || err != nil {
			t.Errorf("%s leads to %q %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"2", "01", "self/task/2", "self/fd/0", "nothing"} {
		if _, err := w.try(name); err != unix.ENOENT {
			t.Errorf("%s: %v, want ENOENT", name, err)
		}
	}
	if got := w.read("self/mountinfo"); !strings.Contains(got, " / /proc rw,nosuid,relatime - proc proc rw\n") {
		t.Errorf("mountinfo: %q", got)
	}
	if got := w.read("mounts"); !strings.Contains(got, "proc /proc proc rw,nosuid,relatime 0 0\n") {
		t.Errorf("mounts: %q", got)
	}
	if _, err := vfs.Resolve(w.init, w.at, "/proc/self/cwd/proc/1/status", 0); err != nil {
		t.Errorf("through cwd: %v", err)
	}
}

// TestReadAll opens everything that can be listed and reads it, but for pagemap, which has
// 256 GiB (proc_pagemap of the corpus).
func TestReadAll(t *testing.T) {
	w := newWorld(t)
	n := 0
	var walk func(dir string, depth int)
	walk = func(dir string, depth int) {
		d, err := vfs.Open(w.init, w.at, dir, vfs.OpenHow{Flags: unix.O_DIRECTORY})
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			return
		}
		defer d.Unref()
		err = d.ReadDir(w.init, func(e vfs.Dirent) bool {
			name := dir + "/" + e.Name
			switch {
			case e.Name == "." || e.Name == "..":
			case e.Type == unix.DT_DIR && depth < 6:
				walk(name, depth+1)
			case e.Type == unix.DT_REG && e.Name != "pagemap":
				n++
				if _, err := w.try(strings.TrimPrefix(name, "/proc/")); err != nil && !strings.Contains(name, "/attr/") && e.Name != "mem" && e.Name != "clear_refs" {
					t.Errorf("%s: %v", name, err)
				}
				p, err := vfs.Resolve(w.init, w.at, name, 0)
				if a, err2 := p.Inode().Attr(w.init); err != nil || err2 != nil || a.Ino != e.Ino {
					t.Errorf("%s: inode %d, listed as %d (%v %v)", name, a.Ino, e.Ino, err, err2)
				}
			}
			return true
		})
		if err != nil {
			t.Errorf("%s: %v", dir, err)
		}
	}
	walk("/proc", 0)
	if n < 250 {
		t.Errorf("only %d files", n)
	}
}

func TestWrites(t *testing.T) {
	w := newWorld(t)
	for _, row := range []struct {
		name, write string
		err         error
		read        string
	}{
		{"sys/kernel/hostname", "other\n", nil, "other\n"},
		{"self/comm", "renamed-to-something-long\n", nil, "renamed-to-some\n"},
		{"self/oom_score_adj", "-500", nil, "-500\n"},
		{"self/oom_score_adj", "1001", unix.EINVAL, "-500\n"},
		{"self/oom_score_adj", "x", unix.EINVAL, "-500\n"},
		{"sys/vm/overcommit_memory", "1\n", nil, "1\n"},
		{"sys/vm/overcommit_memory", "many\n", unix.EINVAL, "1\n"},
		{"sys/net/ipv4/ip_local_port_range", "1024 65535\n", nil, "1024\t65535\n"},
		{"sys/kernel/pid_max", "5", unix.EACCES, "4194304\n"},
		{"self/timerslack_ns", "0", nil, "50000\n"},
	} {
		if err := w.write(row.name, row.write); err != row.err {
			t.Errorf("write %q to %s: %v, want %v", row.write, row.name, err, row.err)
		}
		if got := w.read(row.name); got != row.read {
			t.Errorf("%s after %q: %q, want %q", row.name, row.write, got, row.read)
		}
	}
}

func TestCPUInfo(t *testing.T) {
	w := newWorld(t)
	for _, n := range []int{1, 2, 5} {
		w.k.Cgroup().CPUs = n
		s := w.read("cpuinfo")
		if got := strings.Count(s, "processor\t:"); got != n {
			t.Errorf("%d processors, want %d", got, n)
		}
		if !strings.Contains(s, fmt.Sprintf("processor\t: %d\n", n-1)) {
			t.Errorf("no processor %d", n-1)
		}
	}
}

func TestRanges(t *testing.T) {
	for m, want := range map[uint64]string{0: "", 1: "0", 3: "0-1", 0xb: "0-1,3", ^uint64(0): "0-63"} {
		if got := ranges(m); got != want {
			t.Errorf("%x: got %q, want %q", m, got, want)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, row := range []struct {
		data string
		hide int
		gid  uint32
		err  error
	}{
		{"", 0, 0, nil}, {"hidepid=2,gid=7", 2, 7, nil}, {"hidepid=invisible", 2, 0, nil}, {"hidepid=ptraceable", 4, 0, nil},
		{"hidepid=3", 0, 0, unix.EINVAL}, {"hidepid=", 0, 0, unix.EINVAL}, {"what", 0, 0, unix.EINVAL}, {"gid=x", 0, 0, unix.EINVAL},
	} {
		c, err := Config{}.With(row.data)
		if err != row.err || err == nil && (c.HidePID != row.hide || c.HideGID != row.gid) {
			t.Errorf("%q: hidepid %d gid %d %v, want %d %d %v", row.data, c.HidePID, c.HideGID, err, row.hide, row.gid, row.err)
		}
	}
}

// TestOthersSecrets asks as another user.
func TestOthersSecrets(t *testing.T) {
	w := newWorld(t)
	w.init.SetCreds(&vfs.Creds{UID: 5, EUID: 5, SUID: 5, FSUID: 5, FSGID: 5}) // group 0 would see all
	arena := w.k.Arena
	mm, err := memory.NewSpace(arena, still{})
	if err != nil {
		t.Fatal(err)
	}
	ns := w.init.FS()
	other, err := w.k.Spawn(kernel.NewProcess{FS: ns, FDs: vfs.NewFDTable(), MM: mm, Creds: &vfs.Creds{UID: 6, EUID: 6, SUID: 6, FSUID: 6},
		Limits: kernel.DefaultLimits(), Comm: "other"})
	if err != nil {
		t.Fatal(err)
	}
	dir := itoa(other.PID()) + "/"
	for _, name := range []string{"environ", "maps", "mem", "auxv", "io", "fd", "syscall"} {
		if _, err := w.try(dir + name); err != unix.EACCES {
			t.Errorf("%s: %v, want EACCES", name, err)
		}
	}
	for _, name := range []string{"cwd", "exe", "ns/net", "root"} {
		p, err := vfs.Resolve(w.init, w.at, "/proc/"+dir+name, vfs.ResolveNoFollow)
		if err == nil {
			_, err = vfs.Readlink(w.init, p)
		}
		if err != unix.EACCES && name != "exe" {
			t.Errorf("%s: %v, want EACCES", name, err)
		}
	}
	if s := w.read(dir + "status"); !strings.Contains(s, "Uid:\t6\t6\t6\t6\n") {
		t.Errorf("status: %q", s)
	}
	w.fs.HidePID = 2
	if _, err := w.try(dir + "status"); err != unix.ENOENT {
		t.Errorf("hidepid=2: %v, want ENOENT", err)
	}
}
