package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/bundle"
	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// runtimeFor gives a runtime of its own, whose every trace must be gone at the end.
func runtimeFor(t *testing.T) *Runtime {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for namespaces and control groups")
	}
	r := &Runtime{Root: filepath.Join(t.TempDir(), "root"), Platform: "ptrace", Log: slog.New(slog.DiscardHandler), Began: time.Now()}
	t.Cleanup(func() {
		left, _ := os.ReadDir(r.Root)
		for _, e := range left {
			t.Errorf("state left behind: %s", e.Name())
			r.Delete(context.Background(), e.Name(), true)
		}
		if groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + cgroupOf(t)); len(groups) > 0 {
			t.Errorf("control groups left behind: %v", groups)
		}
		if pids := children(t); len(pids) > 0 {
			t.Errorf("processes left behind: %v", pids)
		}
	})
	return r
}

func cgroupOf(t *testing.T) string {
	return fmt.Sprintf("bulkhead-test-%d-%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"))
}

// children are ours that still run, by command lines that only ours have.
func children(t *testing.T) (pids []string) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err != nil {
		return nil
	}
	for _, pid := range strings.Fields(string(b)) {
		name, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		if strings.HasPrefix(string(name), "bulkhead-") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// bundleOf is a bundle that runs one of the fake programs.
func bundleOf(t *testing.T, change func(*specs.Spec), args ...string) *bundle.Bundle {
	t.Helper()
	s := bundle.Default()
	s.Process.Terminal = false
	s.Process.Args = args
	s.Linux.CgroupsPath = "/" + cgroupOf(t)
	if change != nil {
		change(s)
	}
	if err := bundle.Check(s); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s.Root.Path = dir
	return &bundle.Bundle{Dir: dir, Spec: s}
}

func sh(script string) []specs.Hook {
	return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}}}
}

func TestLife(t *testing.T) {
	r, ctx := runtimeFor(t), t.Context()
	dir := t.TempDir()
	record := filepath.Join(dir, "record")
	hook := func(name string) []specs.Hook {
		return sh(fmt.Sprintf(`read s; echo "%s $s" | sed 's/"ociVersion.*"status":"\([a-z]*\)".*/\1/' >> %s`, name, record))
	}
	b := bundleOf(t, func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{
			//lint:ignore SA1019 docker still uses it
			Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"),
			StartContainer: []specs.Hook{{Path: "/exit", Args: []string{"exit", "0"}}}, Poststart: hook("poststart"), Poststop: hook("poststop"),
		}
	}, "sleep")
	pidFile := filepath.Join(dir, "pid")
	c, err := r.Create(ctx, &Create{ID: "c", Bundle: b, PidFile: pidFile})
	if err != nil {
		t.Fatal(err)
	}
	child := c.Process.Process
	c.Release()
	if _, err := r.Create(ctx, &Create{ID: "c", Bundle: b}); !errors.Is(err, state.ErrExist) {
		t.Errorf("Create again: %v", err)
	}
	if b, _ := os.ReadFile(pidFile); string(b) != strconv.Itoa(child.Pid) {
		t.Errorf("pid file %q, want %d", b, child.Pid)
	}

	// Another command from here on.
	c, err = r.Open("c")
	if err != nil {
		t.Fatal(err)
	}
	want := func(status specs.ContainerState) {
		t.Helper()
		if s := c.OCI(); s.Status != status || (s.Pid == 0) != (status == specs.StateStopped) {
			t.Errorf("state %+v, want %s", s, status)
		}
	}
	want(specs.StateCreated)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	want(specs.StateRunning)
	if err := c.Start(ctx); err == nil || err.Error() != "cannot start a container that is running" {
		t.Errorf("Start again: %v", err)
	}
	if err := r.Delete(ctx, "c", false); err == nil {
		t.Error("a running container was deleted")
	}
	if s, err := c.Stats(ctx); err != nil || s.Host == nil || s.Inside == nil {
		t.Errorf("Stats: %+v, %v", s, err)
	}
	limit := int64(50)
	if err := c.Update(ctx, func(r *specs.LinuxResources) error { r.Pids = &specs.LinuxPids{Limit: &limit}; return nil }); err != nil {
		t.Error(err)
	}
	if again, err := r.Open("c"); err != nil || *again.State.Resources.Pids.Limit != 50 {
		t.Errorf("the update was not kept: %v", err)
	}
	if err := c.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	want(Paused)
	if _, err := c.Exec(ctx, b.Spec.Process, nil); err == nil {
		t.Error("exec in a paused container")
	}
	if err := c.Signal(ctx, unix.SIGTERM, false); err != nil {
		t.Errorf("Signal while paused: %v", err)
	}
	want(Paused)
	if err := c.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	status, err := child.Wait()
	if err != nil || status.ExitCode() != 128+15 {
		t.Errorf("ended with %v, %v, want 143", status, err)
	}
	want(specs.StateStopped)
	if err := c.Signal(ctx, unix.SIGTERM, false); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Signal: %v, want ErrNotRunning", err)
	}
	if err := r.Delete(ctx, "c", false); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(ctx, "c", false); !errors.Is(err, state.ErrNotExist) {
		t.Errorf("Delete again: %v", err)
	}
	got, _ := os.ReadFile(record)
	if want := "prestart {creating\ncreateRuntime {creating\ncreateContainer {creating\npoststart {running\npoststop {stopped\n"; string(got) != want {
		t.Errorf("hooks: got\n%swant\n%s", got, want)
	}
	reap(t)
}

// reap takes gofers, whose parent we are as the creator.
func reap(t *testing.T) {
	t.Helper()
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || pid <= 0 {
			return
		}
	}
}

// Starts that fail: what is said, and that nothing stays (runtimeFor looks).
func TestCreateFails(t *testing.T) {
	for _, row := range []struct {
		name   string
		args   []string
		change func(*specs.Spec)
		option func(*Create)
		want   string
	}{
		{name: "a step fails", args: []string{"refuse", "no reason"}, want: "start the sandbox: load init: no reason"},
		{name: "no program", args: []string{"missing"}, want: `exec: "missing": executable file not found in $PATH`},
		{name: "dies silently", args: []string{"die"}, want: "the sandbox ended during its start (exit status 70); its last words: panic: the sky has fallen"},
		{name: "talks nonsense", args: []string{"babble"}, want: "agent: parse ready line: invalid character 'h' looking for beginning of value"},
		{name: "hook fails", args: []string{"sleep"}, change: func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateRuntime: sh("echo no >&2; exit 3")} }, want: "hook createRuntime[0], /bin/sh: exit status 3: no"},
		{name: "bad pid file", args: []string{"sleep"}, option: func(c *Create) { c.PidFile = "/nonexistent/pid" }, want: "pid file /nonexistent/pid: no such file or directory"},
		{name: "bad name", args: []string{"sleep"}, option: func(c *Create) { c.ID = "a/b" }, want: "container ID \"a/b\": only letters"},
		{name: "bad cgroup", args: []string{"sleep"}, change: func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "900"}}
		}, want: "cgroup /bulkhead-test-"},
		{name: "no console socket", args: []string{"sleep"}, change: func(s *specs.Spec) { s.Process.Terminal = true }, want: "process.terminal: a detached container needs --console-socket"},
		{name: "bad console socket", args: []string{"sleep"}, change: func(s *specs.Spec) { s.Process.Terminal = true }, option: func(c *Create) { c.ConsoleSocket = "/nonexistent" }, want: "set up the terminal: console socket: "},
		{name: "no such descriptors", args: []string{"sleep"}, option: func(c *Create) { c.PreserveFDs = 900 }, want: "open descriptors: --preserve-fds=900: descriptor "},
		{name: "foreign pid namespace", args: []string{"sleep"}, change: func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/self/ns/pid" }, want: "linux.namespaces[0].path: a sandbox cannot join a pid namespace"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := runtimeFor(t)
			o := &Create{ID: "c", Bundle: bundleOf(t, row.change, row.args...)}
			if row.option != nil {
				row.option(o)
			}
			_, err := r.Create(t.Context(), o)
			if err == nil || !strings.HasPrefix(err.Error(), row.want) {
				t.Errorf("got %v, want %s", err, row.want)
			}
		})
	}
}

// A program that may run at once does, and the rest of Start still follows.
func TestStartAtOnce(t *testing.T) {
	r, ctx := runtimeFor(t), t.Context()
	record := filepath.Join(t.TempDir(), "record")
	b := bundleOf(t, func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststart: sh("echo hook > " + record)} }, "exit", "5")
	c, err := r.Create(ctx, &Create{ID: "c", Bundle: b, Start: true})
	if err != nil {
		t.Fatal(err)
	}
	c.Release()
	if s, err := c.Process.Process.Wait(); err != nil || s.ExitCode() != 5 {
		t.Errorf("%v, %v", s, err)
	}
	if err := c.Start(ctx); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(record); string(b) != "hook\n" {
		t.Errorf("the hook wrote %q", b)
	}
	if err := c.Remove(ctx); err != nil {
		t.Error(err)
	}
	reap(t)
}

// A full disk under the root.
func TestNoSpace(t *testing.T) {
	r := runtimeFor(t)
	if err := os.Mkdir(r.Root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", r.Root, "tmpfs", 0, "size=4k,nr_inodes=100"); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	defer unix.Unmount(r.Root, unix.MNT_DETACH)
	big := strings.Repeat("x", 5000)
	_, err := r.Create(t.Context(), &Create{ID: "c", Bundle: bundleOf(t, func(s *specs.Spec) { s.Annotations = map[string]string{"a": big} }, "sleep")})
	if !errors.Is(err, unix.ENOSPC) || !strings.HasPrefix(err.Error(), "save state: ") {
		t.Errorf("got %v, want save state: … no space left on device", err)
	}
	if left, _ := os.ReadDir(r.Root); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A create that hangs is ended by a signal to it, and by delete --force.
func TestHangingStart(t *testing.T) {
	r := runtimeFor(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := r.Create(ctx, &Create{ID: "c", Bundle: bundleOf(t, nil, "hang")}); !errors.Is(err, context.Canceled) {
		t.Errorf("Create: %v, want Canceled", err)
	}

	failed := make(chan error)
	b := bundleOf(t, nil, "hang")
	go func() { _, err := r.Create(context.Background(), &Create{ID: "d", Bundle: b}); failed <- err }()
	for { // until the sandbox can be found by its state
		if c, err := r.Open("d"); err == nil && c.State.Sandbox.PID != 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := r.Delete(context.Background(), "d", true); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if err := <-failed; err == nil {
		t.Error("the create whose sandbox was killed succeeded")
	}
}

// A sandbox that was killed, and one whose Sentry does not answer.
func TestForce(t *testing.T) {
	for _, program := range []string{"sleep", "deaf"} {
		t.Run(program, func(t *testing.T) {
			r, ctx := runtimeFor(t), t.Context()
			c, err := r.Create(ctx, &Create{ID: "c", Bundle: bundleOf(t, nil, program)})
			if err != nil {
				t.Fatal(err)
			}
			c.Release()
			if err := c.Start(ctx); err != nil {
				t.Fatal(err)
			}
			child := c.Process.Process
			if c, err = r.Open("c"); err != nil {
				t.Fatal(err)
			}
			if program == "deaf" {
				// Within the patience that a kill has with the Sentry.
				if err := c.Signal(ctx, unix.SIGKILL, false); err != nil {
					t.Error(err)
				}
				if s, err := child.Wait(); err != nil || s.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
					t.Errorf("%v, %v", s, err)
				}
				if now := c.Status(); now != specs.StateStopped {
					t.Errorf("%s, want stopped", now)
				}
			} else {
				go child.Wait()
			}
			if err := r.Delete(ctx, "c", true); err != nil {
				t.Error(err)
			}
			reap(t)
		})
	}
}

func TestExec(t *testing.T) {
	r, ctx := runtimeFor(t), t.Context()
	c, err := r.Create(ctx, &Create{ID: "c", Bundle: bundleOf(t, nil, "sleep")})
	if err != nil {
		t.Fatal(err)
	}
	c.Release()
	defer func() {
		go c.Process.Process.Wait()
		if err := r.Delete(ctx, "c", true); err != nil {
			t.Error(err)
		}
		reap(t)
	}()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	process := func(args ...string) *specs.Process { return &specs.Process{Args: args, Cwd: "/"} }
	if _, err := c.Exec(ctx, process("missing"), nil); !errors.Is(err, unix.ENOENT) {
		t.Errorf("missing program: %v", err)
	}
	e, err := c.Exec(ctx, process("exit", "9"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := e.Wait(ctx); err != nil || s.Exit() != 9 {
		t.Errorf("%+v, %v, want exit 9", s, err)
	}

	// Stand-ins: one whose process ends, one that gets a signal, one that is killed.
	_, err = c.Exec(ctx, process("exit", "9"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		args   []string
		signal unix.Signal
		want   int
	}{{[]string{"exit", "9"}, 0, 9}, {[]string{"sleep"}, unix.SIGTERM, 128 + 15}, {[]string{"sleep"}, unix.SIGKILL, -1}} {
		if e, err = c.Exec(ctx, process(row.args...), nil); err != nil {
			t.Fatal(err)
		}
		p, err := e.StandIn(nil)
		if err != nil {
			t.Fatal(err)
		}
		e.client.Close()
		if row.signal != 0 {
			p.Signal(row.signal)
		}
		if s, err := p.Wait(); err != nil || s.ExitCode() != row.want {
			t.Errorf("%v, signal %d: %v, %v, want %d", row.args, row.signal, s, err, row.want)
		}
	}
}

// A creator that is killed in the middle leaves what delete --force can clear.
func TestKilledCreator(t *testing.T) {
	r := runtimeFor(t)
	if os.Getenv("BULKHEAD_TEST_CREATOR") != "" {
		r.Root = os.Getenv("BULKHEAD_TEST_CREATOR")
		r.Create(t.Context(), &Create{ID: "c", Bundle: bundleOf(t, nil, "hang")})
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestKilledCreator$")
	cmd.Env = append(os.Environ(), "BULKHEAD_TEST_CREATOR="+r.Root)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var c *Container
	for {
		var err error
		if c, err = r.Open("c"); err == nil && c.State.Cgroup != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if now := c.Status(); now != specs.StateStopped {
		t.Errorf("what nobody goes on creating is %s, want stopped", now)
	}
	sandbox := c.State.Sandbox
	if err := r.Delete(t.Context(), "c", false); err != nil {
		t.Error(err)
	}
	if sandbox.Alive() {
		t.Error("the sandbox lives on")
	}
}

// Who starts a container is killed before it can write that down.
func TestKilledStarter(t *testing.T) {
	r, ctx := runtimeFor(t), t.Context()
	c, err := r.Create(ctx, &Create{ID: "c", Bundle: bundleOf(t, nil, "sleep")})
	if err != nil {
		t.Fatal(err)
	}
	c.Release()
	if err := c.ask(ctx, func(ctx context.Context, a *agent.Client) error { return a.Start(ctx, "") }); err != nil {
		t.Fatal(err)
	}
	if c, err = r.Open("c"); err != nil {
		t.Fatal(err)
	}
	if now := c.Status(); now != specs.StateRunning {
		t.Errorf("%s, want running", now)
	}
	if err := c.Start(ctx); err == nil || err.Error() != "cannot start a container that is running" {
		t.Errorf("Start again: %v", err)
	}
	if err := r.Delete(ctx, "c", false); err == nil {
		t.Error("a running container was deleted")
	}
	if err := r.Delete(ctx, "c", true); err != nil {
		t.Error(err)
	}
	reap(t)
}

// A deletion that was cut off when the state had gone; and what is not ours.
func TestKilledDeleter(t *testing.T) {
	r := runtimeFor(t)
	for name, files := range map[string][]string{"half": {"lock"}, "empty": nil} {
		for _, file := range append(files, "") {
			if err := os.MkdirAll(filepath.Join(r.Root, name), 0o700); err != nil {
				t.Fatal(err)
			}
			if file != "" {
				if err := os.WriteFile(filepath.Join(r.Root, name, file), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := r.Delete(t.Context(), name, false); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := filepath.Join(r.Root, "other")
	if err := os.MkdirAll(filepath.Join(other, "status"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(t.Context(), "other", false); err == nil {
		t.Error("another program's container was deleted")
	}
	if err := os.RemoveAll(other); err != nil {
		t.Fatal(err)
	}
}
