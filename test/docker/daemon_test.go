// Package docker runs Debian's docker with bulkhead as its runtime: a daemon of
// our own, with its own directories and socket, so that one already running on
// this machine is not touched. runc fills in the expected column.
package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"bulkhead/test/rig"
)

// cache outlives the tests: making a Debian takes a minute. `make clean` does not remove it.
const cache = "/var/cache/bulkhead"

// daemon is a private dockerd with our runtimes and the images box and deb.
type daemon struct {
	dir  string
	bin  string // of the runtime, for the traces it leaves
	cmd  *exec.Cmd
	log  string
	host string
}

var shared *daemon

func TestMain(m *testing.M) {
	code := m.Run()
	if shared != nil {
		if err := shared.stop(); err != nil {
			fmt.Println(err)
			code = 1
		}
	}
	os.Exit(code)
}

// start gives the daemon that all tests share.
func start(t *testing.T) *daemon {
	t.Helper()
	rig.NeedRoot(t)
	rig.Need(t, "dockerd", "docker", "runc", "busybox", "debootstrap")
	if shared != nil {
		return shared
	}
	// No network of the host's is changed; the containers have none.
	shared = launch(t, nil, "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false")
	shared.load(t, "box", busyboxTar(t))
	shared.load(t, "deb", debianTar(t))
	return shared
}

// launch starts a daemon, by a command that its own is appended to.
func launch(t *testing.T, command []string, flags ...string) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "bulkhead-docker-")
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{dir: dir, bin: programs(t), log: filepath.Join(dir, "dockerd.log"), host: "unix://" + filepath.Join(dir, "docker.sock")}
	type runtime struct {
		Path string   `json:"path"`
		Args []string `json:"runtimeArgs,omitempty"`
	}
	runtimes := map[string]runtime{}
	if inLab() {
		runtimes[machines] = runtime{d.bin, []string{"--isolation=vm"}}
	} else {
		for _, platform := range rig.Platforms(t) {
			runtimes["bulkhead-"+platform] = runtime{d.bin, []string{"--platform=" + platform}}
		}
	}
	config, err := json.Marshal(map[string]any{"runtimes": runtimes})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "daemon.json"), config, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(d.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	command = append(slices.Clone(command), "dockerd", "--config-file", filepath.Join(dir, "daemon.json"),
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--host", d.host, "--pidfile", filepath.Join(dir, "pid"), "--exec-opt", "native.cgroupdriver=cgroupfs")
	command = append(command, flags...)
	d.cmd = exec.Command(command[0], command[1:]...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(patience()); ; time.Sleep(50 * time.Millisecond) {
		if exec.Command("docker", "-H", d.host, "version").Run() == nil {
			break
		}
		if time.Now().After(limit) {
			d.stop()
			text, _ := os.ReadFile(d.log)
			t.Fatalf("dockerd does not answer:\n%s", text)
		}
	}
	return d
}

func (d *daemon) stop() error {
	d.cmd.Process.Signal(syscall.SIGTERM)
	d.cmd.Wait()
	text, _ := os.ReadFile(d.log)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(string(mounts), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], d.dir) {
			syscall.Unmount(fields[1], syscall.MNT_DETACH)
		}
	}
	if os.Getenv("KEEP") == "" {
		return os.RemoveAll(d.dir)
	}
	fmt.Printf("%s\n%s", d.dir, text)
	return nil
}

func busyboxTar(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	script := `
		mkdir -p bin etc proc sys dev tmp root && chmod 1777 tmp && cp "$(command -v busybox)" bin/busybox
		for a in $(busybox --list); do [ $a = busybox ] || ln -s busybox bin/$a; done
		echo root:x:0:0::/root:/bin/sh >etc/passwd; echo user:x:1000:1000::/:/bin/sh >>etc/passwd; echo root:x:0: >etc/group
		tar -cf "$0" .`
	tar := filepath.Join(t.TempDir(), "box.tar")
	cmd := exec.Command("sh", "-ec", script, tar)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return tar
}

// debianTar is a minbase Debian, made once a machine.
func debianTar(t *testing.T) string {
	t.Helper()
	tar := filepath.Join(cache, "minbase.tar")
	if _, err := os.Stat(tar); !errors.Is(err, fs.ErrNotExist) {
		return tar
	}
	t.Logf("making %s", tar)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root")
	script := `debootstrap --variant=minbase bookworm "$1" http://deb.debian.org/debian && rm -rf "$1"/var/cache/apt/archives/*.deb && tar -C "$1" --one-file-system -cf "$0.new" . && mv "$0.new" "$0"`
	if out, err := exec.Command("sh", "-ec", script, tar, root).CombinedOutput(); err != nil {
		t.Fatalf("debootstrap: %v\n%s", err, out)
	}
	return tar
}

func (d *daemon) load(t *testing.T, image, tar string) {
	t.Helper()
	if r := d.do(t, "import", tar, image); r.Code != 0 {
		t.Fatalf("import %s: %s", image, r)
	}
}

// do is one docker command.
func (d *daemon) do(t *testing.T, args ...string) rig.Result {
	t.Helper()
	return d.doWith(t, "", args...)
}

func (d *daemon) doWith(t *testing.T, stdin string, args ...string) rig.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience())
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", append([]string{"-H", d.host}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := rig.Result{Out: out.String(), Err: errs.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("docker %q hung; so far:\n%s", args, r)
	case errors.As(err, &exit):
		r.Code = exit.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	return r
}

func (d *daemon) must(t *testing.T, args ...string) string {
	t.Helper()
	r := d.do(t, args...)
	if r.Code != 0 {
		t.Fatalf("docker %q: %s", args, r)
	}
	return strings.TrimSuffix(r.Out, "\n")
}

// eachRuntime runs test for bulkhead on each platform and in machines, and for runc.
func eachRuntime(t *testing.T, test func(t *testing.T, d *daemon, runtime string)) {
	if !inLab() {
		t.Run("runc", func(t *testing.T) { test(t, start(t), "runc") })
	}
	eachOfOurs(t, test)
}

// eachOfOurs does so without runc.
func eachOfOurs(t *testing.T, test func(t *testing.T, d *daemon, runtime string)) {
	if !inLab() {
		for _, platform := range rig.Platforms(t) {
			name := "bulkhead-" + platform
			t.Run(name, func(t *testing.T) { test(t, start(t), name) })
		}
	}
	t.Run(machines, func(t *testing.T) {
		if withMachines(t) {
			test(t, start(t), machines)
		}
	})
}

// detached runs a container in the background, removed in the end.
func (d *daemon) detached(t *testing.T, runtime string, args ...string) string {
	t.Helper()
	name := d.must(t, append([]string{"run", "-d", "--runtime=" + runtime}, args...)...)
	t.Cleanup(func() { d.do(t, "rm", "-f", name) })
	return name
}

func (d *daemon) inspect(t *testing.T, name, field string) string {
	t.Helper()
	return d.must(t, "inspect", "-f", "{{"+field+"}}", name)
}

// until waits for a field of inspect.
func (d *daemon) until(t *testing.T, name, field, want string) {
	t.Helper()
	for limit := time.Now().Add(patience()); ; time.Sleep(20 * time.Millisecond) {
		got := d.inspect(t, name, field)
		if got == want {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%s is %q, want %q", field, got, want)
		}
	}
}
