// Command e2e proves the runtime on a real control plane: etcd, kube-apiserver,
// controller-manager, scheduler, kube-proxy and kubelet, built from their Go modules (./build),
// over this machine's containerd and CNI plugins, in network and mount namespaces of their own:
// what runs on this machine is not touched. It asserts what people do with a cluster, one
// check a line, and prints what each took.
//
//	make kubernetes             build everything, run every check
//	go run ./deploy/e2e --help  the flags
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
)

// inside is set where the program runs in its namespaces already.
const inside = "BULKHEAD_E2E_INSIDE"

func main() {
	opts := options{}
	flags := pflag.CommandLine
	flags.StringVar(&opts.bulkhead, "bulkhead", "bin", "the directory with bulkhead, its shim, hwtest and guestinit")
	flags.StringVar(&opts.components, "components", "", "the directory with Kubernetes' programs (default: what deploy/e2e/build builds)")
	flags.StringVar(&opts.only, "only", "", "run the checks whose name begins so, by commas (and those that make what they need)")
	flags.IntVar(&opts.pods, "pods", 50, "how many pods the check `many` has at once")
	flags.BoolVar(&opts.keep, "keep", false, "leave the cluster running after the checks, say how to use it, and end it by Ctrl-C")
	flags.StringVar(&opts.out, "markdown", "", "write the table to FILE as well")
	pflag.Parse()
	if err := run(&opts); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
}

type options struct {
	bulkhead, components, only, out string
	pods                            int
	keep                            bool
}

func run(opts *options) error {
	if os.Getenv(inside) == "" {
		return enter()
	}
	if err := opts.find(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bulkhead-e2e-")
	if err != nil {
		return err
	}
	c := &cluster{dir: dir, opts: opts}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	ended := make(chan error, 1)
	go func() { ended <- c.whole(interrupted) }()
	select {
	case err = <-ended:
	case <-interrupted:
		err = errors.New("interrupted")
	}
	left := c.stop()
	if err == nil {
		err = left
	}
	if err != nil {
		return fmt.Errorf("%w\n(logs in %s)", err, dir)
	}
	return os.RemoveAll(dir)
}

// enter runs this program again in a network and a mount namespace of its own.
func enter() error {
	if os.Geteuid() != 0 {
		return errors.New("a kubelet needs root: run it with sudo")
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	signal.Ignore(os.Interrupt) // the terminal tells both
	err := cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	return err
}

// find names what is missing before anything is started.
func (o *options) find() error {
	if o.components == "" {
		progress("Kubernetes' programs (the first time: 15 minutes or more)")
		cmd := exec.Command("deploy/e2e/build")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("deploy/e2e/build, from the project's directory: %w", err)
		}
		text := strings.TrimSpace(string(out))
		o.components = text[strings.LastIndexByte(text, '\n')+1:]
	}
	for _, file := range []struct{ path, how string }{
		{filepath.Join(o.components, "kubelet"), "deploy/e2e/build"},
		{filepath.Join(o.bulkhead, "containerd-shim-bulkhead-v1"), "make build"},
		{"/usr/bin/containerd", "apt-get install containerd"},
		{"/usr/sbin/runc", "apt-get install runc"},
		{"/usr/lib/cni/ptp", "apt-get install containernetworking-plugins"},
		{"/usr/sbin/iptables", "apt-get install iptables"},
		{"/bin/busybox", "apt-get install busybox-static"},
	} {
		if _, err := os.Stat(file.path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is not there: %s", file.path, file.how)
		}
	}
	for _, dir := range []*string{&o.components, &o.bulkhead} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
	}
	return nil
}

var began = time.Now()

// progress tells what goes on now.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}
