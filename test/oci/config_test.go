package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/test/rig"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestConfig has a container look at what its configuration made of it. runc
// fills in the expected column: ours must print the same.
func TestConfig(t *testing.T) {
	host := t.TempDir()
	for name, text := range map[string]string{"f": "from the host\n", "d/inside": "deep\n"} {
		path := filepath.Join(host, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(m specs.Mount) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) }
	}
	rows := []struct {
		name   string
		edit   func(*specs.Spec)
		script string
	}{
		{"environment", func(s *specs.Spec) {
			s.Process.Env = append(s.Process.Env, "A=b c", "EMPTY=")
			s.Process.Cwd = "/etc"
		}, `echo "$A" ${EMPTY-unset} ${EMPTY:-empty} $HOME; pwd; env | sort`},
		{"user", func(s *specs.Spec) {
			mask := uint32(0o27)
			s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 1002}, Umask: &mask}
			s.Process.Capabilities = nil
		}, `id -u; id -g; id -G; umask; grep -E '^(Cap|NoNew)' /proc/self/status; touch /tmp/f; stat -c '%a %u %g' /tmp/f; cat /etc/shadow 2>&1; touch /f 2>&1`},
		{"capabilities", func(s *specs.Spec) {
			c := []string{"CAP_CHOWN", "CAP_NET_RAW"}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: c, Effective: c[:1], Permitted: c, Inheritable: c[:1], Ambient: nil}
			s.Process.NoNewPrivileges = true
		}, `grep -E '^(Cap|NoNew)' /proc/1/status; touch /tmp/f; chown 5 /tmp/f && stat -c %u /tmp/f; hostname x 2>&1`},
		{"seccomp", func(s *specs.Spec) {
			far := uint(unix.EXDEV)
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &far},
				{Names: []string{"rmdir", "unlinkat"}, Action: specs.ActErrno},
				{Names: []string{"kill"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpEqualTo, Value: 12}}},
				{Names: []string{"sync"}, Action: specs.ActKillProcess},
			}}
		}, `grep -E '^Seccomp' /proc/self/status; mkdir /tmp/d 2>&1; rmdir /tmp 2>&1; kill -12 1 2>&1; kill -0 1 && echo sent; (sync); echo $?; grep -c 2 /proc/1/status >/dev/null && echo goes on`},
		{"rlimits", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}, {Type: "RLIMIT_STACK", Soft: 1 << 20, Hard: 2 << 20}}
		}, `ulimit -n; ulimit -Hn; ulimit -c; ulimit -s; ulimit -Hs`},
		{"hostname", func(s *specs.Spec) { s.Hostname = "another" }, `hostname; uname -n; cat /proc/sys/kernel/hostname`},
		{"root_readonly", nil, `touch /f 2>&1; touch /tmp/f && echo fine; touch /dev/shm/f && echo fine; mkdir /etc/d 2>&1`},
		{"bind", mount(specs.Mount{Destination: "/mnt", Type: "bind", Source: host, Options: []string{"rbind", "rw"}}),
			`cat /mnt/f /mnt/d/inside; echo new >/mnt/new; ls /mnt; rm /mnt/new; ls /mnt`},
		{"bind_readonly", mount(specs.Mount{Destination: "/mnt", Type: "bind", Source: host, Options: []string{"rbind", "ro"}}),
			`cat /mnt/f; echo x >/mnt/f 2>&1; rm /mnt/f 2>&1; grep ' /mnt ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1`},
		{"bind_file", mount(specs.Mount{Destination: "/etc/hostname", Type: "bind", Source: filepath.Join(host, "f"), Options: []string{"bind", "ro"}}), `cat /etc/hostname`},
		{"tmpfs", mount(specs.Mount{Destination: "/mnt", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m", "uid=5"}}),
			`stat -c %u /mnt; dd if=/dev/zero of=/mnt/f bs=64k count=100 2>&1 | tail -1 | cut -d' ' -f1,2; ls -l /mnt/f | awk '{print $5}'`},
		{"made_mountpoint", mount(specs.Mount{Destination: "/tmp/a/b", Type: "tmpfs", Source: "tmpfs"}), `touch /tmp/a/b/c && ls /tmp/a/b`},
		{"masked", func(s *specs.Spec) {
			s.Linux.MaskedPaths = []string{"/etc/passwd", "/root", "/no/such"}
			s.Linux.ReadonlyPaths = []string{"/proc/sys", "/tmp"}
		}, `wc -c </etc/passwd; ls -A /root; touch /root/f 2>&1; touch /tmp/f 2>&1; echo 1 2>&1 >/proc/sys/kernel/hostname`},
		{"standard_devices", nil, `for d in null zero full random urandom tty ptmx console fd stdin stdout stderr; do [ -e /dev/$d ] && echo $d; done; readlink /dev/fd /dev/stdin /dev/ptmx; stat -c '%a %t %T' /dev/null /dev/zero; head -c 4 /dev/zero | wc -c`},
		{"devices", func(s *specs.Spec) {
			mode, id := os.FileMode(0o640), uint32(7)
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/my", Type: "c", Major: 1, Minor: 5, FileMode: &mode, UID: &id, GID: &id}}
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		}, `stat -c '%a %u %t:%T' /dev/my; head -c 3 /dev/my | wc -c`},
		{"processes", nil, `echo $$; ls /proc | grep -E '^[0-9]+$' | head -1; cat /proc/1/comm; sh -c 'echo $PPID'`},
		{"network", nil, `ls /sys/class/net 2>/dev/null; cat /proc/net/dev 2>/dev/null | grep -c lo`},
		{"stdio", nil, `echo out; echo err >&2; read x; echo "<$x>"; [ -t 0 ] || echo no terminal`},
		{"sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.domainname": "example"} }, `cat /proc/sys/kernel/domainname`},
		{"orphans", nil, `(sh -c 'until [ "$(cut -d " " -f 4 /proc/$$/stat)" = 1 ]; do :; done; echo adopted' &) | cat`},
	}
	rig.NeedRoot(t)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			rig.Need(t, "runc")
			runc := &program{name: "runc", args: []string{"runc", "--root=" + filepath.Join(t.TempDir(), "root")}}
			want := runc.run(t, row.edit, "sh", "-c", row.script)
			if want.Code > 1 || strings.Contains(want.Err, "level=error") {
				t.Fatalf("runc: %s", want)
			}
			eachPlatform(t, func(t *testing.T, p *program) {
				rig.Compare(t, want, p.run(t, row.edit, "sh", "-c", row.script))
			})
		})
	}
}

// TestTmpfsMode is apart from TestConfig since runc before 1.2 ignores the mode.
func TestTmpfsMode(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		r := p.run(t, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1770", "gid=6"}})
		}, "stat", "-c", "%a %u %g", "/mnt")
		if want := "1770 0 6\n"; r.Out != want {
			t.Errorf("want %s: %s", want, r)
		}
	})
}

// TestWritableRoot is what a container writes to its root, with each overlay.
func TestWritableRoot(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		for _, overlay := range []string{"none", "memory", "dir=" + t.TempDir()} {
			t.Run(strings.SplitN(overlay, "=", 2)[0], func(t *testing.T) {
				root := t.TempDir()
				base, err := rootfs()
				if err != nil {
					t.Fatal(err)
				}
				if err := os.CopyFS(root, os.DirFS(base)); err != nil {
					t.Fatal(err)
				}
				edit := func(s *specs.Spec) { s.Root = &specs.Root{Path: root} }
				over := *p
				over.args = append(append([]string{}, p.args...), "--overlay="+overlay)
				r := over.run(t, edit, "sh", "-c", "echo written >/etc/new; rm /etc/hostname; cat /etc/new; ls /etc/hostname 2>&1")
				if want := "written\nls: /etc/hostname: No such file or directory\n"; r.Out != want {
					t.Errorf("%s\nwant %s", r, want)
				}
				_, err = os.Stat(filepath.Join(root, "etc/new"))
				if through := err == nil; through != (overlay == "none") {
					t.Errorf("the host sees the new file: %v", through)
				}
				_, err = os.Stat(filepath.Join(root, "etc/hostname"))
				if kept := err == nil; kept != (overlay != "none") {
					t.Errorf("the host keeps the removed file: %v", kept)
				}
			})
		}
	})
}
