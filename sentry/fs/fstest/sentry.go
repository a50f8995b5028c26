package fstest

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// sentry is the same on this package's file system.
type sentry struct {
	ns    *vfs.Namespace
	users []*user
	fds   [4]*vfs.Description
}

func newSentry(t *testing.T, c *Config) *sentry {
	fs := c.Sentry(t, NewArena(t))
	s := &sentry{ns: vfs.NewNamespace(fs, vfs.MountOptions{Flags: unix.MS_RELATIME})}
	var clock atomic.Int64
	for _, uid := range people {
		s.users = append(s.users, newUser(&clock, uint32(uid), uint32(uid)))
	}
	t.Cleanup(func() {
		for _, d := range s.fds {
			if d != nil {
				d.Unref()
			}
		}
	})
	return s
}

func (s *sentry) start() vfs.Start { return vfs.Start{Root: s.ns.Root(), At: s.ns.Root()} }

func (s *sentry) do(o op) (string, error) {
	ctx, at := s.users[o.who], s.start()
	on := func(flags vfs.ResolveFlags, f func(vfs.Path) error) (string, error) {
		p, err := vfs.Resolve(ctx, at, o.a, flags)
		if err != nil {
			return "", err
		}
		return "", f(p)
	}
	fd := s.fds[o.m&3]
	// What the system call layer says before it looks at names and descriptors.
	switch {
	case strings.HasSuffix(o.kind, "xattr") && o.b == "":
		return "", unix.ERANGE
	case o.kind == "ftruncate" && o.n < 0:
		return "", unix.EINVAL
	case o.kind == "pwrite" && o.n < 0:
		return "0", unix.EINVAL
	}
	switch o.kind {
	case "mkdir":
		return "", vfs.Mkdir(ctx, at, o.a, o.mode)
	case "mknod":
		_, err := vfs.Mknod(ctx, at, o.a, o.mode, 0)
		return "", err
	case "symlink":
		return "", vfs.MakeSymlink(ctx, o.b, at, o.a)
	case "link":
		flags := vfs.ResolveNoFollow
		if o.flags&unix.AT_SYMLINK_FOLLOW != 0 {
			flags = 0
		}
		return on(flags, func(p vfs.Path) error { return vfs.Link(ctx, p, at, o.b) })
	case "unlink":
		return "", vfs.Unlink(ctx, at, o.a)
	case "rmdir":
		return "", vfs.Rmdir(ctx, at, o.a)
	case "rename":
		return "", vfs.Rename(ctx, at, o.a, at, o.b, uint(o.flags))
	case "chmod":
		return on(0, func(p vfs.Path) error { return vfs.Chmod(ctx, p, o.mode) })
	case "chown":
		flags := vfs.ResolveFlags(0)
		if o.flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
			flags = vfs.ResolveNoFollow
		}
		return on(flags, func(p vfs.Path) error { return vfs.Chown(ctx, p, uint32(o.n), o.mode) })
	case "truncate":
		if o.n < 0 {
			return "", unix.EINVAL
		}
		return on(0, func(p vfs.Path) error { return vfs.Truncate(ctx, p, o.n) })
	case "touch":
		if o.n == 5 { // do_utimes looks at neither name nor times
			return "", nil
		}
		return on(vfs.ResolveNoFollow, func(p vfs.Path) error {
			if touches[o.n] == nil {
				return vfs.Utimens(ctx, p, nil)
			}
			return vfs.Utimens(ctx, p, (*[2]unix.Timespec)(touches[o.n]))
		})
	case "access":
		return on(0, func(p vfs.Path) error { return vfs.CheckAccess(ctx, p, vfs.Access(o.mode)) })
	case "readlink":
		p, err := vfs.Resolve(ctx, at, o.a, vfs.ResolveNoFollow)
		if err != nil {
			return "", err
		}
		return vfs.Readlink(ctx, p)
	case "setxattr":
		return on(0, func(p vfs.Path) error { return vfs.Setxattr(ctx, p, o.b, []byte("v"), o.flags) })
	case "getxattr":
		p, err := vfs.Resolve(ctx, at, o.a, 0)
		if err != nil {
			return "", err
		}
		v, err := vfs.Getxattr(ctx, p, o.b)
		return string(v), err
	case "rmxattr":
		return on(0, func(p vfs.Path) error { return vfs.Removexattr(ctx, p, o.b) })
	case "open":
		if fd != nil {
			fd.Unref()
		}
		s.fds[o.m&3] = nil
		d, err := vfs.Open(ctx, at, o.a, vfs.OpenHow{Flags: o.flags, Mode: uint32(openMode(o)), Resolve: uint64(o.n)})
		if err != nil {
			return "", err
		}
		s.fds[o.m&3] = d
		return fmt.Sprintf("%#x", d.Flags()), nil
	}
	if fd == nil {
		return badFD(o), unix.EBADF
	}
	switch o.kind {
	case "linkfd":
		if !ctx.Creds().Has(unix.CAP_DAC_READ_SEARCH) {
			return "", unix.ENOENT
		}
		return "", vfs.Link(ctx, fd.Path(), at, o.b)
	case "write":
		n, err := fd.Write(ctx, memory.Buffers{pattern[:o.n]})
		return fmt.Sprint(n), err
	case "pwrite":
		n, err := fd.Pwrite(ctx, memory.Buffers{pattern[:100]}, o.n)
		return fmt.Sprint(n), err
	case "read":
		b := make([]byte, o.n)
		n, err := fd.Read(ctx, memory.Buffers{b})
		return fmt.Sprintf("%d %x", n, b[:n]), err
	case "seek":
		n, err := fd.Seek(ctx, o.n, o.flags)
		if err != nil {
			n = -1
		}
		return fmt.Sprint(n), err
	case "ftruncate":
		return "", fd.Truncate(ctx, o.n)
	case "fallocate":
		return "", fd.Allocate(ctx, o.mode, o.n, 5000)
	case "fstat":
		a, err := fd.Stat(ctx)
		return fmt.Sprintf("%o %d %d", a.Mode, a.Nlink, a.Size), err
	}
	panic(o.kind)
}

// badFD is what a call that never came to a file tells of its result.
func badFD(o op) string {
	switch o.kind {
	case "write", "pwrite":
		return "0"
	case "read":
		return "0 "
	case "seek":
		return "-1"
	case "fstat":
		return "0 0 0"
	}
	return ""
}

func (s *sentry) lstat(path string) (vfs.Attr, error) {
	p, err := vfs.Resolve(s.users[0], s.start(), path, vfs.ResolveNoFollow)
	if err != nil {
		return vfs.Attr{}, err
	}
	return vfs.Stat(s.users[0], p)
}

func (s *sentry) list(path string) ([]string, error) {
	d, err := vfs.Open(s.users[0], s.start(), path, vfs.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY})
	if err != nil {
		return nil, err
	}
	defer d.Unref()
	var names []string
	err = d.ReadDir(s.users[0], func(e vfs.Dirent) bool {
		if e.Name != "." && e.Name != ".." {
			names = append(names, e.Name)
		}
		return true
	})
	slices.Sort(names)
	return names, err
}

func (s *sentry) stamp(path string) {
	if p, err := vfs.Resolve(s.users[0], s.start(), path, vfs.ResolveNoFollow); err == nil {
		vfs.Utimens(s.users[0], p, &[2]unix.Timespec{stampTime, stampTime})
	}
}

func (s *sentry) contents(path string) ([]byte, error) {
	d, err := vfs.Open(s.users[0], s.start(), path, vfs.OpenHow{Flags: unix.O_RDONLY})
	if err != nil {
		return nil, err
	}
	defer d.Unref()
	var all []byte
	for b := make([]byte, 1<<16); ; {
		n, err := d.Read(s.users[0], memory.Buffers{b})
		all = append(all, b[:n]...)
		if n == 0 || err != nil {
			return all, err
		}
	}
}
