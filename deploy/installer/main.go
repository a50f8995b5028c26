// Command installer makes a Kubernetes node run pods in Bulkhead: it puts the programs onto the
// host, tells containerd of them (bulkhead install), and labels the node by hwtest's verdict,
// which the RuntimeClasses of deploy/base ask for. It is the only program of the image that
// deploy/installer's DaemonSet runs on each node, beside the ones that it installs.
//
// With --uninstall it takes the same away again: labels first, so that no pod comes any more.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
)

// programs go to PREFIX/bin and PREFIX/libexec/bulkhead, as `make install` has it.
var programs = []struct {
	name, dir string
	optional  bool // a guest kernel is in the image only if one was built
}{
	{"bulkhead", "bin", false}, {"containerd-shim-bulkhead-v1", "bin", false}, {"vmm", "bin", false}, {"hwtest", "bin", false},
	{"guestinit", "libexec/bulkhead", false}, {"vmlinux", "libexec/bulkhead", true},
}

type installer struct {
	from, host, prefix, restart string
	node                        *node
	hostRoot                    string // the host's root, as its processes see it
}

func main() {
	i := &installer{hostRoot: "/proc/1/root"}
	var uninstall, stay bool
	flags := pflag.CommandLine
	flags.StringVar(&i.from, "from", "/bulkhead", "the directory with what is to be installed")
	flags.StringVar(&i.host, "host", "/host", "where the host's root is mounted")
	flags.StringVar(&i.prefix, "prefix", "/usr/local", "where the programs go on the host")
	flags.StringVar(&i.restart, "restart", "systemctl restart containerd", "the host's command for containerd to read its configuration, run where that has changed; empty: none")
	flags.BoolVar(&uninstall, "uninstall", false, "take everything away again")
	flags.BoolVar(&stay, "stay", false, "wait for SIGTERM when all is done, as a DaemonSet's container has to")
	pflag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	err := i.run(ctx, uninstall)
	if err != nil {
		fmt.Fprintln(os.Stderr, "installer:", err)
		os.Exit(1)
	}
	if stay {
		<-ctx.Done()
	}
}

func (i *installer) run(ctx context.Context, uninstall bool) error {
	var err error
	if i.node, err = thisNode(); err != nil {
		return err
	}
	if uninstall {
		return i.uninstall(ctx)
	}
	return i.install(ctx)
}

func (i *installer) install(ctx context.Context) error {
	for _, p := range programs {
		to := filepath.Join(i.host, i.prefix, p.dir, p.name)
		changed, err := replace(filepath.Join(i.from, p.name), to)
		if p.optional && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("install %s: %w", to, err)
		}
		say("%s: %s", to, map[bool]string{true: "installed", false: "is there already"}[changed])
	}
	if err := i.configure(ctx, "install"); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(i.from, "hwtest"), "--quick", "--labels").Output()
	if err != nil {
		return fmt.Errorf("hwtest --labels: %w", err)
	}
	labels := map[string]any{installed: "true"}
	for label := range strings.FieldsSeq(string(out)) {
		key, value, _ := strings.Cut(label, "=")
		labels[key] = value
	}
	if err := i.node.label(ctx, labels); err != nil {
		return err
	}
	say("node %s: %s", i.node.name, strings.Join(strings.Fields(string(out)), " "))
	return nil
}

// installed is the label that the RuntimeClasses ask for.
const installed = "bulkhead.dev/installed"

func (i *installer) uninstall(ctx context.Context) error {
	labels := map[string]any{installed: nil}
	for _, name := range []string{"class", "sentry", "vm"} {
		labels["bulkhead.dev/"+name] = nil
	}
	if err := i.node.label(ctx, labels); err != nil {
		return err
	}
	if err := i.configure(ctx, "uninstall"); err != nil {
		return err
	}
	for _, p := range programs {
		if err := os.Remove(filepath.Join(i.host, i.prefix, p.dir, p.name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	_ = os.Remove(filepath.Join(i.host, i.prefix, "libexec/bulkhead")) // unless something of somebody's is there
	say("node %s: uninstalled", i.node.name)
	return nil
}

// configure is bulkhead install or uninstall, and containerd's restart if that changed anything.
func (i *installer) configure(ctx context.Context, verb string) error {
	config := filepath.Join(i.host, "etc/containerd/config.toml")
	before, _ := os.ReadFile(config) // none is as good
	args := []string{verb, "--yes", "--destdir", i.host}
	if verb == "install" {
		args = append(args, "--program", filepath.Join(i.prefix, "bin/bulkhead"))
	}
	out, err := exec.CommandContext(ctx, filepath.Join(i.from, "bulkhead"), append(args, "containerd")...).CombinedOutput()
	os.Stdout.Write(out)
	if err != nil {
		return fmt.Errorf("bulkhead %s containerd: %w", verb, err)
	}
	after, _ := os.ReadFile(config)
	if bytes.Equal(before, after) || i.restart == "" {
		return nil
	}
	// In the root of the host's first process, and so in its mount namespace: systemctl does
	// nothing in what it takes for a chroot.
	words := strings.Fields(i.restart)
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `exec "$@"`, "sh"}, words...)...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: i.hostRoot}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s, on the host: %w: %s", i.restart, err, out)
	}
	say("%s: done", i.restart)
	return nil
}

// replace puts the content of from at to, whole or not at all, for what runs of the old goes on
// from its file. It says whether there was anything to do.
func replace(from, to string) (changed bool, err error) {
	content, err := os.ReadFile(from)
	if err != nil {
		return false, err
	}
	if old, err := os.ReadFile(to); err == nil && bytes.Equal(old, content) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return false, err
	}
	f, err := os.CreateTemp(filepath.Dir(to), ".bulkhead-")
	if err != nil {
		return false, err
	}
	defer os.Remove(f.Name()) // not there any more where all went well
	_, err = io.Copy(f, bytes.NewReader(content))
	if err := errors.Join(err, f.Chmod(0o755), f.Sync(), f.Close()); err != nil {
		return false, err
	}
	return true, os.Rename(f.Name(), to)
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }
