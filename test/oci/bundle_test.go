// Package oci drives the runtime through its verbs with a bundle of busybox, as
// docker and containerd do: bulkhead on each platform, and runc where Linux
// shall fill in the expected column.
package oci

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
	"sync"
	"testing"
	"time"

	"bulkhead/test/rig"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// program is one OCI runtime with a state directory of its own.
type program struct {
	name string
	args []string // with the global flags
	root string
	log  string
}

func bulkhead(t *testing.T, platform string) *program {
	t.Helper()
	dir := t.TempDir()
	p := &program{name: platform, root: filepath.Join(dir, "root"), log: filepath.Join(dir, "log")}
	p.args = []string{rig.Bulkhead(t), "--platform=" + platform, "--root=" + p.root, "--log=" + p.log}
	return p
}

// eachRuntime runs test for bulkhead on each platform, and for runc.
func eachRuntime(t *testing.T, test func(t *testing.T, p *program)) {
	rig.NeedRoot(t)
	rig.EachPlatform(t, func(t *testing.T, platform string) { test(t, bulkhead(t, platform)) })
	t.Run("runc", func(t *testing.T) {
		rig.Need(t, "runc")
		root := filepath.Join(t.TempDir(), "root")
		test(t, &program{name: "runc", args: []string{"runc", "--root=" + root}, root: root})
	})
}

func eachPlatform(t *testing.T, test func(t *testing.T, p *program)) {
	rig.NeedRoot(t)
	rig.EachPlatform(t, func(t *testing.T, platform string) { test(t, bulkhead(t, platform)) })
}

// rootfs is a directory with busybox, acts and churn; tests must leave it as it is.
var rootfs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "bulkhead-rootfs-")
	if err != nil {
		return "", err
	}
	// Containers run as other users too.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	for _, name := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "root", "mnt"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return "", err
		}
	}
	// runc before 1.2 gives a tmpfs its mount point's mode, whatever its options say.
	if err := os.Chmod(filepath.Join(dir, "tmp"), 0o777|os.ModeSticky); err != nil {
		return "", err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(busybox)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "bin/busybox"), b, 0o755)
	}
	if err != nil {
		return "", err
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return "", err
	}
	for _, applet := range strings.Fields(string(applets)) {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", applet)); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	files := map[string]string{"etc/passwd": "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n", "etc/group": "root:x:0:\nuser:x:1000:\n", "etc/hostname": "image\n"}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	for _, name := range []string{"acts", "churn"} {
		out, err := exec.Command("gcc", "-static", "-w", "-o", filepath.Join(dir, "bin", name), "testdata/"+name+".c", "-lpthread", "-lrt").CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	// What a runtime leaves behind becomes ours, so that it can be seen and reaped.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	code := m.Run()
	if dir, err := rootfs(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// bundle makes one that runs args, changed by edit.
func bundle(t *testing.T, edit func(*specs.Spec), args ...string) string {
	t.Helper()
	rig.Need(t, "busybox", "gcc")
	root, err := rootfs()
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE", "CAP_DAC_OVERRIDE", "CAP_FOWNER"}
	spec := &specs.Spec{
		Version:  "1.0.2",
		Root:     &specs.Root{Path: root, Readonly: true},
		Hostname: "box",
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin", "HOME=/root"},
			Capabilities: &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 4096}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network"}},
			Resources:  &specs.LinuxResources{},
		},
	}
	if edit != nil {
		edit(spec)
	}
	dir := t.TempDir()
	text, err := json.Marshal(spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// do runs a verb to its end.
func (p *program) do(t *testing.T, args ...string) rig.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), rig.Limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.args[0], append(slices.Clone(p.args[1:]), args...)...)
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := rig.Result{Out: out.String(), Err: errs.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("%s %q hung; so far:\n%s", p.name, args, r)
	case errors.As(err, &exit):
		r.Code = exit.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	return r
}

// must runs a verb that has to succeed.
func (p *program) must(t *testing.T, args ...string) string {
	t.Helper()
	r := p.do(t, args...)
	if r.Code != 0 {
		t.Fatalf("%s %q:\n%s%s", p.name, args, r, p.logged())
	}
	return r.Out
}

// run is the verb run of a bundle made of edit and args.
func (p *program) run(t *testing.T, edit func(*specs.Spec), args ...string) rig.Result {
	t.Helper()
	return p.do(t, "run", "--bundle", bundle(t, edit, args...), id(t))
}

// detached runs a verb that leaves a program with its stdio, which must not be
// a pipe that we wait for: it is the file named.
func (p *program) detached(t *testing.T, args ...string) (name string) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(p.args[0], append(slices.Clone(p.args[1:]), args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		t.Fatalf("%s %q: %v\n%s%s", p.name, args, err, text, p.logged())
	}
	return out.Name()
}

// created makes a container and deletes it in the end.
func (p *program) created(t *testing.T, edit func(*specs.Spec), args ...string) string {
	t.Helper()
	name := id(t)
	t.Cleanup(func() { p.do(t, "delete", "--force", name) })
	p.detached(t, "create", "--bundle", bundle(t, edit, args...), name)
	return name
}

// started is created and then started.
func (p *program) started(t *testing.T, edit func(*specs.Spec), args ...string) string {
	t.Helper()
	name := p.created(t, edit, args...)
	p.must(t, "start", name)
	return name
}

func (p *program) logged() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return ""
	}
	return "-- log\n" + string(b)
}

func (p *program) state(t *testing.T, name string) specs.State {
	t.Helper()
	var s specs.State
	if err := json.Unmarshal([]byte(p.must(t, "state", name)), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// until waits for the container to have a status.
func (p *program) until(t *testing.T, name string, want specs.ContainerState) {
	t.Helper()
	for limit := time.Now().Add(rig.Limit); ; {
		descendants(os.Getpid()) // reaps: a process of exec's that nobody reaps keeps its PID namespace
		if got := p.state(t, name).Status; got == want {
			return
		} else if time.Now().After(limit) {
			t.Fatalf("status is %q, want %q", got, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

var (
	idLock sync.Mutex
	ids    int
)

// id is a container name that no other test of this machine has.
func id(t *testing.T) string {
	idLock.Lock()
	defer idLock.Unlock()
	ids++
	return fmt.Sprintf("test-%d-%d", os.Getpid(), ids)
}
