package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"bulkhead/runtime/agent"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func to[T any](v T) *T { return &v }

func TestLimits(t *testing.T) {
	const mib = 1 << 20
	for _, row := range []struct {
		name   string
		r      *specs.LinuxResources
		inside agent.Limits
		memory int64
		swap   int64
		pids   *int64
	}{
		{"none", nil, agent.Limits{}, 0, 0, nil},
		{"memory", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: to[int64](128 * mib)}}, agent.Limits{Memory: 128 * mib}, (128 + 64 + 16) * mib, 0, nil},
		{"memory and as much swap", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: to[int64](128 * mib), Swap: to[int64](256 * mib)}}, agent.Limits{Memory: 128 * mib}, 208 * mib, 336 * mib, nil},
		{"unlimited", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: to[int64](-1), Swap: to[int64](-1)}, Pids: &specs.LinuxPids{Limit: to[int64](-1)}}, agent.Limits{}, -1, -1, to[int64](-1)},
		{"pids", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: to[int64](10)}}, agent.Limits{Pids: 10}, 0, 0, to[int64](296)},
		{"pids 0 is no limit", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: to[int64](0)}}, agent.Limits{}, 0, 0, nil},
		{"cpu", &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: to[int64](150000)}}, agent.Limits{CPUs: 1.5}, 0, 0, nil},
		{"cpu with period", &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: to[int64](5000), Period: to[uint64](10000)}}, agent.Limits{CPUs: 0.5}, 0, 0, nil},
	} {
		h := host(row.r)
		if got := Inside(row.r); got != row.inside {
			t.Errorf("%s: inside %+v, want %+v", row.name, got, row.inside)
		}
		if h.Memory != row.memory || h.MemorySwap != row.swap || fmt.Sprint(value(h.PidsLimit)) != fmt.Sprint(value(row.pids)) {
			t.Errorf("%s: host memory %d, swap %d, pids %d, want %d, %d, %d", row.name,
				h.Memory, h.MemorySwap, value(h.PidsLimit), row.memory, row.swap, value(row.pids))
		}
	}
}

func TestSystemdPath(t *testing.T) {
	if _, err := New("c", "/docker/c", true, nil); err == nil || !strings.Contains(err.Error(), "slice:prefix:name") {
		t.Errorf("New: %v", err)
	}
}

// A real group: made, limited, frozen, found again and removed.
func TestLife(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make control groups")
	}
	id := "test-" + strconv.Itoa(os.Getpid())
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: to[int64](64 << 20)},
		Pids:   &specs.LinuxPids{Limit: to[int64](20)},
	}
	g, err := New(id, "", false, r)
	if err != nil {
		t.Skipf("needs control groups: %v", err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	second := exec.Command("sleep", "1000")
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	go second.Wait()
	if err := g.Start(r, cmd.Process.Pid, second.Process.Pid); err != nil {
		g.Destroy()
		cmd.Process.Kill()
		second.Process.Kill()
		t.Fatal(err)
	}

	g, err = Open(g.Place())
	if err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Pids(); err != nil || len(pids) != 2 {
		t.Errorf("Pids: %v, %v", pids, err)
	}
	if s, err := g.Stats(); err != nil || s.PidsStats.Limit != 20*pidsFactor+pidsSlack || s.MemoryStats.Usage.Limit != (64+64+8)<<20 {
		t.Errorf("Stats: %+v, %v", s, err)
	}
	if g.Frozen() {
		t.Error("frozen from the start")
	}
	if err := g.Freeze(true); err != nil || !g.Frozen() {
		t.Errorf("Freeze: %v", err)
	}
	place := g.Place()
	if err := g.Destroy(); err != nil { // frozen as it is
		t.Error(err)
	}
	cmd.Process.Kill()
	<-exited
	for controller, dir := range place.Paths {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("left behind: %s (%s)", dir, controller)
		}
	}
	if err := g.Destroy(); err != nil {
		t.Errorf("second Destroy: %v", err)
	}
}

// TestOOMKills has the host's kernel kill one of two processes.
func TestOOMKills(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to make a control group: run as root")
	}
	limit := int64(1 << 20) // and the slack
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
	g, err := New("oom-test", fmt.Sprintf("/bulkhead-oom-test-%d", os.Getpid()), false, r)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := g.OOMKills(); n != 0 || err != nil {
		t.Errorf("before there is one: %d, %v", n, err)
	}
	hog := exec.Command("sh", "-c", "read go; exec dd if=/dev/zero of=/dev/null bs=300M count=1")
	in, err := hog.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hog.Start(); err != nil {
		t.Fatal(err)
	}
	err = g.Start(r, hog.Process.Pid)
	defer g.Destroy()
	in.Write([]byte("\n"))
	in.Close()
	hog.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := g.OOMKills(); n != 1 || err != nil {
		t.Errorf("%d kills, %v; the program's end: %v", n, err, hog.ProcessState)
	}
}

// TestFit: a limit beneath what is held is not set, and nobody is ended for it; once less is
// held it is.
func TestFit(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to make a control group: run as root")
	}
	large, small := int64(400<<20), int64(8<<20)
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &large}}
	g, err := New("fit-test", fmt.Sprintf("/bulkhead-fit-test-%d", os.Getpid()), false, r)
	if err != nil {
		t.Fatal(err)
	}
	// Some 100 MiB, and more than its limit with the slack.
	holder := exec.Command("sh", "-c", `read go; x=$(head -c 100000000 /dev/zero | tr '\0' x); echo held; read end; echo ${#x}`)
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(out)
	err = g.Start(r, holder.Process.Pid)
	t.Cleanup(func() {
		holder.Process.Kill()
		holder.Wait()
		if err := g.Destroy(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in, "go")
	if line, err := said.ReadString('\n'); line != "held\n" {
		t.Fatalf("%q, %v", line, err)
	}
	limit := func() uint64 {
		s, err := g.Stats()
		if err != nil {
			t.Fatal(err)
		}
		return s.MemoryStats.Usage.Limit
	}
	was := limit()
	less := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &small}}
	if err := g.Fit(less); !errors.Is(err, ErrHeld) || limit() != was {
		t.Errorf("beneath what is held: %v, limit %d MiB of %d", err, limit()>>20, was>>20)
	}
	fmt.Fprintln(in, "end")
	if line, err := said.ReadString('\n'); line != "100000000\n" {
		t.Errorf("the holder says %q, %v", line, err)
	}
	holder.Wait()
	if err := g.Fit(less); err != nil || limit() != uint64(host(less).Memory) {
		t.Errorf("when nothing is held: %v, limit %d MiB", err, limit()>>20)
	}
}
