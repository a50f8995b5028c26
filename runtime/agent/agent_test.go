package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// fake is a sandbox whose processes are channels that say how they end.
type fake struct {
	mu      sync.Mutex
	started bool
	procs   map[int]chan ExitStatus
	waiting chan struct{} // one value for each Wait that has begun
}

func newFake() *fake {
	return &fake{procs: map[int]chan ExitStatus{0: make(chan ExitStatus, 1)}, waiting: make(chan struct{}, 100)}
}

func (f *fake) Start(context.Context, string) error {
	if f.started {
		return unix.EALREADY
	}
	f.started = true
	return nil
}

// Exec writes the program's arguments to the last of its files.
func (f *fake) Exec(_ context.Context, r *ExecRequest, files []*os.File) (int, error) {
	defer closeAll(files)
	if r.Process.Args[0] == "missing" {
		return 0, fmt.Errorf("exec: %q: executable file not found in $PATH: %w", "missing", unix.ENOENT)
	}
	fmt.Fprint(files[len(files)-1], strings.Join(r.Process.Args, " "))
	f.mu.Lock()
	defer f.mu.Unlock()
	pid := 100 + len(f.procs)
	f.procs[pid] = make(chan ExitStatus, 1)
	return pid, nil
}

func (f *fake) Signal(_ context.Context, r *SignalRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.procs[r.PID]
	if p == nil {
		return unix.ESRCH
	}
	p <- ExitStatus{Signal: r.Signal}
	return nil
}

func (f *fake) Wait(ctx context.Context, r *WaitRequest) (ExitStatus, error) {
	f.mu.Lock()
	p := f.procs[r.PID]
	f.mu.Unlock()
	f.waiting <- struct{}{}
	select {
	case s := <-p:
		return s, nil
	case <-ctx.Done():
		return ExitStatus{}, ctx.Err()
	}
}

func (f *fake) Resize(context.Context, *ResizeRequest) error { return nil }
func (f *fake) Processes(context.Context, string) ([]Process, error) {
	return []Process{{PID: 1, Command: []string{"sleep", "inf"}}}, nil
}
func (f *fake) Stats(context.Context, string) (*Stats, error)     { return &Stats{Processes: 7}, nil }
func (f *fake) Update(context.Context, *UpdateRequest) error      { return nil }
func (f *fake) Pause(context.Context, string) error               { return nil }
func (f *fake) Resume(context.Context, string) error              { return nil }
func (f *fake) Debug(_ context.Context, s string) (string, error) { return "debug " + s, nil }

// serve starts a server and connects to it by a path longer than sun_path.
func serve(t *testing.T, h Handler) *Client {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "control.sock")
	f, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(f.Fd())) // Listener owns its number
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	l, err := Listener(uintptr(fd))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, h, slog.New(slog.DiscardHandler)) }()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return c
}

func TestCalls(t *testing.T) {
	c, ctx := serve(t, newFake()), t.Context()
	if i, err := c.Hello(ctx); err != nil || i.Version != Version {
		t.Fatalf("Hello: %+v, %v", i, err)
	}
	if err := c.Start(ctx, ""); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx, ""); !errors.Is(err, unix.EALREADY) {
		t.Errorf("second Start: %v, want EALREADY", err)
	}
	if p, err := c.Processes(ctx, ""); err != nil || len(p) != 1 || p[0].Command[1] != "inf" {
		t.Errorf("Processes: %v, %v", p, err)
	}
	if s, err := c.Stats(ctx, ""); err != nil || s.Processes != 7 {
		t.Errorf("Stats: %v, %v", s, err)
	}
	if s, err := c.Debug(ctx, "stacks"); err != nil || s != "debug stacks" {
		t.Errorf("Debug: %q, %v", s, err)
	}
	if err := c.call(ctx, "nonsense", nil, nil); !errors.Is(err, unix.ENOSYS) {
		t.Errorf("unknown method: %v, want ENOSYS", err)
	}
	if err := c.call(ctx, "exec", map[string]int{"process": 3}, nil); err == nil {
		t.Error("a malformed exec was accepted")
	}
	if err := c.call(ctx, "exec", struct{}{}, nil); err == nil {
		t.Error("an exec without a process was accepted")
	}
}

func TestExecPassesFilesAndErrors(t *testing.T) {
	c, ctx := serve(t, newFake()), t.Context()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pid, err := c.Exec(ctx, &ExecRequest{Process: &specs.Process{Args: []string{"echo", "hi"}}}, []*os.File{os.Stdin, w, w})
	w.Close()
	if err != nil || pid != 101 {
		t.Fatalf("Exec: %d, %v", pid, err)
	}
	// To the end: the server's copies of w have to be closed, too.
	if b, err := io.ReadAll(r); err != nil || string(b) != "echo hi" {
		t.Errorf("read %q, %v", b, err)
	}
	_, err = c.Exec(ctx, &ExecRequest{Process: &specs.Process{Args: []string{"missing"}}}, nil)
	if want := `exec: "missing": executable file not found in $PATH`; !errors.Is(err, unix.ENOENT) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Exec of a missing program: %v, want %s", err, want)
	}
}

// A Wait blocks for as long as it takes, and nobody else with it.
func TestWaitIsConcurrent(t *testing.T) {
	f := newFake()
	c, ctx := serve(t, f), t.Context()
	got := make(chan ExitStatus)
	go func() {
		s, err := c.Wait(ctx, &WaitRequest{})
		if err != nil {
			t.Error(err)
		}
		got <- s
	}()
	<-f.waiting
	if _, err := c.Hello(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Signal(ctx, &SignalRequest{Signal: 15}); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s.Exit() != 143 {
		t.Errorf("exit %d, want 143", s.Exit())
	}
	if err := c.Signal(ctx, &SignalRequest{PID: 5, Signal: 15}); !errors.Is(err, unix.ESRCH) {
		t.Errorf("Signal: %v, want ESRCH", err)
	}
}

// A client that hangs up frees its calls; one that stays learns that the server went.
func TestHangUp(t *testing.T) {
	f := newFake()
	c := serve(t, f)
	errs := make(chan error)
	go func() { _, err := c.Wait(context.Background(), &WaitRequest{}); errs <- err }()
	<-f.waiting
	c.Close()
	if err := <-errs; !errors.Is(err, ErrGone) {
		t.Errorf("Wait after Close: %v, want ErrGone", err)
	}
	if err := c.Start(t.Context(), ""); !errors.Is(err, ErrGone) {
		t.Errorf("Start after Close: %v, want ErrGone", err)
	}

	// One that stood for a process takes it along.
	// (A process of its own: an earlier Wait may still look at process 0.)
	c = serve(t, f)
	stoodFor := make(chan ExitStatus, 1)
	f.mu.Lock()
	f.procs[9] = stoodFor
	f.mu.Unlock()
	go func() { _, err := c.Wait(context.Background(), &WaitRequest{PID: 9, Kill: true}); errs <- err }()
	<-f.waiting
	c.Close()
	<-errs
	if s := <-stoodFor; s.Exit() != 137 {
		t.Errorf("exit %d, want 137", s.Exit())
	}

	ours, theirs := pair(t)
	c = NewClient(ours)
	defer c.Close()
	go func() { errs <- c.Start(context.Background(), "") }()
	io.ReadFull(theirs, make([]byte, 10))
	theirs.Close()
	if err := <-errs; !errors.Is(err, ErrGone) {
		t.Errorf("Start with a server that goes: %v, want ErrGone", err)
	}
	if _, err := Dial(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrGone) {
		t.Errorf("Dial: %v, want ErrGone", err)
	}
}

// What a lying server can say, and what becomes of it.
func TestLyingServer(t *testing.T) {
	frame := func(s string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
	}
	for _, row := range []struct {
		name string
		send []byte
		want string
	}{
		{"too long", []byte{0xff, 0xff, 0xff, 0xff}, "at most"},
		{"half", frame(`{"id":1}`)[:7], "unexpected EOF"},
		{"no JSON", frame(`hello`), "parse message"},
		{"files out of nowhere", frame(`{"id":1,"files":3}`), "announces 3 descriptors"},
		{"wrong body", frame(`{"id":1,"body":[1]}`), "parse the answer"},
		{"wrong id, then gone", frame(`{"id":7,"body":{}}`), "gone"},
		{"error", frame(`{"id":1,"error":{"message":"no"}}`), "no"},
	} {
		t.Run(row.name, func(t *testing.T) {
			ours, theirs := pair(t)
			theirs.Write(row.send)
			theirs.CloseWrite()
			c := NewClient(ours)
			// The answer may be read before the question is sent; hold it to one order.
			c.next = 0
			_, err := c.Hello(t.Context())
			c.Close()
			theirs.Close()
			if err == nil || (!strings.Contains(err.Error(), row.want) && !errors.Is(err, ErrGone)) {
				t.Errorf("Hello: %v, want …%s…", err, row.want)
			}
		})
	}
}

func pair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "pair")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		return c.(*net.UnixConn)
	}
	return conn(fds[0]), conn(fds[1])
}

func TestExit(t *testing.T) {
	for _, row := range []struct {
		s    ExitStatus
		want int
	}{{ExitStatus{}, 0}, {ExitStatus{Code: 3}, 3}, {ExitStatus{Code: 256 + 4}, 4}, {ExitStatus{Signal: 11, Core: true}, 139}} {
		if got := row.s.Exit(); got != row.want {
			t.Errorf("%+v: exit %d, want %d", row.s, got, row.want)
		}
	}
}

func FuzzServer(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x1b" + `{"id":1,"method":"hello"}  `))
	f.Add([]byte("\x00\x00\x00\x29" + `{"id":1,"method":"exec","body":{"a":{}}}`))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs := pair(t)
		go func() { ours.Write(b); ours.CloseWrite(); io.Copy(io.Discard, ours); ours.Close() }()
		ServeConn(t.Context(), theirs, refuser{})
	})
}

// refuser is a handler that refuses everything at once.
type refuser struct{}

func (refuser) Start(context.Context, string) error { return unix.EPERM }
func (refuser) Exec(_ context.Context, _ *ExecRequest, files []*os.File) (int, error) {
	closeAll(files)
	return 0, unix.EPERM
}
func (refuser) Signal(context.Context, *SignalRequest) error               { return unix.EPERM }
func (refuser) Wait(context.Context, *WaitRequest) (s ExitStatus, _ error) { return s, unix.EPERM }
func (refuser) Resize(context.Context, *ResizeRequest) error               { return unix.EPERM }
func (refuser) Processes(context.Context, string) ([]Process, error)       { return nil, unix.EPERM }
func (refuser) Stats(context.Context, string) (*Stats, error)              { return nil, unix.EPERM }
func (refuser) Update(context.Context, *UpdateRequest) error               { return unix.EPERM }
func (refuser) Pause(context.Context, string) error                        { return unix.EPERM }
func (refuser) Resume(context.Context, string) error                       { return unix.EPERM }
func (refuser) Debug(context.Context, string) (string, error)              { return "", unix.EPERM }

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"id":1,"body":{},"error":{"message":"x","errno":2}}`))
	f.Fuzz(func(t *testing.T, b []byte) { parseMessage(b) })
}

func FuzzBootConfig(f *testing.F) {
	f.Add(`{"version":1,"spec":{"process":{},"root":{}}}`)
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseBootConfig([]byte(s), nil)
		if err == nil && (c.Spec == nil || c.Spec.Process == nil) {
			t.Errorf("%q: incomplete, and accepted", s)
		}
	})
}

func TestReady(t *testing.T) {
	for _, row := range []struct{ in, err string }{
		{`{"ready":true,"platform":"kvm"}` + "\n", ""},
		{`{"error":"load: no such file"}` + "\n", ""},
		{``, "EOF"},
		{`{}`, "neither"},
		{`segfault`, "parse"},
	} {
		r, err := ReadReady(strings.NewReader(row.in))
		if (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
			t.Errorf("%q: %+v, %v, want error %q", row.in, r, err, row.err)
		}
	}
}
