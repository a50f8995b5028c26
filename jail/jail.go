// Package jail takes a process's view of the host away: its files and its
// privileges. Whatever answers a container uses it, of either wall (the Sentry, the
// VMM, and the processes with their files), each before it meets the first byte that
// a container could have chosen. What the program's start alone needed goes last, when the
// container is under way (Startup). The list of system calls is jail/seccomp's.
// A guest's init makes a container's root with ChangeRoot as well.
package jail

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// EmptyRoot puts an empty, read-only directory in the root's place and lets the
// old root go. It needs a mount namespace of the process's own.
func EmptyRoot() error {
	const here = "/proc" // a directory that is on every host; it is ours to cover
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
	if err := unix.Mount("empty", here, "tmpfs", flags, "size=4k,nr_inodes=1,mode=0500"); err != nil {
		return fmt.Errorf("mount an empty root: %w", err)
	}
	if err := unix.Chdir(here); err != nil {
		return err
	}
	return ChangeRoot()
}

// ChangeRoot makes the working directory, a mount, the root of this mount namespace
// and lets the old root go (pivot_root(2), NOTES). No mount may be shared.
func ChangeRoot() error {
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let the old root go: %w", err)
	}
	return unix.Chdir("/")
}

// DropCapabilities leaves every thread no capability at all.
func DropCapabilities() error {
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		err := allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c))
		if err == unix.EPERM || err == unix.EINVAL {
			break // not ours to drop, or above what the kernel has
		}
		if err != nil {
			return err
		}
	}
	return SetCapabilities(0)
}
