package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCopyUp compares with cp -a.
func TestCopyUp(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("owners and devices need the host's root: run the tests as root")
	}
	dir := t.TempDir()
	for _, d := range []string{"from/a/b", "from/empty", "ours", "theirs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	from := filepath.Join(dir, "from")
	for name, mode := range map[string]os.FileMode{"f": 0o644, "a/set": 0o755 | os.ModeSetuid, "a/b/none": 0} {
		name = filepath.Join(from, name)
		err := os.WriteFile(name, []byte(name), 0o600)
		if err == nil {
			err = os.Chown(name, 1000, 1001)
		}
		if err == nil {
			err = os.Chmod(name, mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.Symlink("/etc", filepath.Join(from, "out")), os.Lchown(filepath.Join(from, "out"), 5, 6),
		os.Chmod(filepath.Join(from, "empty"), 0o777|os.ModeSticky), unix.Mkfifo(filepath.Join(from, "fifo"), 0o622),
		unix.Mknod(filepath.Join(from, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// Where the directory's file system has them.
	_ = unix.Setxattr(filepath.Join(from, "f"), "user.x", []byte("y"), 0)

	if err := exec.Command("cp", "-a", from+"/.", filepath.Join(dir, "theirs")).Run(); err != nil {
		t.Fatal(err)
	}
	open := func(name string) int {
		fd, err := unix.Open(filepath.Join(dir, name), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	if err := copyUp(open("from"), open("ours")); err != nil {
		t.Fatal(err)
	}
	list := func(name string) string {
		c := exec.Command("sh", "-c", `find . -mindepth 1 -printf '%p %y %m %U %G %l %T@ ' \( -type f -exec cat {} \; -o -true \) -printf '\n' | sort`)
		c.Dir = filepath.Join(dir, name)
		out, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		value := make([]byte, 10)
		n, _ := unix.Getxattr(filepath.Join(c.Dir, "f"), "user.x", value)
		return string(out) + string(value[:max(n, 0)])
	}
	if ours, theirs := list("ours"), list("theirs"); ours != theirs || ours == "" {
		t.Errorf("ours:\n%s\ncp's:\n%s", ours, theirs)
	}
}
