package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

//go:embed testdata/loops.c
var loops []byte

// column is a way to run a program: natively, or as an OCI runtime's container.
type column struct {
	name    string
	runtime []string // empty: natively
	dir     string
	root    string
	written bool   // the root may be written to
	netns   string // of iproute2's, that it runs in; "": a new one, or natively ours
}

func columns(dir, root string) []column {
	all := []column{{name: "native", dir: dir, root: root}}
	bulkhead, err := filepath.Abs("bin/bulkhead")
	if err != nil {
		bulkhead = "bulkhead"
	}
	platforms := []string{"kvm", "ptrace"}
	if kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		platforms = platforms[1:]
	} else {
		kvm.Close()
	}
	for _, platform := range platforms {
		all = append(all, column{name: platform, runtime: []string{bulkhead, "--platform=" + platform, "--root=" + filepath.Join(dir, platform)}, dir: dir, root: root})
	}
	for _, name := range []string{"runc", "crun", "runsc"} {
		if path, err := exec.LookPath(name); err == nil {
			all = append(all, column{name: name, runtime: []string{path, "--root", filepath.Join(dir, name)}, dir: dir, root: root})
		}
	}
	return all
}

// command is args run this way; id names the container.
func (c column) command(verb, id string, args ...string) (*exec.Cmd, error) {
	if len(c.runtime) == 0 {
		args = append([]string{filepath.Join(c.root, args[0])}, args[1:]...)
		if c.netns != "" {
			args = append([]string{"ip", "netns", "exec", c.netns}, args...)
		}
		return exec.Command(args[0], args[1:]...), nil
	}
	bundle := filepath.Join(c.dir, id)
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		return nil, err
	}
	config, err := json.Marshal(spec(c, args))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o644); err != nil {
		return nil, err
	}
	return exec.Command(c.runtime[0], append(c.runtime[1:], verb, "--bundle", bundle, id)...), nil
}

func spec(c column, args []string) *specs.Spec {
	network := specs.LinuxNamespace{Type: "network"}
	if c.netns != "" {
		network.Path = "/var/run/netns/" + c.netns
	}
	process := &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}}
	if c.written { // as docker has it
		able := strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID
			CAP_SETUID CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE`)
		process.Capabilities = &specs.LinuxCapabilities{Bounding: able, Effective: able, Permitted: able}
	}
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: c.root, Readonly: !c.written},
		Process: process,
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "nodev", "mode=1777"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, network}},
	}
}

// fill measures one column.
func (t *table) fill(c column, runs, starts int) error {
	file, temporary := "/file", "/tmp"
	if len(c.runtime) == 0 {
		file, temporary = filepath.Join(c.root, "file"), "/dev/shm" // a tmpfs, as the containers' /tmp
	}
	cmd, err := c.command("run", "loops-"+c.name, "bin/loops", file, temporary, strconv.Itoa(runs))
	if err != nil {
		return err
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("loops: %w\n%s%s", err, out.String(), errs.String())
	}
	values, order := map[string][]float64{}, []string{}
	for line := range strings.Lines(out.String()) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), "\t")
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("loops printed %q", line)
		}
		if values[name] == nil {
			order = append(order, name)
		}
		values[name] = append(values[name], value)
	}
	for _, name := range order {
		t.add(c.name, name, "ns", values[name])
	}
	var took []float64
	for i := range starts {
		cmd, err := c.command("run", fmt.Sprintf("start-%s-%d", c.name, i), "bin/true")
		if err != nil {
			return err
		}
		begin := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("start: %w: %s", err, out)
		}
		took = append(took, float64(time.Since(begin)))
	}
	t.add(c.name, "start of `true` to its exit", "ns", took)
	if err := t.network(c, runs); err != nil {
		return err
	}
	if err := t.programs(c, runs); err != nil {
		return err
	}
	if len(c.runtime) == 0 {
		return nil
	}
	return t.sleeper(c)
}
