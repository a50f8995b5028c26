package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"bulkhead/runtime/agent/rpc/generate/proto"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Silence()
	os.Exit(m.Run())
}

// TestGenerated: what is checked in is what the .proto says.
func TestGenerated(t *testing.T) {
	files, err := proto.Generate("agent.proto")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 2 {
		t.Errorf("%d files, want those of messages and of calls", len(files))
	}
	for name, want := range files {
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what agent.proto says: go generate ./runtime/agent/rpc (%v)", name, err)
		}
	}
}

// fake is a guest that refuses what it is told to.
type fake struct {
	AgentService
	refusal error
}

func (f *fake) Hello(_ context.Context, r *HelloRequest) (*HelloResponse, error) {
	return &HelloResponse{Version: r.Version, Kernel: "1"}, Refuse(f.refusal)
}

// one is a listener with one connection.
type one struct {
	conns chan net.Conn
	done  chan struct{}
	close sync.Once
}

func (l *one) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *one) Close() error   { l.close.Do(func() { close(l.done) }); return nil }
func (l *one) Addr() net.Addr { return &net.UnixAddr{} }

// serve has f answer the other end of what it returns.
func serve(t testing.TB, f AgentService) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	RegisterAgentService(srv, f)
	l := &one{conns: make(chan net.Conn, 1), done: make(chan struct{})}
	l.conns <- theirs
	ended := make(chan struct{})
	go func() {
		_ = srv.Serve(context.Background(), l) // an error at Close
		close(ended)
	}()
	t.Cleanup(func() {
		ours.Close()
		srv.Close()
		<-ended
	})
	return ours
}

func TestRefusal(t *testing.T) {
	for _, row := range []struct {
		refusal error
		want    string
		errno   unix.Errno
	}{
		{nil, "", 0},
		{errors.New("no"), "no", 0},
		{unix.ESRCH, "no such process", unix.ESRCH},
		{fmt.Errorf("process 7: %w", unix.ESRCH), "process 7: no such process", unix.ESRCH},
		{errors.New(strings.Repeat("x", 2*mostWords)), strings.Repeat("x", mostWords), 0},
	} {
		c := ttrpc.NewClient(serve(t, &fake{refusal: row.refusal}))
		h, err := NewAgentClient(c).Hello(t.Context(), &HelloRequest{Version: 3})
		c.Close()
		err = Refused(err)
		if row.refusal == nil {
			if err != nil || h.Version != 3 {
				t.Errorf("%v, %v", h, err)
			}
			continue
		}
		var r *Refusal
		if !errors.As(err, &r) || r.Message != row.want || r.Errno != row.errno {
			t.Errorf("%.60v: %.60v", row.refusal, err)
		}
		if row.errno != 0 && !errors.Is(err, row.errno) {
			t.Errorf("%v is not %v", err, row.errno)
		}
	}
}

// TestGone: a guest that hangs up is no refusal.
func TestGone(t *testing.T) {
	ours, theirs := net.Pipe()
	c := ttrpc.NewClient(ours)
	defer c.Close()
	go func() {
		_, _ = theirs.Read(make([]byte, 1))
		theirs.Close()
	}()
	_, err := NewAgentClient(c).Hello(t.Context(), &HelloRequest{})
	var r *Refusal
	if err == nil || errors.As(Refused(err), &r) {
		t.Errorf("%v", Refused(err))
	}
}

func TestParseStreamID(t *testing.T) {
	id := NewStreamID()
	if got, there, err := ParseStreamID(id[:]); got != id || !there || err != nil {
		t.Error(got, there, err)
	}
	if _, there, err := ParseStreamID(nil); there || err != nil {
		t.Error(there, err)
	}
	if _, _, err := ParseStreamID(id[:5]); err == nil {
		t.Error("five bytes are an id")
	}
}

// FuzzGuest: whatever a guest sends, a call of the host's ends, well or not.
func FuzzGuest(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 2, 0, 0, 0, 1, 2, 0, 0x12, 0})            // an answer
	f.Add([]byte{0, 0, 0, 4, 0, 0, 0, 1, 2, 0, 0x0a, 2, 8, 5})      // a refusal
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 2, 0})         // a length beyond all bounds
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 0, 0, 0})   // to a call that nobody made, and half a message
	f.Add(bytes.Repeat([]byte{0, 0, 0, 0, 0, 0, 0, 1, 2, 0}, 1000)) // the same answer again and again
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs := net.Pipe()
		c := ttrpc.NewClient(ours)
		defer c.Close()
		go func() { _, _ = io.Copy(io.Discard, theirs) }() // ends with the pipe
		go func() {
			_, _ = theirs.Write(b)
			theirs.Close()
		}()
		if _, err := NewAgentClient(c).Hello(t.Context(), &HelloRequest{}); err != nil {
			_ = Refused(err).Error()
		}
	})
}

// FuzzHost: whatever comes by the host's connection, a guest's init goes on until it ends.
func FuzzHost(f *testing.F) {
	const call = "\x0a\x17bulkhead.agent.v1.Agent\x12\x05Hello"
	f.Add([]byte{})
	f.Add(append([]byte{0, 0, 0, byte(len(call)), 0, 0, 0, 1, 1, 0}, call...))
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 0xff}) // of an even number, which is the server's
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0})
	f.Add([]byte{0, 0, 0, 9, 0, 0, 0, 1, 3, 7, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		conn := serve(t, &fake{})
		go func() {
			_, _ = conn.Write(b)
			conn.Close()
		}()
		_, _ = io.Copy(io.Discard, conn) // until either side has closed
	})
}
