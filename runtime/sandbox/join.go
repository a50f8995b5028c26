package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// joinable are the namespaces of the host's that a sandbox process can enter.
// Its pid, mount and cgroup namespaces are its own: what the container sees of
// those comes from the Sentry.
var joinable = map[specs.LinuxNamespaceType]uintptr{
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
}

// Joinable says whether a sandbox can enter an existing namespace of this kind.
func Joinable(t specs.LinuxNamespaceType) bool { return joinable[t] != 0 }

// within runs f on a thread that has entered the namespaces, which its children
// inherit. The thread ends with f.
func within(namespaces []specs.LinuxNamespace, f func() error) error {
	if len(namespaces) == 0 {
		return f()
	}
	done := make(chan error, 1)
	go spoil(func() {
		for _, ns := range namespaces {
			if err := enter(ns); err != nil {
				done <- err
				return
			}
		}
		done <- f()
	})
	return <-done
}

// spoil runs f on a thread that ends with it. The process's first thread is spared: Go does not
// end it, and /proc/PID/ns would show for all time what f has done to it, as if the
// process were in the container's network namespace.
func spoil(f func()) {
	runtime.LockOSThread() // and never unlock
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	done := make(chan struct{})
	go func() { // not here, while this one waits
		defer close(done)
		spoil(f)
	}()
	<-done
	runtime.UnlockOSThread()
}

func enter(ns specs.LinuxNamespace) error {
	file, err := os.Open(ns.Path)
	if err != nil {
		return fmt.Errorf("%s namespace: %w", ns.Type, err)
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), int(joinable[ns.Type])); err != nil {
		return fmt.Errorf("join %s namespace %s: %w", ns.Type, ns.Path, err)
	}
	return nil
}

// InNamespacesOf runs f in the network, ipc and uts namespaces of a process.
func InNamespacesOf(pid int, f func() error) error {
	var all []specs.LinuxNamespace
	for kind, file := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts",
	} {
		all = append(all, specs.LinuxNamespace{Type: kind, Path: fmt.Sprintf("/proc/%d/ns/%s", pid, file)})
	}
	return within(all, f)
}

// InNetworkOf runs f in the network namespace of a process.
func InNetworkOf(pid int, f func() error) error {
	return within([]specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", pid)}}, f)
}

// ErrNoNamespace says that a path leads to no namespace any more.
var ErrNoNamespace = errors.New("no such namespace")

// InNetworkAt runs f in the network namespace that a path leads to.
func InNetworkAt(path string, f func() error) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return fmt.Errorf("%s: %w", path, ErrNoNamespace)
	}
	return within([]specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: path}}, f)
}

// Hostname is the name that the host has in the uts namespace of the list, or in ours.
func Hostname(namespaces []specs.LinuxNamespace) (name string, err error) {
	var uts []specs.LinuxNamespace
	for _, ns := range namespaces {
		if ns.Type == specs.UTSNamespace && ns.Path != "" {
			uts = append(uts, ns)
		}
	}
	err = within(uts, func() (err error) {
		name, err = os.Hostname()
		return err
	})
	return name, err
}

// SetHostname names the uts namespace of a process, for who joins it: the process's own
// container has its name inside.
func SetHostname(pid int, name string) error {
	uts := []specs.LinuxNamespace{{Type: specs.UTSNamespace, Path: fmt.Sprintf("/proc/%d/ns/uts", pid)}}
	return within(uts, func() error { return unix.Sethostname([]byte(name)) })
}
