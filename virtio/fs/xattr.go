package fs

import (
	"bytes"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// passed are the extended attributes that a guest may have on the host's files.
// POSIX ACLs are not: neither side would decide by the other's. Labels of the
// host's security modules are the host's.
var passed = []struct{ prefix, reason string }{
	{"user.", "applications'"},
	{"trusted.", "overlayfs in the guest"},
	{"security.capability", "file capabilities, which a guest's package manager sets"},
}

func passes(name string) bool {
	for _, p := range passed {
		if strings.HasPrefix(name, p.prefix) {
			return true
		}
	}
	return false
}

// withAttributes calls do with a descriptor that f…xattr(2) take, which an O_PATH
// one is not. Only files and directories have attributes that pass.
func (t *tree) withAttributes(id uint64, otherwise error, do func(fd int) error) error {
	n, err := t.inodes.get(id)
	if err != nil {
		return err
	}
	defer t.inodes.put(n)
	if n.kind != unix.S_IFREG && n.kind != unix.S_IFDIR {
		return otherwise
	}
	fd, err := t.openQuietly(n.fd, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd)
}

func (t *tree) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, to []byte) (uint32, fuse.Status) {
	if !passes(name) {
		return 0, fuse.Status(unix.EOPNOTSUPP)
	}
	size := 0
	err := t.withAttributes(in.NodeId, unix.ENODATA, func(fd int) (err error) {
		size, err = unix.Fgetxattr(fd, name, to)
		return err
	})
	return uint32(max(size, 0)), status(err)
}

func (t *tree) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	if !passes(name) {
		return fuse.Status(unix.EOPNOTSUPP)
	}
	if uint64(in.Size) > uint64(len(value)) {
		return fuse.EINVAL
	}
	return status(t.withAttributes(in.NodeId, unix.EPERM, func(fd int) error {
		return unix.Fsetxattr(fd, name, value[:in.Size], int(in.Flags))
	}))
}

func (t *tree) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	if !passes(name) {
		return fuse.Status(unix.EOPNOTSUPP)
	}
	return status(t.withAttributes(in.NodeId, unix.ENODATA, func(fd int) error {
		return unix.Fremovexattr(fd, name)
	}))
}

// ListXAttr lists the names that pass.
func (t *tree) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, to []byte) (uint32, fuse.Status) {
	var names []byte
	err := t.withAttributes(in.NodeId, nil, func(fd int) error {
		all := make([]byte, 64<<10) // XATTR_LIST_MAX
		n, err := unix.Flistxattr(fd, all)
		if err != nil {
			return err
		}
		for name := range bytes.SplitAfterSeq(all[:n], []byte{0}) {
			if passes(string(name)) {
				names = append(names, name...)
			}
		}
		return nil
	})
	switch {
	case err == unix.EOPNOTSUPP, err == nil && len(names) == 0:
		return 0, fuse.OK
	case err != nil:
		return 0, status(err)
	case len(names) > len(to):
		return uint32(len(names)), fuse.Status(unix.ERANGE)
	}
	return uint32(copy(to, names)), fuse.OK
}
