package proc

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/vfs"
)

// The offsets of the time namespace that a process's children will be in
// (kernel/time/namespace.c, proc_timens_show_offsets and proc_timens_set_offset).

func timeOffsets(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	n := s.t.Namespaces()
	if n == nil {
		return nil, unix.ESRCH
	}
	var b []byte
	mono, boot := n.TimeForChildren.Offsets()
	for _, c := range []struct {
		name string
		d    time.Duration
	}{{"monotonic", mono}, {"boottime", boot}} {
		sec, nsec := floor(c.d)
		b = fmt.Appendf(b, "%-10s %10d %9d\n", c.name, sec, nsec)
	}
	return b, nil
}

// floor divides a time so that nanoseconds are not negative.
func floor(d time.Duration) (sec, nsec int64) {
	sec, nsec = int64(d/time.Second), int64(d%time.Second)
	if nsec < 0 {
		sec, nsec = sec-1, nsec+int64(time.Second)
	}
	return sec, nsec
}

// maxOffset is KTIME_SEC_MAX / 2, about 146 years.
const maxOffset = (1<<63 - 1) / int64(time.Second) / 2

func openTimeOffsets(f *kernfs.File, s subject, _ string) {
	f.Write = func(vfs.Context, []byte) error { return nil }
	f.WriteBy = func(_ vfs.Context, opener *vfs.Creds, b []byte) error {
		n := s.t.Namespaces()
		if n == nil {
			return unix.ESRCH
		}
		var set [2]*time.Duration
		lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
		if len(lines) > 2 {
			return unix.EINVAL
		}
		for _, line := range lines {
			which, d, err := parseOffset(line)
			if err != nil {
				return err
			}
			set[which] = &d
		}
		if !opener.HasIn(n.TimeForChildren.Owner(), unix.CAP_SYS_TIME) {
			return unix.EPERM
		}
		clock := s.t.Kernel().Clock
		for i, now := range []time.Duration{clock.Monotonic(), clock.Boottime()} {
			if d := set[i]; d != nil && (*d < -now || int64(*d/time.Second) > maxOffset) {
				return unix.ERANGE
			}
		}
		return n.TimeForChildren.SetOffsets(set[0], set[1])
	}
}

// parseOffset reads a line: a clock's name or number, seconds, nanoseconds.
func parseOffset(line string) (which int, d time.Duration, err error) {
	f := strings.Fields(line)
	if len(f) != 3 {
		return 0, 0, unix.EINVAL
	}
	switch f[0] {
	case "monotonic", "1":
	case "boottime", "7":
		which = 1
	default:
		return 0, 0, unix.EINVAL
	}
	sec, err1 := strconv.ParseInt(f[1], 10, 64)
	nsec, err2 := strconv.ParseInt(f[2], 10, 64)
	if err1 != nil || err2 != nil || nsec < 0 || nsec >= int64(time.Second) {
		return 0, 0, unix.EINVAL
	}
	if sec > maxOffset || sec < -maxOffset {
		return 0, 0, unix.ERANGE
	}
	return which, time.Duration(sec)*time.Second + time.Duration(nsec), nil
}
