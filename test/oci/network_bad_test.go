package oci

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead/test/rig"
)

// reacher makes testdata/reach.c in a directory of its own.
func reacher(t *testing.T) (dir string) {
	t.Helper()
	rig.Need(t, "gcc")
	dir = t.TempDir()
	if out, err := exec.Command("gcc", "-static", "-w", "-o", filepath.Join(dir, "reach"), "testdata/reach.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// answering is reach's server beyond, and what it prints from then on.
func (w wire) answering(t *testing.T, dir string) *bufio.Reader {
	t.Helper()
	peer := w.beyond(filepath.Join(dir, "reach"), "serve")
	out, err := peer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Process.Kill(); peer.Wait() })
	lines := bufio.NewReader(out)
	if s, err := lines.ReadString('\n'); err != nil || s != "ready\n" {
		t.Fatalf("the peer says %q, %v", s, err)
	}
	return lines
}

// TestPeersThatNeverRead: what a container sends to peers that never read has a bound, below
// its memory's; it lives and reaches others.
func TestPeersThatNeverRead(t *testing.T) {
	dir := reacher(t)
	eachPlatform(t, func(t *testing.T, p *program) {
		w := newWire(t)
		w.answering(t, dir)
		r := p.run(t, func(s *specs.Spec) {
			w.join(s)
			memory(128 << 20)(s)
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
		}, "/mnt/reach", "crowd", "10.77.0.1", "300")
		t.Log(r)
		const want = "they wait, reached: OK\n"
		if r.Out != want || r.Code != 0 {
			t.Errorf("want %s: %s%s", want, r, p.logged())
		}
		// And what others send to a container that does not read.
		name := p.started(t, func(s *specs.Spec) {
			w.join(s)
			memory(128 << 20)(s)
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
		}, "/mnt/reach", "serve")
		var out []byte
		for tries := 0; tries < 20 && !strings.HasPrefix(string(out), want); tries++ { // it listens when somebody gets through
			out, _ = w.beyond(filepath.Join(dir, "reach"), "crowd", "10.77.0.2", "300").CombinedOutput()
		}
		t.Logf("%s", out)
		if !strings.HasPrefix(string(out), want) || p.state(t, name).Status != specs.StateRunning {
			t.Errorf("to one that does not read: %s%s", out, p.logged())
		}
	})
}

// lossRows are what comes of an address that a container's interface has lost, and has again.
var lossRows = []struct{ name, script, want string }{
	{"it answers", "reach half 10.77.0.1", "hears 2000, reads 0, sends 4194304 OK, polls 2001, ends OK\nover 10\n"},
	{"without", "ip address del 10.77.0.2/24 dev eth0; reach dial 10.77.0.1 7001; reach dial 10.77.0.1 9 udp 1; ip route", "ENETUNREACH\nENETUNREACH\n"},
	{"without, IPv6", "reach dial fd77::1 9; ip address del fd77::2/64 dev eth0; ip -6 route del default; reach dial fd77::1 9", "ECONNREFUSED\nENETUNREACH\n"},
	{"loopback", "reach dial 127.0.0.1 9; reach dial ::1 9", "ECONNREFUSED\nECONNREFUSED\n"},
	{"again", "ip address add 10.77.0.2/24 dev eth0; reach half 10.77.0.1", "hears 2000, reads 0, sends 4194304 OK, polls 2001, ends OK\nover 10\n"},
	{"another", "ip address del 10.77.0.2/24 dev eth0; ip address add 10.77.0.3/24 dev eth0; reach dial 10.77.0.1 9; reach half 10.77.0.1; ip address add 10.77.0.2/24 dev eth0", "ECONNREFUSED\nhears 2000, reads 0, sends 4194304 OK, polls 2001, ends OK\nover 10\n"},
}

// TestLostAddress: an interface loses its addresses while it is in use: who has a connection and who wants
// one is told, and what has its address again works again, with each runtime alike.
func TestLostAddress(t *testing.T) {
	dir := reacher(t)
	eachRuntime(t, func(t *testing.T, p *program) {
		w := newWire(t)
		lines := w.answering(t, dir)
		name := p.started(t, func(s *specs.Spec) {
			w.join(s)
			c := s.Process.Capabilities
			for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
				*set = append(*set, "CAP_NET_ADMIN")
			}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
		}, "sleep", "1000")
		for _, row := range lossRows {
			r := p.do(t, "exec", name, "sh", "-c", "PATH=/mnt:$PATH; "+row.script)
			if r.Out != row.want {
				t.Errorf("%s: %s\nwant %s", row.name, r, row.want)
			}
			// What is under way when the address goes is lost: the peer has to have read it all.
			if strings.Contains(row.want, "ends OK") && !t.Failed() {
				if s, err := lines.ReadString('\n'); err != nil || s != "half 4194304 OK\n" {
					t.Errorf("%s: the peer says %q, %v", row.name, s, err)
				}
			}
		}
	})
}

// TestAddressClash: somebody else on the cable claims a container's addresses. It defends them, as Linux does,
// and goes on when others believe the claim for a while.
func TestAddressClash(t *testing.T) {
	if os.Getenv("BULKHEAD_SLOW") == "" {
		t.Skip("looking for a clash takes Linux seconds: BULKHEAD_SLOW=1")
	}
	eachRuntime(t, func(t *testing.T, p *program) {
		w := newWire(t)
		name := p.started(t, func(s *specs.Spec) { w.join(s); mayPing(s) }, "sleep", "1000")
		beyond := func(want string, args ...string) {
			t.Helper()
			for limit := time.Now().Add(rig.Limit / 4); ; {
				out, err := w.beyond(args...).CombinedOutput()
				if strings.Contains(string(out), want) {
					return
				}
				if time.Now().After(limit) {
					t.Errorf("%q: %v: %s\nwant %s", args, err, out, want)
					return
				}
			}
		}
		reached := func(when string) {
			t.Helper()
			r := p.do(t, "exec", name, "sh", "-c", "ping -c 1 -W 5 10.77.0.1 | grep received; ping -c 1 -W 5 fd77::1 | grep received; ip -o address show dev eth0 | grep -c 'inet'")
			if r.Out != strings.Repeat("1 packets transmitted, 1 packets received, 0% packet loss\n", 2)+"2\n" {
				t.Errorf("%s: %s", when, r)
			}
		}
		reached("alone")
		// Who looks before it takes an address finds it taken.
		beyond("Received 1 resp", "busybox", "arping", "-D", "-c", "1", "-w", "5", "-I", "eth0", "10.77.0.2")
		out, err := w.beyond("ip", "address", "add", "fd77::2/64", "dev", "eth0").CombinedOutput()
		if err != nil {
			t.Fatalf("the same address: %v: %s", err, out)
		}
		beyond("dadfailed", "ip", "-6", "address", "show", "dev", "eth0")
		beyond("", "ip", "address", "del", "fd77::2/64", "dev", "eth0")
		reached("when somebody has asked for the addresses")
		// Who does not look has it as well, and says so to all.
		beyond("", "ip", "address", "add", "10.77.0.2/24", "dev", "eth0")
		beyond("Sent 2 prob", "busybox", "arping", "-U", "-c", "2", "-w", "5", "-I", "eth0", "10.77.0.2")
		r := p.do(t, "exec", name, "sh", "-c", "ping -c 1 -W 5 10.77.0.2 | grep received; ping -c 1 -W 5 fd77::1 | grep received; ip -o -4 address show dev eth0 | grep -c inet")
		if r.Out != strings.Repeat("1 packets transmitted, 1 packets received, 0% packet loss\n", 2)+"1\n" {
			t.Errorf("during the clash: %s", r)
		}
		beyond("", "ip", "address", "del", "10.77.0.2/24", "dev", "eth0")
		reached("after the clash")
		beyond("1 packets received", "busybox", "ping", "-c", "1", "-W", "5", "10.77.0.2")
	})
}
