package gofer_test

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer"
	"bulkhead/sentry/gofer/gofertest"
	"bulkhead/sentry/gofer/wire"
)

// FuzzServe is a hostile Sentry: it sends well-formed requests of any content
// to a real gofer, which must answer each and hand out nothing but regular files and the inotify instance.
func FuzzServe(f *testing.F) {
	for op := wire.Walk; op < wire.Release; op++ {
		for _, name := range []string{"a", "file", "out"} {
			q := wire.Request{Op: op, Name: name, ToName: "z", Names: []string{"a", "b"}, Target: "t", Xattr: "user.x", Mode: unix.S_IFIFO | 0o777, Released: []uint32{1, 2}}
			f.Add(q.Append(nil))
		}
	}
	g := gofertest.Start(f, gofer.Config{Root: gofer.Mount{Source: tree(f)}})
	buf := make([]byte, wire.MaxReply)
	unix.SetsockoptTimeval(g.Socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}) // a request that hangs is found, not waited for
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := wire.ParseRequest(b)
		if err != nil || q.Op == wire.Release {
			return // FuzzParseRequest's business; no reply
		}
		must(t, wire.Send(g.Socket, b, -1))
		n, fd, err := wire.Receive(g.Socket, buf, 0)
		if err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		if fd >= 0 {
			var s unix.Stat_t
			must(t, unix.Fstat(fd, &s))
			is, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			must(t, err)
			unix.Close(fd)
			if s.Mode&unix.S_IFMT != unix.S_IFREG && !(q.Op == wire.Watch && is == "anon_inode:inotify") {
				t.Fatalf("%+v: got a descriptor of mode %o, %s", q, s.Mode, is)
			}
		}
		if _, err := wire.ParseReply(buf[:n], q.Op); err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
	})
}
