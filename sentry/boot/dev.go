package boot

import (
	"errors"
	"fmt"
	"path"

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
// specification adds; where nothing is mounted there and the root takes no devices, into a
// file system of its own.
func (c *container) finishDev() error {
	ctx := vfs.SentryContext()
	at, err := c.mountPoint("/dev", false)
	if err != nil {
		return err
	}
	if at.Mount.ReadOnly() {
		return nil
	}
	err = dev.Populate(ctx, at)
	if err == unix.EPERM && at.Mount == c.root.Mount {
		// The root's files are the host's, where the gofer may make no device.
		own := specs.Mount{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755"}}
		if err := c.mount(own, nil); err != nil {
			return err
		}
		if at, err = c.mountPoint("/dev", false); err != nil {
			return err
		}
		err = dev.Populate(ctx, at)
	}
	if err != nil && err != unix.EROFS {
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

// bindConsole shows the first program's terminal as /dev/console too (config-linux.md,
// "Default Devices"), where there is a /dev of the container's own to show it in.
func (c *container) bindConsole(terminal int) error {
	ctx := vfs.SentryContext()
	start := vfs.Start{Root: c.root, At: c.root}
	pts, err := vfs.Resolve(ctx, start, "/dev/pts/"+itoa(uint64(terminal)), 0)
	if err != nil {
		return err
	}
	at, err := c.mountPoint("/dev/console", true)
	switch {
	case err == nil:
		return c.ns.Bind(ctx, pts, at, false, 0)
	case errors.Is(err, unix.EROFS):
		return nil
	}
	return err
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
	if err := mkdirAll(start, path.Dir(d.Path), 0o755); err != nil {
		return err
	}
	number := unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	p, err := vfs.Mknod(ctx, start, d.Path, types[d.Type]|mode, number)
	if err == unix.EEXIST {
		return c.matches(d, types[d.Type], number)
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

// matches looks whether what is at a device's path already is that device: "If a file
// already exists at path that does not match the requested device, the runtime MUST
// generate an error" (config-linux.md, "Devices").
func (c *container) matches(d specs.LinuxDevice, kind uint32, number uint64) error {
	ctx := vfs.SentryContext()
	p, err := vfs.Resolve(ctx, vfs.Start{Root: c.root, At: c.root}, d.Path, 0)
	if err != nil {
		return err
	}
	a, err := vfs.Stat(ctx, p)
	if err == nil && (a.Type() != kind || kind != unix.S_IFIFO && a.Rdev != number) {
		err = fmt.Errorf("there is another file: %w", unix.EEXIST)
	}
	return err
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
