package agent

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestSchedule: a program runs as its process says, and what it starts.
func TestSchedule(t *testing.T) {
	if os.Getenv("BULKHEAD_TEST_SCHEDULE") != "" {
		runtime.LockOSThread()
		st := &stage{
			Join: true, Domain: specs.PerLinux32,
			Process: &specs.Process{
				Scheduler:       &specs.Scheduler{Policy: specs.SchedBatch, Nice: 3},
				IOPriority:      &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6},
				ExecCPUAffinity: &specs.CPUAffinity{Final: "0"},
				Args:            []string{"sh", "-c", "cut -d' ' -f19,41 /proc/self/stat; uname -m; ionice -p $$; grep Cpus_allowed_list /proc/self/status"},
				Env:             []string{"PATH=/usr/bin:/bin"},
			},
		}
		err := st.schedule()
		if err == nil {
			err = st.execute("/bin/sh")
		}
		t.Fatal(err)
	}
	if _, err := exec.LookPath("ionice"); err != nil {
		t.Skip("needs ionice: scripts/need test installs it (util-linux)")
	}
	self, err := os.Executable()
	must(t, err)
	c := exec.Command(self, "-test.run", "^TestSchedule$")
	c.Env = append(stageEnvironment, "BULKHEAD_TEST_SCHEDULE=1")
	out, err := c.CombinedOutput()
	const want = "3 3\ni686\nbest-effort: prio 6\nCpus_allowed_list:\t0\n"
	if err != nil || string(out) != want {
		t.Errorf("%v: %s\nwant %s", err, out, want)
	}
}

// TestScheduleRefuses: what cannot be had is named.
func TestScheduleRefuses(t *testing.T) {
	for _, row := range []struct {
		process specs.Process
		want    string
	}{
		{specs.Process{Scheduler: &specs.Scheduler{Policy: "SCHED_FIFO"}}, `process.scheduler.policy "SCHED_FIFO": invalid argument`},
		{specs.Process{ExecCPUAffinity: &specs.CPUAffinity{Final: "x"}}, `process.execCPUAffinity.final "x": "x" is no list of CPUs, as 0-2,7`},
	} {
		st := &stage{Join: true, Process: &row.process}
		if err := st.schedule(); err == nil || err.Error() != row.want {
			t.Errorf("%v, want %s", err, row.want)
		}
	}
}
