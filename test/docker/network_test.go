package docker

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"bulkhead/test/rig"
)

// withNetwork gives a daemon in a network namespace of its own, in which it may make
// bridges and translate addresses as it pleases, with the image box.
func withNetwork(t *testing.T) (d *daemon, beside func(args ...string) *exec.Cmd) {
	t.Helper()
	rig.NeedRoot(t)
	rig.Need(t, "dockerd", "docker", "runc", "busybox", "ip", "nsenter", "iptables")
	ns := fmt.Sprintf("docker-%s", strings.ToLower(rand.Text()[:8]))
	if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
		t.Fatalf("ip netns add: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "delete", ns).Run() })
	// Not ip netns exec, which gives a mount namespace as well: the daemon's mounts are
	// to be where its containers' runtimes find them.
	enter := []string{"nsenter", "--net=/var/run/netns/" + ns}
	beside = func(args ...string) *exec.Cmd { return exec.Command(enter[0], append(enter[1:], args...)...) }
	if out, err := beside("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("ip link: %v: %s", err, out)
	}
	if out, err := beside("iptables", "-t", "nat", "-L").CombinedOutput(); err != nil {
		t.Skipf("no translation of addresses here, without which docker has no networks (apt-get install iptables, and a kernel with nf_nat: modprobe nf_nat): %v: %s", err, out)
	}
	// Names that are not docker's are asked for where nobody answers, at once.
	d = launch(t, enter, "--bip=172.30.0.1/16", "--dns=172.30.0.1")
	t.Cleanup(func() {
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	})
	d.load(t, "box", busyboxTar(t))
	return d, beside
}

// networkScripts are run in a container of the networks one and two, where there is
// another, called peer, on one, with a web server.
var networkScripts = []struct{ name, script, want string }{
	// Sorted: which of its networks docker makes the interface of first is chance (a map of
	// Go's), and so is the order of the indices, after which they are listed.
	{"interfaces", "ip -o -4 addr | awk '{print $2}' | sort", "eth0\neth1\nlo\n"},
	{"default route", "ip route | grep -c ^default", "1\n"},
	{"name server", "grep nameserver /etc/resolv.conf", "nameserver 127.0.0.11\n"},
	{"by name", "wget -q -O - http://peer/passwd", "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n"},
	{"by alias", "wget -q -O - http://other/passwd | wc -l", "2\n"},
	{"by its own name", "wget -q -O - http://itself/passwd | wc -l", "2\n"},
	{"no such name", "wget -q -O - http://nobody.invalid/", "wget: bad address 'nobody.invalid'\n"},
	{"ping", "ping -c 1 -W 5 peer | grep -c '1 packets received'", "1\n"},
	{"a port of the server's address that it has not", "nc 127.0.0.11 81 </dev/null", "nc: can't connect to remote host (127.0.0.11): Connection refused\n"},
}

// TestNetworks: containers of docker's networks, their peer with runc and, when there is
// time (BULKHEAD_SLOW), with bulkhead; then runc's own, too.
func TestNetworks(t *testing.T) {
	d, beside := withNetwork(t)
	for _, name := range []string{"one", "two"} {
		d.must(t, "network", "create", name)
	}
	var ours []string
	for _, platform := range rig.Platforms(t) {
		ours = append(ours, "bulkhead-"+platform)
	}
	check := func(runtime string, others ...string) {
		for _, other := range others {
			t.Run(runtime+" and "+other, func(t *testing.T) { pair(t, d, beside, runtime, other) })
		}
		t.Run(runtime+" alone", func(t *testing.T) { apart(t, d, runtime) })
		t.Run(runtime+" joined", func(t *testing.T) { joined(t, d, runtime) })
		if runtime != "runc" {
			t.Run(runtime+" mixed", func(t *testing.T) { mixed(t, d, runtime) })
		}
	}
	for _, runtime := range ours {
		if check(runtime, "runc"); os.Getenv("BULKHEAD_SLOW") != "" {
			check(runtime, ours...)
		}
	}
	if os.Getenv("BULKHEAD_SLOW") != "" {
		check("runc", "runc") // whether the rows are right
	}
}

// sentMore is docker's word for some KB received, and 3 MB sent with their headers.
var sentMore = regexp.MustCompile(`^[0-9.]+kB / 3\.[0-9]+MB$`)

func pair(t *testing.T, d *daemon, beside func(...string) *exec.Cmd, runtime, other string) {
	d.detached(t, other, "--name", "peer", "--network", "one", "--network-alias", "other", "box", "httpd", "-f", "-p", "80", "-h", "/etc")
	made := d.must(t, "create", "--runtime="+runtime, "--name", "itself", "--network", "one", "-p", "8080:80", "box", "httpd", "-f", "-p", "80", "-h", "/etc")
	t.Cleanup(func() { d.do(t, "rm", "-f", made) })
	d.must(t, "network", "connect", "two", made)
	d.must(t, "start", made)
	const mark = "-- next --\n"
	var script strings.Builder
	for _, r := range networkScripts {
		fmt.Fprintf(&script, "( %s ) 2>&1\necho '%s'\n", r.script, strings.TrimSpace(mark))
	}
	answers := strings.Split(d.do(t, "exec", made, "sh", "-c", script.String()).Out, mark)
	for i, r := range networkScripts {
		if i >= len(answers) || answers[i] != r.want {
			t.Errorf("%s: %q, want %q", r.name, answers[min(i, len(answers)-1)], r.want)
		}
	}
	if out := d.must(t, "exec", "peer", "wget", "-q", "-O", "-", "http://itself/passwd"); !strings.HasPrefix(out, "root:") {
		t.Errorf("from the peer: %q", out)
	}
	// Docker reads the counters of the interfaces in the network namespace, which are there still.
	d.must(t, "exec", made, "sh", "-c", "head -c 3000000 /dev/zero >/etc/zeroes")
	d.must(t, "exec", "peer", "wget", "-q", "-O", "/dev/null", "http://itself/zeroes")
	if out := d.must(t, "stats", "--no-stream", "--format", "{{.NetIO}}", made); !sentMore.MatchString(out) {
		t.Errorf("docker stats says %s of 3 MB sent", out)
	}
	for _, at := range []string{"127.0.0.1", "172.30.0.1"} { // through docker-proxy, and by translation
		out, err := beside("busybox", "wget", "-q", "-O", "-", "http://"+at+":8080/passwd").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "root:") {
			t.Errorf("published port at %s: %v: %s", at, err, out)
		}
	}
}

// apart are the networks that are not docker's to make.
func apart(t *testing.T, d *daemon, runtime string) {
	run := func(args ...string) rig.Result {
		return d.do(t, append([]string{"run", "--rm", "--runtime=" + runtime}, args...)...)
	}
	if r := run("--network=none", "box", "ip", "-o", "-4", "addr"); strings.Count(r.Out, "\n") != 1 || !strings.Contains(r.Out, "127.0.0.1") {
		t.Errorf("none: %s", r)
	}
	if r := run("box", "sh", "-c", "ping -c 1 -W 5 172.30.0.1 | grep received"); r.Out != "1 packets transmitted, 1 packets received, 0% packet loss\n" {
		t.Errorf("bridge: %s", r)
	}
	host := run("--network=host", "box", "ip", "-o", "-4", "addr", "show", "docker0")
	if runtime == "runc" {
		if host.Code != 0 {
			t.Errorf("host: %s", host)
		}
		return
	}
	if host.Code == 0 || !strings.Contains(host.Err, "the host's network is not to be had in a sandbox") {
		t.Errorf("host: %s", host)
	}
}

// joined are containers that have another's network (--network=container:), and one that has
// the network of one of those.
func joined(t *testing.T, d *daemon, runtime string) {
	first := d.detached(t, runtime, "--memory=64m", "--pids-limit=20", "box", "httpd", "-f", "-p", "127.0.0.1:80", "-h", "/etc")
	second := d.detached(t, runtime, "--network=container:"+first, "--memory=96m", "box", "httpd", "-f", "-p", "127.0.0.1:81", "-h", "/bin")
	address := "ip -o -4 addr show dev eth0 | sed 's/ *\\\\.*//'; hostname"
	want := d.must(t, "exec", first, "sh", "-c", address)
	for _, at := range []string{first, second} {
		r := d.do(t, "run", "--rm", "--runtime="+runtime, "--network=container:"+at, "box", "sh", "-c", address+"; wget -q -O - http://127.0.0.1/passwd | wc -l; wget -q -O - http://127.0.0.1:81/busybox | head -c 4 | tail -c 3; ps | grep -c ' [h]ttpd -f'")
		if r.Out != want+"\n2\nELF0\n" {
			t.Errorf("in the network of %s: %s\nwant %q", at, r, want)
		}
	}
	// Each has its own limits, processes and pause.
	if out := d.must(t, "exec", second, "sh", "-c", "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes; head -c 80000000 /dev/zero | tail | wc -c"); out != "100663296\n80000000" {
		t.Errorf("80 MB in a container that has 96 MiB, with the network of one that has 64: %q", out)
	}
	d.must(t, "pause", first)
	if out := d.must(t, "exec", second, "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:81/busybox"); out != "" {
		t.Errorf("beside a paused container: %q", out)
	}
	d.must(t, "unpause", first)
	if out := d.must(t, "exec", second, "sh", "-c", "wget -q -O - http://127.0.0.1/passwd | wc -l"); out != "2" {
		t.Errorf("from one that was paused: %q", out)
	}
	d.must(t, "rm", "-f", first)
	if runtime != "runc" { // with which the namespace, and what is in it, outlives the container
		d.until(t, second, ".State.Status", "exited")
	}
	d.must(t, "rm", "-f", second)
}

// mixed is what comes of a network that containers with the Sentry and with runc are to share: a
// refusal, or an interface without an address and a loopback apart.
func mixed(t *testing.T, d *daemon, ours string) {
	other := d.detached(t, "runc", "box", "sleep", "1000")
	r := d.do(t, "run", "--rm", "--runtime="+ours, "--network=container:"+other, "box", "true")
	if r.Code == 0 || !strings.Contains(r.Err, "its network namespace is that of process ") || !strings.Contains(r.Err, "has its network for itself and its own containers") {
		t.Errorf("one of ours with runc's network: %s", r)
	}
	mine := d.detached(t, ours, "box", "httpd", "-f", "-p", "80", "-h", "/etc")
	r = d.do(t, "run", "--rm", "--runtime=runc", "--network=container:"+mine, "box", "sh", "-c", "ip -o -4 addr show dev eth0; wget -O - http://127.0.0.1/passwd")
	if r.Code == 0 || r.Out != "" || !strings.Contains(r.Err, "Connection refused") {
		t.Errorf("one of runc's with our network: %s", r)
	}
	if out := d.must(t, "exec", mine, "sh", "-c", "ping -c 1 -W 5 172.30.0.1 | grep -c '1 packets received'"); out != "1" {
		t.Errorf("ours after that: %q", out)
	}
}
