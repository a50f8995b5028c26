package inet

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"bulkhead/sentry/net/socket"
)

// TestErrorsWait: a socket that asks for errors keeps a few, and hears of more once it has read them.
func TestErrorsWait(t *testing.T) {
	n := newStack(t)
	s := open(t, n, unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err := s.SetOption(root, unix.SOL_IP, unix.IP_RECVERR, socket.Int(1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for range 3 * mostErrors {
			s.undelivered(s.ep, beyond, &tcpip.SockError{Err: beyond.err, Cause: cause{network: header.IPv4ProtocolNumber}, NetProto: header.IPv4ProtocolNumber,
				Dst: tcpip.FullAddress{Addr: loopback4}, Offender: tcpip.FullAddress{Addr: loopback4}})
		}
		waited := 0
		for ; ; waited++ {
			if _, err := s.receiveError(&socket.Message{}); err != nil {
				break
			}
		}
		if waited != mostErrors {
			t.Errorf("%d errors have waited, want %d", waited, mostErrors)
		}
	}
}

// TestGroups: the book of groups has those of sockets, as many as have joined, until they leave or end.
func TestGroups(t *testing.T) {
	n, _ := wired(t)
	rows := func(file, group string) (users []string) {
		b, _ := n.Proc(file)
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); strings.Contains(line, group) {
				users = append(users, f[len(f)-3])
			}
		}
		return users
	}
	request := func(last byte) []byte { return []byte{224, 0, 0, last, 0, 0, 0, 0, 2, 0, 0, 0} }
	a, b := open(t, n, unix.AF_INET, unix.SOCK_DGRAM, 0), open(t, n, unix.AF_INET, unix.SOCK_DGRAM, 0)
	for _, s := range []end{a, b} {
		for _, last := range []byte{1, 77} {
			if err := s.SetOption(root, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP, request(last)); err != nil {
				t.Fatal(err)
			}
		}
	}
	six := open(t, n, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	name := append([]byte{0: 0xff, 1: 2, 15: 0x4d}, binary.LittleEndian.AppendUint32(nil, 2)...)
	if err := six.SetOption(root, unix.SOL_IPV6, unix.IPV6_JOIN_GROUP, name); err != nil {
		t.Fatal(err)
	}
	check := func(when string, joined ...string) {
		t.Helper()
		for i, row := range []struct{ file, group string }{{"igmp", "4D0000E0"}, {"igmp", "010000E0"}, {"igmp6", "ff02000000000000000000000000004d"}} {
			if got := strings.Join(rows(row.file, row.group), " "); got != joined[i] {
				t.Errorf("%s, %s: users %q, want %q", when, row.group, got, joined[i])
			}
		}
	}
	check("two", "2", "1 3", "1")
	if err := a.SetOption(root, unix.SOL_IP, unix.IP_DROP_MEMBERSHIP, request(77)); err != nil {
		t.Fatal(err)
	}
	check("one", "1", "1 3", "1")
	b.Release()
	six.Release()
	check("none", "", "1 2", "")
	if b, _ := n.Proc("dev_mcast"); strings.Count(string(b), "eth0") != 3 {
		t.Errorf("the device listens for\n%s", b)
	}
	a.Release()
}
