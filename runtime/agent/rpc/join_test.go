package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// tcp is a connection, as both ends have it.
func tcp(t *testing.T) (far, near *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// pair is a stream, as both ends have it.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return ends[0], ends[1]
}

// forwarded are the far ends of what goes the whole way: from a client by Join, a stream, and
// Join again to a server. tear is the second's.
func forwarded(t *testing.T, ctx context.Context) (client, server *net.TCPConn, tear func(), done [2]<-chan error) {
	t.Helper()
	client, outside := tcp(t)
	server, inside := tcp(t)
	a, b := pair(t)
	torn, tear := context.WithCancel(t.Context())
	t.Cleanup(tear)
	for i, join := range []func() error{
		func() error { return Join(ctx, outside, a) },
		func() error { return Join(torn, inside, b) },
	} {
		over := make(chan error, 1)
		done[i] = over
		go func() { over <- join() }()
	}
	return client, server, tear, done
}

// TestJoin: all that is said arrives, with its end, either of which may come first.
func TestJoin(t *testing.T) {
	data := bytes.Repeat([]byte("there and back "), 200_000) // more than all sockets hold
	say := func(c *net.TCPConn) {
		_, _ = c.Write(data) // which the other end counts
		_ = c.CloseWrite()
	}
	hear := func(t *testing.T, c *net.TCPConn) {
		t.Helper()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes of %d, %v", len(got), len(data), err)
		}
	}
	for _, row := range []struct {
		name string
		talk func(t *testing.T, client, server *net.TCPConn)
	}{
		{"at once", func(t *testing.T, client, server *net.TCPConn) {
			go say(client)
			go say(server)
			heard := make(chan struct{})
			go func() { defer close(heard); hear(t, client) }()
			hear(t, server)
			<-heard
		}},
		{"question and answer", func(t *testing.T, client, server *net.TCPConn) {
			go say(client)
			hear(t, server)
			go say(server)
			hear(t, client)
		}},
		{"the server first", func(t *testing.T, client, server *net.TCPConn) {
			go say(server)
			hear(t, client)
			go say(client)
			hear(t, server)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			client, server, _, done := forwarded(t, t.Context())
			row.talk(t, client, server)
			for i, d := range done {
				if err := <-d; err != nil {
					t.Errorf("end %d: %v", i, err)
				}
			}
		})
	}
}

// TestJoinTorn: whoever breaks off, all the others hear of it as of a reset, and nothing stays.
func TestJoinTorn(t *testing.T) {
	broke := func(c *net.TCPConn) {
		_ = c.SetLinger(0)
		c.Close()
	}
	// fill writes until nobody takes any more, which the end of the connection ends.
	fill := func(c *net.TCPConn) {
		go func() {
			for b := make([]byte, 1<<20); ; {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		}()
	}
	// half has one end say that it has said all, and the other hear that.
	half := func(t *testing.T, from, to *net.TCPConn) {
		t.Helper()
		_ = from.CloseWrite()
		if n, err := to.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
	type ends struct {
		client, server *net.TCPConn
		sever, end     func()
	}
	for _, row := range []struct {
		name  string
		broke func(t *testing.T, e ends)
		hears func(e ends) *net.TCPConn // nil: nobody is left
	}{
		{"client", func(t *testing.T, e ends) { broke(e.client) }, func(e ends) *net.TCPConn { return e.server }},
		{"server", func(t *testing.T, e ends) { broke(e.server) }, func(e ends) *net.TCPConn { return e.client }},
		{"client that has said all", func(t *testing.T, e ends) { half(t, e.client, e.server); broke(e.client) }, nil},
		{"server that has said all", func(t *testing.T, e ends) { half(t, e.server, e.client); broke(e.server) }, nil},
		{"severed", func(t *testing.T, e ends) { e.sever() }, func(e ends) *net.TCPConn { return e.client }},
		{"severed when the client has said all", func(t *testing.T, e ends) { half(t, e.client, e.server); e.sever() }, func(e ends) *net.TCPConn { return e.client }},
		{"severed before a server that takes nothing", func(t *testing.T, e ends) { fill(e.client); e.sever() }, nil},
		{"ended", func(t *testing.T, e ends) { e.end() }, func(e ends) *net.TCPConn { return e.server }},
	} {
		t.Run(row.name, func(t *testing.T) {
			ctx, end := context.WithCancel(t.Context())
			defer end()
			client, server, sever, done := forwarded(t, ctx)
			e := ends{client, server, sever, end}
			row.broke(t, e)
			for i, d := range done {
				if err := <-d; err == nil {
					t.Errorf("end %d heard of nothing", i)
				}
			}
			if row.hears == nil {
				return
			}
			if n, err := io.Copy(io.Discard, row.hears(e)); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
}

// TestJoinLastWords: what was said before a reset arrives before that.
func TestJoinLastWords(t *testing.T) {
	client, server, _, _ := forwarded(t, t.Context())
	_, _ = client.Write([]byte("more than it reads"))
	if _, err := server.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	_, _ = server.Write([]byte("enough"))
	server.Close() // with something unread, which is a reset
	got := make([]byte, 6)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "enough" {
		t.Errorf("%q, %v", got, err)
	}
}
