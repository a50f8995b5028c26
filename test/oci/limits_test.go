package oci

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"bulkhead/test/rig"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func memory(limit int64) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit} }
}

func pids(limit int64) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &limit} }
}

func TestForkBomb(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		leavesNothing(t, p, func() {
			r := p.run(t, pids(40), "sh", "-c", "acts bomb; echo lives")
			if want := "38 forks, then Resource temporarily unavailable\nlives\n"; r.Out != want {
				t.Errorf("want %s\n%s%s", want, r, p.logged())
			}
			// A tree of forks, deleted from outside while it grows.
			name := p.started(t, pids(40), "acts", "chains")
			if out := p.must(t, "ps", name); strings.Count(out, "chains") > 40 {
				t.Errorf("more than the limit:\n%s", out)
			}
			p.must(t, "delete", "--force", name)
		})
	})
}

// TestManyProcesses: there can be as many as the limit lets, for the sandbox's own is above what it needs for each;
// and dozens that compute and have drawn a random number, for which Go's runtime has a piece of memory for each
// thread of the Sentry's.
func TestManyProcesses(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		for script, want := range map[string]string{
			"acts bomb":    "398 forks, then Resource temporarily unavailable\n",
			"acts draw 60": "60 drew\n",
		} {
			if r := p.run(t, pids(400), "sh", "-c", script+"; echo lives"); r.Out != want+"lives\n" {
				t.Errorf("%s: want %s\n%s%s", script, want, r, p.logged())
			}
		}
	})
}

// TestMemoryHog: the program dies, never the Sentry, and a neighbour notices nothing.
func TestMemoryHog(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		leavesNothing(t, p, func() {
			neighbour := p.started(t, nil, "sleep", "1000")
			r := p.run(t, memory(64<<20), "acts", "hog")
			if r.Code != 137 {
				t.Errorf("a hog as PID 1: want exit 137: %s%s", r, p.logged())
			}
			r = p.run(t, memory(64<<20), "acts", "child_hog")
			if want := "child died by signal 9\n"; r.Out != want || r.Code != 0 {
				t.Errorf("a hog as a child: want %s: %s%s", want, r, p.logged())
			}
			log, err := os.ReadFile(p.log)
			if err != nil || !strings.Contains(strings.ToLower(string(log)), "out of memory") {
				t.Errorf("the log has no line of the kill: %v\n%s", err, log)
			}
			if out := p.must(t, "exec", neighbour, "echo", "alive"); out != "alive\n" {
				t.Errorf("the neighbour says %q", out)
			}
			p.must(t, "delete", "--force", neighbour)
		})
	})
}

// TestCPUTime: what programs are told that they used is what the host gave them, not
// the time that they would have liked to.
func TestCPUTime(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		for _, x := range []struct {
			what  string
			quota int64 // microseconds of 100,000
			cpus  float64
		}{{"no limit", -1, float64(runtime.NumCPU())}, {"a fifth of a CPU", 20_000, 0.2}} {
			period := uint64(100_000)
			r := p.run(t, func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &x.quota, Period: &period} }, "acts", "spin")
			var used, took float64
			if n, err := fmt.Sscan(r.Out, &used, &took); n != 2 || r.Code != 0 {
				t.Fatalf("%s: %v: %s%s", x.what, err, r, p.logged())
			}
			const slack = 200 // ms: what was left of a first and a last period, and roundings
			if used <= 0 || used > took*x.cpus+slack {
				t.Errorf("%s: %v ms of CPU time in %v ms", x.what, used, took)
			}
		}
	})
}

// TestOOMEvent: who watches a container hears of a program that was killed for want of memory
// when that happens, and of the container's end.
func TestOOMEvent(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		name := p.started(t, memory(64<<20), "sleep", "1000")
		cmd := exec.Command(p.args[0], append(slices.Clone(p.args[1:]), "events", "--interval", "100ms", name)...)
		stream, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		watch := time.AfterFunc(rig.Limit, func() { cmd.Process.Kill() })
		defer watch.Stop()
		lines := bufio.NewScanner(stream)
		await := func(kind string) string {
			for lines.Scan() {
				var e struct{ Type string }
				if json.Unmarshal(lines.Bytes(), &e) == nil && e.Type == kind {
					return lines.Text()
				}
			}
			return ""
		}
		if await("stats") == "" {
			t.Error("no statistics")
		}
		if got := p.do(t, "exec", name, "acts", "child_hog"); got.Out != "child died by signal 9\n" {
			t.Errorf("the hog: %s%s", got, p.logged())
		}
		if got, want := await("oom"), fmt.Sprintf(`{"type":"oom","id":"%s"}`, name); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		p.must(t, "delete", "--force", name)
		// runc takes the group's removal for one more, at times: its eventfd is told of that as
		// well (mm/memcontrol.c, mem_cgroup_css_offline and what closes eventfds).
		if got := await("oom"); got != "" && filepath.Base(p.args[0]) != "runc" {
			t.Errorf("after the end: %s", got)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("events ends with %v", err)
		}
	})
}

// TestSocketsAreCharged: what sockets hold is the Sentry's memory and counts as the
// container's: the program that fills them is told, and neither it nor the sandbox dies.
func TestSocketsAreCharged(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		r := p.run(t, memory(64<<20), "sh", "-c", "acts full_sockets; echo lives")
		if want := "No buffer space available\nlives\n"; r.Out != want || r.Code != 0 {
			t.Errorf("want %s: %s%s", want, r, p.logged())
		}
	})
}

// TestTmpfsIsCharged: files in memory count as the container's memory.
func TestTmpfsIsCharged(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		r := p.run(t, memory(64<<20), "sh", "-c", "dd if=/dev/zero of=/tmp/f bs=1M count=500 2>/dev/null; echo $?")
		if r.Code == 0 && strings.TrimSpace(r.Out) == "0" {
			t.Errorf("500 MiB fitted into 64: %s", r)
		}
	})
}

// TestJoinedRoom: the host's control group of a sandbox holds what all its containers may use,
// and when one of them leaves, with what it had in memory, those that stay and no more.
func TestJoinedRoom(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		pod := p.started(t, func(s *specs.Spec) {
			memory(64 << 20)(s)
			s.Annotations = map[string]string{"io.kubernetes.cri.container-type": "sandbox"}
		}, "sleep", "1000")
		room := func() int { return hostMemory(t, p.state(t, pod).Pid) }
		alone := room()
		other := p.started(t, func(s *specs.Spec) {
			memory(256 << 20)(s)
			s.Annotations = map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": pod}
		}, "sleep", "1000")
		p.must(t, "exec", other, "dd", "if=/dev/zero", "of=/tmp/f", "bs=1M", "count=200")
		if got, want := room(), alone+256<<20+256<<20/8; got != want {
			t.Errorf("with both the host's group allows %d MiB, want %d", got>>20, want>>20)
		}
		p.must(t, "delete", "--force", other)
		if got := room(); got != alone {
			t.Errorf("with one again the host's group allows %d MiB, and had %d: %s", got>>20, alone>>20, p.logged())
		}
		if out := p.must(t, "exec", pod, "echo", "alive"); out != "alive\n" {
			t.Errorf("who stays says %q", out)
		}
		p.must(t, "delete", "--force", pod)
	})
}

// hostMemory is how much memory the control group of a process on the host allows, in bytes.
func hostMemory(t *testing.T, pid int) (n int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		file := "/sys/fs/cgroup" + part[2] + "/memory.max"
		if slices.Contains(strings.Split(part[1], ","), "memory") {
			file = "/sys/fs/cgroup/memory" + part[2] + "/memory.limit_in_bytes"
		}
		if b, err := os.ReadFile(file); err == nil {
			if n, err = strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
				return n
			}
		}
	}
	t.Fatalf("no limit of memory in the groups %s", text)
	return 0
}
