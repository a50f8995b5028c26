package agent

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent/rpc"
)

// disk is one of the machine's that a container has something of (rpc.Disk).
type disk struct {
	Major, Minor uint32
	Name         string `json:"name"` // as vda, for messages
	Root         string `json:"root,omitempty"`
	Upper        string `json:"upper,omitempty"`
	Node         string `json:"node,omitempty"`
	ReadOnly     bool   `json:"readOnly,omitempty"`
}

// disksOf are those that the container has. Behind those that there were at Begin are slots,
// into which the host puts what a container is to have that comes later: c keeps these.
func (s *server) disksOf(c *container, list []*rpc.Disk) (all []disk, err error) {
	for i, r := range list {
		if r.Root == "" && r.Upper == "" && r.Node == "" {
			continue
		}
		var from device
		if i < len(s.disks) {
			from = s.disks[i]
		} else {
			if from, err = disks.again(i); from.device != "" {
				c.slots = append(c.slots, from)
			}
			if err != nil {
				return nil, err
			}
		}
		d := disk{Name: from.name, Root: r.Root, Upper: r.Upper, Node: r.Node, ReadOnly: r.ReadOnly}
		text, err := os.ReadFile(busDevices + from.device + "/block/" + d.Name + "/dev")
		if err != nil {
			return nil, err
		}
		if _, err := fmt.Sscanf(string(text), "%d:%d", &d.Major, &d.Minor); err != nil {
			return nil, fmt.Errorf("disk %s: its number is %q: %w", d.Name, text, err)
		}
		all = append(all, d)
	}
	return all, nil
}

// unmountPatience is for a file system whose last user has ended: the kernel unmounts it a
// little later (fs/namespace.c, mntput_no_expire). Somebody else may have it open for ever.
const unmountPatience = 2 * time.Second

// emptySlots has the driver let go of the disks in them, which have all that was written.
func (c *container) emptySlots() {
	for _, d := range c.slots {
		if d.name == "" {
			continue
		}
		for end := time.Now().Add(unmountPatience); ; time.Sleep(5 * time.Millisecond) {
			// EBUSY while it is mounted (open(2), O_EXCL).
			fd, err := unix.Open("/dev/"+d.name, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
			if err == nil {
				_ = unix.Fsync(fd)
				unix.Close(fd)
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
				unix.Sync()
				break
			}
		}
		_ = disks.tell("unbind", d) // a disk that the host takes out all the same
	}
	c.slots = nil
}

// mount mounts the file system of the given type in d, at a directory that it makes. In
// the mount namespace of a container's nobody else sees it, and when the root has
// changed, nobody at all does.
func (d *disk) mount(kind, at string) error {
	flags := uintptr(0)
	if d.ReadOnly {
		flags = unix.MS_RDONLY
	}
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("/dev/"+d.Name, at, kind, flags, ""); err != nil {
		return fmt.Errorf("disk %s: mount its %s: %w", d.Name, kind, err)
	}
	return nil
}

// makeNode puts it into the container's /dev, for the user of its program.
func (d *disk) makeNode(root int, uid, gid uint32) error {
	if !strings.HasPrefix(d.Node, "/dev/") || path.Clean(d.Node) != d.Node {
		return fmt.Errorf("a disk's node %q is not in /dev: %w", d.Node, unix.EINVAL)
	}
	dir, err := makeAll(root, path.Dir(d.Node))
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	name, mode := path.Base(d.Node), uint32(0o660)
	if d.ReadOnly {
		mode = 0o440
	}
	// One that is there already, of the root's own, is not what was asked for: EEXIST.
	if err := unix.Mknodat(dir, name, unix.S_IFBLK|mode, int(unix.Mkdev(d.Major, d.Minor))); err != nil {
		return err
	}
	return unix.Fchownat(dir, name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW)
}
