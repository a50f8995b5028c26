package sandbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/agent/rpc"
	"bulkhead/virtio/balloon"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSize(t *testing.T) {
	for _, row := range []struct {
		name        string
		annotations map[string]string
		limits      agent.Limits
		memory      uint64 // MiB
		cpus        int
		refused     string
	}{
		{"without limits", nil, agent.Limits{}, 512, 4, ""},
		{"a limit of memory", nil, agent.Limits{Memory: 100 << 20}, 196, 4, ""},
		{"a limit that is not whole pages", nil, agent.Limits{Memory: 100<<20 + 1}, 198, 4, ""},
		{"a limit of next to nothing", nil, agent.Limits{Memory: 1 << 20}, 98, 4, ""},
		{"half a processor", nil, agent.Limits{CPUs: 0.5}, 512, 1, ""},
		{"more processors than there are", nil, agent.Limits{CPUs: 100}, 512, 4, ""},
		{"CPUs of the host's", nil, agent.Limits{CPUSet: 2}, 512, 2, ""},
		{"CPUs of the host's, and half a processor", nil, agent.Limits{CPUSet: 2, CPUs: 0.5}, 512, 1, ""},
		{"annotations", map[string]string{agent.MemoryAnnotation: "1G", agent.CPUsAnnotation: "3"}, agent.Limits{Memory: 1 << 20, CPUs: 1}, 1024, 3, ""},
		{"a pod's limits", map[string]string{agent.PodMemoryAnnotation: "1073741824", agent.PodQuotaAnnotation: "150000", agent.PodPeriodAnnotation: "100000"}, agent.Limits{CPUs: 0.1}, 1120, 2, ""},
		{"a pod without limits", map[string]string{agent.PodMemoryAnnotation: "0", agent.PodQuotaAnnotation: "0", agent.PodPeriodAnnotation: "100000"}, agent.Limits{}, 512, 4, ""},
		{"too little", map[string]string{agent.MemoryAnnotation: "8M"}, agent.Limits{}, 0, 0, "the least is 64"},
		{"no number", map[string]string{agent.MemoryAnnotation: "much"}, agent.Limits{}, 0, 0, agent.MemoryAnnotation},
		{"too much", nil, agent.Limits{Memory: 1 << 62}, 0, 0, "GiB"},
		{"no processor", map[string]string{agent.CPUsAnnotation: "0"}, agent.Limits{}, 0, 0, agent.CPUsAnnotation},
	} {
		z, err := sizeOf(row.annotations, row.limits, 4)
		if row.refused != "" {
			if err == nil || !strings.Contains(err.Error(), row.refused) {
				t.Errorf("%s: %+v, %v", row.name, z, err)
			}
			continue
		}
		if err != nil || z.memory != row.memory<<20 || z.cpus != row.cpus {
			t.Errorf("%s: %d MiB, %d CPUs, %v", row.name, z.memory>>20, z.cpus, err)
		}
	}
}

// wanted is a balloon that is told how large to be.
type wanted struct{ pages uint32 }

func (w *wanted) SetTarget(pages uint32) { w.pages = pages }
func (w *wanted) Pages() balloon.Pages   { return balloon.Pages{Target: w.pages} }
func (w *wanted) Await(context.Context) balloon.Pages {
	return w.Pages()
}

// TestInflate: what containers may use less than they were made with is given back, and
// no more than is left of the machine.
func TestInflate(t *testing.T) {
	const m = 1 << 20
	type row struct{ made, now int64 }
	for _, test := range []struct {
		name   string
		memory uint64
		all    []row
		want   uint32 // MiB
	}{
		{"as it was made", 196, []row{{100, 100}}, 0},
		{"less", 196, []row{{100, 40}}, 60},
		{"more", 196, []row{{100, 190}}, 0},
		{"no limit any more", 196, []row{{100, 0}}, 0},
		{"a limit of one that had none", 512, []row{{0, 100}}, 316},
		{"of one that had none, among others", 512, []row{{0, 100}, {0, 0}}, 0},
		{"a machine that is larger than its container", 1024, []row{{100, 40}}, 60},
		{"one that is smaller", 128, []row{{1000, 10}}, 22},
		{"one that has nothing to spare", 128, []row{{1000, 100}}, 0},
		{"a pod's", 500, []row{{0, 0}, {100, 70}, {200, 150}, {50, 60}}, 80},
	} {
		w := &wanted{pages: 7}
		s := &sandbox{size: size{memory: test.memory * m}, balloon: w, containers: map[string]*container{}}
		for i, r := range test.all {
			c := &container{made: r.made * m, limits: agent.Limits{Memory: r.now * m}}
			if s.first == nil {
				s.first = c
			} else {
				s.containers[strconv.Itoa(i)] = c
			}
		}
		s.inflateLocked()
		if w.pages != test.want*pagesPerMiB {
			t.Errorf("%s: %d pages, want %d MiB", test.name, w.pages, test.want)
		}
	}
}

// TestCPUs: what a container may use of the host's, in a guest with three.
func TestCPUs(t *testing.T) {
	s := &sandbox{size: size{cpus: 3}}
	for list, want := range map[string]string{"1": "1", "2,0": "2,0", "7": "0-0", "1,7": "0-1", "0-2": "0-2", "4-9": "0-2", "what": "what"} {
		given := agent.Cgroup{cpusFile: list, "cpu.weight": "1"}
		if got := s.cgroup(given); got[cpusFile] != want || got["cpu.weight"] != "1" || given[cpusFile] != list {
			t.Errorf("%s: %v, want %s", list, got, want)
		}
	}
	if got := s.cgroup(nil); got != nil {
		t.Errorf("none: %v", got)
	}
}

func TestConsole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console")
	f, err := os.Create(path)
	must(t, err)
	fd, err := unix.Dup(int(f.Fd()))
	must(t, err)
	f.Close()
	c := newConsole(fd)
	for range 1 + mostConsole>>16 {
		if n, err := c.Write(bytes.Repeat([]byte("x"), 1<<16)); n != 1<<16 || err != nil {
			t.Fatal(n, err)
		}
	}
	_, _ = c.Write([]byte("\nKernel panic\x1b[2J\n\nlast\n"))
	if got := c.tail(); !strings.HasSuffix(got, "| Kernel panic?[2J | last") {
		t.Errorf("%q", got)
	}
	_, _ = c.Write([]byte("[ 1.2] Kernel panic - not syncing: why\n" + strings.Repeat("[ 1.3] a stack\n", 50) + "[ 1.4] end\n"))
	if got := c.tail(); !strings.HasPrefix(got, "[ 1.2] Kernel panic - not syncing: why | [ 1.3] a stack | ") || !strings.HasSuffix(got, " | [ 1.4] end") {
		t.Errorf("of a panic: %q", got)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > mostConsole+100 {
		t.Errorf("%d bytes are kept", info.Size())
	}
	if (*console)(nil).words() != "" {
		t.Error("no console has words")
	}
}

// guest plays what calls the host.
func guest(t *testing.T, b *switchboard, port uint32) net.Conn {
	t.Helper()
	c, err := b.dial(t.Context(), port)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func read(t *testing.T, from io.Reader, b []byte) int {
	t.Helper()
	n, err := from.Read(b)
	must(t, err)
	return n
}

func TestSwitchboard(t *testing.T) {
	b := newSwitchboard()
	if _, err := b.dial(t.Context(), 7); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a port of nobody's: %v", err)
	}
	lost := guest(t, b, rpc.CallsPort)
	call := guest(t, b, rpc.CallsPort)
	if n, err := lost.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("a call that was given up: %d, %v", n, err)
	}
	taken, err := b.agent(t.Context())
	must(t, err)
	_, err = call.Write([]byte{7})
	must(t, err)
	if one := make([]byte, 1); read(t, taken, one) != 1 || one[0] != 7 {
		t.Error("the call that was taken is not the last")
	}
	unheard := guest(t, b, rpc.CallsPort)
	b.greet()
	if n, err := unheard.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("a call beside init's: %d, %v", n, err)
	}
	if _, err := b.dial(t.Context(), rpc.CallsPort); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a second init: %v", err)
	}

	// A stream that is waited for, after more than may be unnamed, and one that is not.
	id, wanted := b.expect()
	for range 2 * mostUnnamed {
		guest(t, b, rpc.StreamsPort)
	}
	named := guest(t, b, rpc.StreamsPort)
	_, err = named.Write(append(id[:], "hello"...))
	must(t, err)
	got := <-wanted
	word := make([]byte, 5)
	if _, err := io.ReadFull(got, word); err != nil || string(word) != "hello" {
		t.Errorf("%q, %v", word, err)
	}
	again := guest(t, b, rpc.StreamsPort)
	_, err = again.Write(id[:])
	must(t, err)
	if n, err := again.Read(word); n != 0 || err == nil {
		t.Errorf("a stream is opened twice: %d, %v", n, err)
	}
	b.mu.Lock()
	if n := len(b.unnamed); n > mostUnnamed {
		t.Errorf("%d unnamed connections", n)
	}
	b.mu.Unlock()
	b.close()
	b.close()
	if _, err := b.dial(t.Context(), rpc.StreamsPort); err == nil {
		t.Error("a guest that is gone calls")
	}
}

// running is a process whose guest is played by what it returns.
func running(t *testing.T, tty bool, files ...*os.File) (*process, [3]net.Conn) {
	t.Helper()
	b := newSwitchboard()
	p, err := b.newProcess(files, tty)
	must(t, err)
	var ends [3]net.Conn
	names := p.names()
	for i, name := range [][]byte{names.Stdin, names.Stdout, names.Stderr} {
		if len(name) == 0 {
			continue
		}
		ends[i] = guest(t, b, rpc.StreamsPort)
		_, err := ends[i].Write(name)
		must(t, err)
	}
	must(t, p.begin(b))
	return p, ends
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func TestStreams(t *testing.T) {
	inR, inW := pipe(t)
	outR, outW := pipe(t)
	errR, errW := pipe(t)
	p, ends := running(t, false, inR, outW, errW)

	_, err := inW.WriteString("input")
	must(t, err)
	inW.Close()
	if b, err := io.ReadAll(ends[0]); err != nil || string(b) != "input" {
		t.Errorf("standard input: %q, %v", b, err)
	}
	_, err = ends[1].Write([]byte("output"))
	must(t, err)
	p.settle(t.Context(), 6, 0)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	p.settle(gone, 1<<40, 0)
	b := make([]byte, 6)
	if _, err := io.ReadFull(outR, b); err != nil || string(b) != "output" {
		t.Errorf("standard output: %q, %v", b, err)
	}
	must(t, ends[1].(*net.UnixConn).CloseWrite())
	if b, err := io.ReadAll(outR); err != nil || len(b) != 0 {
		t.Errorf("the end of output: %q, %v", b, err)
	}
	// A reader that goes away takes the stream with it.
	errR.Close()
	for err == nil {
		_, err = ends[2].Write([]byte("nobody reads"))
	}
	if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		t.Error(err)
	}
	p.output(nil)
	p.settle(t.Context(), 1<<40, 1<<40) // what was printed and is not there will not come
}

// TestInputEnds: a process that has ended does not keep a reader of the host's input,
// which somebody else may go on to read.
func TestInputEnds(t *testing.T) {
	inR, inW := pipe(t)
	again, err := unix.Dup(int(inR.Fd()))
	must(t, err)
	rest := os.NewFile(uintptr(again), "")
	defer rest.Close()
	p, ends := running(t, false, inR)
	p.stop()
	if b, err := io.ReadAll(ends[0]); err != nil || len(b) != 0 {
		t.Errorf("%q, %v", b, err)
	}
	ends[0].Close()
	p.inputs.Wait()
	_, err = inW.WriteString("x")
	must(t, err)
	b := make([]byte, 1)
	if _, err := io.ReadFull(rest, b); err != nil || b[0] != 'x' {
		t.Errorf("%q, %v", b, err)
	}
}

func TestExitStatus(t *testing.T) {
	for _, row := range []struct {
		w    *rpc.WaitResponse
		want int
	}{
		{&rpc.WaitResponse{}, 0}, {&rpc.WaitResponse{Code: 7}, 7}, {&rpc.WaitResponse{Signal: 9}, 137},
		{&rpc.WaitResponse{Code: -1}, 255}, {&rpc.WaitResponse{Code: 1 << 20}, 0}, {&rpc.WaitResponse{Code: 3, Signal: -9}, 3}, {&rpc.WaitResponse{Signal: 1 << 30}, 0},
	} {
		if got := exitStatus(row.w).Exit(); got != row.want {
			t.Errorf("%v: %d, want %d", row.w, got, row.want)
		}
	}
}

// prompt is a guest's init that starts whatever a call is whole for.
type prompt struct{ rpc.AgentService }

func (prompt) Start(ctx context.Context, _ *rpc.StartRequest) (*rpc.StartResponse, error) {
	return &rpc.StartResponse{}, ctx.Err()
}

// executing is a guest's init whose process runs when who asked for it has gone.
type executing struct {
	rpc.AgentService
	l      *liar
	gone   func()
	killed chan *rpc.SignalRequest
	waited chan *rpc.WaitRequest
}

func (e *executing) Exec(ctx context.Context, r *rpc.ExecRequest) (*rpc.ExecResponse, error) {
	e.gone()
	if err := e.l.open(r.Streams); err != nil {
		return nil, err
	}
	return &rpc.ExecResponse{Pid: 5}, ctx.Err()
}

func (e *executing) Signal(_ context.Context, r *rpc.SignalRequest) (*rpc.SignalResponse, error) {
	e.killed <- r
	return &rpc.SignalResponse{}, nil
}

func (e *executing) Wait(_ context.Context, r *rpc.WaitRequest) (*rpc.WaitResponse, error) {
	e.waited <- r
	return &rpc.WaitResponse{Signal: 9}, nil
}

// TestExecOfNobody: a process whose command was killed before it heard its number is ended.
func TestExecOfNobody(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	lines := newSwitchboard()
	e := &executing{l: &liar{lines: lines}, gone: cancel, killed: make(chan *rpc.SignalRequest, 1), waited: make(chan *rpc.WaitRequest, 1)}
	s := &sandbox{guest: e, lines: lines, machine: &played{done: make(chan struct{})}, first: &container{name: firstName, procs: map[int]*process{}}}
	null, err := os.Open(os.DevNull)
	must(t, err)
	outR, out := pipe(t)
	errR, errs := pipe(t)
	if _, err := s.Exec(ctx, &agent.ExecRequest{Process: &specs.Process{}}, []*os.File{null, out, errs}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	for _, r := range []io.Reader{outR, errR} { // they end
		_, _ = io.Copy(io.Discard, r)
	}
	if r := <-e.killed; r.Pid != 5 || r.Signal != uint32(unix.SIGKILL) || r.Container != firstName {
		t.Errorf("%+v", r)
	}
	if r := <-e.waited; r.Pid != 5 || len(s.first.procs) != 0 {
		t.Errorf("%+v, %d processes", r, len(s.first.procs))
	}
}

// TestStartIsWhole: whoever called for it may be killed meanwhile (TestKills, seed 3), and the
// program runs; so its state has to say.
func TestStartIsWhole(t *testing.T) {
	s := &sandbox{guest: prompt{}, machine: &played{}, first: &container{name: firstName}}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Start(gone, ""); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Condition(t.Context(), ""); err != nil || !c.Begun {
		t.Errorf("%+v, %v", c, err)
	}
}

// slow is a guest that takes its time for a start.
type slow struct {
	prompt
	entered, done chan struct{}
}

func (s slow) Start(ctx context.Context, r *rpc.StartRequest) (*rpc.StartResponse, error) {
	close(s.entered)
	<-s.done
	return s.prompt.Start(ctx, r)
}

// TestConditionWaits: while a start is under way either answer may be wrong (TestKills, seed 5).
func TestConditionWaits(t *testing.T) {
	g := slow{entered: make(chan struct{}), done: make(chan struct{})}
	s := &sandbox{guest: g, machine: &played{}, first: &container{name: firstName}}
	go func() { _ = s.Start(t.Context(), "") }() // Condition tells
	<-g.entered
	asked := make(chan struct{})
	go func() {
		<-asked
		runtime.Gosched()
		close(g.done)
	}()
	close(asked)
	if c, err := s.Condition(t.Context(), ""); err != nil || !c.Begun {
		t.Errorf("%+v, %v", c, err)
	}
}

// The collector is at its usual pace again when the start is over, and never out of bounds.
func TestHoldCollector(t *testing.T) {
	before, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	defer func() { debug.SetGCPercent(before); debug.SetMemoryLimit(limit) }()
	release := holdCollector()
	if most := debug.SetMemoryLimit(-1); most > 1<<30 {
		t.Errorf("a start that takes much is not collected below %d bytes", most)
	}
	release()
	if got := debug.SetGCPercent(100); got != 50 {
		t.Errorf("after the start the collector's pace is %d", got)
	}
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("after the start there is a limit of %d bytes", got)
	}
}
