package oci

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestExitStatus(t *testing.T) {
	rows := []struct {
		args []string
		want int
	}{
		{[]string{"true"}, 0},
		{[]string{"sh", "-c", "exit 42"}, 42},
		{[]string{"sh", "-c", "kill -KILL $$; sleep 1"}, 0}, // init is spared its own kill, on Linux too
		{[]string{"acts", "fault"}, 139},
		{[]string{"acts", "abort"}, 139}, // likewise: abort falls back to hlt, and a fault is not spared
		{[]string{"sh", "-c", "acts abort; exit $?"}, 134},
		{[]string{"acts", "illegal"}, 132},
		{[]string{"acts", "divide"}, 136},
		{[]string{"acts", "jump"}, 139},
	}
	eachRuntime(t, func(t *testing.T, p *program) {
		for _, row := range rows {
			leavesNothing(t, p, func() {
				if got := p.run(t, nil, row.args...); got.Code != row.want {
					t.Errorf("%q exits %d, want %d:\n%s%s", row.args, got.Code, row.want, got, p.logged())
				}
			})
		}
	})
}

// TestLargeWrites: a write larger than a pipe, and one smaller, go through whole.
func TestLargeWrites(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		for _, size := range []int{4097, 20_000, 65_537, 300_000} {
			got := p.run(t, nil, "dd", "if=/dev/zero", fmt.Sprint("bs=", size), "count=3")
			if n := len(got.Out); n != 3*size || got.Code != 0 {
				t.Errorf("three writes of %d: %d bytes, exit code %d", size, n, got.Code)
			}
		}
	})
}

func TestLifecycle(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		leavesNothing(t, p, func() {
			dir := t.TempDir()
			edit := func(s *specs.Spec) {
				s.Annotations = map[string]string{"org.example.key": "value"}
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"bind", "rw"}})
			}
			name := p.created(t, edit, "sh", "-c", "trap 'exit 7' TERM; : >/mnt/ready; while :; do sleep 0.01; done")
			s := p.state(t, name)
			if s.Status != specs.StateCreated || s.ID != name || s.Pid <= 0 || s.Annotations["org.example.key"] != "value" || s.Version == "" || s.Bundle == "" {
				t.Errorf("state after create: %+v", s)
			}
			p.must(t, "start", name)
			if s := p.state(t, name); s.Status != specs.StateRunning {
				t.Errorf("status after start: %s", s.Status)
			}
			if r := p.do(t, "start", name); r.Code == 0 {
				t.Error("a second start succeeded")
			}
			if r := p.do(t, "delete", name); r.Code == 0 {
				t.Error("delete of a running container succeeded")
			}
			if list := p.must(t, "list", "--quiet"); !slices.Contains(strings.Fields(list), name) {
				t.Errorf("list --quiet has no %s: %s", name, list)
			}
			var rows []struct{ ID, Status string }
			if err := json.Unmarshal([]byte(p.must(t, "list", "--format", "json")), &rows); err != nil || len(rows) != 1 || rows[0].Status != "running" {
				t.Errorf("list --format json: %v %v", rows, err)
			}
			for { // PID 1 is spared a TERM that it does not handle yet
				if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
					break
				}
			}
			p.must(t, "kill", name, "TERM")
			p.until(t, name, specs.StateStopped)
			if r := p.do(t, "kill", name, "TERM"); r.Code == 0 {
				t.Error("kill of a stopped container succeeded")
			}
			p.must(t, "delete", name)
			if r := p.do(t, "state", name); r.Code == 0 {
				t.Error("state of a deleted container succeeded")
			}
			if r := p.do(t, "delete", name); r.Code == 0 {
				t.Error("a second delete succeeded")
			}
			p.must(t, "delete", "--force", name)
		})
	})
}

func TestForcedDelete(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		leavesNothing(t, p, func() {
			name := p.started(t, nil, "acts", "ignore_term")
			p.must(t, "delete", "--force", name)
		})
	})
}

// TestCrash kills the sandbox from outside: state says stopped and delete clears up.
func TestCrash(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		leavesNothing(t, p, func() {
			name := p.started(t, nil, "sleep", "1000")
			process, err := os.FindProcess(p.state(t, name).Pid)
			if err != nil {
				t.Fatal(err)
			}
			if err := process.Kill(); err != nil {
				t.Fatal(err)
			}
			p.until(t, name, specs.StateStopped)
			p.must(t, "delete", name)
		})
	})
}

func TestExec(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		name := p.started(t, nil, "sleep", "1000")
		rows := []struct {
			args []string
			out  string
			code int
		}{
			{[]string{name, "echo", "hello"}, "hello\n", 0},
			{[]string{name, "sh", "-c", "exit 9"}, "", 9},
			{[]string{"--env", "A=b", name, "sh", "-c", "echo $A $HOME"}, "b /root\n", 0},
			{[]string{"--cwd", "/etc", name, "pwd"}, "/etc\n", 0},
			{[]string{"--user", "1000:1000", name, "sh", "-c", "id -u; id -g"}, "1000\n1000\n", 0},
			{[]string{name, "acts", "fault"}, "", 139},
			{[]string{name, "hostname"}, "box\n", 0},
			{[]string{name, "sh", "-c", "cat /proc/1/comm"}, "sleep\n", 0},
		}
		for _, row := range rows {
			if r := p.do(t, append([]string{"exec"}, row.args...)...); r.Out != row.out || r.Code != row.code {
				t.Errorf("exec %q: want %q and %d\n%s", row.args, row.out, row.code, r)
			}
		}
		if r := p.do(t, "exec", name, "/no/such/program"); r.Code == 0 || r.Err == "" {
			t.Errorf("exec of a missing program: %s", r)
		}
		file := filepath.Join(t.TempDir(), "pid")
		p.detached(t, "exec", "--detach", "--pid-file", file, name, "sleep", "1000")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || pid <= 0 {
			t.Errorf("pid file: %q", text)
		}
		if out := p.must(t, "ps", name); strings.Count(out, "sleep 1000") != 2 {
			t.Errorf("ps: %s", out)
		}
		p.must(t, "kill", name, "KILL")
		p.until(t, name, specs.StateStopped)
		if r := p.do(t, "exec", name, "true"); r.Code == 0 {
			t.Error("exec in a stopped container succeeded")
		}
	})
}

func TestPause(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		dir := t.TempDir()
		bind := func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"bind", "rw"}})
		}
		name := p.started(t, bind, "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/mnt/n; done")
		count := func() string {
			b, err := os.ReadFile(filepath.Join(dir, "n"))
			if err != nil {
				return ""
			}
			return string(b)
		}
		moves := func(from string) {
			for count() == from {
			}
		}
		moves(count())
		p.must(t, "pause", name)
		p.until(t, name, "paused")
		at := count()
		exec.Command("sleep", "0.2").Run() // time in which it would go on
		if now := count(); now != at {
			t.Errorf("it counts from %q to %q while paused", at, now)
		}
		p.must(t, "resume", name)
		p.until(t, name, specs.StateRunning)
		moves(at)
		p.must(t, "pause", name)
		p.must(t, "delete", "--force", name)
	})
}

func TestStatsAndUpdate(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		limited := func(s *specs.Spec) {
			limit, pids := int64(128<<20), int64(50)
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
			s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
		}
		name := p.started(t, limited, "sleep", "1000")
		var event struct {
			Type string
			Data struct {
				Pids   struct{ Current, Limit uint64 }
				Memory struct{ Usage struct{ Usage, Limit uint64 } }
			}
		}
		for { // until what runc ran to start it is gone
			if err := json.Unmarshal([]byte(p.must(t, "events", "--stats", name)), &event); err != nil {
				t.Fatal(err)
			}
			if event.Data.Pids.Current <= 1 || p.name != "runc" {
				break
			}
		}
		if d := event.Data; event.Type != "stats" || d.Pids.Current != 1 || d.Pids.Limit != 50 || d.Memory.Usage.Limit != 128<<20 || d.Memory.Usage.Usage == 0 {
			t.Errorf("stats: %+v", event)
		}
		// runc, which is a Go program, must fit in for a moment.
		p.must(t, "update", "--pids-limit", "20", "--memory", strconv.Itoa(256<<20), name)
		if err := json.Unmarshal([]byte(p.must(t, "events", "--stats", name)), &event); err != nil {
			t.Fatal(err)
		}
		if d := event.Data; d.Pids.Limit != 20 || d.Memory.Usage.Limit != 256<<20 {
			t.Errorf("stats after update: %+v", event)
		}
		if r := p.do(t, "exec", name, "acts", "bomb"); !strings.Contains(r.Out, "18 forks, then Resource temporarily unavailable") {
			t.Errorf("forks after update: %s", r)
		}
	})
}

// TestHooks has each hook write its name and the state it was given.
func TestHooks(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		file := filepath.Join(t.TempDir(), "order")
		hooked := func(s *specs.Spec) {
			hook := func(name string) []specs.Hook {
				return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo " + name + ` $A $(grep -o '"status": *"[a-z]*"' | cut -d'"' -f4) >>` + file}, Env: []string{"A=env", "PATH=/bin:/usr/bin"}}}
			}
			s.Hooks = &specs.Hooks{
				//lint:ignore SA1019 docker still uses it
				Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"),
				Poststart: hook("poststart"), Poststop: hook("poststop"),
			}
		}
		if r := p.run(t, hooked, "sh", "-c", "true"); r.Code != 0 {
			t.Fatalf("%s%s", r, p.logged())
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want := "prestart env creating\ncreateRuntime env creating\npoststart env running\npoststop env stopped\n"
		if p.name == "runc" { // runc 1.1.5 says so of a program that runs
			want = strings.Replace(want, "running", "created", 1)
		}
		if string(text) != want {
			t.Errorf("hooks ran as\n%swant\n%s", text, want)
		}
		fails := func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false", Args: []string{"false"}}}}
		}
		leavesNothing(t, p, func() {
			if r := p.run(t, fails, "true"); r.Code == 0 {
				t.Error("a failing hook did not stop the start")
			}
		})
	})
}

// TestConsole takes the terminal by --console-socket, as docker does.
func TestConsole(t *testing.T) {
	eachRuntime(t, func(t *testing.T, p *program) {
		path := filepath.Join(t.TempDir(), "s")
		terminal := receiveTerminal(t, path)
		name := id(t)
		dir := bundle(t, func(s *specs.Spec) {
			s.Process.Terminal = true
			s.Process.ConsoleSize = &specs.Box{Height: 30, Width: 100}
		}, "sh", "-c", "tty; stty size; read x; echo got $x; exit 3")
		pid := filepath.Join(t.TempDir(), "pid")
		p.must(t, "create", "--bundle", dir, "--console-socket", path, "--pid-file", pid, name)
		t.Cleanup(func() { p.do(t, "delete", "--force", name) })
		master := terminal()
		defer master.Close()
		p.must(t, "start", name)
		r := bufio.NewReader(master)
		for _, want := range []string{"/dev/pts/0\r\n", "30 100\r\n"} {
			if line, err := r.ReadString('\n'); line != want {
				t.Errorf("the terminal shows %q, want %q: %v", line, want, err)
			}
		}
		if _, err := master.WriteString("typed\n"); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"typed\r\n", "got typed\r\n"} {
			if line, err := r.ReadString('\n'); line != want {
				t.Errorf("the terminal shows %q, want %q: %v", line, want, err)
			}
		}
		p.until(t, name, specs.StateStopped)
		if text, err := os.ReadFile(pid); err != nil || strings.TrimSpace(string(text)) == "" {
			t.Errorf("pid file: %q, %v", text, err)
		}
	})
}

func TestNamesAndSignals(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		name := p.started(t, nil, "acts", "ignore_term")
		for _, signal := range []string{"TERM", "SIGTERM", "15", "sigusr2", "KILL"} {
			r := p.do(t, "kill", name, signal)
			if r.Code != 0 {
				t.Errorf("kill %s: %s", signal, r)
			}
		}
		if r := p.do(t, "kill", name, "NOSUCH"); r.Code == 0 || !strings.Contains(r.Err, "NOSUCH") {
			t.Errorf("kill NOSUCH: %s", r)
		}
		p.until(t, name, specs.StateStopped) // by KILL alone: PID 1 is spared what it does not handle
		if r := p.do(t, "run", "--bundle", bundle(t, nil, "true"), name); r.Code == 0 || !strings.Contains(r.Err, name) {
			t.Errorf("a name that exists: %s", r)
		}
	})
}
