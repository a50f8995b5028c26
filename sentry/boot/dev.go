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
func (s *sandbox) handleDevices() {
	dev.Handle(s.arena, func(ctx vfs.Context, _ vfs.Path, flags int) (vfs.File, error) {
		return devpts.OpenControlling(ctx, flags)
	})
	vfs.HandleFIFO(pipe.Open)
	vfs.HandleDevice(unix.S_IFCHR, unix.Mkdev(10, 229), fuse.Open)
}

// finishDev puts the default devices into /dev, and those that the
// specification adds.
func (s *sandbox) finishDev() error {
	ctx := vfs.SentryContext()
	at, err := s.mountPoint("/dev", false)
	if err != nil {
		return err
	}
	if at.Mount.ReadOnly() {
		return nil
	}
	if err := dev.Populate(ctx, at); err != nil && err != unix.EROFS {
		return err
	}
	if s.config.Spec.Linux == nil {
		return nil
	}
	for i, d := range s.config.Spec.Linux.Devices {
		if err := s.device(d); err != nil {
			return fmt.Errorf("linux.devices[%d] %s: %w", i, d.Path, err)
		}
	}
	return nil
}

// device makes one node. Those whose number the Sentry does not know can be
// seen, and opening them is ENXIO.
func (s *sandbox) device(d specs.LinuxDevice) error {
	types := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	ctx := vfs.SentryContext()
	start := vfs.Start{Root: s.root, At: s.root}
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
func (s *sandbox) cgroupLimits() sys.Limits {
	l := s.config.Limits
	const period = 100_000 // microseconds
	return sys.Limits{Memory: uint64(max(l.Memory, 0)), Pids: l.Pids, Quota: int64(l.CPUs * period), Period: period}
}

// mountCgroup shows the container's limits in the layout of cgroup v2.
func (s *sandbox) mountCgroup(m specs.Mount, flags vfs.MountFlags) error {
	at, err := s.mountPoint(m.Destination, false)
	if err != nil {
		return err
	}
	fs := sys.NewCgroup(s.kernel, s.cgroupLimits)
	return s.ns.Mount(vfs.SentryContext(), at, fs, vfs.MountOptions{Flags: flags | unix.MS_RDONLY, Source: "cgroup"})
}
