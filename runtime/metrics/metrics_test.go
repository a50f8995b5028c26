package metrics

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/runtime/agent"
)

func names(nr int) string {
	return map[int]string{0: "read", 1: "write"}[nr]
}

func page(t *testing.T, list ...Container) string {
	t.Helper()
	var b strings.Builder
	if err := Write(&b, list, Names{names}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPage(t *testing.T) {
	m := &agent.Metrics{
		ByCall:  []agent.CallCount{{Number: 0, Done: 3, Failed: 2}, {Number: 1, Interrupted: 1}},
		ByErrno: map[int]uint64{2: 2}, Platform: []agent.PlatformCounter{{Name: "calls_by_stop", Value: 6}, {Name: "stub_processes", Value: 1, Level: true}},
	}
	m.CPUUser = 1_500_000_000
	m.Interfaces = []agent.Traffic{{RxBytes: 10, TxPackets: 20}, {TxDropped: 30}, {RxBytes: 40}} // of three, where two are known
	got := page(t, Container{ID: "a", Status: "running", Platform: "ptrace", Inside: m, Interfaces: []string{"eth0", "eth1"}}, Container{ID: "b", Status: "paused"})
	for _, want := range []string{
		"# TYPE bulkhead_up gauge\nbulkhead_up{container=\"a\"} 1\nbulkhead_up{container=\"b\"} 0\n",
		`bulkhead_syscalls_total{container="a",name="read",outcome="ok"} 3` + "\n",
		`bulkhead_syscalls_total{container="a",name="read",outcome="error"} 2` + "\n",
		`bulkhead_syscalls_total{container="a",name="write",outcome="interrupted"} 1` + "\n",
		`bulkhead_syscall_errors_total{container="a",errno="ENOENT"} 2` + "\n",
		`bulkhead_cpu_seconds_total{container="a",mode="user"} 1.5` + "\n",
		`bulkhead_platform_total{container="a",event="calls_by_stop"} 6` + "\n",
		`bulkhead_platform{container="a",event="stub_processes"} 1` + "\n",
		`bulkhead_network_bytes_total{container="a",interface="eth0",direction="received"} 10` + "\n",
		`bulkhead_network_packets_total{container="a",interface="eth0",direction="sent"} 20` + "\n",
		`bulkhead_network_dropped_total{container="a",interface="eth1",direction="sent"} 30` + "\n# HELP",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// TestHostilePage: a sandbox that lies has no more series than one that does not, and
// none whose name or label it chose.
func TestHostilePage(t *testing.T) {
	honest := strings.Count(page(t, Container{ID: "a", Inside: &agent.Metrics{}}), "\n")
	m := &agent.Metrics{ByErrno: map[int]uint64{}}
	for i := -50000; i < 50000; i++ {
		m.ByCall = append(m.ByCall, agent.CallCount{Number: i, Done: 1, Failed: 1})
		m.ByErrno[i] = 1
		m.Platform = append(m.Platform, agent.PlatformCounter{Name: fmt.Sprintf("x%d\"} 1\nevil{a=\"", i), Value: 1})
		m.Platform = append(m.Platform, agent.PlatformCounter{Name: "same", Value: 1})
	}
	got := page(t, Container{ID: "a", Inside: m})
	if n := strings.Count(got, "\n"); n > honest+200 {
		t.Errorf("%d lines, %d of an honest sandbox", n, honest)
	}
	if strings.Contains(got, "evil") {
		t.Error("a label that the sandbox made up")
	}
	if n := strings.Count(got, `event="same"`); n != 1 {
		t.Errorf("a series stands %d times", n)
	}
	if want := `name="unknown",outcome="ok"} 99998`; !strings.Contains(got, want) {
		t.Errorf("no %s", want)
	}
}

func TestEscape(t *testing.T) {
	for _, row := range []struct{ in, want string }{
		{`plain-1.2`, `plain-1.2`}, {"a\"b\\c\nd", `a\"b\\c\nd`}, {"\xff", "\ufffd"}, {"é", "é"},
	} {
		if got := escapeValue(row.in); got != row.want {
			t.Errorf("%q: %q, want %q", row.in, got, row.want)
		}
	}
}

// TestListen: a socket is its owner's alone; a dead one is replaced, a live one and what
// is no socket are not.
func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if i, err := os.Stat(path); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", i.Mode(), err)
	}
	if l, err := Listen("unix:" + path); err == nil {
		l.Close()
		t.Error("a second listener where one is")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = Listen(path); err != nil {
		t.Errorf("a dead socket: %v", err)
	} else {
		l.Close()
	}
	os.WriteFile(path, []byte("x"), 0o644)
	if l, err := Listen(path); err == nil {
		l.Close()
		t.Error("a file was replaced")
	}
	if l, err = Listen("0"); err != nil {
		t.Fatal(err)
	}
	if host, _, _ := net.SplitHostPort(l.Addr().String()); host != "127.0.0.1" {
		t.Errorf("a port alone listens at %s", l.Addr())
	}
	l.Close()
}

func TestServe(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- Serve(ctx, l, func(context.Context) []Container { return []Container{{ID: "a"}} }, Names{names})
	}()
	r, err := http.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(r.Body)
	r.Body.Close()
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != ContentType || !strings.Contains(string(b), `bulkhead_up{container="a"} 0`) {
		t.Errorf("%s %v %s", r.Status, r.Header, b)
	}
	if r, err = http.Post("http://"+l.Addr().String()+"/metrics", "", nil); err != nil || r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v, %v", r.Status, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestMachinePage: of a machine there is what its guest tells, and no zero that stands for what
// nobody counted.
func TestMachinePage(t *testing.T) {
	m := &agent.Metrics{Machine: true, Platform: []agent.PlatformCounter{{Name: "share_requests", Value: 7}, {Name: "guest_memory_bytes", Value: 1 << 29, Level: true}}}
	m.Memory, m.Cache, m.Faults, m.Processes, m.Goroutines = 300, 100, 5, 2, 9
	got := page(t, Container{ID: "a", Status: "running", Platform: "kvm", Isolation: "vm", Inside: m})
	for _, want := range []string{
		`bulkhead_up{container="a"} 1`, `bulkhead_memory_bytes{container="a",kind="files"} 100`, `bulkhead_page_faults_total{container="a"} 5`,
		`bulkhead_tasks{container="a"} 2`, `bulkhead_sandbox_goroutines{container="a"} 9`,
		`bulkhead_platform_total{container="a",event="share_requests"} 7`, `bulkhead_platform{container="a",event="guest_memory_bytes"} 536870912`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for _, not := range []string{"bulkhead_execs_total", "bulkhead_processes", "bulkhead_descriptors", "bulkhead_clones", "bulkhead_syscall", `kind="text"`} {
		if strings.Contains(got, not) {
			t.Errorf("%s is in\n%s", not, got)
		}
	}
}
