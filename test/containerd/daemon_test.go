// Package containerd runs Debian's containerd with containerd-shim-bulkhead-v1 as the
// runtime of its containers: a daemon of our own, with its own directories and socket, so
// that one already running on this machine is not touched. What is expected is what runc's
// containers give (BULKHEAD_SLOW).
package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

const (
	ours  = "io.containerd.bulkhead.v1"
	runcs = "io.containerd.runc.v2"
	image = "docker.io/library/box:latest"
	// pauseImage is of a pod's first container.
	pauseImage = "docker.io/library/pause:latest"
	shim       = "containerd-shim-bulkhead-v1"
)

// daemon is a private containerd with the image box.
type daemon struct {
	dir, bin, sock, log string
	alone               bool // in a network namespace of its own
	cmd                 *exec.Cmd
}

// launch starts one, which the test's end ends.
func launch(t *testing.T) *daemon {
	t.Helper()
	rig.Need(t, "containerd", "ctr", "runc", "busybox")
	d := prepare(t)
	d.launch(t, "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
	d.must(t, "image", "import", boxImage(t, image, "sh"))
	return d
}

func prepare(t *testing.T) *daemon {
	t.Helper()
	rig.NeedRoot(t)
	dir := t.TempDir()
	return &daemon{dir: dir, bin: programs(t), sock: filepath.Join(dir, "sock"), log: filepath.Join(dir, "log")}
}

// launch starts it; more are lines of its configuration.
func (d *daemon) launch(t *testing.T, more string) {
	t.Helper()
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\n", filepath.Join(d.dir, "root"), filepath.Join(d.dir, "state"))
	tables := fmt.Sprintf("[grpc]\n  address = %q\n[ttrpc]\n  address = %q\n", d.sock, d.sock+".ttrpc")
	if err := os.WriteFile(filepath.Join(d.dir, "config.toml"), []byte(config+more+tables), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start(t)
	t.Cleanup(func() {
		d.cmd.Process.Signal(syscall.SIGTERM)
		d.cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(d.log)
			t.Logf("containerd's log:\n%s", text)
		}
	})
}

func (d *daemon) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	args := []string{"containerd", "-c", filepath.Join(d.dir, "config.toml")}
	if d.alone {
		args = append([]string{"unshare", "--net", "sh", "-c", `ip link set lo up && exec "$@"`, "sh"}, args...)
	}
	d.cmd = exec.Command(args[0], args[1:]...)
	d.cmd.Env = append(os.Environ(), "PATH="+d.bin+":"+os.Getenv("PATH"))
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "containerd answers", func() bool { return d.ctr("version").Run() == nil })
}

// until polls for what comes without anybody telling of it.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience()); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("in vain waited until %s", what)
		}
	}
}

// programs is a directory with bulkhead and its shim.
func programs(t *testing.T) string {
	t.Helper()
	if inLab() {
		return home()
	}
	bulkhead := rig.Bulkhead(t)
	if os.Getenv("BULKHEAD") != "" {
		return filepath.Dir(bulkhead)
	}
	dir := t.TempDir()
	if err := os.Symlink(bulkhead, filepath.Join(dir, "bulkhead")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(dir, shim), "./runtime/"+shim)
	cmd.Dir = rig.Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the shim: %v\n%s", err, out)
	}
	return dir
}

// boxImage is busybox as an archive of docker's (image/spec/v1.2.md of moby).
func boxImage(t *testing.T, name string, command ...string) string {
	t.Helper()
	dir := t.TempDir()
	script := `mkdir -p root && cd root && mkdir -p bin etc proc sys dev tmp root && chmod 1777 tmp && cp "$(command -v busybox)" bin/busybox
		for a in $(busybox --list); do [ $a = busybox ] || ln -s busybox bin/$a; done
		echo root:x:0:0::/root:/bin/sh >etc/passwd; echo user:x:1000:1000::/:/bin/sh >>etc/passwd; echo root:x:0: >etc/group
		tar -cf ../layer.tar . && sha256sum ../layer.tar | cut -d' ' -f1`
	sum := shell(t, dir, script)
	files := map[string]any{
		"config.json": map[string]any{
			"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": command, "Env": []string{"PATH=/bin"}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + strings.TrimSpace(sum)}},
		},
		"manifest.json": []any{map[string]any{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}},
	}
	for name, v := range files {
		data, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	shell(t, dir, "tar -cf image.tar manifest.json config.json layer.tar")
	return filepath.Join(dir, "image.tar")
}

func shell(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return string(out)
}

func (d *daemon) ctr(args ...string) *exec.Cmd {
	return exec.Command("ctr", append([]string{"--address", d.sock}, args...)...)
}

// do is one command of ctr's, without standard input.
func (d *daemon) do(t *testing.T, args ...string) rig.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience())
	defer cancel()
	cmd := exec.CommandContext(ctx, "ctr", append([]string{"--address", d.sock}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := rig.Result{Out: out.String(), Err: errs.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("ctr %q hung; so far:\n%s", args, r)
	case errors.As(err, &exit):
		r.Code = exit.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	return r
}

// logged is what a process has written, by way of a file: ctr drops what it has not read
// when a process ends, with any runtime.
func (d *daemon) logged(t *testing.T, command []string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "logs", "out")
	r := d.do(t, slices.Concat(command, []string{"--log-uri", "file://" + path}, args)...)
	text, err := os.ReadFile(path)
	return fmt.Sprint(r, string(text), err)
}

func (d *daemon) must(t *testing.T, args ...string) string {
	t.Helper()
	r := d.do(t, args...)
	if r.Code != 0 {
		t.Fatalf("ctr %q: %s", args, r)
	}
	return r.Out
}

// a column is a runtime, with the flags by which ctr run chooses it.
type column struct {
	name  string
	flags []string
	state string // directory of ours, "" of runc's
}

// columns are one a platform and, when there is time, runc's.
func (d *daemon) columns(t *testing.T) []column {
	t.Helper()
	var list []column
	if inLab() {
		state, config := filepath.Join(d.dir, "bulkhead-vm"), filepath.Join(d.dir, "vm.toml")
		text := fmt.Sprintf("root = %q\nisolation = \"vm\"\n", state)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return []column{{"vm", []string{"--runtime", ours, "--runtime-config-path", config}, state}}
	}
	for _, platform := range rig.Platforms(t) {
		state := filepath.Join(d.dir, "bulkhead-"+platform)
		config := filepath.Join(d.dir, platform+".toml")
		text := fmt.Sprintf("# of the test\nroot = %q\nplatform = %q\n", state, platform)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		list = append(list, column{platform, []string{"--runtime", ours, "--runtime-config-path", config}, state})
	}
	if os.Getenv("BULKHEAD_SLOW") != "" {
		list = append(list, column{name: "runc", flags: []string{"--runtime", runcs}})
	}
	return list
}

// run makes the arguments of ctr run.
func (c *column) run(args ...string) []string {
	return slices.Concat([]string{"run"}, c.flags, args)
}

// status is a task's as ctr lists it, "" if there is none.
func (d *daemon) status(t *testing.T, id string) string {
	t.Helper()
	for line := range strings.Lines(d.must(t, "task", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f[2]
		}
	}
	return ""
}

// ended waits until a task has stopped.
func (d *daemon) ended(t *testing.T, id string) {
	t.Helper()
	until(t, id+" has ended", func() bool { return d.status(t, id) == "STOPPED" })
}

// processes are those on the host whose command line has a text.
func processes(text string) (list []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range dirs {
		data, err := os.ReadFile(file)
		line := strings.ReplaceAll(string(data), "\x00", " ")
		if err == nil && strings.Contains(line, text) {
			list = append(list, filepath.Base(filepath.Dir(file))+" "+line)
		}
	}
	return list
}

// nothingLeft fails where a container of the column's has left anything.
func (d *daemon) nothingLeft(t *testing.T, c column) {
	t.Helper()
	until(t, "no shim is left", func() bool { return len(processes(d.sock+" ")) == 0 })
	until(t, "no state is left", func() bool {
		entries, err := os.ReadDir(c.state)
		return errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0
	})
	until(t, "no mount is left", func() bool {
		mounts, err := os.ReadFile("/proc/self/mounts")
		return err == nil && !strings.Contains(string(mounts), d.dir)
	})
}
