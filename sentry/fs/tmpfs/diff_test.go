package tmpfs

import (
	"fmt"
	"maps"
	"os"
	"strconv"
	"testing"

	"bulkhead/sentry/fs/fstest"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// TestLikeLinux does random operations on Linux's tmpfs and on this one. What
// fallocate made is a hole to Linux's SEEK_DATA until it is written, and data
// here: a run has the one or the other.
func TestLikeLinux(t *testing.T) {
	for _, without := range []string{"fallocate", "seek"} {
		t.Run("without "+without, func(t *testing.T) {
			weights := maps.Clone(fstest.Weights)
			delete(weights, without)
			c := fstest.Config{
				Linux: func(_ *testing.T, dir string) error { return fstest.MountTmpfs(dir) },
				Sentry: func(_ *testing.T, a *memory.Arena) vfs.FileSystem {
					return New(a, Options{Mode: 0o755})
				},
				Tell: func(path string, a *vfs.Attr, read, written bool) string {
					return fmt.Sprintf("%s blocks %d", fstest.Tell(path, a, read, written), a.Blocks)
				},
				Weights: weights, Seeds: 12, Steps: 400,
			}
			if n, err := strconv.Atoi(os.Getenv("BULKHEAD_SEEDS")); err == nil {
				c.Seeds, c.Steps = n, 1500 // a longer search
			}
			fstest.Compare(t, c)
		})
	}
}
