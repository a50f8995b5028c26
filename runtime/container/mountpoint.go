package container

import (
	"fmt"
	"os"
	"path"
	"strings"

	"bulkhead/runtime/bundle"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// makeMountPoints makes in a root what mounts cover, if it is not there. The
// Sentry does that itself where it can write; in a read-only root, whose gofer
// writes for nobody, it is done from outside and in advance. What stands in the
// root is the image's, so no name is resolved beyond it.
func makeMountPoints(root string, mounts []specs.Mount) error {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("root.path: %w", err)
	}
	defer unix.Close(dir)
	for i := range mounts {
		if beneath(mounts[i].Destination, mounts[:i]) {
			continue // in another file system than the root
		}
		file := false
		if bundle.IsBind(&mounts[i]) {
			info, err := os.Stat(mounts[i].Source)
			file = err == nil && !info.IsDir()
		}
		if err := makeMountPoint(dir, mounts[i].Destination, file); err != nil {
			return fmt.Errorf("mounts[%d].destination: make %s in the root: %w", i, mounts[i].Destination, err)
		}
	}
	return nil
}

func beneath(name string, earlier []specs.Mount) bool {
	for i := range earlier {
		if strings.HasPrefix(name, strings.TrimSuffix(earlier[i].Destination, "/")+"/") {
			return true
		}
	}
	return false
}

func makeMountPoint(root int, name string, file bool) error {
	if fd, err := openBeneath(root, name, 0); err == nil {
		return unix.Close(fd)
	}
	at := "/"
	parts := strings.Split(strings.Trim(name, "/"), "/")
	for i, part := range parts {
		parent, err := openBeneath(root, at, unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		if file && i == len(parts)-1 {
			var fd int
			if fd, err = unix.Openat(parent, part, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644); err == nil {
				unix.Close(fd)
			}
		} else if err = unix.Mkdirat(parent, part, 0o755); err == unix.EEXIST {
			err = nil
		}
		unix.Close(parent)
		if err != nil {
			return err
		}
		at = path.Join(at, part)
	}
	return nil
}

// openBeneath resolves name, symbolic links included, as if root were "/".
func openBeneath(root int, name string, flags uint64) (int, error) {
	return unix.Openat2(root, name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}
