package oci

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMetrics scrapes containers as Prometheus does: the page is what the format's
// specification says, and counts what the programs did.
func TestMetrics(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		leavesNothing(t, p, func() {
			// 300 calls that fail, a child that fails and one that is killed, and a descriptor
			// more; then it says so.
			name := p.started(t, nil, "sh", "-c", `trap 'exit 0' TERM
				i=0; while [ $i -lt 300 ]; do [ -e /not/there ]; i=$((i+1)); done
				(exit 3); sh -c :; sh -c 'kill -KILL $$'; exec 9</dev/null; : >/tmp/done
				while :; do sleep 1000 & wait; done`)
			p.must(t, "exec", name, "sh", "-c", "until [ -e /tmp/done ]; do sleep 0.01; done")
			socket := filepath.Join(t.TempDir(), "metrics.sock")
			c := exec.Command(p.args[0], append(p.args[1:], "metrics", "--listen", socket)...)
			out, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				c.Process.Signal(unix.SIGINT)
				if err := c.Wait(); err != nil {
					t.Errorf("metrics ends with %v", err)
				}
			}()
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.Contains(line, socket) {
				t.Fatalf("metrics says %q, %v", line, err)
			}
			first := scrape(t, socket)
			is := func(series string, ok func(v float64) bool) {
				t.Helper()
				family, labels, _ := strings.Cut(series, "{")
				series = fmt.Sprintf(`%s{container="%s"`, family, name)
				if labels == "" {
					series += "}"
				} else {
					series += "," + labels
				}
				if v, there := first[series]; !there || !ok(v) {
					t.Errorf("%s is %v (there: %v)", series, v, there)
				}
			}
			least := func(n float64) func(float64) bool { return func(v float64) bool { return v >= n } }
			exactly := func(n float64) func(float64) bool { return func(v float64) bool { return v == n } }
			is("bulkhead_up", exactly(1))
			is(`bulkhead_container_info{status="running",platform="`+p.name+`",isolation="sentry"}`, exactly(1))
			is(`bulkhead_syscall_errors_total{errno="ENOENT"}`, least(300))
			is(`bulkhead_syscalls_total{name="openat",outcome="ok"}`, least(1))
			is(`bulkhead_processes_ended_total{how="nonzero"}`, least(1))
			is(`bulkhead_processes_ended_total{how="signal"}`, exactly(1))
			is("bulkhead_processes_started_total", least(4))
			is("bulkhead_execs_total", least(2))
			is("bulkhead_page_faults_total", least(0)) // a platform may map all ahead
			is("bulkhead_tasks", least(2))
			is("bulkhead_descriptors", least(7))
			is("bulkhead_sandbox_goroutines", least(3))
			is("bulkhead_sandbox_go_heap_bytes", least(1<<16))
			is(`bulkhead_memory_bytes{kind="used"}`, least(1<<16))
			is(`bulkhead_cpu_seconds_total{mode="system"}`, func(v float64) bool { return v > 0 && v < 3600 })
			second := scrape(t, socket)
			for series, v := range first {
				if strings.Contains(series, "_total{") && second[series] < v {
					t.Errorf("%s fell from %v to %v", series, v, second[series])
				}
			}

			// Paused, its figures are not to be had, and nobody waits for them.
			p.must(t, "pause", name)
			if now := scrape(t, socket); now[`bulkhead_up{container="`+name+`"}`] != 0 {
				t.Error("a paused container is up")
			}
			p.must(t, "resume", name)
			p.must(t, "kill", name, "KILL")
			p.must(t, "delete", "--force", name)
			if r := p.do(t, "metrics"); r.Code != 0 || strings.Contains(r.Out, name) {
				t.Errorf("after its end: %s", r)
			}
		})
	})
}

var (
	metaLine   = regexp.MustCompile(`^# (HELP|TYPE) ([a-z_]+) (.+)$`)
	sampleLine = regexp.MustCompile(`^([a-z_]+)(\{[a-z_]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*\}) (\S+)$`)
)

// scrape gets a page and demands of it what the format does: a family's help and type
// once and before its samples, its samples together, no series twice, counters
// named _total and not negative.
func scrape(t *testing.T, socket string) map[string]float64 {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
	r, err := client.Get("http://bulkhead/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 {
		t.Fatalf("%s, %v", r.Status, err)
	}
	if kind := r.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain; version=0.0.4") {
		t.Errorf("content type %q", kind)
	}
	values := map[string]float64{}
	types := map[string]string{}
	family := ""
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSuffix(line, "\n")
		if m := metaLine.FindStringSubmatch(line); m != nil {
			if m[1] == "HELP" {
				if _, twice := types[m[2]]; twice {
					t.Errorf("family %s stands twice", m[2])
				}
				family = m[2]
				continue
			}
			if m[2] != family || types[family] != "" {
				t.Errorf("%q behind the help of %s", line, family)
			}
			types[family] = m[3]
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("not the format: %q", line)
		}
		v, err := strconv.ParseFloat(m[3], 64)
		_, twice := values[m[1]+m[2]]
		if err != nil || twice || m[1] != family || types[family] == "" {
			t.Errorf("%q: in %s (%s), twice: %v, %v", line, family, types[family], twice, err)
		}
		if counter := types[family] == "counter"; counter != strings.HasSuffix(family, "_total") || counter && v < 0 {
			t.Errorf("%q is a %s", line, types[family])
		}
		values[m[1]+m[2]] = v
	}
	return values
}
