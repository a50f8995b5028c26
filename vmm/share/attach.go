package share

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"

	"bulkhead/runtime/agent"

	"golang.org/x/sys/unix"
)

// Pods is the directory of the share that has those of further containers.
const Pods = "pods"

// Attach is the main of a process that adds a container's files to a share in use, or
// takes them away again: a short life with root's rights, which the share's own process
// has given up. What it is to do it reads from agent.ConfigFD; what kept it from that it
// says on standard error.
func Attach([]string) int { return aside(attach) }

// Detach is Attach's opposite. Nothing that is gone already is an error.
func Detach([]string) int { return aside(detach) }

func aside(f func(*agent.AttachRequest) error) int {
	runtime.LockOSThread() // namespaces are a thread's; the process ends with this
	var r agent.AttachRequest
	err := json.NewDecoder(os.NewFile(agent.ConfigFD, "config")).Decode(&r)
	if err == nil && (r.Container != path.Base(r.Container) || strings.Trim(r.Container, ".") == "") {
		err = fmt.Errorf("container %q is no name: %w", r.Container, unix.EINVAL)
	}
	if err == nil {
		err = f(&r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFailed
	}
	return 0
}

func attach(r *agent.AttachRequest) error {
	copies, err := openTrees(&r.GoferConfig) // from our mounts, to its
	if err != nil {
		return err
	}
	root, err := enter(r.PID)
	if err != nil {
		return err
	}
	for _, dir := range []string{Pods, path.Join(Pods, r.Container)} {
		if err := unix.Mkdirat(root, dir, 0o755); err != nil && (dir != Pods || !errors.Is(err, unix.EEXIST)) {
			return fmt.Errorf("make %s in the share: %w", dir, err)
		}
	}
	return placeAll(copies, root, path.Join(Pods, r.Container), "/")
}

func detach(r *agent.AttachRequest) error {
	root, err := enter(r.PID)
	if err != nil {
		return err
	}
	dir := path.Join(Pods, r.Container)
	entries, err := os.ReadDir("/" + dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		// EINVAL: nothing is mounted there, since the attaching was cut off.
		if err := unix.Unmount("/"+name, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", name, err)
		}
		if err := unix.Unlinkat(root, name, 0); errors.Is(err, unix.EISDIR) {
			err = unix.Unlinkat(root, name, unix.AT_REMOVEDIR)
			if err != nil {
				return fmt.Errorf("remove %s: %w", name, err)
			}
		} else if err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	return unix.Unlinkat(root, dir, unix.AT_REMOVEDIR)
}

// enter goes to where the share's process has its files, and gives a mount of their
// root that can be written, which is nobody's but ours.
func enter(pid int) (root int, err error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // a thread with others may not join a mount namespace
		return -1, err
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return -1, err
	}
	defer ns.Close()
	// Its root, which is not always what the kernel takes for its mounts' root: a host
	// may itself live in a directory of its first file system.
	at, err := os.Open(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return -1, err
	}
	defer at.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return -1, fmt.Errorf("join the share's mounts: %w", err)
	}
	if err := at.Chdir(); err != nil {
		return -1, fmt.Errorf("go to the share's root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return -1, fmt.Errorf("go to the share's root: %w", err)
	}
	root, err = unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open the share's root: %w", err)
	}
	if err := unix.MountSetattr(root, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return -1, fmt.Errorf("write to the share's root: %w", err)
	}
	return root, nil
}
