package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent/rpc"
)

// forwarder is a server whose host takes streams from what it returns.
func forwarder(t *testing.T) (*server, <-chan net.Conn) {
	t.Helper()
	streams := make(chan net.Conn, 1)
	return &server{forwards: map[rpc.StreamID]context.CancelFunc{}, dial: func(port uint32) (net.Conn, error) {
		if port != rpc.StreamsPort {
			t.Errorf("it calls port %d", port)
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		var ends [2]net.Conn
		for i, fd := range fds {
			f := os.NewFile(uintptr(fd), "stream")
			ends[i], err = net.FileConn(f)
			f.Close()
			if err != nil {
				return nil, err
			}
		}
		streams <- ends[0]
		return ends[1], nil
	}}, streams
}

// piece is one as Join has it on a stream; of nothing, the last.
func piece(text string) string { return string([]byte{0, 0, 0, byte(len(text))}) + text }

// TestForward: what the host says on the stream reaches who listens on either loopback, and
// the answer the host, both with their ends; and nothing of it stays.
func TestForward(t *testing.T) {
	for _, at := range []struct{ network, address string }{{"tcp4", "127.0.0.1:0"}, {"tcp6", "[::1]:0"}} {
		t.Run(at.network, func(t *testing.T) {
			l, err := net.Listen(at.network, at.address)
			if err != nil {
				t.Skipf("needs a loopback of %s: %v (for IPv6: sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.lo.disable_ipv6=0, on a kernel that was not booted with ipv6.disable=1)", at.network, err)
			}
			defer l.Close()
			s, streams := forwarder(t)
			id := rpc.NewStreamID()
			r := &rpc.ForwardRequest{Port: uint32(l.Addr().(*net.TCPAddr).Port), Stream: id[:]}
			_, err = s.Forward(t.Context(), r)
			must(t, err)
			stream := <-streams
			defer stream.Close()
			if got, err := rpc.ReadStreamID(stream); err != nil || got != id {
				t.Errorf("it is called %x, %v", got, err)
			}
			inside, err := l.Accept()
			must(t, err)
			defer inside.Close()
			_, err = io.WriteString(stream, piece("quest")+piece("ion")+piece(""))
			must(t, err)
			if b, err := io.ReadAll(inside); err != nil || string(b) != "question" {
				t.Errorf("inside %q is read, %v", b, err)
			}
			_, err = io.WriteString(inside, "answer")
			must(t, err)
			inside.Close()
			if b, err := io.ReadAll(stream); err != nil || string(b) != piece("answer")+piece("") {
				t.Errorf("outside %q is read, %v", b, err)
			}
			over(t, s)
		})
	}
}

// over waits until nothing is joined any more.
func over(t *testing.T, s *server) {
	t.Helper()
	for {
		s.mu.Lock()
		n := len(s.forwards)
		s.mu.Unlock()
		if n == 0 {
			return
		}
		runtime.Gosched()
	}
}

// TestForwardRefused: where nobody listens the host is told by errno, and no stream is opened.
func TestForwardRefused(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	nobody := uint32(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	id := rpc.NewStreamID()
	for _, row := range []struct {
		name string
		r    *rpc.ForwardRequest
		want error
	}{
		{"nobody listens", &rpc.ForwardRequest{Port: nobody, Stream: id[:]}, unix.ECONNREFUSED},
		{"no port", &rpc.ForwardRequest{Stream: id[:]}, unix.EINVAL},
		{"a port that is none", &rpc.ForwardRequest{Port: 1<<16 + nobody, Stream: id[:]}, unix.EINVAL},
		{"no stream", &rpc.ForwardRequest{Port: nobody}, unix.EINVAL},
	} {
		s, streams := forwarder(t)
		if _, err := s.Forward(t.Context(), row.r); !errors.Is(rpc.Refused(err), row.want) {
			t.Errorf("%s: %v, want %v", row.name, err, row.want)
		}
		if len(streams) != 0 || len(s.forwards) != 0 {
			t.Errorf("%s: %d streams, %d joined", row.name, len(streams), len(s.forwards))
		}
	}
}

// TestForwardPatience: who listens and accepts nobody is not waited for as long as Linux would.
func TestForwardPatience(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, unix.Listen(fd, 0))
	name, err := unix.Getsockname(fd)
	must(t, err)
	port := strconv.Itoa(name.(*unix.SockaddrInet4).Port)
	for range 16 { // the backlog has room for one
		conn, err := dialLoopback(t.Context(), port, 100*time.Millisecond)
		if err == nil {
			defer conn.Close()
			continue
		}
		if !errors.Is(err, unix.ETIMEDOUT) {
			t.Errorf("a full backlog: %v, want %v", err, unix.ETIMEDOUT)
		}
		return
	}
	t.Error("sixteen connections are in a backlog of none")
}

// TestSever: a program that takes nothing hears of the end that the stream cannot tell it of.
func TestSever(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	s, streams := forwarder(t)
	id := rpc.NewStreamID()
	_, err = s.Forward(t.Context(), &rpc.ForwardRequest{Port: uint32(l.Addr().(*net.TCPAddr).Port), Stream: id[:]})
	must(t, err)
	stream := <-streams
	defer stream.Close()
	_, err = rpc.ReadStreamID(stream)
	must(t, err)
	inside, err := l.Accept()
	must(t, err)
	defer inside.Close()
	full := make(chan struct{})
	go func() { // what nobody takes ends with the stream
		defer close(full)
		for b := make([]byte, 1<<20); ; {
			if _, err := stream.Write(append([]byte{0, 0x10, 0, 0}, b...)); err != nil {
				return
			}
		}
	}()
	other := rpc.NewStreamID()
	for _, name := range [][]byte{other[:], id[:], id[:]} {
		_, err := s.Sever(t.Context(), &rpc.SeverRequest{Stream: name})
		must(t, err)
	}
	<-full
	over(t, s)
	if _, err := io.Copy(io.Discard, inside); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("inside: %v", err)
	}
	if _, err := s.Sever(t.Context(), &rpc.SeverRequest{Stream: []byte("x")}); err == nil {
		t.Error("a name that is none was taken")
	}
}
