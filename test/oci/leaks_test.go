package oci

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead/test/rig"
)

// cycles is how many a test of leaks makes: $BULKHEAD_CYCLES (make leaks has
// 2,000), or so few that they fit between other tests.
func cycles(few int) int {
	if n, err := strconv.Atoi(os.Getenv("BULKHEAD_CYCLES")); err == nil {
		return n
	}
	return few
}

// counters are what a sandbox has, as seen from inside and from the host.
type counters struct {
	goroutines, tasks, arena int // arena: bytes that applications, tmpfs and page cache use
	descriptors, threads     int // of the sandbox process
	gofer                    int // descriptors of the gofer
	children                 int // processes of the sandbox's, on ptrace
	resident                 int // KiB of the sandbox process without the arena
}

func (c counters) String() string {
	return fmt.Sprintf("%d goroutines, %d tasks, arena %d KiB, %d descriptors, %d threads, %d descriptors of the gofer, %d stubs, %d KiB resident",
		c.goroutines, c.tasks, c.arena>>10, c.descriptors, c.threads, c.gofer, c.children, c.resident)
}

// count looks into the sandbox of a container.
func (p *program) count(t *testing.T, name string) counters {
	t.Helper()
	var c counters
	number := func(text, before string) int {
		_, rest, _ := strings.Cut(text, before)
		n, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
		return n
	}
	text := p.must(t, "debug", name)
	c.goroutines, c.tasks, c.arena = number(text, "goroutines "), number(text, "tasks "), number(text, "memory ")
	pid := p.state(t, name).Pid
	dir := fmt.Sprintf("/proc/%d", pid)
	c.descriptors = entries(t, dir+"/fd")
	status := read(t, dir+"/status")
	c.threads, c.resident = number(status, "Threads:"), number(status, "RssAnon:")
	tasks, _ := filepath.Glob(dir + "/task/*/children")
	for _, task := range tasks {
		text, _ := os.ReadFile(task) // of a thread that has just ended: none
		c.children += len(strings.Fields(string(text)))
	}
	// The gofer is the sandbox's sibling, whoever has adopted the two.
	parent := number(status, "PPid:")
	for _, process := range descendants(parent) {
		if number, what, _ := strings.Cut(process, " "); strings.HasPrefix(what, "bulkhead-gofer") {
			c.gofer = entries(t, "/proc/"+number+"/fd")
		}
	}
	return c
}

func entries(t *testing.T, dir string) int {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// settled counts until what ends by itself has ended: goroutines of what was
// just closed, and stubs that are being reaped. bound says what is enough.
func (p *program) settled(t *testing.T, name string, enough func(counters) bool) counters {
	t.Helper()
	for limit := time.Now().Add(rig.Limit / 4); ; time.Sleep(50 * time.Millisecond) {
		c := p.count(t, name)
		if enough(c) || time.Now().After(limit) {
			return c
		}
	}
}

// flat fails where after has more than before, beyond what a pool or a cache of
// a fixed size may have taken in the meantime. A leak of one thing in a cycle is
// far above either, and one in ten is seen by make leaks.
func flat(before counters) func(counters) bool {
	return func(after counters) bool {
		return after.goroutines <= before.goroutines+8 && after.tasks <= before.tasks && after.arena <= before.arena+4<<20 &&
			after.descriptors <= before.descriptors+8 && after.threads <= before.threads+12 && after.gofer <= before.gofer+8 &&
			after.children <= before.children+8 && after.resident <= before.resident+24<<10
	}
}

// churning is a container whose init is churn, and what to tell it.
type churning struct {
	name string
	in   io.WriteCloser
	out  *bufio.Reader
	cmd  *exec.Cmd
}

func (p *program) churn(t *testing.T, warm, each int) *churning {
	t.Helper()
	all := []string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_IPC_OWNER", "CAP_NET_ADMIN", "CAP_KILL", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID"}
	dir := bundle(t, func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	}, "churn", strconv.Itoa(warm), strconv.Itoa(each))
	c := &churning{name: id(t)}
	c.cmd = exec.Command(p.args[0], append(slices.Clone(p.args[1:]), "run", "--bundle", dir, c.name)...)
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.in, c.out, c.cmd.Stderr = in, bufio.NewReader(out), os.Stderr
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.do(t, "delete", "--force", c.name)
		c.cmd.Wait()
	})
	c.done(t, p)
	return c
}

// done waits for a lot's end.
func (c *churning) done(t *testing.T, p *program) {
	t.Helper()
	if line, err := c.out.ReadString('\n'); line != "done\n" {
		t.Fatalf("churn says %q: %v\n%s", line, err, p.logged())
	}
}

func (c *churning) more(t *testing.T, p *program) {
	t.Helper()
	if _, err := io.WriteString(c.in, "more\n"); err != nil {
		t.Fatal(err)
	}
	c.done(t, p)
}

// TestLeaksInside: programs start, map, open, connect, kill and end in one
// sandbox, and others are started in it from outside; afterwards it has what it
// had after the first few.
func TestLeaksInside(t *testing.T) {
	n := cycles(30)
	eachPlatform(t, func(t *testing.T, p *program) {
		c := p.churn(t, 20, n)
		for range 5 {
			p.must(t, "exec", c.name, "true")
		}
		before := p.count(t, c.name)
		c.more(t, p)
		after := p.settled(t, c.name, flat(before))
		t.Logf("before: %v", before)
		t.Logf("after %d cycles: %v", n, after)
		if !flat(before)(after) {
			t.Errorf("%d cycles leave more than there was\n%s", n, p.do(t, "debug", c.name, "stacks").Out)
		}
		execs := max(n/10, 10)
		for range execs {
			if out := p.must(t, "exec", c.name, "echo", "x"); out != "x\n" {
				t.Fatalf("exec says %q", out)
			}
		}
		after = p.settled(t, c.name, flat(before))
		t.Logf("after %d execs: %v", execs, after)
		if !flat(before)(after) {
			t.Errorf("%d execs leave more than there was\n%s", execs, p.do(t, "debug", c.name, "stacks").Out)
		}
		c.in.Close()
		if err := c.cmd.Wait(); err != nil {
			t.Errorf("churn ended with %v\n%s", err, p.logged())
		}
	})
}

// TestLeaksOutside: containers come and go, and the host is as it was.
func TestLeaksOutside(t *testing.T) {
	n := cycles(8)
	eachPlatform(t, func(t *testing.T, p *program) {
		dir := bundle(t, nil, "sleep", "1000")
		places := func() (all []string) {
			for _, pattern := range []string{"/run/*", "/run/bulkhead*/*", "/tmp/*", "/dev/shm/*", "/var/lib/bulkhead*/*"} {
				names, _ := filepath.Glob(pattern)
				for _, name := range names {
					if strings.Contains(name, "bulkhead") || strings.Contains(name, fmt.Sprintf("test-%d-", os.Getpid())) {
						all = append(all, name)
					}
				}
			}
			return all
		}
		leavesNothing(t, p, func() {
			before := places()
			for range n {
				name := id(t)
				p.detached(t, "create", "--bundle", dir, name)
				p.must(t, "start", name)
				if out := p.must(t, "exec", name, "echo", "x"); out != "x\n" {
					t.Fatalf("exec says %q", out)
				}
				p.must(t, "delete", "--force", name)
				descendants(os.Getpid()) // reaps
			}
			for _, name := range places() {
				// Other tests of this machine have files of such names as well; ours bear our number.
				if !slices.Contains(before, name) && strings.Contains(name, fmt.Sprintf("test-%d-", os.Getpid())) {
					t.Errorf("%d containers leave %s", n, name)
				}
			}
			t.Logf("%d containers", n)
		})
	})
}
