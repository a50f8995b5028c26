package inet

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestForward: a connection of the host's reaches who listens on the stack's loopback, with
// all that it carries, both ends, and the reset of either side; and leaves nothing.
func TestForward(t *testing.T) {
	n := newStack(t)
	outside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	// forward gives the far end of a connection that goes to a port of the stack's.
	forward := func(ctx context.Context, port int) (*net.TCPConn, <-chan error) {
		far, err := net.Dial("tcp", outside.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		near, err := outside.Accept()
		if err != nil {
			t.Fatal(err)
		}
		file, err := near.(*net.TCPConn).File()
		near.Close()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- n.Forward(ctx, uint16(port), file) }()
		return far.(*net.TCPConn), done
	}
	portOf := func(name []byte) int { return int(name[2])<<8 | int(name[3]) }

	data := bytes.Repeat([]byte("there and back "), 100_000)
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		l, name := listenOn(t, n, family)
		if family == unix.AF_INET6 { // 127.0.0.1 shall not have it
			l.Release()
			l = open(t, n, family, unix.SOCK_STREAM, 0)
			if err := l.SetOption(root, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, []byte{1, 0, 0, 0}); err != nil {
				t.Fatal(err)
			}
			if err := l.Bind(root, name); err != nil {
				t.Fatal(err)
			}
			if err := l.Listen(root, 1); err != nil {
				t.Fatal(err)
			}
		}
		far, done := forward(t.Context(), portOf(name))
		go func() {
			far.Write(data)
			far.CloseWrite()
		}()
		s := accept(t, l)
		go func() { // echoes, and says so when it has heard all
			io.Copy(s, s)
			s.Shutdown(root, unix.SHUT_WR)
		}()
		got, err := io.ReadAll(far)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("family %d: %d bytes back of %d, %v", family, len(got), len(data), err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		far.Close()
		s.Release()

		// Who goes away in the middle: the other side hears of it.
		far, done = forward(t.Context(), portOf(name))
		s = accept(t, l)
		far.Write([]byte("half a question"))
		far.SetLinger(0)
		far.Close()
		if _, err := io.ReadAll(s); err != nil && err != unix.ECONNRESET {
			t.Errorf("outside went away: inside reads %v", err)
		}
		s.Release()
		<-done
		far, done = forward(t.Context(), portOf(name))
		accept(t, l).Release()
		if b, err := io.ReadAll(far); len(b) > 0 {
			t.Errorf("inside went away: outside reads %q, %v", b, err)
		}
		far.Close()
		<-done
		l.Release()
	}

	far, done := forward(t.Context(), 1)
	if err := <-done; err != unix.ECONNREFUSED {
		t.Errorf("where nobody listens: %v, want %v", err, unix.ECONNREFUSED)
	}
	far.Close()

	l, name := listenOn(t, n, unix.AF_INET)
	ctx, cancel := context.WithCancel(t.Context())
	far, done = forward(ctx, portOf(name))
	s := accept(t, l)
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("when told to end: %v, want %v", err, context.Canceled)
	}
	s.Release()
	l.Release()
	far.Close()
	n.guests.Range(func(at, _ any) bool { t.Errorf("%v is left", at); return true })
	if len(n.links) != 0 || n.queued.Load() != 0 {
		t.Errorf("%d links and %d bytes are left", len(n.links), n.queued.Load())
	}
}
