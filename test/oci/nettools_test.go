package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead/test/rig"
)

// toolRows are what Debian's own tools say inside of a network that was prepared; runc's answers are the expected
// ones. What a script leaves out of an answer differs from one Linux to the next: the peer's
// number behind a name (eth0@if2), and what its kernel has beside (qdisc, group).
var toolRows = []struct{ name, script string }{
	{"ip addr", `ip addr | sed 's/@if[0-9]*//; s/ qdisc .*//; s/ link-netns.*//; s/ nodad//'`},
	{"ip -s link", `ip -s link show dev eth0 | sed 's/@if[0-9]*//; s/ qdisc .*//; s/ link-netns.*//' | grep -v '^ *[0-9]'`},
	{"ip -br", `ip -br addr | sed 's/@if[0-9]*/    /' | tr -s ' '; ip -br link | sed 's/@if[0-9]*/    /' | tr -s ' '`},
	{"ip -j", `ip -j addr show dev eth0 | tr ',' '\n' | grep -v 'link_netnsid\|"link_index"\|qdisc\|"group"\|txqlen\|"nodad"'`},
	{"ip route", `ip route; ip -6 route; ip route show table local; ip -6 route show table local | sort`},
	{"ip route get", `ip route get 198.51.100.7; ip route get 10.77.0.1; ip route get 127.0.0.1; ip -6 route get fd77::1 | sed 's/ metric.*//'; ip route get 10.77.0.2`},
	{"ip neigh", `ping -q -c 1 10.77.0.1 >/dev/null; ping -q -c 1 fd77::1 >/dev/null; ip neigh show | sed 's/REACHABLE\|DELAY\|STALE\|PROBE/known/; s/ router//' | grep '10.77.0.1 \|fd77::1 ' | sort`},
	{"ip maddr", `ip maddr`},
	{"ip netconf", `ip -4 rule; ip -6 rule`},
	{"ifconfig", `ifconfig -a | grep -v 'packets\|errors'`},
	{"route", `route -n; route -6 -n | grep fd77 | tr -s ' ' | cut -d' ' -f1-4 | sort`},
	{"arp", `arp -n 10.77.0.1`},
	{"netstat -g", `netstat -gn`},
	{"netstat -i", `netstat -i | cut -c1-16`},
	{"netstat -rn", `netstat -rn`},
	{"netstat -tanp", `netstat -tanp 2>&1 | sed 's/:[0-9]\{5\}/:PORT/; s/ [0-9]*\/[a-z]*/ NAME/' | tr -s ' ' | sort`},
	{"netstat -uanp", `netstat -uanp 2>&1 | tr -s ' ' | sed 's/ [0-9]*\/[a-z]*/ NAME/' | sort`},
	{"ss -tanp", `ss -tanp | sed 's/:[0-9]\{5\} /:PORT /; s/pid=[0-9]*/PID/; s/fd=[0-9]*/FD/' | tr -s ' ' | sort`},
	{"ss -s", `ss -s | head -1 | cut -d' ' -f1; ss -ltn | tr -s ' '`},
	{"ss filter", `ss -tn state established dst 10.77.0.1 | wc -l; ss -tln sport = :8081 | tail -1 | tr -s ' '; ss -xl | wc -l`},
	{"ping", `ping -q -c 2 -i 0.2 10.77.0.1 | grep transmitted | sed 's/time.*//'; ping -q -c 2 -i 0.2 fd77::1 | grep transmitted | sed 's/time.*//'`},
	{"ping beyond its time", `ping -n -c 1 -t 1 -W 4 198.18.0.7 | grep -o 'From.*'`},
	{"traceroute", `traceroute -n -q 1 -w 2 -m 3 198.18.0.1 | sed 's/  [0-9.]* ms//'; traceroute -n -q 1 -w 2 -m 3 fd88::1 | sed 's/  [0-9.]* ms//'; traceroute -n -I -q 1 -w 2 -m 3 10.77.0.1 | sed 's/  [0-9.]* ms//'`},
	{"curl", `curl -sS -m 10 -w '%{http_code} %{remote_ip} %{local_ip} %{size_download}\n' http://10.77.0.1/; curl -sS -m 10 -g -w '%{http_code} %{remote_ip}\n' 'http://[fd77::1]/'; curl -sS -m 10 http://10.77.0.1:9/ 2>&1 | sed 's/after [0-9]* ms/after T/'`},

	{"dig", `dig +time=1 +tries=1 @10.77.0.1 -p 9 beyond.test | grep -o 'connection refused' | head -1`},

	{"tcpdump", `tcpdump -Z root -n -i eth0 -c 2 icmp 2>/tmp/said >/tmp/frames & until grep -q listening /tmp/said; do :; done; ping -q -c 1 10.77.0.1 >/dev/null; wait; sed 's/^[0-9:.]* //; s/id [0-9]*/id N/' /tmp/frames; grep 'listening\|captured' /tmp/said`},
	{"tcpdump -e", `tcpdump -Z root -e -n -i eth0 -c 2 'tcp[tcpflags] & tcp-syn != 0 and port 80' 2>/tmp/said >/tmp/frames & until grep -q listening /tmp/said; do :; done; curl -s -m 10 -o /dev/null http://10.77.0.1/; wait; sed 's/^[0-9:.]* //; s/10.77.0.2.[0-9]*/10.77.0.2.PORT/; s/Flags \(\[[^]]*\]\).*/Flags \1/' /tmp/frames`},
	{"tcpdump -D", `tcpdump -D | grep -o 'eth0 \[Up, Running[^]]*\]\|lo \[Up, Running[^]]*\]'`},
	{"ethtool ioctls", `cat /sys/class/net/eth0/{address,mtu,operstate,carrier,type} 2>&1`},
}

// TestNetTools: Debian's tools see and do inside what they do in a container of runc's.
func TestNetTools(t *testing.T) {
	if os.Getenv("BULKHEAD_SLOW") == "" {
		t.Skip("takes half a minute, and packages that no other test needs (bind9-dnsutils, curl, iputils-ping, net-tools, traceroute): BULKHEAD_SLOW=1")
	}
	rig.Need(t, "ip", "ss", "netstat", "curl", "dig", "tcpdump", "ping", "traceroute", "runc")
	dir := t.TempDir()
	for name, text := range map[string]string{"index.html": "beyond\n", "names": "beyond.test 10.77.0.1\n", "resolv.conf": "nameserver 10.77.0.1\n", "hosts": "127.0.0.1 localhost\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	answers := map[string][]string{}
	eachRuntime(t, func(t *testing.T, p *program) {
		w := newWire(t)
		for _, line := range []string{"link add far type veth peer name farther", "link set farther addrgenmode none up", "link set far addrgenmode none up", "address add 198.18.0.1/24 dev far", "-6 address add fd88::1/64 dev far nodad"} {
			if out, err := w.beyond(append([]string{"ip"}, strings.Fields(line)...)...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %v: %s", line, err, out)
			}
		}
		if out, err := w.beyond("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; echo 0 >/proc/sys/net/ipv4/icmp_ratelimit; echo 0 >/proc/sys/net/ipv6/icmp/ratelimit").CombinedOutput(); err != nil {
			t.Fatalf("forward: %v: %s", err, out)
		}
		w.serve(t, dir)
		names := w.beyond("busybox", "dnsd", "-c", filepath.Join(dir, "names"), "-i", "10.77.0.1")
		if err := names.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { names.Process.Kill(); names.Wait() }()
		name := p.started(t, func(s *specs.Spec) {
			w.join(s)
			mayPing(s)
			c := s.Process.Capabilities
			for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
				*set = append(*set, "CAP_NET_ADMIN", "CAP_SYS_PTRACE") // who has a socket is told to who may look
			}
			s.Process.Env = []string{"PATH=/usr/bin:/usr/sbin", "HOME=/tmp"}
			for _, host := range []string{"/usr", "/bin", "/lib", "/lib64", "/etc"} {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: host, Type: "bind", Source: host, Options: []string{"rbind", "ro"}})
			}
			for _, file := range []string{"resolv.conf", "hosts"} {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc/" + file, Type: "bind", Source: filepath.Join(dir, file), Options: []string{"bind", "ro"}})
			}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro", "nosuid", "noexec", "nodev"}})
		}, "/usr/bin/busybox", "sh", "-c", "busybox nc -l -p 8081 >/dev/null & busybox nc 10.77.0.1 80 </dev/null & busybox udpsvd 0.0.0.0 8082 true & sleep 1000")
		const mark = "-- next --\n"
		var script strings.Builder
		for _, r := range toolRows {
			fmt.Fprintf(&script, "{ %s ; } 2>&1\necho '%s'\n", r.script, strings.TrimSpace(mark))
		}
		r := p.do(t, "exec", name, "/usr/bin/bash", "-c", script.String())
		answers[p.name] = strings.Split(r.Out, mark)
		if len(answers[p.name]) != len(toolRows)+1 {
			t.Fatalf("%d answers: %s\n%s", len(answers[p.name]), r, p.logged())
		}
	})
	for _, name := range rig.Platforms(t) {
		for i, row := range toolRows {
			if got, want := answers[name][i], answers["runc"][i]; got != want {
				t.Errorf("%s, %s:\n%s\nrunc:\n%s", name, row.name, got, want)
			}
		}
	}
}
