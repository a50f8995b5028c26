package gofer

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
)

// kernelViews are file systems that show the host's kernel and its processes,
// not files. Where one is mounted beneath an attachment (the host's root is
// one, with `bulkhead do`) its root is a directory in which there is nothing. Who
// asks for one by its own path as a bind mount gets it.
var kernelViews = map[int64]string{
	unix.PROC_SUPER_MAGIC:    "proc: processes, sysctls, sysrq-trigger",
	unix.SYSFS_MAGIC:         "sysfs: devices",
	unix.CGROUP_SUPER_MAGIC:  "cgroup",
	unix.CGROUP2_SUPER_MAGIC: "cgroup2",
	unix.DEBUGFS_MAGIC:       "debugfs",
	unix.TRACEFS_MAGIC:       "tracefs",
	unix.SECURITYFS_MAGIC:    "securityfs",
	unix.BPF_FS_MAGIC:        "bpf",
	unix.PSTOREFS_MAGIC:      "pstore: crash logs",
	unix.EFIVARFS_MAGIC:      "efivarfs: firmware",
	unix.DEVPTS_SUPER_MAGIC:  "devpts: terminals",
	unix.BINFMTFS_MAGIC:      "binfmt_misc",
	unix.NSFS_MAGIC:          "nsfs: namespaces",
	unix.SELINUX_MAGIC:       "selinuxfs",
	configfsMagic:            "configfs",
	fusectlMagic:             "fusectl: connections of others",
}

// Those that x/sys does not have (include/uapi/linux/magic.h, fs/fuse/fuse_i.h).
const (
	configfsMagic = 0x62656570
	fusectlMagic  = 0x65735543
)

// shut says whether fd, a directory with attributes a, is in such a file system.
// Only a device other than the attachment's own is asked about, once.
func (t *attachment) shut(fd int, a *wire.Attr) bool {
	if a.Dev == t.attr.Dev || a.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false
	}
	if _, open := t.devs.Load(a.Dev); open {
		return false
	}
	var s unix.Statfs_t
	if err := unix.Fstatfs(fd, &s); err != nil {
		return true
	}
	if _, view := kernelViews[s.Type]; view {
		return true
	}
	t.devs.Store(a.Dev, true)
	return false
}

// shutAnswer is what such a directory says: it is there, and it is empty.
func shutAnswer(o *object, q *wire.Request, r *wire.Reply) (err error) {
	switch q.Op {
	case wire.GetAttr, wire.Statfs, wire.ListXattr:
		if q.Name != "" {
			return unix.ENOENT
		}
		r.Attr, err = stat(o.fd, "")
	case wire.ReadDir, wire.Names:
		r.End = true
	case wire.Walk:
		if len(q.Names) > 0 {
			r.Stop = unix.ENOENT
		}
		r.End = q.Flags&wire.WalkList != 0
	default:
		return unix.EACCES
	}
	return err
}
