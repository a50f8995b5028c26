package lab

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// run runs job in m, and skips the test where there is no QEMU.
func run(t *testing.T, m Machine, job Job) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	job.Stdout, job.Stderr = &out, &err
	code, failed := try(t, m, job)
	if failed != nil {
		t.Fatal(failed)
	}
	return code, out.String(), err.String()
}

func try(t *testing.T, m Machine, job Job) (int, error) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: the lab takes seconds to start; without -short it runs")
	}
	if err := Check(); err != nil {
		t.Skip(err)
	}
	return m.Run(t.Context(), job)
}

func TestJob(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := run(t, Machine{}, Job{
		Cmd: []string{"sh", "-c", `
			cat; cat "in put"/in /job/copy; echo "$QUOTED $BULKHEAD_LAB"
			: <>/dev/kvm && : <>/dev/net/tun && : <>/dev/loop-control && echo devices
			ip -o link show lo | grep -o LOOPBACK,UP
			echo to the host >"in put/out"; mv "in put/out" "in put/final"
			dd if=/dev/zero bs=1M count=3 2>/dev/null | tr '\0' x >"in put/big"
			echo no >read/only; echo complaint >/dev/stderr
			sleep 1000 & kill -9 $$`},
		Dir: "/my work", Env: []string{"QUOTED=it's $HOME"},
		Files: map[string]string{"/job/copy": filepath.Join(dir, "in")},
		Shares: []Share{
			{Host: dir, Inside: "/my work/in put"},
			{Host: dir, Inside: "/my work/read", ReadOnly: true},
		},
		Stdin: strings.NewReader("standard input\n"),
	})
	want := "standard input\nfrom the host\nfrom the host\nit's $HOME 1\ndevices\nLOOPBACK,UP\n"
	if code != 137 || stdout != want || stderr != "sh: can't create read/only: Read-only file system\ncomplaint\n" {
		t.Errorf("code %d, stdout %q, stderr %q;\nwant 137, %q, complaint", code, stdout, stderr, want)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "final")); err != nil || string(got) != "to the host\n" {
		t.Errorf("the file written inside: %q, %v", got, err)
	}
	if big, err := os.ReadFile(filepath.Join(dir, "big")); err != nil || string(big) != strings.Repeat("x", 3<<20) {
		t.Errorf("3 MiB written inside: %d bytes, %v", len(big), err)
	}
}

// TestHost sees the host's root, which the job cannot change, and its network.
func TestHost(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			conn.Write([]byte("hello from the host\n"))
			conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("/etc/os-release")
	if err != nil {
		t.Skip("the host has no /etc/os-release to compare (apt-get install base-files):", err)
	}
	code, stdout, stderr := run(t, Machine{HostRoot: true, Network: true, Memory: minMemory}, Job{
		Cmd: []string{"/bin/sh", "-c", `
			cat /etc/os-release; echo x >/etc/written-in-the-lab; cat /etc/written-in-the-lab
			exec 3<>/dev/net/tun; test "$(grep MemTotal /proc/meminfo | tr -dc 0-9)" -lt 262144 && echo small
			"$1" nc 10.0.2.2 "$2"`, "sh", "/busybox", port},
		Files: map[string]string{"/busybox": busyboxOf(t)},
	})
	if code != 0 || stdout != string(want)+"x\nsmall\nhello from the host\n" {
		t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	if _, err := os.Stat("/etc/written-in-the-lab"); err == nil {
		t.Error("what a job wrote to the root is on the host")
	}
}

// busyboxOf is the static busybox that the lab is made from.
func busyboxOf(t *testing.T) string {
	t.Helper()
	if err := Check(); err != nil {
		t.Skip(err)
	}
	base, err := fetchBase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return base.busybox
}

// TestIcount: where the clock counts instructions, a long sleep is over at once.
func TestIcount(t *testing.T) {
	code, stdout, stderr := run(t, Machine{Icount: true}, Job{Cmd: []string{"sh", "-c", "sleep 1000; nproc; cut -d. -f1 /proc/uptime | tr 0-9 x"}})
	if code != 0 || stdout != "1\nxxxx\n" {
		t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

// TestHold: KVM has a machine and a vCPU of both kinds while a job runs.
func TestHold(t *testing.T) {
	code, stdout, stderr := run(t, Machine{}, Job{Cmd: []string{"sh", "-c", "ls -l /proc/[0-9]*/fd | grep -o 'kvm-v[a-z]*' | sort"}})
	if code != 0 || stdout != "kvm-vcpu\nkvm-vcpu\nkvm-vm\nkvm-vm\n" {
		t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

// TestCrash: a machine that ends before its job says why.
func TestCrash(t *testing.T) {
	_, err := try(t, Machine{}, Job{Cmd: []string{"sh", "-c", "echo c >/proc/sysrq-trigger"}})
	if err == nil || !strings.Contains(err.Error(), "the machine ended before it did") || !strings.Contains(err.Error(), "sysrq triggered crash") {
		t.Errorf("error %v", err)
	}
}

// TestCancel: the end of the context ends the machine. The job itself ends it,
// by a line that it prints.
func TestCancel(t *testing.T) {
	if err := Check(); err != nil {
		t.Skip(err)
	}
	if testing.Short() {
		t.Skip("-short: the lab takes seconds to start; without -short it runs")
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	_, err := Machine{}.Run(ctx, Job{
		Cmd:    []string{"sh", "-c", "echo ready; sleep 100000"},
		Stdout: writerFunc(func(p []byte) (int, error) { cancel(enough); return len(p), nil }),
	})
	if !errors.Is(err, enough) {
		t.Errorf("error %v, want %v", err, enough)
	}
}

// TestTimeout: a machine that hangs is ended, and it is said where it was.
func TestTimeout(t *testing.T) {
	_, err := try(t, Machine{}, Job{Cmd: []string{"sleep", "100000"}, Timeout: 10 * time.Second})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no end after 10s") || !strings.Contains(err.Error(), "CPU#0\nRIP=") {
		t.Errorf("error %v", err)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestRefused(t *testing.T) {
	if _, err := (Machine{}).Run(t.Context(), Job{}); err == nil || err.Error() != "lab: run a job: it has no command" {
		t.Errorf("no command: %v", err)
	}
	if _, err := (Machine{Memory: 64}).Run(t.Context(), Job{Cmd: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "64 MiB") {
		t.Errorf("too little memory: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	_, err := Machine{}.Run(t.Context(), Job{Cmd: []string{"true"}})
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "apt-get install qemu-system-x86") {
		t.Errorf("no QEMU: %v", err)
	}
}

func TestScript(t *testing.T) {
	got := Job{Cmd: []string{"echo", "it's", "a b"}, Dir: "/x y", Env: []string{"K=v=w", "E="}}.script()
	want := "export BULKHEAD_LAB=1\nexport K='v=w'\nexport E=''\ncd '/x y' || exit 127\nexec 'echo' 'it'\\''s' 'a b'\n"
	if got != want {
		t.Errorf("script\n%s\nwant\n%s", got, want)
	}
}

func TestParseShare(t *testing.T) {
	if got, err := parseShare("a:/b:ro"); err != nil || got != (Share{"a", "/b", true}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "a", "a:b", ":/b", "a:/b:rw", "a:/b:ro:x"} {
		if got, err := parseShare(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}
