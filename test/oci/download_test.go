package oci

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead/test/rig"
)

// TestSizesOfPackets: a GiB comes whole, and goes, in packets of 1,400 and of 9,000 bytes, as large as the interface
// takes them and not in pieces.
func TestSizesOfPackets(t *testing.T) {
	if os.Getenv("BULKHEAD_SLOW") == "" {
		t.Skip("takes minutes: BULKHEAD_SLOW=1")
	}
	rig.Need(t, "ss", "busybox")
	dir := t.TempDir()
	big, err := os.Create(filepath.Join(dir, "big"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(big, sum), rand.NewChaCha8([32]byte{2}), 1<<30); err != nil {
		t.Fatal(err)
	}
	big.Close()
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("here\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%x  -\n", sum.Sum(nil))
	eachRuntime(t, func(t *testing.T, p *program) {
		for _, mtu := range []int{1400, 9000} {
			w := newWireOf(t, mtu)
			w.serve(t, dir)
			name := p.started(t, func(s *specs.Spec) {
				w.join(s)
				mayPing(s)
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
			}, "sh", "-c", "nc -ll -p 82 -e cat & exec httpd -f -p 80 -h /mnt")
			if r := p.do(t, "exec", name, "sh", "-c", "wget -q -O - http://10.77.0.1/big | sha256sum"); r.Out != want {
				t.Errorf("%d bytes: a GiB into it: %s", mtu, r)
			}
			out, err := w.beyond("sh", "-c", "busybox wget -q -O - http://10.77.0.2/big | sha256sum").Output()
			if err != nil || string(out) != want {
				t.Errorf("%d bytes: a GiB out of it: %s, %v", mtu, out, err)
			}
			// What fills one packet is answered by one.
			before, after := "", ""
			pieces := func() string {
				out, err := w.beyond("sh", "-c", "awk '/^Ip:/ { print $17, $20 }' /proc/net/snmp | tail -1").Output()
				if err != nil {
					t.Fatal(err)
				}
				return string(out)
			}
			before = pieces()
			if r := p.do(t, "exec", name, "sh", "-c", fmt.Sprintf("ping -c 2 -s %d 10.77.0.1 | grep -c seq=", mtu-28)); r.Out != "2\n" {
				t.Errorf("%d bytes: packets as large as they may be: %s", mtu, r)
			}
			if after = pieces(); after != before {
				t.Errorf("%d bytes: packets as large as they may be came in pieces: %s, before %s", mtu, after, before)
			}
			// What both ends say of a connection's segments: without the headers and the time stamps.
			out, err = w.beyond("bash", "-c", "exec 3<>/dev/tcp/10.77.0.2/82; echo >&3; read -u 3; ss -tinH dst 10.77.0.2:82 | grep -o ' mss:[0-9]*'").Output()
			if got, want := strings.TrimSpace(string(out)), fmt.Sprintf("mss:%d", mtu-52); got != want {
				t.Errorf("%d bytes: segments of %q, %v, want %s", mtu, got, err, want)
			}
		}
	})
}

// proxied is what a proxy for HTTP does, in front of the one server that it knows. The test's own
// program is run for it, where the server is.
func proxied(server string) http.Handler {
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", server }}
}

// TestApt: apt-get has a package from a repository behind a proxy on the host, and installs it.
func TestApt(t *testing.T) {
	const asked = "BULKHEAD_TEST_PROXY"
	if server := os.Getenv(asked); server != "" {
		t.Fatal(http.ListenAndServe("10.77.0.1:3128", proxied(server)))
	}
	if os.Getenv("BULKHEAD_SLOW") == "" {
		t.Skip("needs a Debian: BULKHEAD_SLOW=1")
	}
	rig.Need(t, "apt-get", "dpkg-deb", "busybox")
	dir := t.TempDir()
	made := filepath.Join(dir, "made")
	control := "Package: bulkhead-net\nVersion: 1.0\nArchitecture: all\nMaintainer: T <t@example.org>\nDescription: came through a proxy\n"
	payload := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{3}).Read(payload)
	for name, b := range map[string][]byte{"DEBIAN/control": []byte(control), "usr/share/bulkhead-net/payload": payload} {
		at := filepath.Join(made, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	repository := filepath.Join(dir, "repository")
	if err := os.Mkdir(repository, 0o755); err != nil {
		t.Fatal(err)
	}
	deb := filepath.Join(repository, "bulkhead-net_1.0_all.deb")
	if out, err := exec.Command("dpkg-deb", "-Znone", "-b", made, deb).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	packages := fmt.Sprintf("%sFilename: ./bulkhead-net_1.0_all.deb\nSize: %d\nSHA256: %x\n\n", control, len(b), sha256.Sum256(b))
	for name, text := range map[string]string{"repository/Packages": packages, "repository/index.html": "", "sources.list": "deb [trusted=yes] http://repository.invalid/ ./\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	eachRuntime(t, func(t *testing.T, p *program) {
		w := newWire(t)
		w.serve(t, repository)
		proxy := w.beyond(os.Args[0], "-test.run=^TestApt$")
		proxy.Env = append(os.Environ(), asked+"=10.77.0.1:80")
		if err := proxy.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { proxy.Process.Kill(); proxy.Wait() }()
		for tries := 0; w.beyond("busybox", "nc", "-w", "1", "10.77.0.1", "3128").Run() != nil; tries++ {
			if tries == 500 {
				t.Fatal("the proxy does not listen")
			}
		}
		const script = `set -e
			mkdir -p /tmp/root/var/lib/dpkg/updates /tmp/root/var/lib/dpkg/info /tmp/state/lists/partial /tmp/cache/archives/partial; : >/tmp/root/var/lib/dpkg/status
			apt() { apt-get -q -o Acquire::http::Proxy=http://10.77.0.1:3128 -o Dir::Etc::sourcelist=/mnt/sources.list -o Dir::Etc::sourceparts=- -o Dir::State=/tmp/state \
				-o Dir::State::status=/tmp/root/var/lib/dpkg/status -o Dir::Cache=/tmp/cache -o Dir::Log=/tmp -o APT::Sandbox::User=root -o DPkg::Options::=--root=/tmp/root -o DPkg::Options::=--force-script-chrootless "$@"; }
			apt update >/tmp/said 2>&1 || { cat /tmp/said; exit 1; }
			apt install -y bulkhead-net >/tmp/said 2>&1 || { cat /tmp/said; exit 1; }
			sha256sum </tmp/root/usr/share/bulkhead-net/payload; dpkg --root=/tmp/root -s bulkhead-net | grep Status`
		r := p.run(t, func(s *specs.Spec) {
			w.join(s)
			s.Process.Env = []string{"PATH=/usr/bin:/usr/sbin:/bin:/sbin", "HOME=/tmp", "DEBIAN_FRONTEND=noninteractive"}
			for _, host := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc"} {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: host, Type: "bind", Source: host, Options: []string{"rbind", "ro"}})
			}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
		}, "/usr/bin/bash", "-c", script)
		if want := fmt.Sprintf("%x  -\nStatus: install ok installed\n", sha256.Sum256(payload)); r.Out != want {
			t.Errorf("%s\nwant %s%s", r, want, p.logged())
		}
	})
}
