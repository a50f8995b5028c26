package boot

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// withHome adds HOME to an environment without one, from the container's
// /etc/passwd, as runc does for engines that leave it out.
func (c *container) withHome(env []string, uid uint32) []string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "HOME="); ok && v != "" {
			return env
		}
	}
	return append(append([]string{}, env...), "HOME="+homeOf(c.passwd(), uid))
}

// homeOf finds a user's directory in the text of a passwd(5).
func homeOf(passwd string, uid uint32) string {
	for line := range strings.Lines(passwd) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) >= 6 && f[2] == strconv.FormatUint(uint64(uid), 10) && f[5] != "" {
			return f[5]
		}
	}
	return "/"
}

// passwd is the container's /etc/passwd, or its first MiB.
func (c *container) passwd() string {
	const limit = 1 << 20 // bytes; an image's has a few thousand
	ctx := vfs.SentryContext()
	d, err := vfs.Open(ctx, vfs.Start{Root: c.root, At: c.root}, "/etc/passwd", vfs.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK})
	if err != nil {
		return ""
	}
	defer d.Unref()
	var text []byte
	for len(text) < limit {
		b := make([]byte, 16<<10)
		n, err := d.Pread(ctx, memory.Buffers{b}, int64(len(text)))
		if n <= 0 || err != nil {
			break
		}
		text = append(text, b[:n]...)
	}
	return string(text)
}
