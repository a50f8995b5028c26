package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/agent/rpc"
	"bulkhead/runtime/spec"
	"bulkhead/vmm/machine"

	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// played is a machine that does nothing.
type played struct {
	once sync.Once
	done chan struct{}
	how  machine.Ending
}

func (*played) Pause() error  { return nil }
func (*played) Paused() bool  { return false }
func (*played) Resume() error { return nil }
func (m *played) End(e machine.Ending) {
	m.once.Do(func() { m.how = e; close(m.done) })
}
func (m *played) Ended() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}
func (m *played) Ending() machine.Ending { <-m.done; return m.how }
func (m *played) Done() <-chan struct{}  { return m.done }

// hosting is a sandbox whose machine is played, before its guest has called.
func hosting(t *testing.T, patience time.Duration) *sandbox {
	t.Helper()
	s := &sandbox{
		config: &agent.BootConfig{ID: "c", Spec: spec.Of(&specs.Spec{Process: &specs.Process{}})}, log: slog.New(slog.DiscardHandler), patience: patience,
		lines: newSwitchboard(), machine: &played{done: make(chan struct{})}, containers: map[string]*container{},
	}
	s.lines.patience = bootPatience
	s.first = &container{name: firstName, procs: map[int]*process{}}
	t.Cleanup(func() {
		s.machine.End(machine.Ending{Reason: machine.Stopped})
		if s.client != nil {
			s.client.Close()
		}
	})
	return s
}

// callHead is a ttrpc message's head (github.com/containerd/ttrpc, PROTOCOL.md).
const callHead = 10 // bytes

// TestLyingInit: what calls as the guest's init and is none costs its own start.
func TestLyingInit(t *testing.T) {
	rpc.Silence()
	frame := func(b ...byte) []byte { return append([]byte{0, 0, 0, byte(len(b)), 0, 0, 0, 1, 2, 0}, b...) }
	for _, row := range []struct {
		name   string
		says   []byte
		stays  bool // it does not hang up
		reason string
	}{
		{"hangs up", nil, false, "it has not called within"},
		{"says nothing", nil, true, "deadline exceeded"},
		{"answers what is no answer", frame(0xff, 0xff, 0xff), true, "proto"},
		{"has no version", frame(0x12, 0), true, "it speaks version 0"},
		{"has another version", frame(0x12, 2, 0x08, 99), true, "it speaks version 99"},
		{"refuses", frame(0x0a, 4, 0x08, 5, 0x12, 0), true, ""},
		{"answers with more than may be", append([]byte{0, 0x50, 0, 0, 0, 0, 0, 1, 2, 0}, make([]byte, 0x500000)...), true, "exceed maximum"},
		{"stalls in a message", []byte{0, 0, 1, 0, 0, 0, 0, 1, 2, 0, 1}, true, "deadline exceeded"},
		{"stalls in one without an end", append([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 2, 0}, make([]byte, 100)...), true, "deadline exceeded"},
		{"floods", bytes.Repeat([]byte{0, 0, 0, 4, 0, 0, 0, 9, 2, 0, 1, 2, 3, 4}, 100_000), true, "deadline exceeded"},
	} {
		t.Run(row.name, func(t *testing.T) {
			patience := bootPatience
			if strings.HasPrefix(row.reason, "deadline") || !row.stays { // which it does not come to otherwise
				patience = 100 * time.Millisecond
			}
			s := hosting(t, patience)
			c := guest(t, s.lines, rpc.CallsPort)
			go func() {
				// An answer that comes before the call is nobody's.
				_, _ = io.ReadFull(c, make([]byte, callHead))
				_, _ = c.Write(row.says)
				if !row.stays {
					c.Close()
				}
			}()
			err := s.reachAgent()
			if err == nil || !strings.Contains(err.Error(), row.reason) {
				t.Errorf("%v, want %q", err, row.reason)
			}
		})
	}
}

// answer serves the agent protocol on a connection, as a guest's init does.
func answer(t *testing.T, conn net.Conn, as rpc.AgentService) {
	t.Helper()
	srv, err := ttrpc.NewServer()
	must(t, err)
	rpc.RegisterAgentService(srv, as)
	listener := &oneConn{make(chan net.Conn, 1), conn}
	listener.conns <- conn
	go func() { _ = srv.Serve(context.Background(), listener) }()
	t.Cleanup(func() { close(listener.conns); srv.Close() })
}

// TestCallsAgain: an init whose calls are lost before it was greeted is heard when it calls again.
func TestCallsAgain(t *testing.T) {
	rpc.Silence()
	s := hosting(t, bootPatience)
	over := make(chan error, 1)
	go func() { over <- s.reachAgent() }()
	for range 3 {
		c := guest(t, s.lines, rpc.CallsPort)
		_, _ = io.ReadFull(c, make([]byte, callHead))
		c.Close()
	}
	answer(t, guest(t, s.lines, rpc.CallsPort), &liar{lines: s.lines})
	must(t, <-over)
	if s.kernel == "" {
		t.Error("it was not greeted")
	}
}

// liar is a guest's init that answers as its functions do, and well without one.
type liar struct {
	rpc.AgentService
	lines     *switchboard
	mu        sync.Mutex
	streams   []net.Conn // kept: what nobody has any more the collector closes, which the host hears
	exec      func(*liar, *rpc.ExecRequest) (*rpc.ExecResponse, error)
	wait      func() *rpc.WaitResponse
	processes func() []*rpc.Process
	signal    func() error
	kills     func(above uint64) uint64
}

func (*liar) Hello(context.Context, *rpc.HelloRequest) (*rpc.HelloResponse, error) {
	return &rpc.HelloResponse{Version: rpc.Version, Kernel: "6.1\x1b[2J"}, nil
}

func (l *liar) Exec(_ context.Context, r *rpc.ExecRequest) (*rpc.ExecResponse, error) {
	return l.exec(l, r)
}

func (l *liar) Wait(context.Context, *rpc.WaitRequest) (*rpc.WaitResponse, error) {
	return l.wait(), nil
}

func (l *liar) Processes(context.Context, *rpc.ProcessesRequest) (*rpc.ProcessesResponse, error) {
	return &rpc.ProcessesResponse{Processes: l.processes()}, nil
}

func (l *liar) Signal(context.Context, *rpc.SignalRequest) (*rpc.SignalResponse, error) {
	return &rpc.SignalResponse{}, l.signal()
}

func (l *liar) OOMKills(_ context.Context, r *rpc.OOMKillsRequest) (*rpc.OOMKillsResponse, error) {
	return &rpc.OOMKillsResponse{Kills: l.kills(r.Above)}, nil
}

// open opens a process's streams, and says something on its standard output.
func (l *liar) open(streams *rpc.Streams) error {
	for _, id := range [][]byte{streams.Stdin, streams.Stdout, streams.Stderr} {
		if id == nil {
			continue
		}
		c, err := l.lines.dial(context.Background(), rpc.StreamsPort)
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.streams = append(l.streams, c)
		l.mu.Unlock()
		if _, err := c.Write(append(bytes.Clone(id), "x"...)); err != nil {
			return err
		}
	}
	return nil
}

// oneConn is a listener with one connection.
type oneConn struct {
	conns chan net.Conn
	net.Conn
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l *oneConn) Addr() net.Addr { return l.LocalAddr() }

// lied is a sandbox whose guest's init is l, and the runtime's client of it.
func lied(t *testing.T, l *liar) (*sandbox, *agent.Client) {
	t.Helper()
	rpc.Silence()
	s := hosting(t, bootPatience)
	l.lines = s.lines
	conn := guest(t, s.lines, rpc.CallsPort)
	answer(t, conn, l)
	must(t, s.reachAgent())
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "agent")
		c, err := net.FileConn(f)
		f.Close()
		must(t, err)
		ends[i] = c.(*net.UnixConn)
	}
	go func() { _ = agent.ServeConn(t.Context(), ends[0], s) }()
	client := agent.NewClient(ends[1])
	t.Cleanup(func() { client.Close() })
	return s, client
}

// execute starts a process with nothing to read; ended is closed at the end of its output.
func execute(t *testing.T, c *agent.Client, env ...string) (ended <-chan struct{}, err error) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	must(t, err)
	defer null.Close()
	outR, outW := pipe(t)
	errR, errW := pipe(t)
	_, err = c.Exec(t.Context(), &agent.ExecRequest{Process: &specs.Process{Env: env}}, []*os.File{null, outW, errW})
	outW.Close()
	errW.Close()
	all := make(chan struct{})
	go func() {
		defer close(all)
		_, _ = io.Copy(io.Discard, outR)
		_, _ = io.Copy(io.Discard, errR)
	}()
	return all, err
}

// mute is a guest's init that never answers Begin, whose guest ends instead.
type mute struct {
	liar
	end func()
}

func (m *mute) Begin(ctx context.Context, _ *rpc.BeginRequest) (*rpc.BeginResponse, error) {
	m.end()
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestGuestEndsInACall: a start does not wait for the answer of a guest that is gone, as one is whose files'
// process was killed.
func TestGuestEndsInACall(t *testing.T) {
	rpc.Silence()
	s := hosting(t, time.Hour)
	m := &mute{end: func() { s.machine.End(machine.Ending{Reason: machine.Broken, Err: errors.New("its files are gone")}) }}
	conn := guest(t, s.lines, rpc.CallsPort)
	answer(t, conn, m)
	must(t, s.reachAgent())
	if err := s.begin(); err == nil || !strings.Contains(err.Error(), "the guest ended: ") || !strings.Contains(err.Error(), "its files are gone") {
		t.Errorf("%v", err)
	}
}

// TestLyingGuest: a guest that lies costs the call, and at worst its own container. It
// has no way to speak of another's: what is said is an answer, and of whom the host knows.
func TestLyingGuest(t *testing.T) {
	refused := func(t *testing.T, err error, reason string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), reason) || strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("%q, want %q", err, reason)
		}
	}
	t.Run("one number for two processes", func(t *testing.T) {
		_, c := lied(t, &liar{exec: func(l *liar, r *rpc.ExecRequest) (*rpc.ExecResponse, error) {
			return &rpc.ExecResponse{Pid: 5}, l.open(r.Streams)
		}})
		_, err := execute(t, c)
		must(t, err)
		ended, err := execute(t, c)
		refused(t, err, "calls its process 5")
		<-ended // the streams are nobody's
	})
	t.Run("no number", func(t *testing.T) {
		_, c := lied(t, &liar{exec: func(l *liar, r *rpc.ExecRequest) (*rpc.ExecResponse, error) {
			return &rpc.ExecResponse{Pid: -5}, l.open(r.Streams)
		}})
		ended, err := execute(t, c)
		refused(t, err, "calls its process -5")
		<-ended
	})
	t.Run("no streams", func(t *testing.T) {
		s, c := lied(t, &liar{exec: func(l *liar, r *rpc.ExecRequest) (*rpc.ExecResponse, error) {
			return &rpc.ExecResponse{Pid: 5}, l.open(&rpc.Streams{Stdin: r.Streams.Stdin})
		}})
		s.lines.patience = 100 * time.Millisecond
		ended, err := execute(t, c)
		refused(t, err, "opens no streams")
		<-ended
		s.lines.mu.Lock()
		defer s.lines.mu.Unlock()
		if len(s.lines.waiting) != 0 {
			t.Errorf("%d streams are still waited for", len(s.lines.waiting))
		}
	})
	t.Run("another's stream", func(t *testing.T) {
		s, c := lied(t, &liar{exec: func(l *liar, r *rpc.ExecRequest) (*rpc.ExecResponse, error) {
			other := bytes.Repeat([]byte{7}, 16)
			return &rpc.ExecResponse{Pid: 5}, l.open(&rpc.Streams{Stdin: other, Stdout: other, Stderr: other})
		}})
		s.lines.patience = 100 * time.Millisecond
		ended, err := execute(t, c)
		refused(t, err, "opens no streams")
		<-ended
	})
	t.Run("output that never comes", func(t *testing.T) {
		_, c := lied(t, &liar{
			exec: func(l *liar, r *rpc.ExecRequest) (*rpc.ExecResponse, error) {
				return &rpc.ExecResponse{Pid: 5}, l.open(r.Streams)
			},
			wait: func() *rpc.WaitResponse { return &rpc.WaitResponse{Stdout: 1 << 63, Stderr: 1 << 63} },
		})
		_, err := execute(t, c)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err = c.Wait(ctx, &agent.WaitRequest{PID: 5})
		refused(t, err, "deadline exceeded")
	})
	t.Run("words for a terminal", func(t *testing.T) {
		_, c := lied(t, &liar{signal: func() error { return rpc.Refuse(errors.New("no\x1b[2J\n\u009b2J")) }})
		err := c.Signal(t.Context(), &agent.SignalRequest{Signal: 9})
		refused(t, err, "no?[2J??2J")
	})
	t.Run("words without end", func(t *testing.T) {
		_, c := lied(t, &liar{signal: func() error { return errors.New(strings.Repeat("x", 3<<20)) }})
		if err := c.Signal(t.Context(), &agent.SignalRequest{Signal: 9}); err == nil || len(err.Error()) > 1<<15 {
			t.Errorf("%d bytes", len(err.Error()))
		}
	})
	t.Run("more than a message of the runtime's holds", func(t *testing.T) {
		_, c := lied(t, &liar{processes: func() []*rpc.Process {
			return []*rpc.Process{nil, {Command: []string{strings.Repeat("\x01", 3<<20)}}} // which JSON has as six bytes
		}})
		_, err := c.Processes(t.Context(), "")
		refused(t, err, "too long")
	})
	t.Run("kills", func(t *testing.T) {
		answers := []uint64{3, 1 << 60, 5}
		s, c := lied(t, &liar{
			kills: func(uint64) (n uint64) { n, answers = answers[0], answers[1:]; return n },
			wait:  func() *rpc.WaitResponse { return &rpc.WaitResponse{OomKills: 1<<60 + 1} },
		})
		s.followKills(s.first) // ends when it is told fewer than it knows of
		heard, to := pipe(t)
		go func() { _ = c.OOM(t.Context(), "", to) }() // ends with the client
		lines := bufio.NewReader(heard)
		line, err := lines.ReadString('\n')
		if line != "1152921504606846976\n" || err != nil {
			t.Errorf("%q, %v", line, err)
		}
		_, err = c.Wait(t.Context(), &agent.WaitRequest{})
		must(t, err)
		if line, err = lines.ReadString('\n'); line != "1152921504606846977\n" || err != nil {
			t.Errorf("%q, %v", line, err)
		}
	})
	t.Run("connections", func(t *testing.T) {
		s, c := lied(t, &liar{exec: func(l *liar, r *rpc.ExecRequest) (*rpc.ExecResponse, error) {
			return &rpc.ExecResponse{Pid: 5}, l.open(r.Streams)
		}})
		for i := range 5000 {
			theirs := guest(t, s.lines, rpc.StreamsPort)
			if i%3 == 0 {
				_, _ = theirs.Write(bytes.Repeat([]byte{1}, 16)) // EPIPE: it has been closed as one too many
			}
			if i >= mostUnnamed {
				defer theirs.Close()
			}
		}
		_, err := execute(t, c)
		must(t, err)
	})
}

// TestNoMoreMemory: a machine has what it was made with.
func TestNoMoreMemory(t *testing.T) {
	s, c := lied(t, &liar{})
	s.size.memory = 256 << 20
	err := c.Update(t.Context(), &agent.UpdateRequest{Limits: agent.Limits{Memory: 300 << 20}})
	if want := "the machine has 256 MiB of memory and cannot give the container 300; one that is to have more later is made with the annotation dev.bulkhead.vm.memory: invalid argument"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestDeafGuest: a guest that reads no calls is found to be dead, though calls wait for it.
func TestDeafGuest(t *testing.T) {
	rpc.Silence()
	s := hosting(t, time.Minute)
	s.config.Spec.Annotations = map[string]string{agent.WatchdogAnnotation: "1s"}
	c := guest(t, s.lines, rpc.CallsPort)
	go func() { // it greets, and no more
		_, _ = io.ReadFull(c, make([]byte, 20))
		_, _ = c.Write([]byte{0, 0, 0, 4, 0, 0, 0, 1, 2, 0, 0x12, 2, 0x08, rpc.Version})
	}()
	must(t, s.reachAgent())
	text, err := json.Marshal(strings.Repeat("x", 2<<20)) // more than a socket holds
	must(t, err)
	stuck := make(chan error, 1)
	go func() {
		_, err := s.guest.Exec(context.Background(), &rpc.ExecRequest{Process: text})
		stuck <- err
	}()
	must(t, s.guard())
	<-s.machine.Done()
	if how := s.machine.Ending(); how.Reason != machine.Hung {
		t.Errorf("%v", how)
	}
	c.Close() // as a machine's end does
	if err := <-stuck; err == nil {
		t.Error("nobody took the call, and it succeeded")
	}
}

// TestCallsConn: who writes gives up a guest that does not read, unless it is paused.
func TestCallsConn(t *testing.T) {
	theirs, ours, err := connected()
	must(t, err)
	defer theirs.Close()
	defer ours.Close()
	asked := 0
	c := &callsConn{ours, 10 * time.Millisecond, func() bool {
		asked++
		if asked == 3 {
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
		}
		return true
	}}
	if n, err := c.Write(make([]byte, 2<<20)); n != 2<<20 || err != nil {
		t.Errorf("paused for a while: %d, %v", n, err)
	}
	a, b, err := connected()
	must(t, err)
	defer a.Close()
	defer b.Close()
	c = &callsConn{b, 10 * time.Millisecond, func() bool { return false }}
	if _, err := c.Write(make([]byte, 2<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("never read: %v", err)
	}
}
