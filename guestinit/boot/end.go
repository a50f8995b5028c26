package boot

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/guestinit/config"
)

// grace is what processes have between SIGTERM and SIGKILL. A guest whose
// processes end at once does not wait for it.
const grace = 2 * time.Second

// end takes the guest down. The exit code goes to the machine last, after all
// data is on its disks.
func (g *guest) end(e ending) {
	endAll(grace)
	unix.Sync()
	unmountAll("/proc/self/mounts")
	if e.restart {
		reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	g.out(config.ExitPort, byte(e.code))
	reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	reboot(unix.LINUX_REBOOT_CMD_RESTART) // a machine that cannot power off
	os.Exit(e.code)                       // the kernel panics, and the machine sees that
}

func reboot(cmd int) {
	if err := unix.Reboot(cmd); err != nil {
		complain(fmt.Errorf("reboot(%#x): %w", cmd, err))
	}
}

// endAll ends every other process and waits until none is left.
func endAll(grace time.Duration) {
	kill(-1, unix.SIGTERM)
	kill(-1, unix.SIGCONT) // one that is stopped would not hear of it
	timer := time.AfterFunc(grace, func() { kill(-1, unix.SIGKILL) })
	defer timer.Stop()
	for {
		_, err := unix.Wait4(-1, nil, 0, nil)
		if errors.Is(err, unix.ECHILD) {
			return
		}
	}
}

// unmountAll unmounts what is on disks and shares, innermost first, and makes
// read-only what is still in use: the root.
func unmountAll(mounts string) {
	b, err := os.ReadFile(mounts)
	if err != nil {
		return // the kernel's own are not mounted, so nothing is
	}
	for _, target := range storage(string(b)) {
		if unix.Unmount(target, 0) == nil {
			continue
		}
		if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			complain(fmt.Errorf("unmount %s: %w", target, err))
		}
	}
}

// inMemory are the file systems with nothing to lose.
var inMemory = []string{"rootfs", "ramfs", "tmpfs", "proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2"}

// storage is the mount points of the rest, in the order of unmounting.
func storage(mounts string) []string {
	var targets []string
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) < 3 || slices.Contains(inMemory, fields[2]) {
			continue
		}
		targets = append(targets, unescape.Replace(fields[1]))
	}
	slices.Reverse(targets)
	return targets
}

// unescape undoes fs/proc_namespace.c, mangle.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")
