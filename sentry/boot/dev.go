package boot

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead/sentry/vfs"
)

func (s *sandbox) finishDev() error { return nil }

// mountCgroup shows the container's own control group.
func (s *sandbox) mountCgroup(m specs.Mount, flags vfs.MountFlags) error { return nil }
