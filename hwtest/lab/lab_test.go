package lab

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// run runs job in m, and skips the test where there is no QEMU.
func run(t *testing.T, m Machine, job Job) (code int, stdout, stderr string) {
	t.Helper()
	if err := Check(); err != nil {
		t.Skip(err)
	}
	var out, err bytes.Buffer
	job.Stdout, job.Stderr = &out, &err
	if testing.Verbose() && m.Console == nil {
		m.Console = os.Stderr
	}
	code, failed := m.Run(t.Context(), job)
	if failed != nil {
		t.Fatal(failed)
	}
	return code, out.String(), err.String()
}

func TestJob(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := run(t, Machine{KernelArgs: os.Getenv("LABARGS")}, Job{
		Cmd: []string{"sh", "-c", `
			cat; cat "in put"/in /job/copy; echo "$QUOTED"; ls /dev/kvm /dev/net/tun; ls -l /dev/loop-control | cut -c1
			ip -o link show lo | grep -o LOOPBACK,UP
			echo to the host >"in put/out"; mv "in put/out" "in put/final"
			echo complaint >/dev/stderr; dd if=/dev/zero bs=1M count=3 2>/dev/null | tr '\0' x >"in put/big"
			sleep 1000 & kill -9 $$`},
		Dir: "/my work", Env: []string{"QUOTED=it's $HOME"},
		Files:  map[string]string{"/job/copy": filepath.Join(dir, "in")},
		Shares: []Share{{Host: dir, Inside: "/my work/in put"}},
		Stdin:  strings.NewReader("standard input\n"),
	})
	want := "standard input\nfrom the host\nfrom the host\nit's $HOME\n/dev/kvm\n/dev/net/tun\nc\nLOOPBACK,UP\n"
	if code != 137 || stdout != want || stderr != "complaint\n" {
		t.Errorf("code %d, stdout %q, stderr %q;\nwant 137, %q, complaint", code, stdout, stderr, want)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "final")); err != nil || string(got) != "to the host\n" {
		t.Errorf("the file written inside: %q, %v", got, err)
	}
	if big, err := os.ReadFile(filepath.Join(dir, "big")); err != nil || string(big) != strings.Repeat("x", 3<<20) {
		t.Errorf("3 MiB written inside: %d bytes, %v", len(big), err)
	}
}
