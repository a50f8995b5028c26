package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/sandbox"

	"golang.org/x/sys/unix"
)

// TestMain plays the process that the runtime starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.ImageVerb {
		os.Exit(Main(nil))
	}
	os.Exit(m.Run())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needs(t *testing.T, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, who can read all files")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip("needs", p, "(apt-get install e2fsprogs erofs-utils)")
		}
	}
}

// capability is that of ping, CAP_NET_RAW (linux/capability.h, struct vfs_cap_data).
var capability = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// debugfs has e2fsprogs look into an image.
func debugfs(t *testing.T, image *os.File, command string) string {
	t.Helper()
	c := exec.Command("debugfs", "-R", command, "/dev/fd/3")
	c.ExtraFiles = []*os.File{image}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("debugfs %s: %v\n%s", command, err, out)
	}
	return string(out)
}

// TestExt4: the directory is root in the image, which has no name on the host, and what leads
// out of the directory leads nowhere.
func TestExt4(t *testing.T) {
	needs(t, "mke2fs", "debugfs")
	source, where := t.TempDir(), t.TempDir()
	must(t, os.Chown(source, 12, 34))
	must(t, os.Symlink("/etc/passwd", filepath.Join(source, "out")))
	must(t, unix.Mkfifo(filepath.Join(source, "fifo"), 0o600))
	must(t, os.WriteFile(filepath.Join(source, "secret"), []byte("only root's\n"), 0))
	must(t, os.WriteFile(filepath.Join(source, strings.Repeat("n", 255)), nil, 0o600))
	must(t, os.Truncate(filepath.Join(source, "secret"), 1<<40)) // all hole but for its first page
	must(t, unix.Setxattr(filepath.Join(source, "secret"), "security.capability", capability, 0))
	image, err := sandbox.MakeImage(t.Context(), &agent.ImageRequest{Type: "ext4", Source: source, Where: where})
	must(t, err)
	defer image.Close()
	for command, want := range map[string]string{
		"stat /root":                             "User:    12   Group:    34",
		"stat /root/out":                         `Fast link dest: "/etc/passwd"`,
		"stat /root/fifo":                        "Type: FIFO",
		"stat /root/secret":                      "Size: 1099511627776",
		"stat /root/" + strings.Repeat("n", 255): "Type: regular",
	} {
		if got := debugfs(t, image, command); !strings.Contains(got, want) {
			t.Errorf("%.40s: %s, want %s", command, got, want)
		}
	}
	if left, _ := os.ReadDir(where); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	var st unix.Stat_t
	must(t, unix.Fstat(int(image.Fd()), &st))
	if st.Nlink != 0 || st.Size < 1<<30 || st.Blocks*512 > 64<<20 {
		t.Errorf("the image has %d names, %d MiB, of which %d are written", st.Nlink, st.Size>>20, st.Blocks*512>>20)
	}
}

func TestEROFS(t *testing.T) {
	needs(t, "mkfs.erofs")
	source := t.TempDir()
	must(t, os.WriteFile(filepath.Join(source, "file"), []byte("some words of its own"), 0o600))
	image, err := sandbox.MakeImage(t.Context(), &agent.ImageRequest{Type: "erofs", Source: source, Where: t.TempDir()})
	must(t, err)
	defer image.Close()
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", image.Fd()))
	must(t, err)
	// The magic is at 1,024 (fs/erofs/erofs_fs.h); what is short lies beside its inode.
	if len(b) < 2048 || string(b[1024:1028]) != "\xe2\xe1\xf5\xe0" || !strings.Contains(string(b), "some words of its own") {
		t.Errorf("%d bytes, % x", len(b), b[:min(len(b), 1028)])
	}
}

// TestEmpty is a disk to write to.
func TestEmpty(t *testing.T) {
	needs(t, "mke2fs", "debugfs")
	image, err := sandbox.MakeImage(t.Context(), &agent.ImageRequest{Type: "ext4", Where: t.TempDir(), Size: 64 << 20})
	must(t, err)
	defer image.Close()
	if got := debugfs(t, image, "stats"); !strings.Contains(got, "Block count:              16384") {
		t.Error(got)
	}
}

func TestRefuses(t *testing.T) {
	needs(t, "mke2fs", "mkfs.erofs")
	huge, deep := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(huge, "h\x1bole"), nil, 0o600))
	must(t, os.Truncate(filepath.Join(huge, "h\x1bole"), 1<<43))
	at, err := unix.Open(deep, unix.O_DIRECTORY, 0)
	must(t, err)
	for range 30 { // a path of 6,000 bytes
		name := strings.Repeat("d", 200)
		must(t, unix.Mkdirat(at, name, 0o755))
		next, err := unix.Openat(at, name, unix.O_DIRECTORY, 0)
		must(t, err)
		unix.Close(at)
		at = next
	}
	unix.Close(at)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, row := range []struct {
		name string
		ctx  context.Context
		r    agent.ImageRequest
		want string
	}{
		{"a hole that would be written", t.Context(), agent.ImageRequest{Type: "erofs", Source: huge}, `(the largest file is "h\x1bole" with 8388608 MiB; an ext4 image keeps holes)`},
		{"too deep", t.Context(), agent.ImageRequest{Type: "ext4", Source: deep}, "file name too long"},
		{"too small", t.Context(), agent.ImageRequest{Type: "ext4", Source: huge, Size: 1 << 20}, "a disk of 1 MiB is too small"},
		{"no such directory", t.Context(), agent.ImageRequest{Type: "ext4", Source: "/nowhere"}, "no such file or directory"},
		{"another type", t.Context(), agent.ImageRequest{Type: "ntfs", Source: huge}, `"ntfs" is none of erofs, ext4`},
		{"nowhere to put it", t.Context(), agent.ImageRequest{Type: "ext4", Source: huge, Where: "/proc"}, "a file in /proc"},
		{"given up", ended, agent.ImageRequest{Type: "ext4", Source: huge}, "context canceled"},
	} {
		if row.r.Where == "" {
			row.r.Where = t.TempDir()
		}
		f, err := sandbox.MakeImage(row.ctx, &row.r)
		if err == nil {
			f.Close()
		}
		if err == nil || !strings.Contains(err.Error(), row.want) || len(err.Error()) > 500 {
			t.Errorf("%s: %v, want %s", row.name, err, row.want)
		}
	}
	m := maker{program: "mkfs.none", pkg: "none-utils"}
	if _, err := m.find(); err == nil || err.Error() != "mkfs.none is not on this host (apt-get install none-utils)" {
		t.Error(err)
	}
}
