package syscalls

import (
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
)

// LogTracer is a Tracer that writes every call to a log: name, arguments, and
// the file name among them where there is one.
type LogTracer struct{ Log *slog.Logger }

// names with a path, and which argument it is.
var pathArgument = map[string]int{
	"open": 0, "openat": 1, "openat2": 1, "stat": 0, "lstat": 0, "newfstatat": 1, "statx": 1, "access": 0, "faccessat": 1,
	"faccessat2": 1, "readlink": 0, "readlinkat": 1, "execve": 0, "execveat": 1, "mkdir": 0, "mkdirat": 1, "unlink": 0,
	"unlinkat": 1, "chdir": 0, "rename": 0, "renameat": 1, "renameat2": 1, "creat": 0, "chmod": 0, "fchmodat": 1,
}

// Enter implements Tracer.
func (l LogTracer) Enter(t *kernel.Task, c *Call, a *Args) {
	if c.Name == "execve" || c.Name == "exit_group" || c.Name == "exit" {
		l.Exit(t, c, a, 0, nil)
	}
}

// Exit implements Tracer.
func (l LogTracer) Exit(t *kernel.Task, c *Call, a *Args, result uintptr, err error) {
	var b strings.Builder
	b.WriteString(c.Name + "(")
	i, has := pathArgument[c.Name]
	for n, v := range a {
		if n > 0 {
			b.WriteString(", ")
		}
		if has && n == i && t.MM() != nil {
			if s, err := path(t, a.Addr(n)); err == nil {
				fmt.Fprintf(&b, "%q", s)
				continue
			}
		}
		fmt.Fprintf(&b, "%#x", v)
	}
	answer := fmt.Sprintf("%#x", result)
	if e, ok := err.(unix.Errno); ok {
		answer = unix.ErrnoName(e)
	} else if err != nil {
		answer = err.Error()
	}
	l.Log.Debug("call", "task", t.TID(), "call", b.String()+")", "result", answer)
}
