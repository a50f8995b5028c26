package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead/hwtest/lab"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Rounds of TestKills: in `make test`, of the Sentry alone, whose start takes a tenth of a
// second; and in `make lab`, in as many machines as keep each below labtest's bound.
const (
	fewKills  = 6
	manyKills = 300
	killParts = 12
)

// TestKills: whatever is killed while a container is made, started, entered and
// deleted, and whenever: its state is soon true, its deletion leaves nothing, it can be
// made again, and a container beside it does not notice. Kinds and times come of a
// seed, which $BULKHEAD_SEED sets.
func TestKills(t *testing.T) {
	seed := uint64(1)
	if text := os.Getenv("BULKHEAD_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	rounds := manyKills
	if text := os.Getenv("BULKHEAD_ROUNDS"); text != "" {
		var err error
		rounds, err = strconv.Atoi(text)
		must(t, err)
	}
	t.Run("sentry", func(t *testing.T) {
		runtimeProgram(t)
		if !slow(t) {
			rounds = fewKills
		}
		kills(t, "sentry", seed, rounds)
	})
	for part := range killParts {
		t.Run(fmt.Sprintf("vm %d", part+1), func(t *testing.T) {
			runtimeProgram(t)
			if !slow(t) {
				t.Skip("a round takes seconds in the lab: make lab")
			}
			if inLinux(t, lab.Machine{Memory: 3072}) {
				kills(t, "vm", seed+uint64(part), rounds/killParts)
			}
		})
	}
}

// victim is a kind of process that is killed.
type victim string

const (
	sandboxVictim victim = "sandbox" // the Sentry, or the machine
	goferVictim   victim = "gofer"   // which has its files
	clientVictim  victim = "client"  // the command that is under way
	// A kernel lets nobody kill its init; what comes of one that dies does the same.
	initVictim victim = "init"
)

// slaughter is a run of rounds.
type slaughter struct {
	t      *testing.T
	c      *container
	wall   string
	id     string
	beside *os.Process
	other  map[int]bool // processes that are not this container's
	span   time.Duration

	mu      sync.Mutex
	current *os.Process // the command under way, or nil
	over    bool        // there comes none any more

	worst map[string]time.Duration
}

func kills(t *testing.T, wall string, seed uint64, rounds int) {
	// Orphans come to us, as they do to a shim.
	must(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	t.Cleanup(func() { must(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)) })
	random := rand.New(rand.NewPCG(seed, 0))
	by := box(t, `while read line; do echo "$line"; done; exit 5`)
	k := &slaughter{t: t, c: box(t, ""), wall: wall, id: fmt.Sprintf("kill-%d", os.Getpid()), worst: map[string]time.Duration{}}
	k.c.state = by.state
	k.c.spec.Process.Args = []string{"sh", "-c", "touch /tmp/ran; exec sleep 10000"}
	k.c.spec.Linux.ReadonlyPaths, k.c.spec.Linux.MaskedPaths = nil, nil // for sysrq-trigger
	k.c.command(wall, "list")                                           // writes the configuration

	other := by.command(wall, "run", k.id+"-other")
	in, err := other.StdinPipe()
	must(t, err)
	v := &vm{t: t, cmd: other}
	v.out.more.L = &v.out.mu
	other.Stdout, other.Stderr = &v.out, &v.out
	must(t, other.Start())
	go func() {
		_ = other.Wait() // the exit code is in ProcessState
		v.out.mu.Lock()
		defer v.out.mu.Unlock()
		v.out.end = true
		v.out.more.Broadcast()
	}()
	t.Cleanup(func() {
		finish(t, by.command(wall, "delete", "--force", k.id))
		finish(t, by.command(wall, "delete", "--force", k.id+"-other"))
		v.wait()
	})
	at := 0
	alive := func(line string) {
		t.Helper()
		_, err := in.Write([]byte(line + "\n"))
		must(t, err)
		at = v.await(line+"\n", at)
	}
	alive("begin")
	k.beside, k.other = other.Process, map[int]bool{}
	for _, pid := range descendants(os.Getpid()) {
		k.other[pid] = true
	}

	victims := []victim{sandboxVictim, goferVictim, clientVictim, clientVictim}
	if wall == "vm" {
		victims = append(victims, initVictim)
	}
	began := time.Now()
	if failed := k.life(); failed != "" {
		t.Fatalf("with nobody killed: %s", failed)
	}
	k.span = time.Since(began)
	k.clean()
	counts := map[victim]int{}
	for round := range rounds {
		who := victims[random.IntN(len(victims))]
		part := random.Float64()
		if k.round(fmt.Sprintf("seed %d, round %d: %s at %.3f of %v", seed, round, who, part, k.span.Round(time.Millisecond)), who, time.Duration(part*float64(k.span))) {
			counts[who]++
		}
		alive(fmt.Sprint("round ", round))
		if t.Failed() {
			break
		}
	}
	t.Logf("%d rounds of %v; killed: %v; longest: %v", rounds, k.span.Round(time.Millisecond), counts, k.worst)
	must(t, in.Close())
	if code := v.wait(); code != 5 {
		t.Errorf("the container beside ended with %d, want 5\n%s", code, &v.out)
	}
}

// round kills once, and says whether it came to that.
func (k *slaughter) round(name string, who victim, delay time.Duration) bool {
	k.mu.Lock()
	k.over = false
	k.mu.Unlock()
	began := time.Now()
	hit := make(chan time.Time, 1)
	go func() {
		defer close(hit)
		time.Sleep(delay) // it is what the round is about
		for !k.kill(who) {
			k.mu.Lock()
			over := k.over
			k.mu.Unlock()
			if over {
				return
			}
			time.Sleep(time.Millisecond)
		}
		hit <- time.Now()
	}()
	failed := k.life()
	at, killed := <-hit
	if !killed {
		k.t.Logf("%s: it was over before", name)
		k.span = min(k.span, time.Since(began)) // the host had more to do, the first time
		if failed != "" {
			k.t.Errorf("%s: a failure with nobody killed: %s", name, failed)
		}
	} else {
		k.t.Logf("%s: killed after %v, and then: %.200q", name, at.Sub(began).Round(time.Millisecond), failed)
	}
	if killed {
		k.took("the command under way", at)
		k.truth(name, who, at)
	}
	k.clean()
	return killed
}

func (k *slaughter) took(what string, since time.Time) { k.tookUntil(what, since, time.Now()) }

func (k *slaughter) tookUntil(what string, since, until time.Time) {
	if d := until.Sub(since).Round(time.Millisecond); d > k.worst[what] {
		k.worst[what] = d
	}
}

// life is what the container lives through: the first command that fails ends it, and
// what that said is given.
func (k *slaughter) life() (failed string) {
	os.Remove(filepath.Join(k.c.dir, "rootfs/tmp/ran"))
	for _, step := range [][]string{
		{"create", k.id},
		{"start", k.id},
		{"exec", k.id, "echo", "hello"},
		{"delete", "--force", k.id},
	} {
		got := k.run(step...)
		if got.code != 0 || step[0] == "exec" && got.out != "hello\n" {
			failed = fmt.Sprintf("%v: %d, %q, %q", step, got.code, got.out, got.err)
			break
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = true
	return failed
}

// run is a command that may be killed.
func (k *slaughter) run(args ...string) outcome {
	cmd := k.c.command(k.wall, args[0], args[1:]...)
	var out, errs bytes.Buffer
	if args[0] != "create" { // whose streams the container has
		cmd.Stdout, cmd.Stderr = &out, &errs
	} else {
		file, err := os.CreateTemp(k.c.dir, "output")
		must(k.t, err)
		defer os.Remove(file.Name())
		defer file.Close()
		cmd.Stdout, cmd.Stderr = file, file
		defer func() {
			b, _ := os.ReadFile(file.Name())
			errs.Write(b)
		}()
	}
	k.mu.Lock()
	must(k.t, cmd.Start())
	k.current = cmd.Process
	k.mu.Unlock()
	watch := time.AfterFunc(bound, func() { _ = cmd.Process.Kill() })
	defer watch.Stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		k.t.Errorf("%v: %v", args, err)
	}
	k.mu.Lock()
	k.current = nil
	k.mu.Unlock()
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// kill is false where there is no such process yet, or none any more.
func (k *slaughter) kill(who victim) bool {
	switch who {
	case clientVictim:
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.current != nil && k.current.Kill() == nil
	case initVictim:
		got := finish(k.t, k.c.command(k.wall, "exec", k.id, "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 1000"))
		if got.code == 137 || got.code == 70 {
			return true
		}
		// The command may have been too late to hear of it: the guest says that it was told.
		console, _ := os.ReadFile(filepath.Join(k.c.state, k.id, "console.log"))
		return bytes.Contains(console, []byte("sysrq triggered crash"))
	}
	name := map[victim]string{sandboxVictim: "bulkhead-sandbox", goferVictim: "bulkhead-gofer"}[who]
	for _, pid := range descendants(os.Getpid()) {
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); !k.other[pid] && strings.HasPrefix(string(b), name+"\x00") {
			return unix.Kill(pid, unix.SIGKILL) == nil
		}
	}
	return false
}

// truth asks until what is said of the container is so: to ask takes long enough. The state
// was wrong until the last answer that was; what it takes to hear a true one, which by an exec
// is seconds in the lab, is no fault of its.
func (k *slaughter) truth(name string, who victim, since time.Time) {
	const patience = time.Minute // for a lab on a busy host
	var wrong time.Time
	for last := ""; ; {
		why := k.wrong(who)
		if why == "" {
			if !wrong.IsZero() {
				k.t.Logf("%s: for %v: %s", name, wrong.Sub(since).Round(time.Millisecond), last)
				k.tookUntil("state wrong", since, wrong)
			}
			k.took("truth told", since)
			return
		}
		last, wrong = why, time.Now()
		if wrong.Sub(since) > patience {
			k.t.Errorf("%s: after %v: %s", name, patience, why)
			return
		}
	}
}

// wrong says what is not so, or nothing.
func (k *slaughter) wrong(who victim) string {
	got := finish(k.t, k.c.command(k.wall, "state", k.id))
	if got.code != 0 {
		if strings.Contains(got.err, "container does not exist") {
			return ""
		}
		return "state: " + got.err
	}
	var said struct {
		Status specs.ContainerState
		PID    int
	}
	if err := json.Unmarshal([]byte(got.out), &said); err != nil {
		return fmt.Sprintf("state: %v: %q", err, got.out)
	}
	_, err := os.Stat(filepath.Join(k.c.dir, "rootfs/tmp/ran"))
	ran := err == nil
	switch said.Status {
	case specs.StateStopped:
		for _, pid := range k.processes() {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			return fmt.Sprintf("stopped, but process %d is there: %q", pid, line)
		}
		return ""
	case specs.StateCreated, specs.StateRunning:
		if who != clientVictim {
			return "its state is " + string(said.Status)
		}
		if said.Status == specs.StateRunning && !ran {
			// It may be about it: in the lab a shell takes a second or two to its first command.
			got := finish(k.t, k.c.command(k.wall, "exec", k.id, "cat", "/proc/1/comm"))
			ran = got.code == 0 && (got.out == "sh\n" || got.out == "sleep\n")
		}
		if (said.Status == specs.StateRunning) != ran {
			return fmt.Sprintf("its state is %s; its program ran: %v", said.Status, ran)
		}
		if said.Status == specs.StateCreated {
			if got := finish(k.t, k.c.command(k.wall, "start", k.id)); got.code != 0 {
				return fmt.Sprintf("created, but start: %+v", got)
			}
		}
		if got := finish(k.t, k.c.command(k.wall, "exec", k.id, "echo", "hello")); got.code != 0 {
			return fmt.Sprintf("running, but exec: %+v", got)
		}
		return ""
	}
	return "its state is " + string(said.Status)
}

// clean deletes the container, and fails if anything of it is left.
func (k *slaughter) clean() {
	k.t.Helper()
	began := time.Now()
	if got := finish(k.t, k.c.command(k.wall, "delete", "--force", k.id)); got.code != 0 {
		k.t.Errorf("delete: %+v", got)
	}
	k.took("delete", began)
	for deleted := time.Now(); ; {
		ours := k.processes()
		left := k.left()
		if len(left) == 0 {
			k.took("nothing left", began)
			return
		}
		patience := 20*time.Second - time.Since(deleted)
		if patience <= 0 {
			k.t.Errorf("left behind: %q", left)
			return
		}
		if len(ours) > 0 {
			awaitEnd(ours[0], patience)
		}
	}
}

// processes are those of the container that have not ended.
func (k *slaughter) processes() (ours []int) {
	for _, pid := range descendants(os.Getpid()) {
		if !k.other[pid] {
			ours = append(ours, pid)
		}
	}
	return ours
}

// awaitEnd waits until a process ends.
func awaitEnd(pid int, patience time.Duration) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds())) // EINTR: the caller looks again
}

// left is what there is of the container.
func (k *slaughter) left() (all []string) {
	reap(k.beside.Pid)
	for _, pid := range k.processes() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		all = append(all, fmt.Sprintf("process %d %q", pid, line))
	}
	entries, _ := os.ReadDir(k.c.state)
	for _, e := range entries {
		if e.Name() != k.id+"-other" {
			all = append(all, e.Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(k.t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, k.c.dir) {
			all = append(all, line)
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && entry.Name() == k.id {
			all = append(all, name)
		}
		return nil
	})
	return all
}

// descendants are the processes below pid, parents first.
func descendants(pid int) (all []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		children, _ := os.ReadFile(task) // of a thread that has just ended: none
		for text := range strings.FieldsSeq(string(children)) {
			child, err := strconv.Atoi(text)
			if err != nil || ended(child) {
				continue
			}
			all = append(append(all, child), descendants(child)...)
		}
	}
	return all
}

// ended tells a process that nobody has waited for.
func ended(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err != nil || len(line) == 0
}

// reap waits for those that have come to us and ended, as a shim would. But for keep no
// command of ours is under way: what exec starts is exec's to wait for.
func reap(keep int) {
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		children, _ := os.ReadFile(task)
		for text := range strings.FieldsSeq(string(children)) {
			if child, err := strconv.Atoi(text); err == nil && child != keep && ended(child) {
				_, _ = unix.Wait4(child, nil, unix.WNOHANG, nil)
			}
		}
	}
}
