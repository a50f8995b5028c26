package oci

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// reaches are what a container hears of others that refuse, that nobody reaches, that stop half-way; as
// Linux says it, which runc shows. How long it took is printed with -v: in seconds where
// a neighbour is asked for that there is not, else at once.
var reaches = []struct{ name, args, want string }{
	{"refused", "dial 10.77.0.1 9", "ECONNREFUSED"},
	{"refused, IPv6", "dial fd77::1 9", "ECONNREFUSED"},
	{"refused, UDP", "dial 10.77.0.1 9 udp", "ECONNREFUSED"},
	{"refused, UDP and IPv6", "dial fd77::1 9 udp", "ECONNREFUSED"},
	{"refused by itself", "dial 10.77.0.2 9", "ECONNREFUSED"},
	{"no such neighbour", "dial 10.77.0.200 9", "EHOSTUNREACH"},
	{"no such neighbour, IPv6", "dial fd77::200 9", "EHOSTUNREACH"},
	{"unreachable, says a router", "dial 198.51.100.7 9", "EHOSTUNREACH"},
	{"unreachable, says a router, UDP", "dial 198.51.100.7 9 udp 3", "EAGAIN"}, // udp_err: who did not ask by IP_RECVERR is not told
	{"unreachable, says a router, IPv6", "dial 2001:db8:1::7 9", "ENETUNREACH"},
	{"forbidden, says a router", "dial 203.0.113.7 9", "EHOSTUNREACH"},
	{"forbidden, says a router, UDP", "dial 203.0.113.7 9 udp", "EHOSTUNREACH"},
	{"forbidden, says a router, IPv6", "dial 2001:db8:2::7 9", "EACCES"},
	{"forbidden, says a router, IPv6 and UDP", "dial 2001:db8:2::7 9 udp", "EACCES"},
	{"no such neighbour of a router, IPv6", "dial 2001:db8:3::7 9", "EHOSTUNREACH"},
	{"no such neighbour of a router, to who asks", "told 198.18.0.201", "EHOSTUNREACH, by 10.77.0.1: 2 3 1, of 7 bytes"},
	{"unreachable, says a router, IPv6, to who asks", "told 2001:db8:1::7", "ENETUNREACH, by fd77::1: 3 1 0, of 7 bytes"},
	{"as far as one router, to who asks", "told 198.18.0.200 1", "EHOSTUNREACH, by 10.77.0.1: 2 11 0, of 7 bytes"},
	{"as far as one router, IPv6, to who asks", "told 2001:db8:4::7 1", "EHOSTUNREACH, by fd77::1: 3 3 0, of 7 bytes"},
	{"half-closed", "half 10.77.0.1", "hears 2000, reads 0, sends 4194304 OK, polls 2001, ends OK\nover 10"},
	{"reset", "reset 10.77.0.1", "hears 201d, reads ECONNRESET, then 0, writes EPIPE, peer ENOTCONN"},
	{"a peer that never reads", "full 10.77.0.1", "bounded, EAGAIN"},
}

// TestReach: connections that come to nothing, or not to all, do so as with Linux.
func TestReach(t *testing.T) {
	dir := reacher(t)
	eachRuntime(t, func(t *testing.T, p *program) {
		w := newWire(t)
		for _, line := range []string{"route add unreachable 198.51.100.0/24", "route add prohibit 203.0.113.0/24", "-6 route add unreachable 2001:db8:1::/48",
			"-6 route add prohibit 2001:db8:2::/48", "link add far type veth peer name farther", "link set farther addrgenmode none up", "link set far addrgenmode none up", "-6 address add 2001:db8:3::1/64 dev far nodad", "address add 198.18.0.1/24 dev far", "-6 route add 2001:db8:4::/48 dev far"} {
			if out, err := exec.Command("ip", append([]string{"-n", w.outside}, strings.Fields(line)...)...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %v: %s", line, err, out)
			}
		}
		if out, err := w.beyond("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; echo 0 >/proc/sys/net/ipv4/icmp_ratelimit; echo 0 >/proc/sys/net/ipv6/icmp/ratelimit").CombinedOutput(); err != nil {
			t.Fatalf("forward: %v: %s", err, out)
		}
		lines := w.answering(t, dir)
		name := p.started(t, func(s *specs.Spec) {
			w.join(s)
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
		}, "sleep", "1000")
		// All at once: some wait for seconds.
		var script strings.Builder
		for i, r := range reaches {
			script.WriteString("/mnt/reach " + r.args + " >/tmp/" + string(rune('a'+i)) + " &\n")
		}
		script.WriteString("wait; for f in /tmp/?; do cat $f; echo --; done\n")
		r := p.do(t, "exec", name, "sh", "-c", script.String())
		answers := strings.Split(r.Out, "\n--\n")
		for i, row := range reaches {
			if i >= len(answers) || answers[i] != row.want {
				t.Errorf("%s: %q, want %q", row.name, answers[min(i, len(answers)-1)], row.want)
			}
		}
		if s, err := lines.ReadString('\n'); err != nil || s != "half 4194304 OK\n" {
			t.Errorf("the peer that had said all says %q, %v", s, err)
		}
		t.Log(r.Err)
		if t.Failed() {
			t.Log(r)
		}
	})
}
