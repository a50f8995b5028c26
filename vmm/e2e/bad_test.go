package e2e

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/kvm"
	"bulkhead/virtio/blk"
	"bulkhead/vmm/snapshot"
)

// TestBadInput: one line, an exit code, and nothing left. It needs no /dev/kvm: what
// is wrong with the words is said first.
func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	text := file("text", []byte(strings.Repeat("not a kernel\n", 1000)))
	micro := microGuest(t, dir)
	short := file("short", make([]byte, 100))
	disk := file("disk", make([]byte, 1<<20))
	held := file("held", make([]byte, 1<<20))
	holder, err := blk.Open(held, blk.Options{}) // as a machine has it
	must(t, err)
	defer holder.Close()
	toml := file("m.toml", []byte("cpus = 2\nwheels = 4\n"))
	cases := []struct {
		name string
		args []string
		want string
	}{
		{"no kernel", nil, "no kernel"},
		{"two kernels", []string{text, text}, "one kernel"},
		{"a kernel that is not there", []string{"/no/such/kernel"}, "no such file"},
		{"a directory for a kernel", []string{"--init", "own", dir}, "not a regular file"},
		{"a text for a kernel", []string{"--init", "own", text}, "neither an ELF file nor a bzImage"},
		{"an empty kernel", []string{"--init", "own", file("empty", nil)}, "neither an ELF file nor a bzImage"},
		{"0 CPUs", []string{"--cpus", "0", text}, "a guest has 1 to 32"},
		{"300 CPUs", []string{"--cpus", "300", text}, "a guest has 1 to 32"},
		{"-1 CPUs", []string{"--cpus", "-1", text}, "a guest has 1 to 32"},
		{"1 MiB", []string{"--memory", "1M", text}, "not 1 MiB"},
		{"a memory of words", []string{"--memory", "much", text}, `"much" is not a size`},
		{"an initrd that is not there", []string{"--initrd", "/no/such/initrd", text}, "no such file"},
		{"an initrd larger than memory", []string{"--initrd", sparse(t, dir, 64<<20), "--memory", "32M", micro}, "give the guest more memory"},
		{"a disk that is not there", []string{"--disk", "/no/such/disk", text}, "/no/such/disk"},
		{"a disk that is a directory", []string{"--disk", dir + ",ro", text}, "a directory"},
		{"a disk shorter than a sector", []string{"--disk", short, text}, "shorter than a sector"},
		{"a disk of another machine", []string{"--disk", held, text}, "locked by another machine"},
		{"a disk given twice", []string{"--disk", disk, "--disk", disk, text}, "given twice"},
		{"a disk with a word that is none", []string{"--disk", disk + ",rw", text}, `"rw"`},
		{"two disks of one name", []string{"--disk", disk + ",id=a", "--disk", short + ",id=a", text}, `both called "a"`},
		{"a disk and a share of one name", []string{"--disk", disk + ",id=a", "--share", "a=" + dir, text}, `both called "a"`},
		{"a disk with the name of another device", []string{"--disk", disk + ",id=rng", text}, `the name of another device, "rng"`},
		{"more devices than interrupts", append(disks(t, dir, 40), micro), "there are interrupts for"},
		{"a TAP that is not there", []string{"--net", "tap=nosuchtap0", text}, "nosuchtap0: no such interface"},
		{"a TAP that is none", []string{"--net", "tap=lo", text}, "lo"},
		{"a share that is not there", []string{"--share", "a=/no/such/dir", text}, "/no/such/dir"},
		{"a limit for nobody", []string{"--rate-limit", "disk7:ops=5", text}, "disk7"},
		{"a feature that is none", []string{"--cpu-without", "sse9", text}, "sse9"},
		{"a machine file with a word that is none", []string{"--config", toml, text}, "wheels"},
		{"a flag that is none", []string{"--wings", text}, "wings"},
		{"an API socket in no directory", []string{"--api", "/no/such/dir/sock", micro}, "/no/such/dir/sock"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { refused(t, c.want, c.args...) })
	}
	for _, k := range badKernels(t) {
		t.Run(k.name, func(t *testing.T) { refused(t, k.want, "--init", "own", file("kernel", k.file)) })
	}
	for _, s := range badSnapshots(t) {
		t.Run(s.name, func(t *testing.T) { refused(t, s.want, "--from-snapshot", file("snap", s.file)) })
	}
}

// refused runs vmm boot, which is to say in one line why not, and to leave nothing.
func refused(t *testing.T, want string, args ...string) {
	t.Helper()
	left := t.TempDir()
	always := []string{"boot", "--force", "--api", filepath.Join(left, "api"), "--vsock", "CID=9,uds=" + filepath.Join(left, "vsock"), "--console", "pty"}
	cmd := exec.CommandContext(t.Context(), program(t), append(always, args...)...)
	out, err := cmd.CombinedOutput() // which waits for whoever holds its output
	if err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v, want exit code 1", err)
	}
	line := strings.TrimSuffix(string(out), "\n")
	if strings.Contains(line, "\n") || !strings.HasPrefix(line, "vmm: ") || !strings.Contains(line, want) {
		t.Errorf("want one line with %q, got:\n%s", want, out)
	}
	entries, err := os.ReadDir(left)
	must(t, err)
	if len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func disks(t *testing.T, dir string, n int) (args []string) {
	for range n {
		f, err := os.CreateTemp(dir, "disk")
		must(t, err)
		must(t, f.Truncate(1<<20))
		must(t, f.Close())
		args = append(args, "--disk", f.Name())
	}
	return args
}

type badFile struct {
	name string
	file []byte
	want string
}

func badKernels(t *testing.T) []badFile {
	code := make([]byte, 8192)
	one := func(change func(*elf.Prog64)) []byte {
		s := segment(4096, 4096)
		change(&s)
		return elfFile(t, code, segment(0, 4096), s)
	}
	good := one(func(*elf.Prog64) {})
	header := func(at int, v ...byte) []byte {
		b := append([]byte(nil), good...)
		copy(b[at:], v)
		return b
	}
	bz := make([]byte, 8192)
	binary.LittleEndian.PutUint16(bz[0x1fe:], 0xaa55)
	copy(bz[0x202:], "HdrS\x0f\x02")
	bz[0x236] = 3                                   // 64-bit, above 4 GiB
	binary.LittleEndian.PutUint32(bz[0x24c:], 4096) // payload, from sector 5 on
	image := func(at int, v ...byte) []byte { b := append([]byte(nil), bz...); copy(b[at:], v); return b }
	return []badFile{
		{"an ELF file cut in its header", good[:40], "cut short"},
		{"an ELF file cut in its program headers", good[:100], "not among its first 100 bytes"},
		{"an ELF file cut in a segment", good[:len(good)-1], "of the ELF file"},
		{"an ELF file for another machine", header(18, 183), "another machine"},
		{"an ELF file without segments", elfFile(t, nil), "nothing to load"},
		{"an entry point outside", header(24, 0, 0, 0, 1), "lies in no segment"},
		{"program headers at the end of the world", header(32, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "not among"},
		{"a segment outside memory", one(func(s *elf.Prog64) { s.Paddr = 1 << 40 }), "outside the guest's memory"},
		{"a segment in the hole", one(func(s *elf.Prog64) { s.Paddr = 0xfee0_0000 }), "outside the guest's memory"},
		{"a segment larger than memory", one(func(s *elf.Prog64) { s.Memsz = 1 << 33 }), "outside the guest's memory"},
		{"a segment on the boot tables", one(func(s *elf.Prog64) { s.Paddr = 0x1000 }), "below 0x100000"},
		{"a segment that wraps", one(func(s *elf.Prog64) { s.Paddr = ^uint64(0) - 4095; s.Memsz = 8192 }), "wrap around"},
		{"a segment with more in the file than in memory", one(func(s *elf.Prog64) { s.Memsz = 100 }), "in the file for"},
		{"a segment from far beyond the file", one(func(s *elf.Prog64) { s.Off = 1 << 61 }), "of the ELF file"},
		{"a segment from before the file", one(func(s *elf.Prog64) { s.Off = 1 << 63 }), "cannot be"},
		{"segments that overlap", one(func(s *elf.Prog64) { s.Paddr -= 1 }), "overlap"},
		{"a bzImage cut in its header", bz[:0x240], "neither an ELF file nor a bzImage"},
		{"a bzImage cut in its payload", bz[:4096], "cut short"},
		{"a bzImage without a payload", image(0x24c, 0, 0), "without a payload"},
		{"a bzImage whose payload wraps", image(0x248, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "cut short"},
		{"a bzImage of 32 bits", image(0x236, 0), "32-bit"},
		{"a bzImage of old", image(0x206, 0, 2), "before 2.08"},
		{"a bzImage of nothing known", bz, "unknown compression"},
		{"a bzImage of damaged gzip", image(0xa00, 0x1f, 0x8b, 8, 0xff), "gzip"},
	}
}

func badSnapshots(t *testing.T) []badFile {
	path := filepath.Join(t.TempDir(), "snap")
	save := func(state string) []byte {
		must(t, snapshot.Write(path, []byte(state), make([]byte, 16<<20), func(func(int, int) bool) {}))
		b, err := os.ReadFile(path)
		must(t, err)
		return b
	}
	good := save("{}")
	changed := func(at int, v byte) []byte {
		b := append([]byte(nil), good...)
		b[at] = v
		return b
	}
	return []badFile{
		{"an empty snapshot", nil, "not a snapshot"},
		{"a snapshot that is none", []byte("bulkhead snap, or not"), "not a snapshot"},
		{"a snapshot of another version", changed(16, snapshot.Version+1), "reads version"},
		{"a snapshot of a damaged header", changed(24, 7), "header is damaged"},
		{"a snapshot of a damaged state", changed(4096, 'x'), "state is damaged"},
		{"a snapshot cut in its header", good[:100], "not a snapshot"},
		{"a snapshot cut short", good[:len(good)-1], "cut short"},
		{"a snapshot with something behind it", append(good[:len(good):len(good)], 0), "added to"},
		{"a snapshot with parts left out", good, "not as a machine writes it"},
		{"a snapshot of something else", save(`{"wheels":4}`), "wheels"},
		{"a snapshot of no state", save(""), "snapshot"},
	}
}

// TestNoKVM: a host that cannot run a guest says so at once, as hwtest does.
func TestNoKVM(t *testing.T) {
	if sys, err := kvm.Open(); err == nil {
		sys.Close()
		t.Skip("needs a host without /dev/kvm: unshare -m, then mount a /dev that lacks it")
	}
	_, err := kvm.Open()
	refused(t, err.Error()+": ", microGuest(t, t.TempDir()))
	refused(t, "`hwtest` says more", microGuest(t, t.TempDir()))
}
