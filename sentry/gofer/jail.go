package gofer

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"bulkhead/jail"
	"bulkhead/jail/seccomp"
)

// namespaces are what the gofer has for itself. The runtime gives them by clone
// flags, CLONE_NEWPID added; it is then process 1 of its own.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// isolated marks the environment of a gofer that has seen to its namespaces itself.
const isolated = "BULKHEAD_GOFER_ISOLATED"

// isolate sees to it that all threads are in namespaces of our own. If nobody did
// that for us it executes the program again, for unshare(2) speaks for one thread alone.
func isolate() error {
	if os.Getpid() == 1 || os.Getenv(isolated) != "" {
		return nil
	}
	runtime.LockOSThread()
	if err := unix.Unshare(namespaces); err != nil {
		return fmt.Errorf("gofer: unshare namespaces: %w", err)
	}
	err := unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), isolated+"=1"))
	return fmt.Errorf("gofer: execute myself: %w", err)
}

// needs are what an attachment's options ask for beyond the usual.
type needs struct {
	sockets, devices bool
	shared           bool // what others change, to be watched
	debug            bool // die with stacks of a call off the list
}

func (s *server) needs() (n needs) {
	for _, t := range s.trees {
		n.sockets = n.sockets || t.Sockets
		n.shared = n.shared || !t.Exclusive
		n.devices = n.devices || t.Devices && !t.ReadOnly
	}
	return n
}

// enterJail gives up all that opening the attachments needed. Its steps are in
// the order in which each still can be made.
func enterJail(n needs) error {
	steps := []struct {
		name string
		do   func() error
	}{
		{"raise the limit of descriptors", raiseFiles},
		{"stand where our descriptors are", emptyRoot},
		{"drop capabilities", func() error { return dropCaps(n) }},
		{"install the list of system calls", func() error {
			off := seccomp.Kill
			if n.debug {
				off = seccomp.Trap
			}
			return seccomp.Install(append(seccomp.Runtime(os.Getpid()), calls(n)...), off)
		}},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("gofer: %s: %w", s.name, err)
		}
	}
	return nil
}

// raiseFiles allows as many descriptors as the kernel does: each directory and
// many a file that the Sentry knows is one.
func raiseFiles() error {
	const enough = 1 << 20 // fs.nr_open as it usually is
	l := unix.Rlimit{Cur: enough, Max: enough}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &l) == nil {
		return nil
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	l.Cur = l.Max
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
}

// emptyRoot puts an empty, read-only directory in the root's place. The working directory is
// /proc/self/fd, detached from the rest of /proc: the paths "0", "1" … lead to
// our own descriptors, which calls without a form for O_PATH descriptors need, and its
// `..` is itself.
func emptyRoot() error {
	fds, err := unix.OpenTree(unix.AT_FDCWD, "/proc/self/fd", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open /proc/self/fd: %w", err)
	}
	defer unix.Close(fds)
	if err := jail.EmptyRoot(); err != nil {
		return err
	}
	unix.Umask(0)
	return unix.Fchdir(fds)
}

// caps are what a file server that stands in for root needs. What belongs to
// other users must stay theirs, and the Sentry has checked permissions already.
var caps = []struct {
	bit  int
	why  string
	when func(needs) bool // nil: always
}{
	{unix.CAP_CHOWN, "chown(2) of the container's root", nil},
	{unix.CAP_DAC_OVERRIDE, "files of all users of the container", nil},
	{unix.CAP_DAC_READ_SEARCH, "directories of all users of the container", nil},
	{unix.CAP_FOWNER, "chmod(2), utimensat(2) and xattrs of other users' files", nil},
	{unix.CAP_FSETID, "set-group-id of files whose group we are not in", nil},
	{unix.CAP_SETFCAP, "security.capability, as package managers set it", nil},
	{unix.CAP_SETUID, "setfsuid(2): new files belong to whom they shall at once", nil},
	{unix.CAP_SETGID, "setfsgid(2), likewise", nil},
	{unix.CAP_MKNOD, "device nodes, where an attachment allows them", func(n needs) bool { return n.devices }},
}

// kept is the set of caps as capset(2) takes it, for raise.
var kept uint32

func dropCaps(n needs) error {
	for _, c := range caps {
		if c.when == nil || c.when(n) {
			kept |= 1 << c.bit
		}
	}
	return jail.SetCapabilities(kept)
}

// raise makes the kept capabilities effective again on this thread, which has
// just changed its user.
func raise() error {
	if kept == 0 {
		return nil // not in the jail: a test
	}
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	d := [2]unix.CapUserData{{Effective: kept, Permitted: kept}}
	return unix.Capset(&h, &d[0])
}
