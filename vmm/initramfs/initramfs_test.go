package initramfs

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/vmm/boot"
)

// joined is what boot.Load makes of parts.
func joined(t *testing.T, parts []boot.Part) []byte {
	t.Helper()
	var all bytes.Buffer
	for _, p := range parts {
		all.Write(make([]byte, -all.Len()&3))
		n, err := io.Copy(&all, io.NewSectionReader(p, 0, p.Size))
		if err != nil || n != p.Size {
			t.Fatalf("%s: %d of %d bytes: %v", p.Name, n, p.Size, err)
		}
	}
	return all.Bytes()
}

// cpio is what the tool of that name says of an archive, or does with it in dir.
func cpio(t *testing.T, archive []byte, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("cpio is missing; apt-get install cpio")
	}
	cmd := exec.CommandContext(t.Context(), "cpio", args...)
	cmd.Stdin, cmd.Dir = bytes.NewReader(archive), dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	return string(out)
}

func TestBuild(t *testing.T) {
	self, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	program, err := Copy("init", 0o755, self)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := Build(
		program,
		Bytes("/etc/bulkhead/guest.json", 0o600, []byte(`{"run":["sh"]}`)), // 14 bytes: padded
		Bytes("etc/empty", 0o644, nil),
		File{Path: "bin/sh", Link: "/init"},
		Bytes("bin/odd", 0o4755, []byte("x")), // set-user-id is no permission and is left out
	)
	if err != nil {
		t.Fatal(err)
	}
	archive, dir := joined(t, parts), t.TempDir()
	if out := cpio(t, archive, dir, "-idm", "--no-absolute-filenames"); !strings.Contains(out, "blocks") {
		t.Errorf("cpio says %q", out)
	}
	for name, want := range map[string]struct {
		mode string
		size int64
	}{
		"init":                    {"-rwxr-xr-x", program.Size},
		"etc":                     {"drwxr-xr-x", -1},
		"etc/bulkhead":            {"drwxr-xr-x", -1},
		"etc/bulkhead/guest.json": {"-rw-------", 14},
		"etc/empty":               {"-rw-r--r--", 0},
		"bin/sh":                  {"Lrwxrwxrwx", 5},
		"bin/odd":                 {"-rwxr-xr-x", 1},
	} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode().String() != want.mode || want.size >= 0 && info.Size() != want.size {
			t.Errorf("%s: %v, %d bytes; want %s, %d", name, info.Mode(), info.Size(), want.mode, want.size)
		}
	}
	got, err := os.ReadFile(filepath.Join(dir, "init"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("init is not what was put in")
	}
	if target, _ := os.Readlink(filepath.Join(dir, "bin/sh")); target != "/init" {
		t.Errorf("bin/sh points to %q", target)
	}
}

// TestSame: the same files make the same bytes.
func TestSame(t *testing.T) {
	var last []byte
	for range 2 {
		parts, err := Build(Bytes("a/b", 0o644, []byte("content")))
		if err != nil {
			t.Fatal(err)
		}
		if got := joined(t, parts); last != nil && !bytes.Equal(got, last) {
			t.Error("differs")
		} else {
			last = got
		}
	}
}

func TestRefused(t *testing.T) {
	one := Bytes("etc/one", 0o644, nil)
	for want, files := range map[string][]File{
		"no file can have this name": {Bytes("/", 0o644, nil)},
		"is there already":           {one, Bytes("/etc/../etc/one", 0o644, nil)},
		"(a directory: true)":        {one, Bytes("etc", 0o644, nil)},
		"which is no directory":      {one, Bytes("etc/one/two", 0o644, nil)},
		"a cpio archive takes":       {{Path: "big", Content: strings.NewReader(""), Size: 1 << 32}},
		"either content or":          {{Path: "nothing"}},
	} {
		if _, err := Build(files...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}
