package oci

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead/test/rig"
)

// TestFloods measures what a neighbour keeps of its throughput while a container is flooded with first segments
// of TCP, or with connections, and beside it what it keeps where runc's is flooded; the flooded container has
// half a processor. The ratios are printed: whether they are good enough is for docs/results to say. Tested is that the flooded
// container is there afterwards, within its memory, and serves.
func TestFloods(t *testing.T) {
	if os.Getenv("BULKHEAD_SLOW") == "" {
		t.Skip("measures for a minute: BULKHEAD_SLOW=1")
	}
	const seconds = 3
	dir := reacher(t)
	kept := map[string]string{}
	eachRuntime(t, func(t *testing.T, p *program) {
		limits := func(s *specs.Spec) {
			memory(128 << 20)(s)
			quota, period := int64(50_000), uint64(100_000)
			s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
		}
		mounted := func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
		}
		for _, neighbour := range []string{p.name, "runc"} {
			beside := p
			if neighbour == "runc" {
				root := filepath.Join(t.TempDir(), "root")
				beside = &program{name: "runc", args: []string{"runc", "--root=" + root}, root: root}
			}
			flooded, quiet := newWire(t), newWire(t)
			name := p.started(t, func(s *specs.Spec) { flooded.join(s); limits(s); mounted(s) }, "/mnt/reach", "serve")
			beside.started(t, func(s *specs.Spec) { quiet.join(s); mounted(s) }, "/mnt/reach", "pour")
			reach := filepath.Join(dir, "reach")
			drink := func() float64 {
				var out []byte
				for end := time.Now().Add(rig.Limit); time.Now().Before(end); { // it listens when somebody gets through
					var err error
					if out, err = quiet.beyond(reach, "drink", "10.77.0.2", strconv.Itoa(seconds)).Output(); err == nil {
						break
					}
				}
				n, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			before := drink()
			for _, act := range []string{"syn", "connect"} {
				for _, rate := range []string{"2000", "20000"} {
					flood := flooded.beyond(reach, act, "10.77.0.2", rate)
					if err := flood.Start(); err != nil {
						t.Fatal(err)
					}
					during := drink()
					flood.Process.Kill()
					flood.Wait()
					kept[fmt.Sprintf("%s of %s/s at %s beside %s", act, rate, p.name, neighbour)] = fmt.Sprintf("%.0f %% of %.0f MiB/s", 100*during/before, before/seconds)
				}
			}
			served := false
			for tries := 0; tries < 50 && !served; tries++ {
				out, _ := flooded.beyond(reach, "dial", "10.77.0.2", "7001").Output()
				served = string(out) == "OK\n"
			}
			if !served || p.state(t, name).Status != specs.StateRunning {
				t.Errorf("after the floods: served %v, %s: %s", served, p.state(t, name).Status, p.logged())
			}
			usage, _ := exec.Command("sh", "-c", "cat /sys/fs/cgroup/memory/*"+name+"*/memory.max_usage_in_bytes /sys/fs/cgroup/*"+name+"*/memory.peak 2>/dev/null").Output()
			t.Logf("%s beside %s: most memory of the flooded one: %s", p.name, neighbour, strings.TrimSpace(string(usage)))
		}
	})
	for what, share := range kept {
		t.Logf("%s: %s", what, share)
	}
}
