package table

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"bulkhead/test/rig"
)

// perSandbox is how many programs one container runs before a new one takes its
// place: what they leave in the Sentry must not outlive it.
const perSandbox = 300

// calls are the table as `bulkhead syscalls` prints it.
func calls(tb testing.TB) (map[string]int, []string) {
	tb.Helper()
	out, err := exec.Command(rig.Bulkhead(tb), "syscalls").Output()
	if err != nil {
		tb.Fatal(err)
	}
	numbers := map[string]int{}
	var names []string
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if nr, err := strconv.Atoi(fields[0]); err == nil && len(fields) > 2 && !strings.HasSuffix(fields[1], "calls:") {
			numbers[fields[1]] = nr
			names = append(names, fields[1])
		}
	}
	return numbers, names
}

// bench is what one process of the fuzzer has: a generator and a sandbox a platform.
type bench struct {
	mu        sync.Mutex
	generator *Generator
	setups    []*Setup
	boxes     []*Sandbox
	started   int
	killed    int               // programs, at the end of their time
	done      map[int][2]uint64 // calls by number that succeeded, that failed
}

func newBench(tb testing.TB) *bench {
	rig.NeedRoot(tb)
	b := &bench{done: map[int][2]uint64{}}
	b.generator = NewGenerator(calls(tb))
	dir, err := os.MkdirTemp("", "bulkhead-table-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		for _, box := range b.boxes {
			if box != nil {
				box.Kill()
			}
		}
		os.RemoveAll(dir)
	})
	executor := filepath.Join(dir, "executor")
	rig.Compile(tb, executor, "gcc", "-static", "-O1", "-w", "testdata/executor.c")
	for _, platform := range rig.Platforms(tb) {
		b.setups = append(b.setups, &Setup{Bulkhead: rig.Bulkhead(tb), Platform: platform, Executor: executor, Dir: dir,
			Env: []string{"GORACE=halt_on_error=1", "GOTRACEBACK=all"}})
	}
	b.boxes = make([]*Sandbox, len(b.setups))
	return b
}

// run has a program run on each platform.
func (b *bench) run(t *testing.T, p *Program) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, setup := range b.setups {
		if b.boxes[i] == nil {
			b.started++
			box, err := setup.Start(fmt.Sprintf("table-%d-%d", os.Getpid(), b.started))
			if err != nil {
				t.Fatal(err)
			}
			b.boxes[i] = box
		}
		box := b.boxes[i]
		report, err := box.Run(p)
		if err == nil && len(box.Ran()) >= perSandbox {
			err = box.Close()
			b.boxes[i] = nil
		}
		if err != nil {
			b.boxes[i] = nil
			box.Kill()
			t.Fatalf("%s: %v\n%s\n%s", setup.Platform, err, box.Log(), history(box))
		}
		if report.Broken != 0 {
			t.Logf("%s: could not be set up: %d", setup.Platform, report.Broken)
		}
		if report.Killed {
			b.killed++
		}
		for nr := range report.Done {
			n := b.done[nr]
			b.done[nr] = [2]uint64{n[0] + uint64(report.Done[nr]), n[1] + uint64(report.Failed[nr])}
		}
	}
}

// history is the last programs, for what one may have left and the next met.
func history(box *Sandbox) string {
	var s strings.Builder
	ran := box.Ran()
	for i := max(0, len(ran)-3); i < len(ran); i++ {
		fmt.Fprintf(&s, "-- program %d of this sandbox\n%v", i+1, ran[i])
	}
	return s.String()
}

// FuzzTable is the fuzzer. Its seeds are empty but for a number, since what
// follows a program's bytes is made of their hash.
func FuzzTable(f *testing.F) {
	b := newBench(f)
	for i := range 24 {
		f.Add([]byte{byte(i * 11), byte(i)})
	}
	f.Fuzz(func(t *testing.T, bytes []byte) { b.run(t, b.generator.Program(bytes)) })
}

// TestMinutes runs $BULKHEAD_TABLE programs from seed $BULKHEAD_TABLE_SEED on,
// and prints which calls they made.
func TestMinutes(t *testing.T) {
	count, _ := strconv.Atoi(os.Getenv("BULKHEAD_TABLE"))
	if count == 0 {
		t.Skip("set BULKHEAD_TABLE to how many programs are to run; make fuzz-table has go's fuzzing run them")
	}
	from, _ := strconv.Atoi(os.Getenv("BULKHEAD_TABLE_SEED"))
	b := newBench(t)
	for i := range count {
		b.run(t, b.generator.Program([]byte(strconv.Itoa(from+i))))
		if t.Failed() {
			t.Fatalf("seed %d", from+i)
		}
	}
	numbers, names := calls(t)
	t.Logf("%d programs, of which %d took all their time", count, b.killed)
	for _, name := range names {
		n := b.done[numbers[name]]
		t.Logf("%-24s %8d succeeded %8d failed", name, n[0], n[1])
	}
}
