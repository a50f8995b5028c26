// Package program is what the runtime knows of the program bulkhead itself: its version,
// and the file that a sandbox, a gofer and an exec's stand-in are started from.
package program

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"
)

// Version, and Commit, which the linker sets (Makefile).
var (
	Version = "0.1.0-dev"
	Commit  = "unknown"
)

// path is this program, unless Beside has said otherwise.
var path = "/proc/self/exe"

// Path is the file to execute for a hidden verb.
func Path() string { return path }

// Beside says that this program is not bulkhead, which stands beside it. The file is opened
// now and kept: what is started later is of the same build, whatever has been installed
// since.
func Beside() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(filepath.Dir(self), "bulkhead"))
	if err != nil {
		return fmt.Errorf("%s needs bulkhead in the same directory: %w", filepath.Base(self), err)
	}
	defer f.Close()
	// Found by the child under its own number, which no others of its descriptors may get:
	// they are moved to low ones before it is executed. A path would have to be one that
	// a user who is nobody may walk.
	const high = 512
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, high)
	if err != nil {
		return fmt.Errorf("keep %s: %w", f.Name(), err)
	}
	path = fmt.Sprintf("/proc/self/fd/%d", fd)
	return nil
}

// Rootless says that who runs us is not the host's root: another user, or what a user
// namespace of one calls root, which is how Podman starts a runtime.
func Rootless() bool { return os.Geteuid() != 0 || userns.RunningInUserNS() }
