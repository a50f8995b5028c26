package fstest

import (
	"math/rand"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// pick chooses one of a list.
func pick[T any](r *rand.Rand, list ...T) T { return list[r.Intn(len(list))] }

func randomPath(r *rand.Rand) string {
	var b strings.Builder
	if r.Intn(8) == 0 {
		b.WriteByte('/')
	}
	for i, n := 0, 1+r.Intn(3); i < n; i++ {
		if i > 0 {
			b.WriteString(pick(r, "/", "/", "/", "//"))
		}
		b.WriteString(pick(r, "a", "a", "b", "b", "c", "d", "e", "l", "l", "s", "..", "."))
	}
	if r.Intn(8) == 0 {
		b.WriteString(pick(r, "/", "//", "/."))
	}
	if r.Intn(200) == 0 {
		return pick(r, "", "/", strings.Repeat("x", 256), strings.Repeat("y/", 2050))
	}
	return b.String()
}

// Weights says how often each kind comes.
var Weights = map[string]int{
	"mkdir": 8, "mknod": 2, "symlink": 5, "link": 5, "unlink": 5, "rmdir": 3, "rename": 10, "chmod": 5, "chown": 3,
	"truncate": 2, "touch": 3, "access": 4, "readlink": 2, "setxattr": 2, "getxattr": 2, "rmxattr": 1, "open": 14,
	"linkfd": 2, "write": 5, "pwrite": 2, "read": 4, "seek": 4, "ftruncate": 2, "fallocate": 3, "fstat": 1,
}

func randomOp(r *rand.Rand, kinds, xattrs []string) op {
	o := op{kind: pick(r, kinds...), a: randomPath(r), b: randomPath(r), who: r.Intn(len(people)), m: r.Int63n(4)}
	o.mode = pick[uint32](r, 0o777, 0o755, 0o700, 0o644, 0o666, 0o1777, 0o2775, 0o4755, 0o6711, 0o070, 0)
	switch o.kind {
	case "mknod":
		o.mode |= pick[uint32](r, unix.S_IFREG, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFDIR, 0, unix.S_IFLNK)
	case "symlink":
		o.b = pick(r, o.b, o.b, "a", "../a", "/b", "l", ".", "b/")
	case "link":
		o.flags = pick(r, 0, 0, unix.AT_SYMLINK_FOLLOW)
	case "rename":
		o.flags = pick(r, 0, 0, 0, 0, unix.RENAME_EXCHANGE, unix.RENAME_EXCHANGE, unix.RENAME_NOREPLACE, unix.RENAME_WHITEOUT, 7)
	case "chown":
		o.n, o.mode = pick[int64](r, -1, 0, 1000, 1001), pick[uint32](r, ^uint32(0), 0, 1000, 1001)
		o.flags = pick(r, 0, unix.AT_SYMLINK_NOFOLLOW)
	case "access":
		o.mode = uint32(r.Intn(8))
	case "touch":
		o.n = r.Int63n(int64(len(touches)))
	case "truncate", "ftruncate":
		o.n = pick[int64](r, 0, 1, 4095, 4096, 10000, 100000, -1)
	case "setxattr", "getxattr", "rmxattr":
		o.b = pick(r, xattrs...)
		o.flags = pick(r, 0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE)
	case "open":
		o.flags = pick(r, unix.O_RDONLY, unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDWR, 3)
		for _, f := range []int{unix.O_CREAT, unix.O_CREAT, unix.O_CREAT, unix.O_EXCL, unix.O_TRUNC, unix.O_APPEND, unix.O_NOFOLLOW,
			unix.O_DIRECTORY, unix.O_PATH, unix.O_TMPFILE, unix.O_NOATIME} {
			if r.Intn(6) == 0 {
				o.flags |= f
			}
		}
		if o.flags&unix.O_PATH != 0 { // openat2 refuses others; openat's silence is the syscall layer's
			o.flags &= unix.O_PATH | unix.O_NOFOLLOW | unix.O_DIRECTORY
		}
		o.n = pick[int64](r, 0, 0, 0, unix.RESOLVE_BENEATH, unix.RESOLVE_IN_ROOT, unix.RESOLVE_NO_SYMLINKS, unix.RESOLVE_NO_XDEV)
	case "write":
		o.n = pick[int64](r, 0, 1, 10, 4096, 6000, 30000)
	case "pwrite":
		o.n = pick[int64](r, 0, 3, 4090, 20000, 200000, -1)
	case "read":
		o.n = pick[int64](r, 0, 1, 100, 5000)
	case "seek":
		o.n, o.flags = pick[int64](r, 0, 0, 5, 4096, 10000, -3), r.Intn(6)
	case "fallocate":
		o.n = pick[int64](r, 0, 100, 4096, 9000)
		o.mode = pick[uint32](r, 0, 1, 3, 3, 2, 0x10, 8)
	}
	return o
}

func allKinds(weights map[string]int) (kinds []string) {
	for k, n := range weights {
		for range n {
			kinds = append(kinds, k)
		}
	}
	slices.Sort(kinds)
	return kinds
}
