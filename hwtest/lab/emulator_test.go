package lab

import (
	"os"
	"path/filepath"
	"testing"
)

// TestEmulator has QEMUs on PATH that only tell their version.
func TestEmulator(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	path := filepath.Join(dir, qemu)
	for _, test := range []struct {
		says  string
		sound bool
	}{
		{"QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)", true},
		{"QEMU emulator version 8.1.0", true},
		{"QEMU emulator version 8.0.5", false},
		{"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", false},
	} {
		script := "#!/bin/sh\necho '" + test.says + "'\n"
		if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		got, err := findEmulator(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// Of one that is not sound, the threads are taken, or another in its place.
		if used := got.path == path; used && got.threads != test.sound || !used && (test.sound || !got.threads) {
			t.Errorf("with %q on PATH: %+v", test.says, got)
		}
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho hello\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := findEmulator(t.Context()); err == nil {
		t.Errorf("of one that says hello: %+v, no error", got)
	}
}
