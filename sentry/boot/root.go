package boot

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// rootFS is the file system at the container's root: the rootfs itself, or a
// layer for changes over it.
func (s *sandbox) rootFS() (vfs.FileSystem, vfs.MountFlags, error) {
	var flags vfs.MountFlags
	lower := s.files[0]
	if lower.ReadOnly() {
		flags |= unix.MS_RDONLY
	}
	return lower, flags, nil
}
