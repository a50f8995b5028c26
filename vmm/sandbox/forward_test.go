package sandbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/agent/rpc"

	"golang.org/x/sys/unix"
)

// listening is a guest's init that joins streams with connections to a program.
type listening struct {
	liar
	refusal error
	streams []rpc.StreamID // to open instead of the one that is asked for
	program chan *net.TCPConn
	severed chan rpc.StreamID
}

func (g *listening) Forward(_ context.Context, r *rpc.ForwardRequest) (*rpc.ForwardResponse, error) {
	if g.refusal != nil {
		return nil, rpc.Refuse(g.refusal)
	}
	id, _, err := rpc.ParseStreamID(r.Stream)
	if err != nil {
		return nil, err
	}
	ids := g.streams
	if ids == nil {
		ids = []rpc.StreamID{id}
	}
	for _, id := range ids {
		stream, err := g.lines.dial(context.Background(), rpc.StreamsPort)
		if err != nil {
			return nil, err
		}
		if _, err := stream.Write(id[:]); err != nil {
			return nil, err
		}
		inside, program, err := tcp()
		if err != nil {
			return nil, err
		}
		g.program <- program
		go func() { _ = rpc.Join(context.Background(), inside, stream) }() // its ends see how it ends
	}
	return &rpc.ForwardResponse{}, nil
}

func (g *listening) Sever(_ context.Context, r *rpc.SeverRequest) (*rpc.SeverResponse, error) {
	id, _, err := rpc.ParseStreamID(r.Stream)
	g.severed <- id
	return &rpc.SeverResponse{}, err
}

// tcp is a connection, as both ends have it.
func tcp() (a, b *net.TCPConn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	x, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	y, err := l.Accept()
	if err != nil {
		x.Close()
		return nil, nil, err
	}
	return x.(*net.TCPConn), y.(*net.TCPConn), nil
}

// forwarding is a sandbox with that guest, and a client's connection that is on its way into it.
func forwarding(t *testing.T, g *listening) (s *sandbox, client *net.TCPConn, done <-chan error, hangUp func()) {
	t.Helper()
	rpc.Silence()
	g.program, g.severed = make(chan *net.TCPConn, 1), make(chan rpc.StreamID, 1)
	s = hosting(t, bootPatience)
	g.lines = s.lines
	if g.streams != nil {
		s.lines.patience = 100 * time.Millisecond
	}
	answer(t, guest(t, s.lines, rpc.CallsPort), g)
	must(t, s.reachAgent())
	ours, theirs, err := connected()
	must(t, err)
	go func() { _ = agent.ServeConn(t.Context(), theirs.(*net.UnixConn), s) }()
	shim := agent.NewClient(ours.(*net.UnixConn))
	t.Cleanup(func() { shim.Close() })
	client, accepted, err := tcp()
	must(t, err)
	t.Cleanup(func() { client.Close() })
	over := make(chan error, 1)
	go func() { // as runtime/shim does
		defer accepted.Close()
		file, err := accepted.File()
		if err == nil {
			err = shim.Forward(context.Background(), &agent.ForwardRequest{Port: 80}, file)
			file.Close()
		}
		if err != nil {
			_ = accepted.SetLinger(0)
		}
		over <- err
	}()
	return s, client, over, func() { shim.Close() }
}

// nothingWaits fails where a stream is still waited for.
func nothingWaits(t *testing.T, s *sandbox) {
	t.Helper()
	s.lines.mu.Lock()
	defer s.lines.mu.Unlock()
	if len(s.lines.waiting) != 0 || len(s.lines.unnamed) != 0 {
		t.Errorf("%d streams are waited for, %d have no name", len(s.lines.waiting), len(s.lines.unnamed))
	}
}

// TestForward: a connection goes through the guest's stream and back, with both its ends.
func TestForward(t *testing.T) {
	g := &listening{}
	s, client, done, _ := forwarding(t, g)
	program := <-g.program
	defer program.Close()
	data := bytes.Repeat([]byte("there and back "), 200_000)
	go func() {
		_, _ = client.Write(data) // which the program counts
		_ = client.CloseWrite()
	}()
	got, err := io.ReadAll(program)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d, %v", len(got), len(data), err)
	}
	go func() {
		_, _ = program.Write(got)
		program.Close()
	}()
	if got, err = io.ReadAll(client); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d back, %v", len(got), len(data), err)
	}
	must(t, <-done)
	nothingWaits(t, s)
}

// TestForwardRefused: where nobody listens, or the guest lies about that, the caller is told.
func TestForwardRefused(t *testing.T) {
	for _, row := range []struct {
		name string
		g    *listening
		want string
		is   error
	}{
		{"nobody listens", &listening{refusal: unix.ECONNREFUSED}, "connection refused", unix.ECONNREFUSED},
		{"words for a terminal", &listening{refusal: errors.New("no\x1b[2J")}, "no?[2J", nil},
		{"no stream", &listening{streams: []rpc.StreamID{}}, "opens no stream", nil},
		{"another's stream", &listening{streams: []rpc.StreamID{{7}}}, "opens no stream", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, client, done, _ := forwarding(t, row.g)
			if err := <-done; err == nil || !strings.Contains(err.Error(), row.want) || row.is != nil && !errors.Is(err, row.is) {
				t.Errorf("%v, want %s", err, row.want)
			}
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the client reads %v", err)
			}
			nothingWaits(t, s)
		})
	}
}

// TestForwardTorn: the guest is told of a connection that broke, and a client of a guest's.
func TestForwardTorn(t *testing.T) {
	broke := func(c *net.TCPConn) {
		_ = c.SetLinger(0)
		c.Close()
	}
	for _, row := range []struct {
		name  string
		broke func(s *sandbox, client, program *net.TCPConn, hangUp func())
	}{
		{"the client", func(_ *sandbox, client, _ *net.TCPConn, _ func()) { broke(client) }},
		{"the program", func(_ *sandbox, _, program *net.TCPConn, _ func()) { broke(program) }},
		{"the shim", func(_ *sandbox, _, _ *net.TCPConn, hangUp func()) { hangUp() }},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := &listening{}
			s, client, done, hangUp := forwarding(t, g)
			program := <-g.program
			defer program.Close()
			row.broke(s, client, program, hangUp)
			if err := <-done; err == nil {
				t.Error("it ended well")
			}
			<-g.severed
			for name, c := range map[string]*net.TCPConn{"client": client, "program": program} {
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, net.ErrClosed) {
					t.Errorf("the %s reads %v", name, err)
				}
			}
			nothingWaits(t, s)
		})
	}
}

// TestForwardOfNoSocket: what is none costs the call.
func TestForwardOfNoSocket(t *testing.T) {
	s := &sandbox{}
	null, err := os.Open(os.DevNull)
	must(t, err)
	if err := s.Forward(t.Context(), &agent.ForwardRequest{Port: 1}, null); err == nil {
		t.Error("/dev/null was forwarded")
	}
	if err := null.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file was left open: %v", err)
	}
}
