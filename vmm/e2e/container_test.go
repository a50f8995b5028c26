package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"bulkhead/hwtest/lab"
	"bulkhead/kernels/linux"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// runtimeProgram is the path of bulkhead, with guestinit and a kernel beside it.
func runtimeProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(program(t)), "bulkhead")
	if os.Getenv(lab.Variable) != "" {
		return path
	}
	built(t, "bulkhead", "build", "bulkhead/runtime")
	image, found, err := linux.Find()
	must(t, err)
	if !found {
		t.Skip("needs our kernel for the guest: make kernel")
	}
	link := filepath.Join(filepath.Dir(path), "vmlinux")
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	must(t, os.Symlink(image.ELF, link))
	return path
}

// container is a bundle under test, whose program is busybox's shell.
type container struct {
	t       *testing.T
	program string
	dir     string
	state   string // where bulkhead keeps what it knows
	wall    string // of detached and stopped
	spec    *specs.Spec
}

// box makes a bundle with a root of busybox.
func box(t *testing.T, script string) *container {
	t.Helper()
	c := &container{t: t, program: runtimeProgram(t), dir: t.TempDir(), wall: "vm"}
	c.state = filepath.Join(c.dir, "state")
	root := filepath.Join(c.dir, "rootfs")
	for _, dir := range []string{"bin", "etc", "tmp", "proc", "dev", "sys", "mnt"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox for the container (apt-get install busybox-static):", err)
	}
	b, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "bin/busybox"), b, 0o755))
	for _, name := range []string{"sh", "echo", "cat", "id", "env", "pwd", "sleep", "kill", "ls", "stat", "hostname", "mount", "grep", "wc", "tty", "stty", "head", "touch", "chown", "mkdir", "true", "yes", "dd", "ip", "ping", "sed", "mkfifo"} {
		must(t, os.Symlink("busybox", filepath.Join(root, "bin", name)))
	}
	must(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"), 0o644))
	text, err := exec.Command(c.program, "spec", "--bundle", c.dir).CombinedOutput()
	if err != nil {
		t.Fatalf("spec: %v\n%s", err, text)
	}
	text, err = os.ReadFile(filepath.Join(c.dir, "config.json"))
	must(t, err)
	c.spec = new(specs.Spec)
	must(t, json.Unmarshal(text, c.spec))
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(c.dir, "log"))
			t.Logf("log:\n%s", log)
		}
	})
	c.spec.Process.Args = []string{"sh", "-c", script}
	c.spec.Process.Terminal = false
	c.spec.Root.Readonly = false
	return c
}

func (c *container) command(wall, verb string, args ...string) *exec.Cmd {
	c.t.Helper()
	return c.commandWith([]string{"--isolation", wall, "--log", filepath.Join(c.dir, "log")}, verb, args...)
}

// commandWith has global flags of the test's own.
func (c *container) commandWith(flags []string, verb string, args ...string) *exec.Cmd {
	c.t.Helper()
	if c.spec.Annotations == nil {
		c.spec.Annotations = map[string]string{}
	}
	c.spec.Annotations["dev.bulkhead.vm.cpu-without"] = without
	text, err := json.Marshal(c.spec)
	must(c.t, err)
	must(c.t, os.WriteFile(filepath.Join(c.dir, "config.json"), text, 0o644))
	all := append([]string{"--debug", "--root", c.state}, flags...)
	cmd := exec.Command(c.program, append(append(all, verb), args...)...)
	cmd.Dir = c.dir
	return cmd
}

// outcome is how a command went.
type outcome struct {
	code     int
	out, err string
}

func finish(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	watch := time.AfterFunc(bound, func() { _ = cmd.Process.Kill() })
	defer watch.Stop()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", cmd, err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// commands are what `bulkhead exec` does in a container that runs, with either wall.
var commands = []struct {
	name   string
	flags  string
	script string
	stdin  string
	want   outcome
}{
	{"ended by a signal", "", "kill -KILL $$", "", outcome{137, "", ""}},
	{"streams", "", "cat; echo err >&2; exit 3", "in\n", outcome{3, "in\n", "err\n"}},
	{"much output", "", "head -c 300000 /dev/zero", "", outcome{0, strings.Repeat("\x00", 300000), ""}},
	{"user, groups, environment", "-u 1000:1001 -g 7 -e A=b", "id -u; id -g; echo $HOME $A $EXTRA $PATH; grep Groups /proc/self/status", "",
		outcome{0, "1000\n1001\n/home/user b 1 /bin\nGroups:\t7 \n", ""}},
	{"user's file", "-u 1000:1001", "echo x >/vol/all/theirs && stat -c %u:%g /vol/all/theirs", "", outcome{0, "1000:1001\n", ""}},
	{"working directory", "--cwd /tmp", "pwd", "", outcome{0, "/tmp\n", ""}},
	{"terminal", "-t", "tty; echo x >&2; exit 4", "", outcome{4, "/dev/pts/0\r\nx\r\n", ""}},
}

// behaviours are what a program finds in a container, with either wall. They run in
// one process of the container's, for a start of ours costs seconds in the lab. What
// differs by nature is not among them: the kernel's version, the number of
// processors, what /proc and /sys have beyond the documented.
var behaviours = []struct{ name, script, want string }{
	{"capabilities", "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status", "CapPrm:\t0000000020002421\nCapEff:\t0000000020002421\nCapBnd:\t0000000020002421\n"},
	{"no new privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"},
	{"home", "echo $HOME", "/root\n"},
	{"host name", "hostname", "inside\n"},
	{"limits", "ulimit -n; ulimit -Hn", "1024\n1024\n"},
	{"umask", "umask", "0022\n"},
	{"first process", "cat /proc/1/comm", "sh\n"},
	{"read-only root", "touch /file", "touch: /file: Read-only file system\n"},
	{"volume", "cat /vol/in && echo out >/vol/out && chown 1000:1001 /vol/out && stat -c %u:%g /vol/out", "in\n1000:1001\n"},
	{"read-only volume", "cat /ro/in && touch /ro/x", "in\ntouch: /ro/x: Read-only file system\n"},
	{"file from the host", "cat /etc/name", "in\n"},
	{"tmpfs", "echo x >/scratch/f && cat /scratch/f", "x\n"},
	{"shared memory", "echo x >/dev/shm/f && cat /dev/shm/f", "x\n"},
	{"devices", "echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c", "3\n5\n"},
	{"masked path", "ls /sys/firmware", ""},
	{"read-only path", "echo 1 >/proc/sys/kernel/pid_max", "sh: can't create /proc/sys/kernel/pid_max: Read-only file system\n"},
	{"control group", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /proc/self/cgroup", "104857600\n50\n0::/\n"},
	{"memory that is not used", "dd if=/dev/zero of=/dev/null bs=700M count=0", "0+0 records in\n0+0 records out\n"},
	{"seccomp", "grep Seccomp: /proc/1/status /proc/self/status; mkdir /scratch/d; kill -USR2 1; kill -URG 1",
		"/proc/1/status:Seccomp:\t2\n/proc/self/status:Seccomp:\t2\nmkdir: can't create directory '/scratch/d': Protocol error\nsh: can't kill pid 1: Numerical argument out of domain\n"},
	{"loopback", "cat /sys/class/net/lo/operstate", "unknown\n"},
	{"network", "ip -o addr show dev eth0 | sed 's/^[0-9]*: //; s/ *\\\\.*//; s/ flags 02//'; ip route; ping -c 2 -i 0.2 10.77.0.1 | grep received",
		"eth0    inet 10.77.0.2/24 brd 10.77.0.255 scope global eth0\neth0    inet6 fd77::2/64 scope global\n" +
			"default via 10.77.0.1 dev eth0 \n10.77.0.0/24 dev eth0 scope link  src 10.77.0.2 \n2 packets transmitted, 2 packets received, 0% packet loss\n"},
}

// mark divides what they print.
const mark = "--\n"

// TestContainer: what is typed with --isolation=vm does what it does with the Sentry.
// The machine boots once, in the lab if it has to; the Sentry runs here, on ptrace.
func TestContainer(t *testing.T) {
	for _, wall := range []string{"sentry", "vm"} {
		t.Run(wall, func(t *testing.T) {
			runtimeProgram(t)
			if wall == "vm" && !inLinux(t, lab.Machine{Memory: 2048}) {
				return
			}
			testContainer(t, wall)
			if wall == "vm" {
				testTooSmall(t)
			}
		})
	}
}

// testTooSmall has a machine that is to have less memory than a guest boots with: the error
// names the least, and nothing stays.
func testTooSmall(t *testing.T) {
	c := box(t, "true")
	c.spec.Annotations = map[string]string{"dev.bulkhead.vm.memory": "8M"}
	got := finish(t, c.command("vm", "run", "small"))
	if got.code != 1 || !strings.Contains(got.err, "a guest does not boot with 8 MiB of memory; the least is 64") {
		t.Errorf("too little memory: %+v", got)
	}
	if left, err := os.ReadDir(c.state); len(left) > 0 {
		t.Errorf("too little memory: %v is left behind, %v", left, err)
	}
}

func testContainer(t *testing.T, wall string) {
	c := box(t, `trap 'echo caught' USR1; echo started $$; cat; exit 9`)
	volume := t.TempDir()
	must(t, os.Chmod(volume, 0o755))
	must(t, os.WriteFile(filepath.Join(volume, "in"), []byte("in\n"), 0o644))
	must(t, os.Mkdir(filepath.Join(volume, "all"), 0o777))
	must(t, os.Chmod(filepath.Join(volume, "all"), 0o777))
	c.spec.Root.Readonly = true
	c.spec.Hostname = "inside"
	for _, set := range []*[]string{&c.spec.Process.Capabilities.Bounding, &c.spec.Process.Capabilities.Effective, &c.spec.Process.Capabilities.Permitted} {
		*set = append(*set, "CAP_CHOWN", "CAP_NET_RAW")
	}
	for i := range c.spec.Linux.Namespaces {
		if c.spec.Linux.Namespaces[i].Type == specs.NetworkNamespace {
			c.spec.Linux.Namespaces[i].Path = cabled(t)
		}
	}
	memory, pids := int64(100<<20), int64(50)
	c.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: &pids}}
	if wall == "vm" { // whose guest has files of version 2 to set, whatever the host has
		r := c.spec.Linux.Resources
		r.Memory.Reservation = new(int64(50 << 20))
		r.CPU = &specs.LinuxCPU{Shares: new(uint64(1024)), Quota: new(int64(150_000)), Burst: new(uint64(100_000)), Cpus: "0"}
		r.Unified = map[string]string{"memory.min": "4096", "cgroup.max.depth": "3"}
		c.spec.Annotations = map[string]string{"dev.bulkhead.vm.memory": "256M"}
	}
	c.spec.Process.Env = []string{"PATH=/bin", "EXTRA=1"}
	c.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64}, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mkdir", "readlink"}, Action: specs.ActErrno, ErrnoRet: new(uint(unix.EPROTO))},
		{Names: []string{"kill"}, Action: specs.ActErrno, ErrnoRet: new(uint(unix.EDOM)), Args: []specs.LinuxSeccompArg{{Index: 1, Value: uint64(unix.SIGUSR2), Op: specs.OpEqualTo}}},
	}}
	for _, dir := range []string{"vol", "ro", "scratch", "root"} {
		must(t, os.Mkdir(filepath.Join(c.dir, "rootfs", dir), 0o755))
	}
	c.spec.Mounts = append(c.spec.Mounts,
		specs.Mount{Destination: "/vol", Type: "bind", Source: volume, Options: []string{"rbind", "rw"}},
		specs.Mount{Destination: "/ro", Type: "bind", Source: volume, Options: []string{"rbind", "ro"}},
		specs.Mount{Destination: "/etc/name", Type: "bind", Source: filepath.Join(volume, "in"), Options: []string{"bind", "ro"}},
		specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}},
	)
	c.command(wall, "list") // writes the configuration

	first := c.command(wall, "run", "one")
	input, err := first.StdinPipe()
	must(t, err)
	v := &vm{t: t, cmd: first}
	v.out.more.L = &v.out.mu
	first.Stdout, first.Stderr = &v.out, &v.out
	must(t, first.Start())
	watch := time.AfterFunc(2*bound, func() { _ = first.Process.Kill() })
	ended := make(chan struct{})
	go func() {
		_ = first.Wait() // the exit code is in ProcessState
		watch.Stop()
		v.out.mu.Lock()
		defer v.out.mu.Unlock()
		v.out.end = true
		v.out.more.Broadcast()
		close(ended)
	}()
	t.Cleanup(func() { finish(t, c.command(wall, "delete", "--force", "one")); <-ended })
	v.await("started 1\n", 0)

	heard := eventsOf(t, c, wall, "one")
	for _, b := range commands {
		cmd := c.command(wall, "exec", append(strings.Fields(b.flags), "one", "sh", "-c", b.script)...)
		cmd.Stdin = strings.NewReader(b.stdin)
		if got := finish(t, cmd); got != b.want {
			t.Errorf("%s: %.300q\nwant %.300q", b.name, fmt.Sprint(got), fmt.Sprint(b.want))
		}
	}
	var script strings.Builder
	for _, b := range behaviours {
		fmt.Fprintf(&script, "( %s ) 2>&1\necho -n '%s'\n", b.script, mark)
	}
	answers := strings.Split(finish(t, c.command(wall, "exec", "one", "sh", "-c", script.String())).out, mark)
	for i, b := range behaviours {
		if i >= len(answers) || answers[i] != b.want {
			t.Errorf("%s: %q, want %q", b.name, answers[min(i, len(answers)-1)], b.want)
		}
	}
	if got := finish(t, c.command(wall, "exec", "one", "missing")); got.code != 255 || !strings.Contains(got.err, `exec: "missing": executable file not found in $PATH`) {
		t.Errorf("a missing program: %+v", got)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(volume, "out"), &st); err != nil || st.Uid != 1000 || st.Gid != 1001 {
		t.Errorf("the volume's file belongs to %d:%d on the host, %v", st.Uid, st.Gid, err)
	}
	if got := finish(t, c.command(wall, "ps", "one")); got.code != 0 || !strings.Contains(got.out, "cat") {
		t.Errorf("ps: %+v", got)
	}
	if got := finish(t, c.command(wall, "events", "--stats", "one")); got.code != 0 || !strings.Contains(got.out, `"pids":{"current":2`) {
		t.Errorf("events: %+v", got)
	}
	if got := finish(t, c.command(wall, "metrics", "one")); got.code != 0 || !strings.Contains(got.out, "bulkhead_up{container=\"one\"} 1\n") ||
		!strings.Contains(got.out, "bulkhead_tasks{container=\"one\"} 2\n") || strings.Contains(got.out, "bulkhead_syscalls_total") != (wall == "sentry") {
		t.Errorf("metrics: %+v", got)
	}
	for _, step := range []struct{ verb, status string }{{"pause", "paused"}, {"resume", "running"}} {
		if got := finish(t, c.command(wall, step.verb, "one")); got.code != 0 {
			t.Errorf("%s: %+v", step.verb, got)
		}
		if got := finish(t, c.command(wall, "state", "one")); !strings.Contains(got.out, `"`+step.status+`"`) {
			t.Errorf("after %s: %+v", step.verb, got)
		}
	}
	if got := finish(t, c.command(wall, "update", "--pids-limit", "40", "--memory", "90m", "--memory-swap", "-1", "one")); got.code != 0 {
		t.Errorf("update: %+v", got)
	}
	if got := finish(t, c.command(wall, "exec", "one", "cat", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/memory.max")); got != (outcome{0, "40\n94371840\n", ""}) {
		t.Errorf("after update: %+v", got)
	}
	// More than 90 MiB, which is what the machine has less than.
	if got := finish(t, c.command(wall, "exec", "one", "dd", "if=/dev/zero", "of=/dev/null", "bs=120M", "count=1")); got.code != 137 {
		t.Errorf("a hog: %+v", got)
	}
	if got := heard(); got != `{"type":"oom","id":"one"}` {
		t.Errorf("of the hog's end: %s", got)
	}
	if got := finish(t, c.command(wall, "kill", "one", "USR1")); got.code != 0 {
		t.Errorf("kill: %+v", got)
	}
	if wall == "vm" {
		if got := finish(t, c.command(wall, "trace", "one")); got.code == 0 || !strings.Contains(got.err, "it is in a machine, whose own kernel answers its calls: trace from inside") {
			t.Errorf("trace: %+v", got)
		}
		checkGroup(t, c)
		checkBalloon(t, c)
		if got := finish(t, c.command(wall, "logs", "--kernel", "one")); got.code != 0 || !strings.Contains(got.out, "guestinit: ") {
			t.Errorf("logs: %+v", got)
		}
		checkContained(t, c)
		m := member(t, c, "one", volume, "hostname; cat /vol/in; exit 7", specs.UTSNamespace, specs.NetworkNamespace)
		if got := finish(t, m.command(wall, "run", "two")); got != (outcome{7, "inside\nin\n", ""}) {
			t.Errorf("a further container in the machine: %+v", got)
		}
	}
	_, err = input.Write([]byte("line\n"))
	must(t, err)
	input.Close()
	if code := v.wait(); code != 9 || v.out.String() != "started 1\nline\ncaught\n" {
		t.Errorf("exit code %d, %q", code, v.out.String())
	}
	if left, _ := os.ReadDir(filepath.Join(c.dir, "state")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// checkGroup looks at what a machine's container is held to beside memory and processes.
func checkGroup(t *testing.T, c *container) {
	t.Helper()
	files := func() outcome {
		return finish(t, c.command("vm", "exec", "one", "sh", "-c", "cd /sys/fs/cgroup; cat cpu.weight cpu.max cpu.max.burst cpuset.cpus memory.low memory.min cgroup.max.depth"))
	}
	if got := files(); got != (outcome{0, "100\n150000 100000\n100000\n0\n52428800\n4096\n3\n", ""}) {
		t.Errorf("control group: %+v", got)
	}
	// Its burst goes with the quota, whichever is first.
	if got := finish(t, c.command("vm", "update", "--cpu-share", "2", "--cpu-quota", "90000", "--cpu-burst", "80000", "--memory-reservation", "-1", "one")); got.code != 0 {
		t.Errorf("update: %+v", got)
	}
	if got := files(); got != (outcome{0, "1\n90000 100000\n80000\n0\n0\n4096\n3\n", ""}) {
		t.Errorf("after update: %+v", got)
	}
	cmd := c.command("vm", "update", "--resources", "-", "one")
	cmd.Stdin = strings.NewReader(`{"cpu":{"quota":-1},"unified":{"hugetlb.2MB.max":"1"}}`)
	if got := finish(t, cmd); got.code != 1 || !strings.Contains(got.err, "hugetlb.2MB.max") {
		t.Errorf("a file that the guest has not: %+v", got)
	}
}

// checkBalloon: what a container may use less, its machine gives back to the host, whose
// group of it allows so much less, and has again when it may.
func checkBalloon(t *testing.T, c *container) {
	t.Helper()
	for _, step := range []struct {
		limit string
		given int // MiB
	}{{"60m", 40}, {"100m", 0}} {
		for range 2 { // the second time all has been given back, however slow the guest is
			// Without the quota, which the host holds the machine to as well.
			if got := finish(t, c.command("vm", "update", "--cpu-quota", "-1", "--memory", step.limit, "one")); got.code != 0 {
				t.Errorf("update to %s: %+v", step.limit, got)
			}
			awaitBalloon(t, c, step.given)
		}
		const made = 256 // MiB, as its annotation says; the host's group has 64 and an eighth for the monitor
		room := (made - step.given) << 20
		if got, want := hostLimit(t, c.known("one").Sandbox.PID), room+room/8+64<<20; got != want {
			t.Errorf("with a limit of %s the host's group allows %d bytes, want %d", step.limit, got, want)
		}
	}
}

// hostLimit is how much memory the control group of a process allows, in bytes.
func hostLimit(t *testing.T, pid int) (n int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		var file string
		switch part := strings.SplitN(strings.TrimSpace(line), ":", 3); {
		case slices.Contains(strings.Split(part[1], ","), "memory"):
			file = "/sys/fs/cgroup/memory" + part[2] + "/memory.limit_in_bytes"
		case part[1] == "":
			file = "/sys/fs/cgroup" + part[2] + "/memory.max"
		default:
			continue
		}
		b, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // the other version has it
		}
		must(t, err)
		if n, err = strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return n
		}
		t.Errorf("%s: %q", file, b)
	}
	return 0
}

// eventsOf watches a container; what it gives waits for the next event that is no statistics.
func eventsOf(t *testing.T, c *container, wall, id string) func() string {
	t.Helper()
	cmd := c.command(wall, "events", "--interval", "1h", id)
	stream, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	watch := time.AfterFunc(3*bound, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		watch.Stop()
		_ = cmd.Process.Kill() // it has ended with the container
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(stream)
	return func() string {
		for lines.Scan() {
			if !strings.HasPrefix(lines.Text(), `{"type":"stats"`) {
				return lines.Text()
			}
		}
		return ""
	}
}

// checkContained looks at the machine's two processes from outside.
func checkContained(t *testing.T, c *container) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, "state/one/state.json"))
	must(t, err)
	var s struct{ Sandbox, Gofer struct{ PID int } }
	must(t, json.Unmarshal(text, &s))
	for _, p := range []struct {
		name   string
		pid    int
		caps   string
		inRoot []string
	}{
		{"machine", s.Sandbox.PID, "0000000000000000", nil},
		{"share", s.Gofer.PID, "00000000800000df", []string{"1", "2", "3", "root"}},
	} {
		dir := fmt.Sprintf("/proc/%d/", p.pid)
		status, err := os.ReadFile(dir + "status")
		must(t, err)
		for _, want := range []string{"CapPrm:\t" + p.caps, "CapEff:\t" + p.caps, "NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(string(status), want+"\n") {
				t.Errorf("%s: no %q in\n%s", p.name, want, status)
			}
		}
		kinds := []string{"mnt", "pid", "net", "ipc", "uts", "cgroup"}
		if p.name == "machine" { // a file server needs the host's users
			kinds = append(kinds, "user")
			if !strings.Contains(string(status), "\nUid:\t65534\t65534\t65534\t65534\n") {
				t.Errorf("%s: it is not nobody:\n%s", p.name, status)
			}
		}
		for _, kind := range kinds {
			ours, _ := os.Readlink("/proc/self/ns/" + kind)
			if theirs, err := os.Readlink(dir + "ns/" + kind); err != nil || theirs == ours {
				t.Errorf("%s: %s namespace %s is the host's (%v)", p.name, kind, theirs, err)
			}
		}
		entries, err := os.ReadDir(dir + "root")
		must(t, err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if !slices.Equal(names, p.inRoot) {
			t.Errorf("%s: its root has %v, want %v", p.name, names, p.inRoot)
		}
	}
}

// TestContainerRefused: where ring 0 is not native, before anything is made.
func TestContainerRefused(t *testing.T) {
	runtimeProgram(t)
	if native(t) {
		t.Skip("needs a host that runs no Linux guest, to be refused: one without /dev/kvm (unshare -m, then mount a /dev that lacks it) or with user-only KVM")
	}
	c := box(t, "true")
	got := finish(t, c.command("vm", "run", "one"))
	if got.code != 1 || !strings.HasPrefix(got.err, "bulkhead: container one: isolation vm: ") || strings.Count(got.err, "\n") != 1 ||
		!strings.Contains(got.err, "hwtest") || !strings.Contains(got.err, "--isolation=sentry") {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(filepath.Join(c.dir, "state")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}
