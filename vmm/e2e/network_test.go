package e2e

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/hwtest/lab"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// bridge is a network of the lab's as an engine makes one: namespaces, each with an end
// of a cable whose other end is a bridge's port. The host is 10.77.0.1 there, and fd77::1.
type bridge struct {
	t *testing.T
	n int // namespaces
}

func newBridge(t *testing.T) *bridge {
	t.Helper()
	b := &bridge{t: t}
	b.ip("link", "add", "br0", "type", "bridge")
	b.ip("link", "set", "br0", "mtu", "9000", "up")
	b.ip("address", "add", "10.77.0.1/24", "dev", "br0")
	b.ip("address", "add", "fd77::1/64", "dev", "br0", "nodad")
	return b
}

func (b *bridge) ip(args ...string) {
	b.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		b.t.Fatalf("ip %q: %v: %s", args, err, out)
	}
}

// namespace makes the next one, with an address that ends in its number, and gives its name.
func (b *bridge) namespace(mtu string) string {
	b.t.Helper()
	b.n++
	name, end, last := fmt.Sprintf("ns%d", b.n), fmt.Sprintf("end%d", b.n), b.n+1
	b.ip("netns", "add", name)
	b.ip("-n", name, "link", "set", "lo", "up")
	b.ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "address", fmt.Sprintf("02:00:00:00:00:%02x", last), "netns", name)
	b.ip("link", "set", end, "mtu", mtu, "master", "br0", "up")
	// No address of the kernel's own making: it would be there at one time and not yet at another.
	b.ip("-n", name, "link", "set", "eth0", "addrgenmode", "none")
	b.ip("-n", name, "link", "set", "eth0", "mtu", mtu, "up")
	b.ip("-n", name, "address", "add", fmt.Sprintf("10.77.0.%d/24", last), "broadcast", "10.77.0.255", "dev", "eth0")
	b.ip("-n", name, "address", "add", fmt.Sprintf("fd77::%x/64", last), "dev", "eth0", "nodad")
	b.ip("-n", name, "route", "add", "default", "via", "10.77.0.1")
	b.ip("-n", name, "route", "add", "default", "via", "fd77::1")
	b.ip("-n", name, "route", "add", "192.0.2.0/24", "via", "10.77.0.9")
	return name
}

// networkScripts are what programs see of a network that was prepared for them, and do with
// it: in a machine as in the namespace itself.
var networkScripts = []struct{ name, script string }{
	{"addresses", "ip -o addr show dev eth0 | sed 's/^[0-9]*: //'"},
	{"link", "ip link show dev eth0 | grep -o 'mtu [0-9]*\\|link/ether [^ ]* brd [^ ]*'"},
	{"routes", "ip route; ip -6 route | sort"},
	{"route to an address", "ip route get 198.51.100.7 | head -1"},
	{"ping", "ping -c 3 -i 0.2 10.77.0.1 | grep received; ping -c 3 -i 0.2 fd77::1 | grep received"},
	{"large packets", "ping -c 1 -s 8000 10.77.0.1 | grep received; ping -c 1 -s 8000 fd77::1 | grep received"},
	{"neighbour", "ip neigh show 10.77.0.1 | cut -d' ' -f1-4"},
	{"download", "for i in 1 2; do wget -q -O - http://10.77.0.1/big | md5sum; wget -q -O - 'http://[fd77::1]/big' | md5sum; done"},
	{"refused", "nc 10.77.0.1 9 </dev/null"},
	{"nobody there", "ping -c 1 -W 1 10.77.0.200 >/dev/null; echo $?"},
	{"no way there", "ip route del 192.0.2.0/24; ip route add unreachable 192.0.2.0/24; nc 192.0.2.1 9 </dev/null"},
}

// answers runs all of them.
func answers(out string) []string { return strings.Split(out, mark) }

func networkScript() string {
	var all strings.Builder
	for _, s := range networkScripts {
		fmt.Fprintf(&all, "( %s ) 2>&1\necho -n '%s'\n", s.script, mark)
	}
	return all.String()
}

// TestContainerNetwork: what was prepared in a container's network namespace is its guest's,
// whether it boots or is a copy of one that did; machines, the Sentry and the host talk with
// each other.
func TestContainerNetwork(t *testing.T) {
	busy(t)
	runtimeProgram(t)
	if !inLinux(t, lab.Machine{Memory: 3072, HostRoot: true}) {
		return
	}
	b := newBridge(t)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	big := bytes.Repeat([]byte("a page that is not all the same 0123456789\n"), 100_000) // 4 MB
	must(t, os.WriteFile(filepath.Join(dir, "big"), big, 0o644))
	server := exec.Command("busybox", "httpd", "-f", "-p", "80", "-h", dir)
	must(t, server.Start())
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	want := []string(nil)
	boxes := []*struct {
		id, wall, mtu string
		c             *container
	}{{"one", "vm", "1500", nil}, {"two", "vm", "9000", nil}, {"three", "sentry", "1400", nil}}
	templates := t.TempDir()
	for _, x := range boxes {
		ns := b.namespace(x.mtu)
		if x.id == "two" {
			out, err := exec.Command("ip", "netns", "exec", ns, "busybox", "sh", "-c", networkScript()).CombinedOutput()
			must(t, err)
			want = answers(string(out))
			b.ip("-n", ns, "route", "del", "unreachable", "192.0.2.0/24")
			b.ip("-n", ns, "route", "add", "192.0.2.0/24", "via", "10.77.0.9")
		}
		x.c = box(t, "busybox httpd -f -p 80 -h /mnt")
		x.c.state = boxes[0].c.stateOr(x.c.state)
		for i := range x.c.spec.Linux.Namespaces {
			if x.c.spec.Linux.Namespaces[i].Type == specs.NetworkNamespace {
				x.c.spec.Linux.Namespaces[i].Path = "/run/netns/" + ns
			}
		}
		caps := x.c.spec.Process.Capabilities
		for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted} {
			*set = append(*set, "CAP_NET_RAW", "CAP_NET_ADMIN")
		}
		x.c.spec.Mounts = append(x.c.spec.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
		flags := []string{"--isolation", x.wall, "--log", filepath.Join(x.c.dir, "log")}
		if x.wall == "vm" {
			flags = append(flags, "--template", templates)
		}
		cmd := x.c.commandWith(flags, "run", "--detach", x.id)
		out, err := os.Create(filepath.Join(x.c.dir, "output"))
		must(t, err)
		cmd.Stdout, cmd.Stderr = out, out
		err = cmd.Run()
		out.Close()
		if err != nil {
			text, _ := os.ReadFile(out.Name())
			t.Fatalf("run %s: %v\n%s", x.id, err, text)
		}
		t.Cleanup(func() { finish(t, x.c.command(x.wall, "delete", "--force", x.id)) })
	}
	if made, _ := filepath.Glob(templates + "/*.template"); len(made) != 1 {
		t.Errorf("templates: %v", made)
	}
	log, _ := os.ReadFile(filepath.Join(boxes[1].c.dir, "log"))
	if !strings.Contains(string(log), "use=copied") {
		t.Errorf("the second machine is no copy:\n%s", log)
	}

	got := answers(finish(t, boxes[1].c.command("vm", "exec", "two", "busybox", "sh", "-c", networkScript())).out)
	for i, s := range networkScripts {
		if i >= len(got) || got[i] != want[i] {
			t.Errorf("%s: %q\nin the namespace itself: %q", s.name, got[min(i, len(got)-1)], want[i])
		}
	}
	sum := fmt.Sprintf("%x  -\n", md5.Sum(big))
	for i := range boxes {
		for _, from := range boxes {
			fetch := ""
			for _, a := range []string{fmt.Sprintf("10.77.0.%d", i+2), fmt.Sprintf("[fd77::%x]", i+2)} {
				fetch += fmt.Sprintf("busybox wget -q -O - 'http://%s/big' | busybox md5sum\n", a)
			}
			if got := finish(t, from.c.command(from.wall, "exec", from.id, "sh", "-c", fetch)); got.out != sum+sum {
				t.Errorf("%s (%s) fetches from %s (%s): %+v", from.id, from.wall, boxes[i].id, boxes[i].wall, got)
			}
			if from == boxes[0] {
				out, err := exec.Command("busybox", "sh", "-c", fetch).CombinedOutput()
				if err != nil || string(out) != sum+sum {
					t.Errorf("the host fetches from %s: %s, %v", boxes[i].id, out, err)
				}
			}
		}
	}
}

// stateOr is where the first container's state is, for all of a test.
func (c *container) stateOr(own string) string {
	if c == nil {
		return own
	}
	return c.state
}
