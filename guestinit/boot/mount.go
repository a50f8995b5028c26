package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/guestinit/config"
)

const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// kernelMounts are what every program expects; file-hierarchy(7). Optional is
// what a small kernel may have left out.
var kernelMounts = []struct {
	target, fstype, data string
	flags                uintptr
	optional             bool
}{
	{"/proc", "proc", "", plain, false},
	{"/sys", "sysfs", "", plain, false},
	{"/dev", "devtmpfs", "mode=0755", unix.MS_NOSUID, false},
	{"/dev/pts", "devpts", "mode=0620,gid=5,ptmxmode=0666", unix.MS_NOSUID | unix.MS_NOEXEC, true},
	{"/dev/shm", "tmpfs", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV, true},
	{"/run", "tmpfs", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV, true},
	{"/tmp", "tmpfs", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV, true},
	{"/sys/fs/cgroup", "cgroup2", "nsdelegate", plain, true},
}

// devLinks are what udev would make.
var devLinks = [][2]string{
	{"/proc/self/fd", "/dev/fd"},
	{"/proc/self/fd/0", "/dev/stdin"},
	{"/proc/self/fd/1", "/dev/stdout"},
	{"/proc/self/fd/2", "/dev/stderr"},
	{"pts/ptmx", "/dev/ptmx"},
}

func (g *guest) mountKernel() error { return mountKernelAt("") }

// mountKernelAt mounts them below root, "" in a guest.
func mountKernelAt(root string) error {
	for _, m := range kernelMounts {
		target := root + m.target
		err := os.MkdirAll(target, 0o755)
		if err == nil {
			err = unix.Mount(m.fstype, target, m.fstype, m.flags, m.data)
		}
		if errors.Is(err, unix.EBUSY) { // CONFIG_DEVTMPFS_MOUNT was before us
			err = nil
		}
		if err != nil && !m.optional {
			return fmt.Errorf("mount %s on %s: %w", m.fstype, target, err)
		}
	}
	for _, link := range devLinks {
		// devtmpfs has a /dev/ptmx of its own, of the first devpts: ours.
		if err := os.Symlink(link[0], root+link[1]); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

func (g *guest) mountAll() error {
	for _, m := range g.config.Mounts {
		if err := mount(m); err != nil {
			return fmt.Errorf("mount %s on %s as %s: %w", m.Source, m.Target, m.Type, err)
		}
	}
	return nil
}

func mount(m config.Mount) error {
	source, err := findSource(m.Source)
	if err != nil {
		return err
	}
	flags, data := mountOptions(m.Options)
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return err
	}
	return explainMount(m, unix.Mount(source, m.Target, m.Type, flags, data))
}

// explainMount adds what mount(2)'s answer means here.
func explainMount(m config.Mount, err error) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w (this kernel has no %s)", err, m.Type)
	case errors.Is(err, unix.EINVAL) && m.Type == "virtiofs":
		return fmt.Errorf("%w (the machine has no share with this tag)", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w (not a %s file system, or an option that it does not know)", err, m.Type)
	}
	return err
}

// mountFlags are the options that mount(2) takes as bits; the others go to the
// file system as they are.
var mountFlags = map[string]uintptr{
	"defaults": 0, "rw": 0, "ro": unix.MS_RDONLY,
	"nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	"sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC,
	"bind": unix.MS_BIND, "rbind": unix.MS_BIND | unix.MS_REC,
}

func mountOptions(options []string) (flags uintptr, data string) {
	var rest []string
	for _, o := range options {
		if bit, ok := mountFlags[o]; ok {
			flags |= bit
		} else {
			rest = append(rest, o)
		}
	}
	return flags, strings.Join(rest, ",")
}

// findSource makes a path of a disk's serial, which virtio-blk shows in sysfs.
func findSource(source string) (string, error) {
	serial, ok := strings.CutPrefix(source, config.DiskBySerial)
	if !ok {
		return source, nil
	}
	return diskBySerial("/sys/block", serial)
}

func diskBySerial(block, serial string) (string, error) {
	files, err := filepath.Glob(filepath.Join(block, "*", "serial"))
	if err != nil {
		return "", err
	}
	var seen []string
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // a disk without one
		}
		found := strings.TrimSpace(string(b))
		if found == serial {
			return "/dev/" + filepath.Base(filepath.Dir(file)), nil
		}
		seen = append(seen, fmt.Sprintf("%q", found))
	}
	return "", fmt.Errorf("no disk has this serial (seen: %s)", strings.Join(seen, ", "))
}

// carried are the mounts that a new root takes over.
var carried = []string{"/dev", "/proc", "/sys", "/run", "/tmp"}

// switchRoot makes a mounted directory the root of all, as switch_root(8). The
// initramfs stays below it, out of reach; it cannot be unmounted.
func (g *guest) switchRoot() error {
	root := g.config.Root
	if root == "" {
		return nil
	}
	for _, dir := range carried {
		if err := carry(dir, root+dir); err != nil {
			return fmt.Errorf("move %s into the root %s: %w", dir, root, err)
		}
	}
	if err := enter(root); err != nil {
		return fmt.Errorf("make %s the root: %w", root, err)
	}
	return nil
}

func carry(from, to string) error {
	if _, err := os.Stat(to); err != nil {
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
	}
	err := unix.Mount(from, to, "", unix.MS_MOVE, "")
	if errors.Is(err, unix.EINVAL) { // an optional one that is no mount
		return nil
	}
	return err
}

func enter(root string) error {
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}
