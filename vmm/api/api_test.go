package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// fake is a machine that notes what it is asked.
type fake struct {
	state string
	asked []string
	fail  error
}

func (f *fake) note(s string) error { f.asked = append(f.asked, s); return f.fail }
func (f *fake) State() State        { return State{State: f.state, CPUs: 2, Devices: []string{"rng"}} }
func (f *fake) Pause() error        { return f.note("pause") }
func (f *fake) Resume() error       { f.asked = append(f.asked, "resume"); return nil }
func (f *fake) Save(p string) error { return f.note("save " + p) }
func (f *fake) Shutdown(grace time.Duration) error {
	return f.note("shutdown " + grace.String())
}
func (f *fake) Metrics() Metrics {
	return Metrics{Exits: []uint64{1}, Devices: map[string]Device{"rng": {}}}
}
func (f *fake) SetBalloon(n uint64) error {
	if n > 100 {
		return ErrNone
	}
	return f.note("balloon")
}
func (f *fake) Balloon(context.Context) (Balloon, error) { return Balloon{TargetMiB: 5}, f.fail }

func client(t *testing.T, m Machine) func(method, path, body string) (int, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(l, m)
	t.Cleanup(func() {
		for range 2 {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := net.Dial("unix", path); err == nil {
			t.Error("the socket still answers")
		}
	})
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return func(method, path, body string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://vmm"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := (&http.Client{Transport: transport}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		b, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(b)
	}
}

func TestRequests(t *testing.T) {
	broken := errors.New("it is broken")
	cases := []struct {
		method, path, body string
		fail               error
		code               int
		says               string
		asked              []string
	}{
		{"GET", "/v1/machine", "", nil, 200, `"cpus":2`, nil},
		{"POST", "/v1/machine/pause", "", nil, 204, "", []string{"pause"}},
		{"POST", "/v1/machine/pause", "", broken, 409, `{"error":"it is broken"}`, []string{"pause"}},
		{"POST", "/v1/machine/resume", "", nil, 204, "", []string{"resume"}},
		{"POST", "/v1/machine/snapshot", `{"path":"/a"}`, nil, 204, "", []string{"save /a"}},
		{"POST", "/v1/machine/snapshot", `{"path":"/a","resume":true}`, nil, 204, "", []string{"save /a", "resume"}},
		{"POST", "/v1/machine/snapshot", `{"path":"/a"}`, broken, 409, "broken", []string{"save /a", "resume"}},
		{"POST", "/v1/machine/snapshot", `{}`, nil, 400, "no path", nil},
		{"POST", "/v1/machine/snapshot", `{"pth":"/a"}`, nil, 400, "pth", nil},
		{"POST", "/v1/machine/snapshot", `}`, nil, 400, "error", nil},
		{"POST", "/v1/machine/shutdown", "", nil, 204, "", []string{"shutdown 0s"}},
		{"POST", "/v1/machine/shutdown", `{}`, nil, 204, "", []string{"shutdown 0s"}},
		{"POST", "/v1/machine/shutdown", `{"grace_ms":1500}`, nil, 204, "", []string{"shutdown 1.5s"}},
		{"POST", "/v1/machine/shutdown", `{"grace_ms":-1}`, nil, 400, "grace_ms", nil},
		{"POST", "/v1/machine/shutdown", `{"grace_ms":1e12}`, nil, 400, "grace_ms", nil},
		{"POST", "/v1/machine/shutdown", `{"grace":1`, nil, 400, "error", nil},
		{"GET", "/v1/balloon", "", nil, 200, `"target_mib":5`, nil},
		{"GET", "/v1/balloon", "", ErrNone, 404, "has none", nil},
		{"PUT", "/v1/balloon", `{"target_mib":64}`, nil, 204, "", []string{"balloon"}},
		{"PUT", "/v1/balloon", `{"target_mib":640}`, nil, 404, "has none", nil},
		{"PUT", "/v1/balloon", `{"target_mib":-1}`, nil, 400, "error", nil},
		{"PUT", "/v1/balloon", `{}`, nil, 400, "no target_mib", nil},
		{"GET", "/v1/metrics", "", nil, 200, `"rng":`, nil},
		{"GET", "/openapi.json", "", nil, 200, `"openapi"`, nil},
		{"DELETE", "/v1/machine", "", nil, 405, "", nil},
		{"GET", "/v2", "", nil, 404, "", nil},
	}
	for _, c := range cases {
		m := &fake{state: "running", fail: c.fail}
		code, says := client(t, m)(c.method, c.path, c.body)
		if code != c.code || !strings.Contains(says, c.says) || !slices.Equal(m.asked, c.asked) {
			t.Errorf("%s %s %s (%v): %d %s, asked %v; want %d with %s, asked %v", c.method, c.path, c.body, c.fail, code, says, m.asked, c.code, c.says, c.asked)
		}
	}
}

// TestDescription holds openapi.json against the code: the same requests, and the same
// fields in what goes over the wire.
func TestDescription(t *testing.T) {
	var doc struct {
		Paths      map[string]map[string]any
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any
				Required   []string
			}
		}
	}
	if err := json.Unmarshal(description, &doc); err != nil {
		t.Fatal(err)
	}
	var described, served []string
	for path, methods := range doc.Paths {
		for method := range methods {
			described = append(described, strings.ToUpper(method)+" "+path)
		}
	}
	for _, r := range routes {
		served = append(served, r.method+" "+r.path)
	}
	slices.Sort(described)
	slices.Sort(served)
	if !slices.Equal(described, served) {
		t.Errorf("described %v, served %v", described, served)
	}
	for name, v := range map[string]any{"State": State{}, "Snapshot": Snapshot{}, "Balloon": Balloon{}, "Metrics": Metrics{}, "Device": Device{}} {
		schema := doc.Components.Schemas[name]
		var fields, required []string
		for i := range reflect.TypeOf(v).NumField() {
			field, option, _ := strings.Cut(reflect.TypeOf(v).Field(i).Tag.Get("json"), ",")
			fields = append(fields, field)
			if option == "" {
				required = append(required, field)
			}
		}
		slices.Sort(fields)
		if want := slices.Sorted(maps.Keys(schema.Properties)); !slices.Equal(fields, want) || !slices.Equal(required, schema.Required) {
			t.Errorf("%s has %v (always: %v); described are %v (required: %v)", name, fields, required, want, schema.Required)
		}
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another machine") {
		t.Errorf("two machines on one socket: %v", err)
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false) // as if killed
	first.Close()
	second, err := Listen(path)
	if err != nil {
		t.Errorf("a socket that a dead machine left: %v", err)
	} else {
		second.Close()
	}
	if _, err := Listen("/no/such/dir/sock"); err == nil {
		t.Error("a socket in no directory: no error")
	}
}

// ending is a machine that closes its server before it answers.
type ending struct {
	fake
	server **Server
	path   string
}

func (e *ending) Shutdown(time.Duration) error {
	go (*e.server).Close()
	for {
		c, err := net.Dial("unix", e.path)
		if err != nil {
			return nil
		}
		c.Close()
	}
}

// TestLastAnswer: who ends the machine is told that it has.
func TestLastAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	var s *Server
	s = Serve(l, &ending{server: &s, path: path})
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	answer, err := c.Post("http://vmm/v1/machine/shutdown", "", nil)
	if err != nil || answer.StatusCode != http.StatusNoContent {
		t.Errorf("%v, %v", answer, err)
	}
	c.CloseIdleConnections()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
