package proc

import (
	"strconv"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/vfs"
)

// initial are the inode numbers of Linux's first namespaces
// (include/linux/proc_ns.h). All processes of a container share one of each, but
// for mount namespaces.
var initial = []struct {
	link, typ string
	ino       uint64
}{
	{"cgroup", "cgroup", 0xEFFFFFFB}, {"ipc", "ipc", 0xEFFFFFFF}, {"mnt", "mnt", 0xEFFFFFF8}, {"net", "net", 0xEFFFFFF9},
	{"pid", "pid", 0xEFFFFFFC}, {"pid_for_children", "pid", 0xEFFFFFFC}, {"time", "time", 0xEFFFFFFA},
	{"time_for_children", "time", 0xEFFFFFFA}, {"user", "user", 0xEFFFFFFD}, {"uts", "uts", 0xEFFFFFFE},
}

// addNamespaces adds the ns directory. What its links lead to can be compared by
// stat(2) and held open; setns(2) is not served.
func (fs *FileSystem) addNamespaces(d *taskDir) {
	s := d.subject
	dir := fs.NewDir(0o511)
	dir.Owner = s.owner
	for _, ns := range initial {
		number := func() (uint64, error) {
			if err := s.alive(); err != nil {
				return 0, err
			}
			if ns.typ == "mnt" {
				return fs.mountNamespace(s)
			}
			return ns.ino, nil
		}
		name := func(ctx vfs.Context) (string, error) {
			if err := mayTrace(ctx, s); err != nil {
				return "", err
			}
			ino, err := number()
			return ns.typ + ":[" + strconv.FormatUint(ino, 10) + "]", err
		}
		l := fs.NewMagicLink(0o777, name, func(ctx vfs.Context) (vfs.Path, error) {
			text, err := name(ctx)
			if err != nil {
				return vfs.Path{}, err
			}
			ino, err := number()
			return vfs.AnonymousPath(fs.namespace(ino), text), err
		})
		l.Owner = s.owner
		dir.Add(ns.link, l)
	}
	d.Add("ns", dir)
}

// mountNamespace is the number of a process's mounts: init's has the first one.
func (fs *FileSystem) mountNamespace(s subject) (uint64, error) {
	f := s.fs()
	if f == nil {
		return 0, unix.ENOENT
	}
	if g := fs.Kernel.Init(); g != nil {
		if first, _, _ := g.Leader().Look(); first != nil && first.Namespace() == f.Namespace() {
			return 0xEFFFFFF8, nil
		}
	}
	return 0xF0000000 | fs.Hash(f.Namespace())&0x7ffffff, nil
}

// nsInode is a namespace as a file (fs/nsfs.c).
type nsInode struct{ kernfs.Node }

func (fs *FileSystem) namespace(ino uint64) vfs.Inode {
	n := &nsInode{fs.NewNode(unix.S_IFREG | 0o444)}
	n.SetIno(ino)
	return n
}

func (*nsInode) Open(vfs.Context, vfs.Path, int) (vfs.File, error) { return vfs.NoFile{}, nil }
