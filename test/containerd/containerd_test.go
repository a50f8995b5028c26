package containerd

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"bulkhead/test/rig"
)

// sessions are what a person types, with what is written of it.
var sessions = []struct {
	name string
	do   func(t *testing.T, d *daemon, c column) string
}{
	{"exit status and streams", func(t *testing.T, d *daemon, c column) string {
		return d.logged(t, c.run("--rm"), image, "a", "sh", "-c", "echo out; echo err >&2; exit 7")
	}},
	{"much output", func(t *testing.T, d *daemon, c column) string {
		text := d.logged(t, c.run("--rm"), image, "a", "sh", "-c", "seq 200000")
		return fmt.Sprintf("%d bytes, %x", len(text), sha256.Sum256([]byte(text)))
	}},
	{"a signal's end", func(t *testing.T, d *daemon, c column) string {
		return d.logged(t, c.run("--rm"), image, "a", "sh", "-c", "sleep 1000 & kill -9 $!; wait $!")
	}},
	{"a terminal", func(t *testing.T, d *daemon, c column) string {
		terminal := rig.Open(t, rig.Command{}, append([]string{"ctr", "--address", d.sock}, c.run("--rm", "-t", image, "a", "sh")...)...)
		terminal.Resize(41, 97)
		terminal.Type("PS1=; stty -echo; echo be''gun\n")
		terminal.Expect("begun")
		terminal.Type("until [ \"$(stty size)\" = '41 97' ]; do :; done; stty size; tty; exit 6\n")
		terminal.Expect("41 97")
		_, code := terminal.Close()
		return strconv.Itoa(code)
	}},
	{"standard input", func(t *testing.T, d *daemon, c column) string {
		cmd := d.ctr(c.run("--rm", image, "a", "cat")...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// ctr forgets an end of standard input that comes before the container.
		fmt.Fprintln(in, "typed")
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		in.Close()
		rest, _ := io.ReadAll(out)
		return fmt.Sprint(line, string(rest), cmd.Wait())
	}},
	{"a life", func(t *testing.T, d *daemon, c column) string {
		var said strings.Builder
		topic, end := d.topics(t, &said)
		defer end()
		d.must(t, c.run("-d", image, "a", "sh", "-c", `trap "exit 5" TERM; while :; do sleep 0.05; done`)...)
		topic("/tasks/start")
		fmt.Fprintln(&said, d.status(t, "a"))
		fmt.Fprintln(&said, d.logged(t, []string{"task", "exec"}, "--exec-id", "e", "a", "sh", "-c", "id -u; echo err >&2; exit 3"))
		topic("/tasks/exit")
		r := d.do(t, "task", "exec", "--exec-id", "f", "a", "nosuch")
		fmt.Fprintln(&said, r.Code, strings.Contains(r.Err, `exec: "nosuch": executable file not found in $PATH`))
		topic("/tasks/exec-added")
		fmt.Fprintln(&said, d.logged(t, []string{"task", "exec"}, "--exec-id", "e", "--user", "1000", "a", "id"))
		topic("/tasks/exit")
		d.must(t, "task", "pause", "a")
		topic("/tasks/paused")
		fmt.Fprintln(&said, d.status(t, "a"))
		d.must(t, "task", "resume", "a")
		topic("/tasks/resumed")
		fmt.Fprintln(&said, d.status(t, "a"), d.do(t, "task", "rm", "a").Code)
		metrics := d.must(t, "task", "metrics", "a")
		fmt.Fprintln(&said, strings.Contains(metrics, "pids.current"), strings.Contains(metrics, "cpuacct.usage ") || strings.Contains(metrics, "cpu.usage_usec"))
		fmt.Fprintln(&said, strings.Count(d.must(t, "task", "ps", "a"), "\n") >= 2)
		d.must(t, "task", "kill", "a")
		topic("/tasks/exit")
		fmt.Fprintln(&said, d.status(t, "a"), d.do(t, "task", "kill", "a").Code)
		fmt.Fprintln(&said, d.do(t, "task", "rm", "a").Code)
		topic("/tasks/delete")
		d.must(t, "container", "rm", "a")
		return said.String()
	}},
	{"memory runs out", func(t *testing.T, d *daemon, c column) string {
		var said strings.Builder
		topic, end := d.topics(t, &said)
		defer end()
		for _, end := range []string{"exec ", ""} { // the container's, or one beside its program
			d.must(t, c.run("-d", "--memory-limit", "67108864", image, "a", "sh", "-c", end+"dd if=/dev/zero of=/dev/null bs=200M count=1; exit 4")...)
			topic("/tasks/exit")
			fmt.Fprintln(&said, d.status(t, "a"))
			d.must(t, "task", "rm", "a")
			d.must(t, "container", "rm", "a")
			topic("/tasks/delete")
		}
		return said.String()
	}},
	{"containerd restarts", func(t *testing.T, d *daemon, c column) string {
		var said strings.Builder
		d.must(t, c.run("-d", image, "a", "sh", "-c", "echo before; sleep 1000")...)
		d.cmd.Process.Kill()
		d.cmd.Wait()
		d.start(t)
		fmt.Fprintln(&said, d.status(t, "a"))
		fmt.Fprintln(&said, d.logged(t, []string{"task", "exec"}, "--exec-id", "e", "a", "echo", "after"))
		d.must(t, "task", "kill", "-s", "KILL", "a")
		d.ended(t, "a")
		fmt.Fprintln(&said, d.do(t, "task", "rm", "a").Code)
		d.must(t, "container", "rm", "a")
		return said.String()
	}},
	{"the shim is killed", func(t *testing.T, d *daemon, c column) string {
		d.must(t, c.run("-d", image, "killed", "sleep", "1000")...)
		for _, p := range processes(d.sock + " ") {
			pid, _, _ := strings.Cut(p, " ")
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			syscall.Kill(n, syscall.SIGKILL)
		}
		until(t, "the task is gone", func() bool { return d.status(t, "killed") == "" })
		d.must(t, "container", "rm", "killed")
		return ""
	}},
	{"a logger", func(t *testing.T, d *daemon, c column) string {
		dir := t.TempDir()
		path := filepath.Join(dir, "default-a-a-b")
		script := "#!/bin/sh\nexec 5>&-\n(/bin/cat <&3; /bin/cat <&4) >" + dir + "/$CONTAINER_NAMESPACE-$CONTAINER_ID-$1-$2\n"
		logger := filepath.Join(dir, "logger")
		if err := os.WriteFile(logger, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		const logged = "out\nerr\n"
		r := d.do(t, c.run("--rm", "--log-uri", "binary://"+logger+"?a=b", image, "a", "sh", "-c", "echo out; echo err >&2")...)
		// runc's shim does not wait for its logger.
		until(t, "the logger is done", func() bool { st, err := os.Stat(path); return err == nil && st.Size() >= int64(len(logged)) })
		text, err := os.ReadFile(path)
		return fmt.Sprint(r, string(text), err)
	}},
	{"no such program", func(t *testing.T, d *daemon, c column) string {
		r := d.do(t, c.run("--rm", image, "a", "nosuch")...)
		return fmt.Sprint(r.Code, strings.Contains(r.Err, `exec: "nosuch": executable file not found in $PATH`))
	}},
}

// written is what runc's containers give as well, on a calm host.
var written = map[string]string{
	"exit status and streams": "-- stderr\n-- exit 7\nout\nerr\n<nil>",
	"much output":             "1288920 bytes, 197373134fa75a35c618bb4b0a01ea3d388417208a22d7f20de710689e97b981",
	"a signal's end":          "-- stderr\n-- exit 137\nKilled\n<nil>",
	"a terminal":              "6",
	"standard input":          "typed\n<nil>",
	"a life": "/tasks/create\n/tasks/start\nRUNNING\n-- stderr\n-- exit 3\n0\nerr\n<nil>\n/tasks/exec-added\n/tasks/exec-started\n/tasks/exit\n" +
		"1 true\n/tasks/exec-added\n-- stderr\n-- exit 0\nuid=1000(user) gid=1000 groups=1000\n<nil>\n/tasks/exec-added\n/tasks/exec-started\n/tasks/exit\n" +
		"/tasks/paused\nPAUSED\n/tasks/resumed\nRUNNING 1\ntrue true\ntrue\n/tasks/exit\nSTOPPED 1\n0\n/tasks/delete\n",
	"memory runs out":     strings.Repeat("/tasks/create\n/tasks/start\n/tasks/oom\n/tasks/exit\nSTOPPED\n/tasks/delete\n", 2),
	"containerd restarts": "RUNNING\n-- stderr\n-- exit 0\nafter\n<nil>\n0\n",
	"the shim is killed":  "",
	"a logger":            "-- stderr\n-- exit 0\nout\nerr\n<nil>",
	"no such program":     "1 true",
}

// topics listens to what containerd says of tasks: what it gives waits for a topic, and
// writes those up to it, a line each.
func (d *daemon) topics(t *testing.T, said *strings.Builder) (await func(want string), end func()) {
	t.Helper()
	events := d.ctr("events")
	stream, err := events.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := events.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stream)
	// The stream is there when it tells of a first container.
	subscribed := make(chan struct{})
	go func() {
		for lines.Scan() {
			if strings.Contains(lines.Text(), "/containers/create") {
				break
			}
		}
		close(subscribed)
	}()
	for n := 0; ; n++ {
		name := "nobody" + strconv.Itoa(n)
		d.must(t, "container", "create", image, name)
		d.must(t, "container", "rm", name)
		select {
		case <-subscribed:
		default:
			continue
		}
		break
	}
	await = func(want string) {
		t.Helper()
		for lines.Scan() {
			f := strings.Fields(lines.Text())
			if i := indexOf(f, "default"); i >= 0 && i+1 < len(f) && strings.HasPrefix(f[i+1], "/tasks/") {
				fmt.Fprintln(said, f[i+1])
				if f[i+1] == want {
					return
				}
			}
		}
		t.Fatalf("no event %s: %s", want, said.String())
	}
	return await, func() {
		events.Process.Kill()
		events.Wait()
	}
}

func indexOf(list []string, s string) int {
	for i, v := range list {
		if v == s {
			return i
		}
	}
	return -1
}

// TestSessions takes containers through what a person does with them. With BULKHEAD_SLOW
// runc's, too, for whether the rows are right: its shim loses output on a busy host, and so
// says nothing else.
func TestSessions(t *testing.T) {
	d := launch(t)
	for _, s := range sessions {
		t.Run(s.name, func(t *testing.T) {
			for _, c := range d.columns(t) {
				if got := s.do(t, d, c); got != written[s.name] {
					t.Errorf("%s: %q:\n%s", c.name, got, rig.Diff(t, written[s.name], got))
				}
				if c.state != "" {
					d.nothingLeft(t, c)
				}
			}
		})
	}
}

// TestPodHasOneShim: containers that name the same pod share one.
func TestPodHasOneShim(t *testing.T) {
	d := launch(t)
	c := d.columns(t)[0]
	pod := []string{"--annotation", "io.kubernetes.cri.sandbox-id=pod", "-d"}
	d.must(t, c.run(append(pod, image, "pod", "sleep", "1000")...)...)
	d.must(t, c.run(append(pod, image, "further", "sleep", "1000")...)...)
	if list := processes(d.sock + " "); len(list) != 1 {
		t.Errorf("shims: %q", list)
	}
	for _, id := range []string{"further", "pod"} {
		d.must(t, "task", "kill", "-s", "KILL", id)
		d.ended(t, id)
		d.must(t, "task", "rm", id)
		d.must(t, "container", "rm", id)
	}
	d.nothingLeft(t, c)
}

// TestSettings: what a handler's settings have wrong is named, and nothing is left.
func TestSettings(t *testing.T) {
	d := launch(t)
	for text, complaint := range map[string]string{
		"isolatoin = \"vm\"\n":        `line 1: "isolatoin" is unknown; is isolation meant?`,
		"\nplatform = \"kvn\"\n":      `line 2: platform: "kvn" is none of auto, kvm, ptrace`,
		"root = \"somewhere\"\n":      `line 1: root: "somewhere" is no absolute path`,
		"isolation = \"vm\"":          "isolation vm: ",
		"platform = \"kvm\" \"more\"": `line 1: platform: "\"more\"" after the string`,
	} {
		if _, err := os.Stat("/dev/kvm"); err == nil && strings.HasPrefix(complaint, "isolation vm") {
			continue // this host may have machines
		}
		path := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := d.do(t, "run", "--rm", "--runtime", ours, "--runtime-config-path", path, image, "a", "true")
		if r.Code == 0 || !strings.Contains(r.Err, complaint) {
			t.Errorf("%q: %s, want %s", text, r, complaint)
		}
	}
	d.nothingLeft(t, column{state: "/nowhere"})
}
