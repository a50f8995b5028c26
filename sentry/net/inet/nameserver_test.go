package inet

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
)

// echoServer answers each message with itself and "answered", by either protocol.
func echoServer(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	u, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(l.Addr().String())))
	if err != nil {
		t.Skipf("needs a port that is free for TCP and UDP, and the one that chance gave is not: run it again: %v", err)
	}
	t.Cleanup(func() { u.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := u.ReadFromUDP(b)
			if err != nil {
				return
			}
			u.WriteToUDP(append(b[:n:n], "answered"...), from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m, err := readName(c)
			if err == nil {
				m = append(m, "answered"...)
				binary.BigEndian.PutUint16(m, uint16(len(m)-2))
				c.Write(m)
			}
			c.Close()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

// withNames is a stack with a name server at 127.0.0.11:53, which is server.
func withNames(t *testing.T, server netip.AddrPort) *Stack {
	t.Helper()
	open := func(typ int) int {
		fd, err := unix.Socket(unix.AF_INET, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	d := NameServer{At: netip.MustParseAddrPort("127.0.0.11:53"), Server: server, Packets: open(unix.SOCK_DGRAM), Streams: []int{open(unix.SOCK_STREAM)}}
	if err := unix.Connect(d.Packets, &unix.SockaddrInet4{Addr: server.Addr().As4(), Port: int(server.Port())}); err != nil {
		t.Fatal(err)
	}
	n := newStack(t)
	if err := n.Relay(d); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.relay.packets.Close()
		unix.Close(d.Streams[0])
	})
	return n
}

func names() []byte { return []byte{unix.AF_INET, 0, 0, 53, 127, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0} }

// query is a message with an identification.
func query(id uint16, text string) []byte {
	return append(append(binary.BigEndian.AppendUint16(nil, id), make([]byte, nameHeader-2)...), text...)
}

func TestNameServer(t *testing.T) {
	n := withNames(t, echoServer(t))
	// A server of the program's own on all addresses does not stand in the way.
	own := open(t, n, unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err := own.Bind(root, []byte{unix.AF_INET, 0, 0, 53, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	// Two who ask with the same identification.
	var clients []end
	for range 2 {
		c := open(t, n, unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err := c.Connect(root, names()); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	for i, c := range clients {
		if _, err := c.Write(query(7, strings.Repeat("x", i))); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range clients {
		b := make([]byte, 100)
		k, err := c.Read(b)
		if want := string(query(7, strings.Repeat("x", i))) + "answered"; err != nil || string(b[:k]) != want {
			t.Errorf("client %d: %q, %v, want %q", i, b[:k], err, want)
		}
	}
	c := connectTo(t, n, names())
	for i := range 3 {
		m := query(uint16(i), "stream")
		c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
		reply, err := readName(c)
		if want := string(m) + "answered"; err != nil || string(reply[2:]) != want {
			t.Errorf("message %d: %q, %v, want %q", i, reply, err, want)
		}
	}
}

// TestNoNameServer: who cannot be asked is answered for.
func TestNoNameServer(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	n := withNames(t, netip.MustParseAddrPort(l.Addr().String()))
	c := connectTo(t, n, names())
	m := query(9, "")
	c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	if b, err := readName(c); err != nil || b[5]&15 != 2 {
		t.Errorf("%x, %v, want SERVFAIL", b, err)
	}
	c.Write([]byte{0, 3, 1, 2, 3}) // less than a header
	if _, err := c.Read(make([]byte, 1)); err != io.EOF && err != unix.ECONNRESET {
		t.Errorf("after garbage: %v, want an end", err)
	}
	// Any other port of the address is nobody's.
	d := open(t, n, unix.AF_INET, unix.SOCK_STREAM, 0)
	name := names()
	name[3] = 54
	if err := d.Connect(root, name); err != unix.EINPROGRESS {
		t.Fatal(err)
	}
	if err := d.wait(-1&0xffff, d.Connected); err != unix.ECONNREFUSED {
		t.Errorf("port 54: %v, want ECONNREFUSED", err)
	}
	// Garbage by datagram is not passed on, and harms nobody.
	u := open(t, n, unix.AF_INET, unix.SOCK_DGRAM, 0)
	for size := range nameHeader {
		if _, err := u.Send(root, &socket.Message{Data: memory.Buffers{make([]byte, size)}, Name: names()}, 0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint16(3 * mostAsked) {
		n.relay.answer(query(i, "")) // that nobody asked for
	}
}
