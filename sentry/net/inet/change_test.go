package inet

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
)

// wired is a stack with a device eth0, 10.0.0.2/24 and fd00::2/64, and the far end of its cable.
func wired(t testing.TB) (*Stack, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := New(true, nil)
	err = n.Attach([]Device{{Index: 2, Name: "eth0", Ethernet: net.HardwareAddr{2, 0, 0, 0, 0, 2}, MTU: 1400, FD: fds[0],
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("fd00::2/64")},
		Routes:    []DeviceRoute{{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.0.0.1")}}}})
	if err != nil {
		t.Fatal(err)
	}
	return n, fds[1]
}

// name4 is 10.0.0.last.
func name4(last byte, port int) []byte {
	b := loopbackName(unix.AF_INET, port)
	copy(b[4:], []byte{10, 0, 0, last})
	return b
}

// TestSourceAddress: what is sent from an address of a device goes out there, though the
// library has the address on loopback too.
func TestSourceAddress(t *testing.T) {
	n, _ := wired(t)
	if err := n.AddAddr(Asker{}, Addr{Link: 2, IP: []byte{10, 0, 0, 60}, Prefix: 24}, false); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		from := name4([]byte{2, 60}[i%2], 0)
		u, r, c := open(t, n, unix.AF_INET, unix.SOCK_DGRAM, 0), open(t, n, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP), open(t, n, unix.AF_INET, unix.SOCK_STREAM, 0)
		for _, s := range []end{u, r, c} {
			if err := s.Bind(root, from); err != nil {
				t.Fatal(err)
			}
		}
		for _, to := range [][]byte{name4(1, 9), name4(2, 9), loopbackName(unix.AF_INET, 9)} {
			for _, s := range []end{u, r} {
				if _, err := s.Send(root, &socket.Message{Data: memory.Buffers{[]byte("12345678")}, Name: to}, 0); err != nil && err != unix.ECONNREFUSED {
					t.Fatalf("from % x to % x: %v", from, to, err)
				}
			}
		}
		if err := c.Connect(root, name4(1, 9)); err != unix.EINPROGRESS {
			t.Fatalf("connect from % x: %v", from, err)
		}
		for _, s := range []end{u, r, c} {
			s.Release()
		}
	}
}
