package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/hwtest/lab"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// known is what the runtime keeps of a container.
type known struct {
	Sandbox, Gofer struct{ PID int }
}

func (c *container) known(id string) (k known) {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.state, id, "state.json"))
	must(c.t, err)
	must(c.t, json.Unmarshal(text, &k))
	return k
}

// detached runs a command that leaves processes, which have its output.
func (c *container) detached(verb string, args ...string) outcome {
	c.t.Helper()
	return c.left(c.command(c.wall, verb, args...))
}

func (c *container) left(cmd *exec.Cmd) outcome {
	c.t.Helper()
	out, err := os.Create(filepath.Join(c.dir, "output"))
	must(c.t, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, _ := os.ReadFile(out.Name())
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		c.t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), string(text), ""}
}

// stopped waits for the end of a container's process on the host, with which its state
// changes.
func (c *container) stopped(id string) {
	c.t.Helper()
	fd, err := unix.PidfdOpen(c.known(id).Sandbox.PID, 0)
	if err == nil {
		defer unix.Close(fd)
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(fds, int(bound.Milliseconds()))
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if n != 1 {
				c.t.Fatalf("%s does not end (%v)", id, err)
			}
			break
		}
	} else if !errors.Is(err, unix.ESRCH) {
		c.t.Fatal(err)
	}
	if got := finish(c.t, c.command(c.wall, "state", id)); got.code != 0 || !strings.Contains(got.out, `"stopped"`) {
		c.t.Errorf("%s has ended, and its state is %+v", id, got)
	}
}

// member is a further container of the pod, with the namespaces of a Kubernetes one.
func member(t *testing.T, pod *container, id, volume, script string, shared ...specs.LinuxNamespaceType) *container {
	t.Helper()
	c := box(t, script)
	c.state, c.wall = pod.state, pod.wall
	c.spec.Annotations = map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": id}
	must(t, os.Mkdir(filepath.Join(c.dir, "rootfs/vol"), 0o755))
	c.spec.Mounts = append(c.spec.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: volume, Options: []string{"rbind", "rw"}})
	files := map[specs.LinuxNamespaceType]string{specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.NetworkNamespace: "net", specs.PIDNamespace: "pid"}
	for i := range c.spec.Linux.Namespaces {
		ns := &c.spec.Linux.Namespaces[i]
		for _, s := range shared {
			if ns.Type == s {
				ns.Path = fmt.Sprintf("/proc/%d/ns/%s", pod.known(id).Sandbox.PID, files[s])
			}
		}
	}
	return c
}

// TestPod: containers of a pod are in one sandbox, share what they are to share, and
// come and go by themselves; the sandbox goes with the first.
func TestPod(t *testing.T) {
	for _, wall := range []string{"sentry", "vm"} {
		t.Run(wall, func(t *testing.T) {
			runtimeProgram(t)
			if wall == "vm" {
				if !slow(t) {
					t.Skip("adds little to what TestContainer does with a further container, and takes long: make lab")
				}
				if !inLinux(t, lab.Machine{Memory: 2048}) {
					return
				}
			}
			testPod(t, wall)
		})
	}
}

func testPod(t *testing.T, wall string) {
	pod := box(t, "sleep 1000")
	pod.wall = wall
	pod.spec.Hostname = "the-pod"
	pod.spec.Annotations = map[string]string{"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "pod"}
	volume := t.TempDir()
	t.Cleanup(func() {
		for _, id := range []string{"a", "b", "c", "pod"} {
			finish(t, pod.command(wall, "delete", "--force", id))
		}
	})
	ok := func(what string, got outcome) {
		t.Helper()
		if got.code != 0 {
			t.Fatalf("%s: %+v", what, got)
		}
	}
	ok("run the pod", pod.detached("run", "--detach", "pod"))
	k := pod.known("pod")

	a := member(t, pod, "pod", volume, "trap 'echo got; exit 5' TERM; echo a >/vol/a; sleep 1000 & wait", specs.IPCNamespace, specs.UTSNamespace, specs.NetworkNamespace)
	b := member(t, pod, "pod", volume, "sleep 1000", specs.IPCNamespace, specs.UTSNamespace, specs.NetworkNamespace, specs.PIDNamespace)
	pids := int64(20)
	b.spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}}
	c := member(t, pod, "pod", volume, "cat /vol/a; hostname; echo err >&2; exit 7", specs.NetworkNamespace)
	ok("create a", a.detached("create", "a"))
	ok("start a", a.detached("start", "a"))
	ok("run b", b.detached("run", "--detach", "b"))
	c.spec.Hostname = "another"
	if got := finish(t, c.command(wall, "run", "c")); got != (outcome{7, "a\nanother\n", "err\n"}) {
		t.Errorf("run c: %+v", got)
	}

	// Which namespaces are one.
	const look = "cd /proc/self/ns; for n in net ipc uts pid mnt cgroup; do readlink $n; done; hostname"
	where := map[string][]string{}
	for _, id := range []string{"pod", "a", "b"} {
		got := finish(t, pod.command(wall, "exec", id, "sh", "-c", look))
		if where[id] = strings.Fields(got.out); got.code != 0 || len(where[id]) != 7 {
			t.Fatalf("exec in %s: %+v", id, got)
		}
	}
	for id, want := range map[string]string{"a": "yyynnny", "b": "yyyynny"} {
		got := ""
		for i, ns := range where[id] {
			got += map[bool]string{true: "y", false: "n"}[ns == where["pod"][i]]
		}
		if got != want {
			t.Errorf("%s shares %s, want %s: %v, the pod has %v", id, got, want, where[id], where["pod"])
		}
	}
	if got := finish(t, b.command(wall, "exec", "b", "sh", "-c", "cat /proc/1/comm /vol/a /sys/fs/cgroup/pids.max; echo b >/vol/b; exit 3")); got != (outcome{3, "sleep\na\n20\n", ""}) {
		t.Errorf("exec in b: %+v", got)
	}
	if text, err := os.ReadFile(filepath.Join(volume, "b")); string(text) != "b\n" {
		t.Errorf("the volume: %q, %v", text, err)
	}
	if got := finish(t, b.command(wall, "ps", "b")); got.code != 0 || strings.Count(got.out, "sleep") != 1 {
		t.Errorf("ps: %+v", got)
	}
	for _, step := range []struct{ verb, status string }{{"pause", "paused"}, {"resume", "running"}} {
		ok(step.verb, finish(t, b.command(wall, step.verb, "b")))
		if got := finish(t, b.command(wall, "state", "b")); !strings.Contains(got.out, `"`+step.status+`"`) {
			t.Errorf("after %s: %+v", step.verb, got)
		}
	}

	// A FIFO in a volume is one, whoever opens it.
	if got := finish(t, a.command(wall, "exec", "a", "sh", "-c", "mkfifo /vol/pipe; (echo through >/vol/pipe) </dev/null >/dev/null 2>&1 &")); got.code != 0 {
		t.Errorf("the writer: %+v", got)
	}
	if got := finish(t, b.command(wall, "exec", "b", "cat", "/vol/pipe")); got.out != "through\n" {
		t.Errorf("the reader: %+v", got)
	}

	// What counts stands still while it is paused, whoever else runs.
	counter := member(t, pod, "pod", volume, "n=0; while :; do n=$((n+1)); echo $n >/vol/n; done", specs.NetworkNamespace)
	ok("run counter", counter.detached("run", "--detach", "c"))
	count := func() string {
		text, _ := os.ReadFile(filepath.Join(volume, "n"))
		return strings.TrimSpace(string(text))
	}
	later := func(what, than string) {
		t.Helper()
		for end := time.Now().Add(bound); count() == "" || count() == than; { // the file is empty for a moment
			if time.Now().After(end) {
				t.Fatalf("%s: the counter stays at %q", what, than)
			}
			ok("exec in a", finish(t, a.command(wall, "exec", "a", "true")))
		}
	}
	later("at the beginning", "")
	ok("pause", finish(t, pod.command(wall, "pause", "c")))
	was := count()
	ok("exec in a", finish(t, a.command(wall, "exec", "a", "true")))
	if now := count(); now != was {
		t.Errorf("paused it counted from %s to %s", was, now)
	}
	ok("resume", finish(t, pod.command(wall, "resume", "c")))
	later("after resume", was)
	ok("pause", finish(t, pod.command(wall, "pause", "c")))
	ok("kill what is paused", finish(t, pod.command(wall, "kill", "c", "KILL")))
	counter.stopped("c")
	ok("delete it", finish(t, pod.command(wall, "delete", "c")))

	// Who has more than its limit is ended, and nobody else.
	hog := member(t, pod, "pod", volume, "dd if=/dev/zero of=/dev/null bs=64M count=1", specs.NetworkNamespace)
	limit := int64(32 << 20)
	hog.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	if got := finish(t, hog.command(wall, "run", "c")); got.code != 137 {
		t.Errorf("32 MiB for 64: %+v", got)
	}

	// One ends and goes, is made anew, and is deleted while it runs; the others do not notice.
	ok("kill a", finish(t, a.command(wall, "kill", "a", "TERM")))
	a.stopped("a")
	ok("delete a", finish(t, a.command(wall, "delete", "a")))
	ok("run a again", a.detached("run", "--detach", "a"))
	if got := finish(t, a.command(wall, "exec", "a", "cat", "/vol/b")); got.out != "b\n" {
		t.Errorf("exec in a, made anew: %+v", got)
	}
	ok("delete a by force", finish(t, a.command(wall, "delete", "--force", "a")))
	if wall == "vm" {
		left, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/pods", k.Gofer.PID))
		if err != nil || len(left) != 1 || left[0].Name() != "b" {
			t.Errorf("the share has %v, want b alone (%v)", left, err)
		}
	}
	ok("exec in b", finish(t, b.command(wall, "exec", "b", "true")))

	// What cannot be.
	stray := member(t, pod, "pod", volume, "true")
	for i := range stray.spec.Linux.Namespaces {
		if ns := &stray.spec.Linux.Namespaces[i]; ns.Type == specs.IPCNamespace {
			ns.Path = "/proc/self/ns/ipc"
		}
	}
	if got := finish(t, stray.command(wall, "run", "c")); got.code != 1 || !strings.Contains(got.err, "not the pod's ipc namespace") {
		t.Errorf("another's namespace: %+v", got)
	}
	stray.spec.Annotations["io.kubernetes.cri.sandbox-id"] = "nobody"
	if got := finish(t, stray.command(wall, "run", "c")); got.code != 1 || !strings.Contains(got.err, "its pod nobody: container does not exist") {
		t.Errorf("no pod: %+v", got)
	}
	stray.spec.Annotations["io.kubernetes.cri.sandbox-id"] = "pod"
	stray.spec.Linux.Namespaces = b.spec.Linux.Namespaces
	stray.spec.Process.Args = []string{"missing"}
	if got := finish(t, stray.command(wall, "run", "c")); got.code != 1 && got.code != 127 || !strings.Contains(got.err, `exec: "missing": executable file not found in $PATH`) {
		t.Errorf("a missing program: %+v", got)
	}

	// The machine goes with the first, and all with it.
	ok("kill the pod", finish(t, pod.command(wall, "kill", "pod", "KILL")))
	pod.stopped("pod")
	b.stopped("b")
	for _, id := range []string{"b", "pod"} {
		ok("delete "+id, finish(t, pod.command(wall, "delete", id)))
	}
	if left, _ := os.ReadDir(pod.state); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
