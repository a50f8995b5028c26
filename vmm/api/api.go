// Package api is how a program tells a machine what to do while it runs: HTTP
// with JSON on a Unix socket, described by openapi.json, which the server also
// hands out. Whoever may open the socket may do all of it. It knows what Machine
// says of a machine and nothing else.
package api

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is what the server needs of one.
type Machine interface {
	State() State
	Pause() error
	Resume() error
	Save(path string) error // leaves it paused
	// Shutdown asks the guest to switch itself off, and ends it as it stands when
	// grace is over; with none, at once. It does not wait for the end.
	Shutdown(grace time.Duration) error
	Balloon(context.Context) (Balloon, error)
	SetBalloon(mib uint64) error
	Metrics() Metrics
}

// ErrNone means something that this machine does not have.
var ErrNone = errors.New("this machine has none")

// State is a machine, as GET /v1/machine tells it.
type State struct {
	State     string   `json:"state"` // running, paused, ended
	CPUs      int      `json:"cpus"`
	MemoryMiB uint64   `json:"memory_mib"`
	UptimeMS  int64    `json:"uptime_ms"`
	Devices   []string `json:"devices"`
}

// Balloon is the memory that the guest does without.
type Balloon struct {
	TargetMiB uint64 `json:"target_mib"`
	ActualMiB uint64 `json:"actual_mib"`
	// Statistics are the guest's own, in bytes or counts, by Linux's names; none
	// if it tells none.
	Statistics map[string]uint64 `json:"statistics,omitempty"`
}

// Metrics are counts since the program's start.
type Metrics struct {
	Exits     []uint64          `json:"exits"` // to user space, by vCPU
	Unclaimed uint64            `json:"unclaimed_accesses"`
	Devices   map[string]Device `json:"devices"`
}

// Device is one device's counts.
type Device struct {
	Chains        uint64 `json:"chains"` // requests, of all queues
	ReadBytes     uint64 `json:"read_bytes"`
	WrittenBytes  uint64 `json:"written_bytes"`
	Notifications uint64 `json:"notifications"`
	Interrupts    uint64 `json:"interrupts"`
	Failures      uint64 `json:"failures"`
}

// Snapshot is the body of POST /v1/machine/snapshot.
type Snapshot struct {
	Path string `json:"path"`
	// Resume lets the machine go on; without, it stays paused.
	Resume bool `json:"resume,omitempty"`
}

//go:embed openapi.json
var description []byte

// Listen makes the socket at path, for this user alone. One that a dead machine
// left behind is replaced.
func Listen(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if errors.Is(err, unix.EADDRINUSE) {
		c, dialed := net.Dial("unix", path)
		if dialed == nil {
			c.Close()
			return nil, fmt.Errorf("api: %s: another machine listens there; give another path", path)
		}
		if errors.Is(dialed, unix.ECONNREFUSED) && os.Remove(path) == nil {
			l, err = net.Listen("unix", path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("api: %w", err)
	}
	return l, nil
}

// Server answers for one machine.
type Server struct {
	http http.Server
	done chan error
}

// Serve answers on l until Close.
func Serve(l net.Listener, m Machine) *Server {
	s := &Server{done: make(chan error, 1)}
	s.http.Handler = handler(m)
	s.http.ReadHeaderTimeout = 10 * time.Second
	go func() { s.done <- s.http.Serve(l) }()
	return s
}

// moment is how long an answer that is under way may take once the machine has
// ended: that to the request which ended it, not least.
const moment = time.Second

// Close lets what is under way be answered, and removes the socket.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), moment)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	if served := <-s.done; err == nil && !errors.Is(served, http.ErrServerClosed) {
		err = served
	}
	s.done <- http.ErrServerClosed // for a second Close
	return err
}

// routes are what openapi.json describes, in its order.
var routes = []struct {
	method, path string
	serve        func(m Machine, r *http.Request) (any, error) // nil: 204
}{
	{"GET", "/v1/machine", func(m Machine, _ *http.Request) (any, error) { return m.State(), nil }},
	{"POST", "/v1/machine/pause", func(m Machine, _ *http.Request) (any, error) { return nil, m.Pause() }},
	{"POST", "/v1/machine/resume", func(m Machine, _ *http.Request) (any, error) { return nil, m.Resume() }},
	{"POST", "/v1/machine/snapshot", save},
	{"POST", "/v1/machine/shutdown", shutdown},
	{"GET", "/v1/balloon", func(m Machine, r *http.Request) (any, error) { return m.Balloon(r.Context()) }},
	{"PUT", "/v1/balloon", inflate},
	{"GET", "/v1/metrics", func(m Machine, _ *http.Request) (any, error) { return m.Metrics(), nil }},
	{"GET", "/openapi.json", func(Machine, *http.Request) (any, error) { return json.RawMessage(description), nil }},
}

// errRequest is the asker's fault.
var errRequest = errors.New("bad request")

func save(m Machine, r *http.Request) (any, error) {
	var s Snapshot
	if err := read(r, &s); err != nil {
		return nil, err
	}
	if s.Path == "" {
		return nil, fmt.Errorf("%w: no path", errRequest)
	}
	before := m.State().State
	err := m.Save(s.Path)
	if s.Resume || err != nil && before == "running" {
		err = errors.Join(err, m.Resume())
	}
	return nil, err
}

// Shutdown is the body of POST /v1/machine/shutdown, which may be left out.
type Shutdown struct {
	GraceMS uint32 `json:"grace_ms,omitempty"`
}

func shutdown(m Machine, r *http.Request) (any, error) {
	var s Shutdown
	if err := read(r, &s); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return nil, m.Shutdown(time.Duration(s.GraceMS) * time.Millisecond)
}

func inflate(m Machine, r *http.Request) (any, error) {
	var b struct {
		TargetMiB *uint64 `json:"target_mib"`
	}
	if err := read(r, &b); err != nil {
		return nil, err
	}
	if b.TargetMiB == nil {
		return nil, fmt.Errorf("%w: no target_mib", errRequest)
	}
	return nil, m.SetBalloon(*b.TargetMiB)
}

// read decodes a body of at most 64 KiB.
func read(r *http.Request, to any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, 64<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return fmt.Errorf("%w: %w", errRequest, err)
	}
	return nil
}

func handler(m Machine) http.Handler {
	mux := http.NewServeMux()
	for _, route := range routes {
		mux.HandleFunc(route.method+" "+route.path, func(w http.ResponseWriter, r *http.Request) {
			answer, err := route.serve(m, r)
			reply(w, answer, err)
		})
	}
	return mux
}

func reply(w http.ResponseWriter, answer any, err error) {
	status := http.StatusOK
	switch {
	case errors.Is(err, errRequest):
		status = http.StatusBadRequest
	case errors.Is(err, ErrNone):
		status = http.StatusNotFound
	case err != nil:
		status = http.StatusConflict
	case answer == nil:
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if err != nil {
		answer = map[string]string{"error": err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// Who has gone away hears no answer.
	_ = json.NewEncoder(w).Encode(answer)
}
