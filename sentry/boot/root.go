package boot

import (
	"fmt"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/overlay"
	"bulkhead/sentry/fs/tmpfs"
	"bulkhead/sentry/vfs"
)

// rootFS is the file system at the container's root: the rootfs itself, or a
// layer for changes over it.
func (c *container) rootFS() (fs vfs.FileSystem, flags vfs.MountFlags, err error) {
	lower := c.files[0]
	var upper vfs.FileSystem
	switch c.config.Overlay.Kind {
	case "", "none":
		if lower.ReadOnly() {
			flags |= unix.MS_RDONLY
		}
		return lower, flags, nil
	case "memory":
		upper = tmpfs.New(c.arena, tmpfs.Options{Mode: 0o755})
	case "dir":
		upper = c.files[len(c.config.GoferMounts)+1]
	default:
		return nil, 0, fmt.Errorf("--overlay=%s: want none, memory or dir=PATH", c.config.Overlay.Kind)
	}
	up, work, err := overlay.Prepare(upper)
	if err != nil {
		return nil, 0, err
	}
	below, ok := lower.Root().(vfs.Directory)
	if !ok {
		return nil, 0, fmt.Errorf("the rootfs is no directory")
	}
	fs, err = overlay.New(overlay.Options{
		Upper: up, Work: work, Lowers: []vfs.Directory{below}, Statfs: c.spaceOf(upper), Sync: upper.Sync,
		Release: func() { upper.Release(); lower.Release() },
	})
	return fs, 0, err
}

// spaceOf is what statfs(2) says of the root. Files that only memory bounds have
// the container's: df(1) leaves out a file system of no size.
func (c *container) spaceOf(upper vfs.FileSystem) func(vfs.Context) (unix.Statfs_t, error) {
	return func(ctx vfs.Context) (unix.Statfs_t, error) {
		st, err := upper.Statfs(ctx)
		if err == nil && st.Blocks == 0 && st.Bsize > 0 {
			total, used := memoryTotal(c.limits().Memory), c.arena.Usage()
			st.Blocks = total / uint64(st.Bsize)
			st.Bfree = (total - min(used, total)) / uint64(st.Bsize)
			st.Bavail = st.Bfree
		}
		return st, err
	}
}
