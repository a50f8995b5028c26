package boot

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/dev"
	"bulkhead/sentry/fs/devpts"
	"bulkhead/sentry/fs/fuse"
	"bulkhead/sentry/fs/pipe"
	"bulkhead/sentry/fs/sys"
	"bulkhead/sentry/vfs"
)

// handleDevices makes device numbers and FIFOs work, wherever their nodes are.
func handleDevices() {
	dev.Handle(func(ctx vfs.Context, _ vfs.Path, flags int) (vfs.File, error) {
		return devpts.OpenControlling(ctx, flags)
	})
	vfs.HandleFIFO(pipe.Open)
	vfs.HandleDevice(unix.S_IFCHR, unix.Mkdev(10, 229), fuse.Open)
}

// finishDev puts the default devices into /dev, and those that the
// specification adds.
func (c *container) finishDev() error {
	ctx := vfs.SentryContext()
	at, err := c.mountPoint("/dev", false)
	if err != nil {
		return err
	}
	if at.Mount.ReadOnly() {
		return nil
	}
	if err := dev.Populate(ctx, at); err != nil && err != unix.EROFS {
		return err
	}
	if c.config.Spec.Linux == nil {
		return nil
	}
	for i, d := range c.config.Spec.Linux.Devices {
		if err := c.device(d); err != nil {
			return fmt.Errorf("linux.devices[%d] %s: %w", i, d.Path, err)
		}
	}
	return nil
}

// device makes one node. Those whose number the Sentry does not know can be
// seen, and opening them is ENXIO.
func (c *container) device(d specs.LinuxDevice) error {
	types := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	ctx := vfs.SentryContext()
	start := vfs.Start{Root: c.root, At: c.root}
	p, err := vfs.Mknod(ctx, start, d.Path, types[d.Type]|mode, unix.Mkdev(uint32(d.Major), uint32(d.Minor)))
	if err == unix.EEXIST {
		return nil
	}
	if err != nil {
		return err
	}
	uid, gid := ^uint32(0), ^uint32(0)
	if d.UID != nil {
		uid = *d.UID
	}
	if d.GID != nil {
		gid = *d.GID
	}
	return vfs.Chown(ctx, p, uid, gid)
}

// cgroupLimits are the container's.
func (c *container) cgroupLimits() sys.Limits {
	l := c.limits()
	const period = 100_000 // microseconds
	return sys.Limits{Memory: uint64(max(l.Memory, 0)), Pids: l.Pids, Quota: int64(l.CPUs * period), Period: period}
}

// mountCgroup shows the container's limits in the layout of cgroup v2.
func (c *container) mountCgroup(m specs.Mount, flags vfs.MountFlags) error {
	at, err := c.mountPoint(m.Destination, false)
	if err != nil {
		return err
	}
	fs := sys.NewCgroup(c.home.Cgroup(), c.cgroupLimits)
	return c.ns.Mount(vfs.SentryContext(), at, fs, vfs.MountOptions{Flags: flags | unix.MS_RDONLY, Source: "cgroup"})
}
