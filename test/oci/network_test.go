package oci

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead/test/rig"
)

// wire is two network namespaces with a cable between them, of this test's own: inside is
// made ready for a container as engines do it, outside has what the container talks to.
type wire struct{ inside, outside string }

func newWire(t *testing.T) wire {
	t.Helper()
	return newWireOf(t, 1400)
}

// newWireOf makes one whose packets are of mtu bytes at the most.
func newWireOf(t *testing.T, mtu int) wire {
	t.Helper()
	rig.Need(t, "ip", "busybox")
	w := wire{"in-" + id(t), "out-" + id(t)}
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %q: %v: %s", args, err, out)
		}
	}
	for _, ns := range []string{w.inside, w.outside} {
		ip("netns", "add", ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "delete", ns).Run() })
		ip("-n", ns, "link", "set", "lo", "up")
	}
	ip("-n", w.outside, "link", "add", "eth0", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "eth0", "address", "02:00:00:00:00:02", "netns", w.inside)
	for i, ns := range []string{w.outside, w.inside} {
		// No address of the kernel's own making: it would be there at one time and not yet at another.
		ip("-n", ns, "link", "set", "eth0", "addrgenmode", "none")
		ip("-n", ns, "link", "set", "eth0", "mtu", strconv.Itoa(mtu), "up")
		ip("-n", ns, "address", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "broadcast", "10.77.0.255", "dev", "eth0")
		ip("-n", ns, "address", "add", fmt.Sprintf("fd77::%d/64", i+1), "dev", "eth0", "nodad")
	}
	ip("-n", w.inside, "route", "add", "default", "via", "10.77.0.1")
	ip("-n", w.inside, "route", "add", "default", "via", "fd77::1")
	ip("-n", w.inside, "route", "add", "192.0.2.0/24", "via", "10.77.0.9")
	return w
}

// join puts a container inside.
func (w wire) join(s *specs.Spec) {
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
			s.Linux.Namespaces[i].Path = "/var/run/netns/" + w.inside
		}
	}
}

func mayPing(s *specs.Spec) {
	c := s.Process.Capabilities
	for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
		*set = append(*set, "CAP_NET_RAW")
	}
}

// beyond is a command on the other side.
func (w wire) beyond(args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", w.outside}, args...)...)
}

// serve has busybox's web server serve dir there until the test ends.
func (w wire) serve(t *testing.T, dir string) {
	t.Helper()
	cmd := w.beyond("busybox", "httpd", "-f", "-p", "80", "-h", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for end := time.Now().Add(rig.Limit); time.Now().Before(end); { // it listens when somebody gets an answer
		if w.beyond("busybox", "wget", "-q", "-O", "/dev/null", "http://10.77.0.1/").Run() == nil {
			return
		}
	}
	t.Fatal("the server beyond does not answer")
}

// rows are what a container sees of its network and does with it.
var networkRows = []struct{ name, script, want string }{
	{"addresses", "ip -o addr show dev eth0 | sed 's/ *\\\\.*//; s/ flags 02//'", "2: eth0    inet 10.77.0.2/24 brd 10.77.0.255 scope global eth0\n2: eth0    inet6 fd77::2/64 scope global\n"},
	{"link", "ip link show dev eth0 | grep -o 'mtu [0-9]*\\|link/.*'; cat /proc/net/dev | grep -c eth0", "mtu 1400\nlink/ether 02:00:00:00:00:02 brd ff:ff:ff:ff:ff:ff\n1\n"},
	{"routes", "ip route; ip -6 route | sort", "default via 10.77.0.1 dev eth0 \n10.77.0.0/24 dev eth0 scope link  src 10.77.0.2 \n192.0.2.0/24 via 10.77.0.9 dev eth0 \n" +
		"default via fd77::1 dev eth0  metric 1024 \nfd77::/64 dev eth0  metric 256 \nmulticast ff00::/8 dev eth0  metric 256 \n"},
	{"route to an address", "ip route get 198.51.100.7 | head -1", "198.51.100.7 via 10.77.0.1 dev eth0  src 10.77.0.2 \n"},
	{"/proc/net/route", "sed 's/ *$//' /proc/net/route", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t01004D0A\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth0\t00004D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\neth0\t000200C0\t09004D0A\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"},
	{"ifconfig", "ifconfig eth0 | grep -o 'inet addr.*\\|HWaddr [0-9A-F:]*'", "HWaddr 02:00:00:00:00:02\ninet addr:10.77.0.2  Bcast:10.77.0.255  Mask:255.255.255.0\n"},
	{"ping", "ping -c 3 -i 0.2 10.77.0.1 | grep received; ping -c 3 -i 0.2 fd77::1 | grep received", strings.Repeat("3 packets transmitted, 3 packets received, 0% packet loss\n", 2)},
	{"ping in pieces", "ping -c 2 -i 0.2 -s 5000 10.77.0.1 | grep received; ping -c 1 -s 5000 10.77.0.2 | grep received; ping -c 1 -s 65000 10.77.0.1 | grep received", "2 packets transmitted, 2 packets received, 0% packet loss\n" + strings.Repeat("1 packets transmitted, 1 packets received, 0% packet loss\n", 2)},
	{"ping of itself", "ping -c 1 10.77.0.2 | grep received; ping -c 1 fd77::2 | grep received", strings.Repeat("1 packets transmitted, 1 packets received, 0% packet loss\n", 2)},
	{"groups", "tail -n +2 /proc/net/igmp; awk '{ print $2, $3, $4 }' /proc/net/igmp6; grep -c eth0 /proc/net/dev_mcast",
		"1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n2\teth0      :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n" +
			"lo ff020000000000000000000000000001 1\nlo ff010000000000000000000000000001 1\neth0 ff0200000000000000000001ff000002 1\n" +
			"eth0 ff020000000000000000000000000001 1\neth0 ff010000000000000000000000000001 1\n3\n"},
	{"neighbour", "ip neigh show 10.77.0.1 | cut -d' ' -f1-5; arp -n | grep -c 02:00:00:00:00:01", "10.77.0.1 dev eth0 lladdr 02:00:00:00:00:01\n1\n"},
	{"packet sockets", "arping -c 2 -I eth0 10.77.0.1 | grep -c 'Unicast reply from 10.77.0.1 .02:00:00:00:00:01'; wc -l </proc/net/packet", "2\n1\n"},
	{"download", "for i in 1 2 3; do wget -q -O - http://10.77.0.1/big | md5sum; wget -q -O - 'http://[fd77::1]/big' | md5sum; done", strings.Repeat("SUM  -\n", 6)},
	{"refused", "nc 10.77.0.1 9 </dev/null", "nc: can't connect to remote host (10.77.0.1): Connection refused\n"},
	{"no such host", "ping -c 1 -W 1 10.77.0.200 >/dev/null 2>&1; echo $?", "1\n"},
	{"a port of itself", "httpd -p 8080 -h /mnt; wget -q -O - http://10.77.0.2:8080/; wget -q -O - http://127.0.0.1:8080/", "beyond\nbeyond\n"},
}

// TestNetwork: a container has what was prepared in its network namespace, with each
// runtime alike, and is reached from there.
func TestNetwork(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		w := newWire(t)
		dir := t.TempDir()
		big := bytes.Repeat([]byte("a page that is not all the same 0123456789\n"), 200_000) // 8 MB
		for name, b := range map[string][]byte{"big": big, "index.html": []byte("beyond\n")} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		w.serve(t, dir)
		name := p.started(t, func(s *specs.Spec) {
			w.join(s)
			mayPing(s)
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
		}, "httpd", "-f", "-p", "80", "-h", "/mnt")
		const mark = "-- next --\n"
		var script strings.Builder
		for _, r := range networkRows {
			fmt.Fprintf(&script, "( %s ) 2>&1\necho '%s'\n", r.script, strings.TrimSpace(mark))
		}
		answers := strings.Split(p.do(t, "exec", name, "sh", "-c", script.String()).Out, mark)
		sum := fmt.Sprintf("%x", md5.Sum(big))
		for i, r := range networkRows {
			want := strings.ReplaceAll(r.want, "SUM", sum)
			if i >= len(answers) || answers[i] != want {
				t.Errorf("%s: %q\nwant %q", r.name, answers[min(i, len(answers)-1)], want)
			}
		}
		for _, to := range []string{"10.77.0.2", "[fd77::2]"} {
			out, err := w.beyond("busybox", "wget", "-q", "-O", "-", "http://"+to+"/big").Output()
			if err != nil || !bytes.Equal(out, big) {
				t.Errorf("download from %s: %d bytes, %v", to, len(out), err)
			}
		}
		// Whoever comes second has the same.
		if r := p.run(t, w.join, "sh", "-c", "ip -o -4 addr show dev eth0 | grep -o '10.77.0.2/24'; wget -q -O - http://127.0.0.1/"); r.Out != "10.77.0.2/24\nbeyond\n" {
			t.Errorf("a second container: %s", r)
		}
		if p.name != "runc" {
			alone := func(s *specs.Spec) {
				w.join(s)
				s.Annotations = map[string]string{"dev.bulkhead.network": "none"}
			}
			if r := p.run(t, alone, "ip", "-o", "-4", "addr"); !strings.Contains(r.Out, "127.0.0.1") || strings.Contains(r.Out, "eth0") {
				t.Errorf("a second container, without a network: %s", r)
			}
		}
		for _, to := range []string{"10.77.0.2", "fd77::2"} {
			if out, err := w.beyond("busybox", "ping", "-c", "2", "-i", "0.2", to).CombinedOutput(); err != nil {
				t.Errorf("ping %s: %v: %s", to, err, out)
			}
		}
		out, err := w.beyond("busybox", "nc", "10.77.0.2", "81").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "Connection refused") {
			t.Errorf("a port that nobody has: %v: %s", err, out)
		}
		if t.Failed() {
			t.Log(p.logged())
		}
	})
}

// TestCounters: what a container reads of its interface is what has passed the cable, and what its
// protocols count is there for netstat and nstat.
func TestCounters(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		w := newWire(t)
		name := p.started(t, func(s *specs.Spec) {
			w.join(s)
			mayPing(s)
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro", "nosuid", "noexec", "nodev"}})
		}, "sleep", "1000")
		// The other end's, which are the same the other way round.
		beyond := func() (c [4]int) {
			for i, file := range []string{"tx_packets", "tx_bytes", "rx_packets", "rx_bytes"} {
				out, err := w.beyond("cat", "/sys/class/net/eth0/statistics/"+file).Output()
				if err != nil {
					t.Fatal(err)
				}
				fmt.Sscan(string(out), &c[i])
			}
			return c
		}
		// Twice, from /sys and from /proc.
		inside := func() (c [8]int) {
			r := p.do(t, "exec", name, "sh", "-c", "cd /sys/class/net/eth0/statistics; cat rx_packets rx_bytes tx_packets tx_bytes; awk '$1 == \"eth0:\" { print $3; print $2; print $11; print $10 }' /proc/net/dev")
			words := strings.Fields(r.Out)
			if len(words) != len(c) {
				t.Fatalf("counters: %s", r)
			}
			for i, word := range words {
				c[i], _ = strconv.Atoi(word)
			}
			return c
		}
		// What passes by itself passes between any two of these.
		o1, i1, o2 := beyond(), inside(), beyond()
		p.do(t, "exec", name, "sh", "-c", "ping -c 5 -i 0.2 -s 1000 10.77.0.1; ping -c 2 -i 0.2 fd77::1; nc 10.77.0.1 9 </dev/null")
		o3, i2, o4 := beyond(), inside(), beyond()
		for i := range i1 {
			// The kernel of the host's own end of the cable inside sends reports of multicast groups,
			// which the container neither sent nor counts.
			slack := []int{3, 300}[i%2]
			if n, least, most := i2[i]-i1[i], o3[i%4]-o2[i%4], o4[i%4]-o1[i%4]; n < least-slack || n > most || n < 5 {
				t.Errorf("counter %d went from %d to %d, the other end's by %d to %d", i, i1[i], i2[i], least, most)
			}
		}
		if p.name != "runc" { // which knows of an interface only what its bundle says of the host's end
			counted(t, p, name, i2, inside)
		}
		snmp := p.do(t, "exec", name, "cat", "/proc/net/snmp", "/proc/net/snmp6", "/proc/net/netstat").Out
		column := func(row, field string) int {
			lines := strings.Split(snmp, "\n")
			for i, line := range lines {
				names := strings.Fields(line)
				if len(names) == 2 && names[0] == field {
					n, _ := strconv.Atoi(names[1])
					return n
				}
				if at := slices.Index(names, field); at > 0 && names[0] == row+":" && i+1 < len(lines) {
					n, _ := strconv.Atoi(strings.Fields(lines[i+1])[at])
					return n
				}
			}
			return -1
		}
		for _, c := range []struct {
			row, field string
			least      int
		}{{"Icmp", "OutEchos", 5}, {"Icmp", "InEchoReps", 5}, {"Icmp", "InMsgs", 5}, {"", "Icmp6OutEchos", 2}, {"", "Icmp6InEchoReplies", 2}, {"", "Ip6InReceives", 2},
			{"Ip", "InReceives", 6}, {"Tcp", "ActiveOpens", 1}, {"Tcp", "AttemptFails", 1}, {"IpExt", "InOctets", 5000}, {"TcpExt", "ListenDrops", 0}} {
			if n := column(c.row, c.field); n < c.least {
				t.Errorf("%s %s is %d", c.row, c.field, n)
			}
		}
	})
}

// counted: statistics and metrics have of a container's interface what the container reads of it,
// which it did before and will after.
func counted(t *testing.T, p *program, name string, before [8]int, inside func() [8]int) {
	t.Helper()
	type traffic struct {
		Name                                   string
		RxPackets, RxBytes, TxPackets, TxBytes int
	}
	var event struct {
		Data struct {
			Interfaces []traffic `json:"network_interfaces"`
		}
	}
	if err := json.Unmarshal([]byte(p.must(t, "events", "--stats", name)), &event); err != nil {
		t.Fatal(err)
	}
	page := p.must(t, "metrics", name)
	after := inside()
	if len(event.Data.Interfaces) != 1 || event.Data.Interfaces[0].Name != "eth0" {
		t.Fatalf("statistics have the interfaces %+v", event.Data.Interfaces)
	}
	i := event.Data.Interfaces[0]
	for at, n := range []int{i.RxPackets, i.RxBytes, i.TxPackets, i.TxBytes} {
		if n < before[at] || n > after[at] {
			t.Errorf("statistics: counter %d is %d, inside it was %d and then %d", at, n, before[at], after[at])
		}
		series := fmt.Sprintf(`bulkhead_network_%s_total{container="%s",interface="eth0",direction="%s"} `, []string{"packets", "bytes"}[at%2], name, []string{"received", "sent"}[at/2])
		_, value, _ := strings.Cut(page, series)
		value, _, _ = strings.Cut(value, "\n")
		if m, err := strconv.Atoi(value); err != nil || m < n || m > after[at] {
			t.Errorf("metrics: %s%q, statistics said %d, inside it was %d then", series, value, n, after[at])
		}
	}
}

// TestWebServer: nginx inside serves ten thousand short requests, a thousand connections at once and a
// GiB, without an error or a wrong byte.
func TestWebServer(t *testing.T) {
	if os.Getenv("BULKHEAD_SLOW") == "" {
		t.Skip("takes minutes: BULKHEAD_SLOW=1")
	}
	rig.Need(t, "nginx", "ab")
	eachRuntime(t, func(t *testing.T, p *program) {
		w := newWire(t)
		dir := t.TempDir()
		config := "daemon off; master_process off; user root; pid /tmp/nginx.pid; events { worker_connections 4096; }\n" +
			"http { access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;\n" +
			"server { listen 80 backlog=4096; root /srv; } }\n"
		for name, text := range map[string]string{"nginx.conf": config, "index.html": "a short page\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		big, err := os.Create(filepath.Join(dir, "big"))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.CopyN(io.MultiWriter(big, sum), rand.NewChaCha8([32]byte{1}), 1<<30); err != nil {
			t.Fatal(err)
		}
		big.Close()
		p.started(t, func(s *specs.Spec) {
			w.join(s)
			for _, host := range []string{"/usr", "/lib", "/lib64", "/etc"} {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: host, Type: "bind", Source: host, Options: []string{"rbind", "ro"}})
			}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/srv", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 8192, Soft: 8192}}
		}, "/usr/sbin/nginx", "-c", "/srv/nginx.conf", "-e", "stderr")
		const url = "http://10.77.0.2/"
		for tries := 0; w.beyond("busybox", "wget", "-q", "-O", "/dev/null", url).Run() != nil; tries++ {
			if tries == 200 {
				t.Fatalf("nginx does not answer: %s", p.logged())
			}
		}
		for _, args := range [][]string{{"-n", "10000", "-c", "50"}, {"-n", "10000", "-c", "1000", "-r"}, {"-k", "-n", "20000", "-c", "1000"}} {
			out, err := w.beyond(append([]string{"ab", "-q", "-s", "120"}, append(args, url)...)...).CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte("Failed requests:        0\n")) || bytes.Contains(out, []byte("Non-2xx")) {
				t.Errorf("ab %q: %v: %s", args, err, out)
			}
			t.Logf("ab %q: %s", args, regexp.MustCompile("Requests per second: *[0-9.]*").Find(out))
		}
		out, err := w.beyond("sh", "-c", "busybox wget -q -O - "+url+"big | sha256sum").Output()
		if want := fmt.Sprintf("%x  -\n", sum.Sum(nil)); err != nil || string(out) != want {
			t.Errorf("a GiB: %s, want %s: %v", out, want, err)
		}
	})
}

// TestTcpdumpInside: a capture that a container takes of its own interface, whole and filtered,
// has what passes, with each runtime alike. The program is this host's.
func TestTcpdumpInside(t *testing.T) {
	rig.Need(t, "tcpdump")
	eachRuntime(t, func(t *testing.T, p *program) {
		w := newWire(t)
		name := p.started(t, func(s *specs.Spec) {
			w.join(s)
			mayPing(s)
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: "/usr", Options: []string{"rbind", "ro"}})
		}, "sleep", "1000")
		// A capture has begun when tcpdump says so. The first echo asks for the neighbour's address.
		r := p.do(t, "exec", name, "sh", "-c", `
			dump() { /mnt/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path /mnt/lib/x86_64-linux-gnu /mnt/bin/tcpdump -Z root -n "$@"; }
			capture() { file=$1; shift; dump -i eth0 -w $file "$@" 2>$file.said & until grep -q "listening on eth0" $file.said; do kill -0 $! || { cat $file.said; exit; }; done; }
			ping -c 1 10.77.0.1 >/dev/null
			capture /tmp/filtered -c 2 icmp and dst host 10.77.0.1
			capture /tmp/all -c 8 'ip and (icmp or tcp port 9)'
			nc 10.77.0.1 9 </dev/null 2>/dev/null
			ping -c 3 -i 0.2 -s 100 10.77.0.1 >/dev/null
			wait
			for i in filtered all; do echo $i; dump -qtr /tmp/$i 2>/dev/null | sed 's/id [0-9]*/id N/; s/10.77.0.2.[0-9][0-9]*/10.77.0.2.PORT/'; done
			wc -l </proc/net/packet`)
		echo, answer := "IP 10.77.0.2 > 10.77.0.1: ICMP echo request, id N, seq %d, length 108\n", "IP 10.77.0.1 > 10.77.0.2: ICMP echo reply, id N, seq %d, length 108\n"
		want := "filtered\n" + fmt.Sprintf(echo+echo, 0, 1) + "all\nIP 10.77.0.2.PORT > 10.77.0.1.9: tcp 0\nIP 10.77.0.1.9 > 10.77.0.2.PORT: tcp 0\n" +
			fmt.Sprintf(echo+answer+echo+answer+echo+answer, 0, 0, 1, 1, 2, 2) + "1\n"
		if r.Out != want {
			t.Errorf("%s\nwant %s", r, want)
		}
	})
}

// changeRows are what a container with CAP_NET_ADMIN does to its own network, with this
// host's ip and with busybox's older programs, one upon the other.
var changeRows = []struct{ name, script, want string }{
	{"another address", "IP address add 10.77.0.50/24 dev eth0; IP -o -4 address show dev eth0 | cut -d'\\' -f1; ping -c 1 -I 10.77.0.50 10.77.0.1 | grep received",
		"2: eth0    inet 10.77.0.2/24 brd 10.77.0.255 scope global eth0\n2: eth0    inet 10.77.0.50/24 scope global secondary eth0\n1 packets transmitted, 1 packets received, 0% packet loss\n"},
	{"again", "IP address add 10.77.0.50/24 dev eth0 2>/dev/null || echo refused", "refused\n"},
	{"one of IPv6", "IP address add fd77::50/64 dev eth0 nodad; ping -c 1 -I fd77::50 fd77::1 | grep received", "1 packets transmitted, 1 packets received, 0% packet loss\n"},
	{"gone", "IP address del 10.77.0.50/24 dev eth0; IP address del fd77::50/64 dev eth0; IP address del 10.77.0.50/24 dev eth0 2>/dev/null || echo refused; IP -o address show dev eth0 | grep -c inet",
		"refused\n2\n"},
	{"routes", "IP route add 198.51.100.0/24 via 10.77.0.1; IP route add 203.0.113.0/24 dev eth0; IP route del 192.0.2.0/24; IP route; IP route get 198.51.100.5 | head -1",
		"default via 10.77.0.1 dev eth0 \n10.77.0.0/24 dev eth0 proto kernel scope link src 10.77.0.2 \n198.51.100.0/24 via 10.77.0.1 dev eth0 \n203.0.113.0/24 dev eth0 scope link \n" +
			"198.51.100.5 via 10.77.0.1 dev eth0 src 10.77.0.2 uid 0 \n"},
	{"no route", "IP route add 198.51.101.0/24 via 10.78.0.1 2>/dev/null || echo refused; IP route del 198.51.102.0/24; IP -6 route add fd99::/64 via fd78::1",
		"refused\nRTNETLINK answers: No such process\nRTNETLINK answers: No route to host\n"},
	{"no default", "IP route del default; ping -c 1 198.18.0.1; IP route add default via 10.77.0.1", "PING 198.18.0.1 (198.18.0.1): 56 data bytes\nping: sendto: Network is unreachable\n"},
	{"route of IPv6", "IP -6 route add fd99::/64 via fd77::1; IP -6 route show fd99::/64; IP -6 route del fd99::/64", "fd99::/64 via fd77::1 dev eth0 metric 1024 pref medium\n"},
	{"size of packets", "IP link set eth0 mtu 1300; IP link show eth0 | grep -o 'mtu [0-9]*'; ping -c 1 -s 1250 10.77.0.1 | grep received; IP link set eth0 mtu 60 2>/dev/null || echo refused; IP link set eth0 mtu 1400",
		"mtu 1300\n1 packets transmitted, 1 packets received, 0% packet loss\nrefused\n"},
	{"its Ethernet address", "IP link set eth0 address 02:00:00:00:00:77; IP link show eth0 | grep -o 'link/ether [0-9a-f:]*'; ping -c 1 10.77.0.1 | grep received; IP link set eth0 address 02:00:00:00:00:02",
		"link/ether 02:00:00:00:00:77\n1 packets transmitted, 1 packets received, 0% packet loss\n"},
	{"neighbours", "IP neigh add 10.77.0.99 lladdr 02:00:00:00:00:99 dev eth0; IP neigh show 10.77.0.99; IP neigh del 10.77.0.99 dev eth0; IP neigh show nud permanent; IP neigh del 10.77.0.98 dev eth0",
		"10.77.0.99 dev eth0 lladdr 02:00:00:00:00:99 PERMANENT \nRTNETLINK answers: No such file or directory\n"},
	{"ifconfig", "ifconfig eth0:1 10.77.0.60 netmask 255.255.255.0; ifconfig eth0:1 | grep -o 'inet addr.*'; ping -c 1 -I 10.77.0.60 10.77.0.1 | grep received; ifconfig eth0:1 down; IP -o -4 address show label eth0:1",
		"inet addr:10.77.0.60  Bcast:10.77.0.255  Mask:255.255.255.0\n1 packets transmitted, 1 packets received, 0% packet loss\n"},
	{"route", "route add -net 198.51.105.0 netmask 255.255.255.0 gw 10.77.0.1; route -n | grep 105; route del -net 198.51.105.0 netmask 255.255.255.0; route del -net 198.51.105.0 netmask 255.255.255.0",
		"198.51.105.0    10.77.0.1       255.255.255.0   UG    0      0        0 eth0\nroute: SIOCDELRT: No such process\n"},
	{"monitor", "$LD monitor address route >/tmp/heard & until awk 'NR > 1 && $3 > 0 && $4 != \"00000000\" { found = 1 } END { exit !found }' /proc/net/netlink; do :; done\n" +
		"IP address add 10.79.0.1/24 dev eth0; IP address del 10.79.0.1/24 dev eth0; until [ $(grep -c 10.79 /tmp/heard) -ge 8 ]; do :; done; kill $!; grep 10.79 /tmp/heard",
		"2: eth0    inet 10.79.0.1/24 scope global eth0\nlocal 10.79.0.1 dev eth0 table local proto kernel scope host src 10.79.0.1 \n10.79.0.0/24 dev eth0 proto kernel scope link src 10.79.0.1 \n" +
			"broadcast 10.79.0.255 dev eth0 table local proto kernel scope link src 10.79.0.1 \nDeleted 2: eth0    inet 10.79.0.1/24 scope global eth0\n" +
			"Deleted 10.79.0.0/24 dev eth0 proto kernel scope link src 10.79.0.1 \nDeleted broadcast 10.79.0.255 dev eth0 table local proto kernel scope link src 10.79.0.1 \n" +
			"Deleted local 10.79.0.1 dev eth0 table local proto kernel scope host src 10.79.0.1 \n"},
	{"in /sys", "cd /sys/class/net; ls; cat eth0/mtu eth0/address eth0/operstate eth0/carrier eth0/type eth0/flags eth0/addr_len eth0/duplex; [ $(cat eth0/statistics/rx_packets) -gt 0 ] && echo counted",
		"eth0\nlo\n1400\n02:00:00:00:00:02\nup\n1\n1\n0x1003\n6\nfull\ncounted\n"},
	{"down", "IP link set eth0 down; IP -o address show dev eth0 | cut -d'\\' -f1; IP route; ping -c 1 10.77.0.1", "2: eth0    inet 10.77.0.2/24 brd 10.77.0.255 scope global eth0\nPING 10.77.0.1 (10.77.0.1): 56 data bytes\nping: sendto: Network is unreachable\n"},
	{"up", "ifconfig eth0 up; IP route; until ping -c 1 -W 1 10.77.0.1 >/dev/null; do :; done; IP -o -6 address show dev eth0", "10.77.0.0/24 dev eth0 proto kernel scope link src 10.77.0.2 \n"},
	{"a new name", "IP link set eth0 down; IP link set eth0 name wire0; IP link set wire0 up; IP -o -4 address show | cut -d'\\' -f1; cat /proc/net/dev | grep -c wire0; IP link set wire0 down; IP link set wire0 name lo; IP link set wire0 name eth0; IP link set eth0 up",
		"1: lo    inet 127.0.0.1/8 scope host lo\n2: wire0    inet 10.77.0.2/24 brd 10.77.0.255 scope global wire0\n1\nRTNETLINK answers: File exists\n"},
}

// TestNetworkChanged: a container changes its own network as it would that of a network namespace under runc.
func TestNetworkChanged(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		w := newWire(t)
		host := func(admin bool) func(s *specs.Spec) {
			return func(s *specs.Spec) {
				w.join(s)
				mayPing(s)
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro", "nosuid", "noexec", "nodev"}})
				if admin {
					c := s.Process.Capabilities
					for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
						*set = append(*set, "CAP_NET_ADMIN")
					}
				}
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: "/usr", Options: []string{"rbind", "ro"}})
			}
		}
		const mark, tool = "-- next --\n", "LD='/mnt/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path /mnt/lib/x86_64-linux-gnu /mnt/bin/ip'\nIP() { $LD \"$@\"; }\n"
		if r := p.run(t, host(false), "sh", "-c", tool+"IP link set eth0 mtu 1300; IP address add 10.77.0.50/24 dev eth0; IP route del default; ifconfig eth0 down"); strings.Count(r.Err, "Operation not permitted") != 4 {
			t.Errorf("without CAP_NET_ADMIN: %s", r)
		}
		name := p.started(t, host(true), "sleep", "1000")
		script := tool
		for _, r := range changeRows {
			script += fmt.Sprintf("( %s ) 2>&1\necho '%s'\n", r.script, strings.TrimSpace(mark))
		}
		answers := strings.Split(p.do(t, "exec", name, "sh", "-c", script).Out, mark)
		for i, r := range changeRows {
			if i >= len(answers) || answers[i] != r.want {
				t.Errorf("%s: %q\nwant %q", r.name, answers[min(i, len(answers)-1)], r.want)
			}
		}
		out, err := w.beyond("busybox", "ping", "-c", "1", "10.77.0.2").CombinedOutput()
		if err != nil {
			t.Errorf("from beyond, after all: %v: %s", err, out)
		}
	})
}

// TestNetworkAgain: the network of a pod serves one container after another, as where one is
// started again, and goes back to its namespace with the pod; the pod gives its name as well.
func TestNetworkAgain(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		w := newWire(t)
		pause := p.started(t, func(s *specs.Spec) {
			w.join(s)
			s.Hostname = "the-pod"
			s.Annotations = map[string]string{"io.kubernetes.cri.container-type": "sandbox"}
		}, "sleep", "1000")
		names := fmt.Sprintf("/proc/%d/ns/uts", p.state(t, pause).Pid)
		for i := range 2 {
			r := p.run(t, func(s *specs.Spec) {
				w.join(s)
				mayPing(s)
				s.Hostname = ""
				for i := range s.Linux.Namespaces {
					if ns := &s.Linux.Namespaces[i]; ns.Type == specs.UTSNamespace {
						ns.Path = names
					}
				}
				s.Annotations = map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": pause}
			}, "sh", "-c", "hostname; ping -c 1 10.77.0.1 | grep received; ip -o addr show eth0 | grep -c inet; ip route; ip -6 route show default")
			want := "the-pod\n1 packets transmitted, 1 packets received, 0% packet loss\n2\ndefault via 10.77.0.1 dev eth0 \n" +
				"10.77.0.0/24 dev eth0 scope link  src 10.77.0.2 \n192.0.2.0/24 via 10.77.0.9 dev eth0 \ndefault via fd77::1 dev eth0  metric 1024 \n"
			if r.Out != want {
				t.Errorf("container %d: %s", i, r)
			}
		}
		if r := p.do(t, "delete", "--force", pause); r.Code != 0 {
			t.Errorf("delete the pod: %s", r)
		}
		// What the engine prepared is there when they have gone.
		out, err := exec.Command("ip", "-n", w.inside, "-o", "addr", "show", "dev", "eth0").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "10.77.0.2/24 brd 10.77.0.255") || !strings.Contains(string(out), "fd77::2/64") {
			t.Errorf("addresses afterwards: %s%v", out, err)
		}
	})
}

// TestUnrouted: an address that brings no route to its network, as CNI's ptp leaves it, has none
// inside, and what is not on the link goes by the gateway; afterwards it is as it was.
func TestUnrouted(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		w := newWire(t)
		for _, line := range []string{
			"address del 10.77.0.2/24 dev eth0", "address add 10.77.0.2/16 dev eth0 noprefixroute", "route add 10.77.0.1 dev eth0 scope link", "route add default via 10.77.0.1",
			"route add 10.77.0.0/16 via 10.77.0.1",
		} {
			if out, err := exec.Command("ip", append([]string{"-n", w.inside}, strings.Fields(line)...)...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %v: %s", line, err, out)
			}
		}
		if out, err := exec.Command("ip", "-n", w.outside, "address", "add", "10.77.9.9/32", "dev", "lo").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		routes := func() string {
			out, err := exec.Command("ip", "-n", w.inside, "route").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			return string(out)
		}
		before := routes()
		r := p.run(t, func(s *specs.Spec) { w.join(s); mayPing(s) }, "sh", "-c", "ip route; ping -c 1 10.77.9.9 | grep received")
		if want := "default via 10.77.0.1 dev eth0 \n10.77.0.0/16 via 10.77.0.1 dev eth0 \n10.77.0.1 dev eth0 scope link \n1 packets transmitted, 1 packets received, 0% packet loss\n"; r.Out != want {
			t.Errorf("inside: %s", r)
		}
		if after := routes(); after != before {
			t.Errorf("afterwards the routes are\n%sand were\n%s", after, before)
		}
	})
}

// TestHostNetwork: a sandbox has nothing of the host's network, and says so.
func TestHostNetwork(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		host := func(annotations map[string]string) func(s *specs.Spec) {
			return func(s *specs.Spec) {
				s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace })
				s.Annotations = annotations
			}
		}
		if r := p.run(t, host(nil), "true"); r.Code == 0 || !strings.Contains(r.Err, "the host's network is not to be had in a sandbox") {
			t.Errorf("the host's network: %s", r)
		}
		if r := p.run(t, host(map[string]string{"dev.bulkhead.network": "none"}), "ip", "-o", "-4", "addr"); strings.Count(r.Out, "\n") != 1 || !strings.Contains(r.Out, "127.0.0.1") {
			t.Errorf("none: %s", r)
		}
		if r := p.run(t, host(map[string]string{"dev.bulkhead.network": "any"}), "true"); r.Code == 0 {
			t.Errorf("nonsense: %s", r)
		}
	})
}

// TestNetworkFlaps: a container's interface goes down and comes up again, some times, and the
// container is reached as before; and when it is gone nothing else ends.
func TestNetworkFlaps(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		w := newWire(t)
		name := p.started(t, w.join, "sleep", "1000")
		reached := func() error {
			var out []byte
			var err error
			for range 20 { // the other end may take a second to notice that there is a carrier
				if out, err = w.beyond("busybox", "ping", "-c", "1", "-W", "1", "10.77.0.2").CombinedOutput(); err == nil {
					return nil
				}
			}
			return fmt.Errorf("%w: %s", err, out)
		}
		ip := func(args ...string) {
			t.Helper()
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				t.Fatalf("ip %q: %v: %s", args, err, out)
			}
		}
		if err := reached(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			ip("-n", w.inside, "link", "set", "eth0", "down")
			ip("-n", w.inside, "link", "set", "eth0", "up")
			if err := reached(); err != nil {
				t.Errorf("after down and up: %v", err)
			}
		}
		ip("-n", w.inside, "link", "del", "eth0")
		r := p.do(t, "exec", name, "sh", "-c", "nc 10.77.0.2 9 </dev/null 2>&1")
		if r.Out != "nc: can't connect to remote host (10.77.0.2): Connection refused\n" {
			t.Errorf("without its interface: %s", r)
		}
	})
}

// TestEgress: what a container sends is held back as its annotation says, and what that does not
// make sense of is told before anything runs.
func TestEgress(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		w := newWire(t)
		limited := func(words string) func(*specs.Spec) {
			return func(s *specs.Spec) {
				w.join(s)
				s.Annotations = map[string]string{"dev.bulkhead.network.egress": words}
			}
		}
		if r := p.run(t, limited("bytes=lots"), "true"); r.Code == 0 || !strings.Contains(r.Err, `annotation dev.bulkhead.network.egress: rate limit "bytes=lots"`) {
			t.Errorf("a limit that is none: %s", r)
		}
		// A MiB takes 17 minutes by one, and nearly nothing by the other.
		for _, row := range []struct {
			words string
			all   bool
		}{{"bytes=1K/s,burst=100K", false}, {"bytes=1G/s", true}} {
			name := p.started(t, limited(row.words), "sh", "-c", "head -c 1000000 /dev/zero >/tmp/zeroes; echo few >/tmp/few; exec httpd -f -p 80 -h /tmp")
			limit := "5"
			if row.all {
				limit = "60"
			}
			// It listens when the few bytes come that any limit lets through.
			out, err := w.beyond("sh", "-c", "timeout 60 sh -c 'until [ \"$(busybox wget -q -O - http://10.77.0.2/few)\" = few ]; do :; done'; timeout "+limit+" busybox wget -q -O - http://10.77.0.2/zeroes").Output()
			if row.all != (err == nil && len(out) == 1000000) || len(out) == 0 {
				t.Errorf("%s: %d bytes came, %v", row.words, len(out), err)
			}
			p.do(t, "delete", "--force", name)
		}
	})
}

// TestDoNetns: a command on the command line has the interfaces of a network namespace that it
// names, and gives them back.
func TestDoNetns(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		w := newWire(t)
		r := p.do(t, "do", "--netns="+w.inside, "busybox", "sh", "-c", "ip -o addr show eth0 | grep -o '10.77.0.2/24\\|fd77::2/64'; ping -c 1 10.77.0.1 | grep received")
		if r.Out != "10.77.0.2/24\nfd77::2/64\n1 packets transmitted, 1 packets received, 0% packet loss\n" {
			t.Errorf("inside: %s", r)
		}
		out, err := exec.Command("ip", "-n", w.inside, "-o", "addr", "show", "dev", "eth0").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "10.77.0.2/24 brd 10.77.0.255") || !strings.Contains(string(out), "fd77::2/64") {
			t.Errorf("addresses afterwards: %s%v", out, err)
		}
	})
}
