package proc

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/vfs"
)

// The files of a process's user namespace (kernel/user_namespace.c). Who wrote
// is less than who opened them: a program may be talked into writing to a
// descriptor that it was given.

func uidMap(fs *FileSystem, ctx vfs.Context, s subject) ([]byte, error) {
	n := s.t.Creds().User
	if n == nil && fs.UIDMap != nil {
		return showMap(fs.UIDMap, n.UIDs()), nil
	}
	return showMap(n.UIDs(), lower(ctx, n).UIDs()), nil
}

func gidMap(fs *FileSystem, ctx vfs.Context, s subject) ([]byte, error) {
	n := s.t.Creds().User
	if n == nil && fs.GIDMap != nil {
		return showMap(fs.GIDMap, n.GIDs()), nil
	}
	return showMap(n.GIDs(), lower(ctx, n).GIDs()), nil
}

// lower is the namespace in which a map of n shows the ids that it leads to.
func lower(ctx vfs.Context, n *vfs.UserNamespace) *vfs.UserNamespace {
	if mine := userOf(ctx); mine != n || n == nil {
		return mine
	}
	return n.Parent()
}

func showMap(m, below *vfs.IDMap) []byte {
	var b []byte
	for _, r := range m.Ranges {
		base, ok := below.Out(r.Base)
		if !ok {
			base = ^uint32(0)
		}
		b = fmt.Appendf(b, "%10d %10d %10d\n", r.First, base, r.Count)
	}
	return b
}

func setgroups(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	if s.t.Creds().User.SetgroupsDenied() {
		return []byte("deny\n"), nil
	}
	return []byte("allow\n"), nil
}

// openUser makes a file of the user namespace writable.
func openUser(f *kernfs.File, s subject, name string) {
	f.Write = func(vfs.Context, []byte) error { return nil }
	f.WriteBy = func(ctx vfs.Context, opener *vfs.Creds, b []byte) error {
		n := s.t.Creds().User
		switch name {
		case "setgroups":
			if !opener.HasIn(n, unix.CAP_SYS_ADMIN) {
				return unix.EPERM
			}
			switch strings.TrimRight(string(b), "\n\x00 ") {
			case "allow":
				return n.SetSetgroups(true)
			case "deny":
				return n.SetSetgroups(false)
			}
			return unix.EINVAL
		case "projid_map":
			return unix.EPERM // there are no projects
		}
		lines, err := parseMap(string(b))
		if err != nil {
			return err
		}
		return n.SetMap(ctx, opener, name == "gid_map", lines)
	}
}

func parseMap(text string) (lines []vfs.IDRange, err error) {
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, unix.EINVAL
		}
		var n [3]uint64
		for i := range n {
			if n[i], err = strconv.ParseUint(f[i], 10, 32); err != nil {
				return nil, unix.EINVAL
			}
		}
		lines = append(lines, vfs.IDRange{First: uint32(n[0]), Base: uint32(n[1]), Count: uint32(n[2])})
	}
	return lines, nil
}
