package proc

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/nsfs"
	"bulkhead/sentry/vfs"
)

// namespaces are the links of /proc/PID/ns.
var namespaces = []struct {
	name     string
	kind     *nsfs.Kind
	children bool
}{
	{"cgroup", nsfs.Cgroup, false}, {"ipc", nsfs.IPC, false}, {"mnt", nsfs.Mounts, false}, {"net", nsfs.Net, false},
	{"pid", nsfs.PID, false}, {"pid_for_children", nsfs.PID, true}, {"time", nsfs.Time, false},
	{"time_for_children", nsfs.Time, true}, {"user", nsfs.User, false}, {"uts", nsfs.UTS, false},
}

// addNamespaces adds the ns directory.
func (fs *FileSystem) addNamespaces(d *taskDir) {
	s := d.subject
	dir := fs.NewDir(0o511)
	dir.Owner = s.owner
	for _, ns := range namespaces {
		find := func(ctx vfs.Context) (n nsfs.Namespace, err error) {
			if err := s.alive(); err != nil {
				return n, err
			}
			if err := mayTrace(ctx, s); err != nil {
				return n, err
			}
			n, ok := nsfs.Of(s.t, ns.kind, ns.children)
			if !ok {
				return n, unix.ENOENT
			}
			return n, nil
		}
		l := fs.NewMagicLink(0o777, func(ctx vfs.Context) (string, error) {
			n, err := find(ctx)
			if err != nil {
				return "", err
			}
			return n.Text(), nil
		}, func(ctx vfs.Context) (vfs.Path, error) {
			n, err := find(ctx)
			if err != nil {
				return vfs.Path{}, err
			}
			return n.Path(), nil
		})
		l.Owner = s.owner
		dir.Add(ns.name, l)
	}
	d.Add("ns", dir)
}
