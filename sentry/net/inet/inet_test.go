package inet

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// caller is a task without anything but its rights.
type caller struct{ vfs.Context }

func (caller) PID() int32            { return 7 }
func (caller) FS() *kernel.FSContext { return nil }

var root = caller{vfs.SentryContext()}

// end makes blocking calls of a socket's.
type end struct {
	*Socket
	t testing.TB
}

func (e end) wait(mask vfs.Events, try func() error) error {
	c := make(chan struct{}, 1)
	w := vfs.NewWaiter(mask, c)
	e.Socket.Queue().Add(w)
	defer e.Socket.Queue().Remove(w)
	for {
		if err := try(); err != unix.EAGAIN {
			return err
		}
		select {
		case <-c:
		case <-e.t.Context().Done():
			return e.t.Context().Err()
		}
	}
}

func (e end) Read(b []byte) (n int, err error) {
	err = e.wait(vfs.EventIn, func() (err error) {
		n, err = e.Receive(root, &socket.Message{Data: memory.Buffers{b}}, 0)
		return err
	})
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (e end) Write(b []byte) (done int, err error) {
	for done < len(b) && err == nil {
		err = e.wait(vfs.EventOut, func() error {
			n, err := e.Send(root, &socket.Message{Data: memory.Buffers{b[done:]}}, 0)
			done += n
			return err
		})
	}
	return done, err
}

func newStack(t testing.TB) *Stack {
	n := New(true, nil)
	t.Cleanup(n.Release)
	return n
}

func open(t testing.TB, n *Stack, family, typ, protocol int) end {
	t.Helper()
	s, err := n.Socket(root, family, typ, protocol)
	if err != nil {
		t.Fatal(err)
	}
	return end{s, t}
}

func loopbackName(family, port int) []byte {
	if family == unix.AF_INET {
		return []byte{unix.AF_INET, 0, byte(port >> 8), byte(port), 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}
	}
	b := make([]byte, size6)
	b[0], b[2], b[3], b[23] = unix.AF_INET6, byte(port>>8), byte(port), 1
	return b
}

func listenOn(t testing.TB, n *Stack, family int) (end, []byte) {
	t.Helper()
	l := open(t, n, family, unix.SOCK_STREAM, 0)
	if err := l.Bind(root, loopbackName(family, 0)); err != nil {
		t.Fatal(err)
	}
	if err := l.Listen(root, 100); err != nil {
		t.Fatal(err)
	}
	name, _ := l.Name()
	return l, name
}

func connectTo(t testing.TB, n *Stack, name []byte) end {
	t.Helper()
	c := open(t, n, familyOf(name), unix.SOCK_STREAM, 0)
	err := c.Connect(root, name)
	if err == unix.EINPROGRESS {
		err = c.wait(vfs.EventOut, c.Connected)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func accept(t testing.TB, l end) end {
	t.Helper()
	var s socket.Socket
	err := l.wait(vfs.EventIn, func() (err error) { s, err = l.Accept(root, 0); return err })
	if err != nil {
		t.Fatal(err)
	}
	return end{s.(*Socket), t}
}

// TestHammer has many connections carry much at once, in both directions, and
// looks whether anything is left of them.
func TestHammer(t *testing.T) {
	n := newStack(t)
	l, name := listenOn(t, n, unix.AF_INET6)
	const conns, size = 20, 1 << 20
	var wait sync.WaitGroup
	for i := range conns {
		wait.Go(func() {
			c := connectTo(t, n, name)
			defer c.Release()
			data := bytes.Repeat([]byte{byte(i), byte(i >> 8), 'x'}, size/3)
			wait.Go(func() {
				c.Write(data)
				c.Shutdown(root, unix.SHUT_WR)
			})
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("connection %d: %d bytes back of %d, %v", i, len(got), len(data), err)
			}
		})
		wait.Go(func() {
			s := accept(t, l)
			defer s.Release()
			if _, err := io.Copy(s, s); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	l.Release()
	if left := len(n.Sockets()); left != 0 {
		t.Errorf("%d sockets are left", left)
	}
	if left := len(n.links); left != 0 {
		t.Errorf("%d links are left", left)
	}
	if left := n.queued.Load(); left != 0 {
		t.Errorf("%d bytes are left", left)
	}
}

// TestNotAccepted ends listeners with connections that nobody took.
func TestNotAccepted(t *testing.T) {
	n := newStack(t)
	for range 50 {
		l, name := listenOn(t, n, unix.AF_INET)
		c := connectTo(t, n, name)
		c.Write([]byte("never read"))
		l.Release()
		if _, err := c.Read(make([]byte, 1)); err != unix.ECONNRESET {
			t.Fatalf("a connection not accepted: %v, want %v", err, unix.ECONNRESET)
		}
		c.Release()
	}
	if len(n.links) != 0 || n.queued.Load() != 0 {
		t.Errorf("%d links and %d bytes are left", len(n.links), n.queued.Load())
	}
}

// TestPressure fills sockets until the stack is under pressure: it holds a bound,
// and those who wait go on when it is over.
func TestPressure(t *testing.T) {
	n := newStack(t)
	l, name := listenOn(t, n, unix.AF_INET)
	var cs, ss []end
	for range 40 {
		c := connectTo(t, n, name)
		cs, ss = append(cs, c), append(ss, accept(t, l))
		big := make([]byte, 8<<20)
		for {
			if _, err := c.Send(root, &socket.Message{Data: memory.Buffers{big}}, 0); err != nil {
				break
			}
		}
	}
	if held := n.queued.Load(); held > plenty+4<<20 {
		t.Errorf("%d bytes are held, more than %d", held, plenty)
	}
	var wait sync.WaitGroup
	for i := range cs {
		wait.Go(func() {
			if _, err := cs[i].Write(make([]byte, 100<<10)); err != nil {
				t.Error(err)
			}
			cs[i].Shutdown(root, unix.SHUT_WR)
		})
		wait.Go(func() { io.Copy(io.Discard, ss[i]) })
	}
	wait.Wait()
	for i := range cs {
		cs[i].Release()
		ss[i].Release()
	}
	l.Release()
	if held := n.queued.Load(); held != 0 {
		t.Errorf("%d bytes are left", held)
	}
}

func TestDown(t *testing.T) {
	n := New(false, nil)
	t.Cleanup(n.Release)
	c := open(t, n, unix.AF_INET, unix.SOCK_STREAM, 0)
	defer c.Release()
	if err := c.Connect(root, loopbackName(unix.AF_INET, 9)); err != unix.ENETUNREACH {
		t.Errorf("with the device down: %v, want %v", err, unix.ENETUNREACH)
	}
	up := true
	if err := n.ChangeLink(Loopback, LinkChange{Up: &up}); err != nil {
		t.Fatal(err)
	}
	err := c.Connect(root, loopbackName(unix.AF_INET, 9))
	if err == unix.EINPROGRESS {
		err = c.wait(vfs.EventOut, c.Connected)
	}
	if err != unix.ECONNREFUSED {
		t.Errorf("with the device up: %v, want %v", err, unix.ECONNREFUSED)
	}
}

func TestSysctl(t *testing.T) {
	n := New(true, nil)
	for _, row := range []struct {
		path, value, now string
		err              error
	}{
		{"net/ipv4/ip_local_port_range", "40000 40010", "40000\t40010", nil},
		{"net/ipv4/ip_local_port_range", "5 4", "40000\t40010", unix.EINVAL},
		{"net/ipv4/ip_local_port_range", "1 2 3", "40000\t40010", unix.EINVAL},
		{"net/ipv4/ping_group_range", "0 2147483647", "0\t2147483647", nil},
		{"net/ipv4/ip_unprivileged_port_start", "0", "0", nil},
		{"net/ipv4/ip_unprivileged_port_start", "70000", "0", unix.EINVAL},
		{"net/ipv4/ip_unprivileged_port_start", "-1", "0", unix.EINVAL},
		{"net/ipv4/tcp_sack", "1", "", unix.EINVAL},
	} {
		err := n.SetSysctl(row.path, row.value)
		if now, _ := n.Sysctl(row.path); err != row.err || now != row.now {
			t.Errorf("%s = %s: %v, now %q; want %v, %q", row.path, row.value, err, now, row.err, row.now)
		}
	}
}

// TestProc writes every file with sockets of all kinds open.
func TestProc(t *testing.T) {
	n := newStack(t)
	l, name := listenOn(t, n, unix.AF_INET)
	c := connectTo(t, n, name)
	u := open(t, n, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	if err := u.Bind(root, loopbackName(unix.AF_INET6, 0)); err != nil {
		t.Fatal(err)
	}
	r := open(t, n, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	for name, rows := range map[string]int{"tcp": 3, "tcp6": 0, "udp": 0, "udp6": 1, "raw": 1} {
		b, ok := n.Proc(name)
		if lines := strings.Count(string(b), "\n"); !ok || lines != rows+1 {
			t.Errorf("%s: %v, %d lines, want %d\n%s", name, ok, lines, rows+1, b)
		}
	}
	if _, ok := n.Proc("wireless"); ok {
		t.Error("wireless is not ours")
	}
	for _, e := range []end{l, c, u, r} {
		e.Release()
	}
}

func FuzzName(f *testing.F) {
	f.Add(loopbackName(unix.AF_INET, 80))
	f.Add(loopbackName(unix.AF_INET6, 80))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			a, err := parseName(b, family)
			if err != nil {
				continue
			}
			again, err := parseName(sockaddr(a, family), family)
			if err != nil || again != a {
				t.Errorf("%x: %v, then %v %v", b, a, again, err)
			}
		}
	})
}

// FuzzOptions sets options and sends messages of rubbish: whatever the answer, the
// socket goes on.
func FuzzOptions(f *testing.F) {
	f.Add(uint8(0), uint16(unix.SOL_TCP), uint16(unix.TCP_NODELAY), []byte{1, 0, 0, 0})
	f.Add(uint8(1), uint16(unix.SOL_IP), uint16(unix.IP_ADD_MEMBERSHIP), []byte{239, 1, 1, 1, 127, 0, 0, 1})
	f.Add(uint8(3), uint16(unix.SOL_IPV6), uint16(unix.IPV6_PKTINFO), make([]byte, 20))
	n := New(true, nil)
	f.Cleanup(n.Release)
	kinds := []struct{ family, typ, protocol int }{
		{unix.AF_INET, unix.SOCK_STREAM, 0}, {unix.AF_INET, unix.SOCK_DGRAM, 0}, {unix.AF_INET6, unix.SOCK_STREAM, 0},
		{unix.AF_INET6, unix.SOCK_DGRAM, 0}, {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, {unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6},
	}
	f.Fuzz(func(t *testing.T, kind uint8, level, name uint16, b []byte) {
		k := kinds[int(kind)%len(kinds)]
		s, err := n.Socket(root, k.family, k.typ, k.protocol)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Release()
		s.SetOption(root, int(level), int(name), b)
		s.GetOption(root, int(level), int(name), len(b))
		m := socket.Message{Data: memory.Buffers{b}, Name: loopbackName(k.family, 9),
			Control: socket.Control{Other: []socket.ControlMessage{{Level: int32(level), Type: int32(name), Data: b}}}}
		s.Send(root, &m, 0)
		s.Receive(root, &socket.Message{Data: memory.Buffers{make([]byte, 10)}}, unix.MSG_ERRQUEUE)
		s.Connect(root, b)
		s.Bind(root, b)
		s.Ready(vfs.EventIn)
	})
}

func BenchmarkStream(b *testing.B) {
	for _, size := range []int{1, 4096, 65536} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			n := newStack(b)
			l, name := listenOn(b, n, unix.AF_INET)
			c := connectTo(b, n, name)
			s := accept(b, l)
			buf := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				c.Write(buf)
				io.ReadFull(s, buf)
			}
		})
	}
}

func BenchmarkDatagram(b *testing.B) {
	n := newStack(b)
	u := open(b, n, unix.AF_INET, unix.SOCK_DGRAM, 0)
	u.Bind(root, loopbackName(unix.AF_INET, 0))
	name, _ := u.Name()
	buf := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		u.Send(root, &socket.Message{Data: memory.Buffers{buf}, Name: name}, 0)
		u.Read(buf)
	}
}

func BenchmarkConnection(b *testing.B) {
	n := newStack(b)
	l, name := listenOn(b, n, unix.AF_INET)
	b.ReportAllocs()
	for b.Loop() {
		c := connectTo(b, n, name)
		accept(b, l).Release()
		c.Release()
	}
}
