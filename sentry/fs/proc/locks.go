package proc

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// fileLocks is /proc/locks: fs/locks.c, lock_get_status. Locks of processes that
// this file system's namespace does not see are left out.
func fileLocks(fs *FileSystem, _ vfs.Context) ([]byte, error) {
	var b []byte
	n := 0
	for _, l := range vfs.HeldLocks() {
		a, err := l.Inode.Attr(vfs.SentryContext())
		if err != nil {
			continue
		}
		kind, pid := "POSIX ", l.PID
		switch {
		case l.Flock:
			kind = "FLOCK "
		case l.PID < 0:
			kind = "OFDLCK"
		}
		if pid > 0 {
			if pid = fs.seenAs(pid); pid == 0 {
				continue
			}
		}
		n++
		how := "WRITE"
		if l.Type == unix.F_RDLCK {
			how = "READ "
		}
		b = fmt.Appendf(b, "%d: %s ADVISORY  %s %d %02x:%02x:%d %d ", n, kind, how, pid, unix.Major(a.Dev), unix.Minor(a.Dev), a.Ino, l.Start)
		if l.End == math.MaxInt64 {
			b = append(b, "EOF\n"...)
		} else {
			b = fmt.Appendf(b, "%d\n", l.End)
		}
	}
	return b, nil
}

// seenAs is the number, in fs's namespace, of a process that has pid in the first.
func (fs *FileSystem) seenAs(pid int32) int32 {
	if g := fs.Kernel.Group(pid); g != nil {
		return g.ID().In(fs.pids())
	}
	return 0
}
