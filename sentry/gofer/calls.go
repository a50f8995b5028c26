package gofer

import (
	"golang.org/x/sys/unix"

	"bulkhead/jail/seccomp"
)

// calls are what the gofer may call beyond seccomp.Runtime. Paths are single components
// beneath a descriptor, or "N" in /proc/self/fd; the filter can not see that,
// the empty root sees to it.
func calls(n needs) []seccomp.Row {
	rows := []seccomp.Row{
		{NR: unix.SYS_SENDMSG, Name: "sendmsg", Why: "replies, with descriptors"},
		{NR: unix.SYS_OPENAT2, Name: "openat2", Why: "every name"},
		{NR: unix.SYS_OPENAT, Name: "openat", Why: "reopen of our own O_PATH descriptors", When: seccomp.Is(0, atFDCWD)},
		{NR: unix.SYS_STATX, Name: "statx", Why: "attributes"},
		{NR: unix.SYS_GETDENTS64, Name: "getdents64", Why: "ReadDir, Walk"},
		{NR: unix.SYS_LSEEK, Name: "lseek", Why: "ReadDir from a cookie on"},
		{NR: unix.SYS_READLINKAT, Name: "readlinkat", Why: "Readlink, Walk"},
		{NR: unix.SYS_FSTATFS, Name: "fstatfs", Why: "Statfs"},
		{NR: unix.SYS_FSYNC, Name: "fsync", Why: "Fsync of directories"},
		{NR: unix.SYS_MKDIRAT, Name: "mkdirat", Why: "Mkdir"},
		{NR: unix.SYS_MKNODAT, Name: "mknodat", Why: "Mknod"},
		{NR: unix.SYS_SYMLINKAT, Name: "symlinkat", Why: "Symlink"},
		{NR: unix.SYS_LINKAT, Name: "linkat", Why: "Link"},
		{NR: unix.SYS_UNLINKAT, Name: "unlinkat", Why: "Unlink"},
		{NR: unix.SYS_RENAMEAT2, Name: "renameat2", Why: "Rename"},
		{NR: unix.SYS_TRUNCATE, Name: "truncate", Why: "SetAttr, size"},
		{NR: unix.SYS_FCHOWNAT, Name: "fchownat", Why: "SetAttr, owner"},
		{NR: unix.SYS_FCHMODAT, Name: "fchmodat", Why: "SetAttr, mode"},
		{NR: unix.SYS_UTIMENSAT, Name: "utimensat", Why: "SetAttr, times"},
		{NR: unix.SYS_GETXATTR, Name: "getxattr", Why: "GetXattr"},
		{NR: unix.SYS_SETXATTR, Name: "setxattr", Why: "SetXattr"},
		{NR: unix.SYS_LISTXATTR, Name: "listxattr", Why: "ListXattr"},
		{NR: unix.SYS_REMOVEXATTR, Name: "removexattr", Why: "RemoveXattr"},
		{NR: unix.SYS_SETFSUID, Name: "setfsuid", Why: "whom new files belong to"},
		{NR: unix.SYS_SETFSGID, Name: "setfsgid", Why: "whom new files belong to"},
		{NR: unix.SYS_CAPSET, Name: "capset", Why: "capabilities over files, which setfsuid takes"},
	}
	if n.sockets {
		rows = append(rows,
			seccomp.Row{NR: unix.SYS_SOCKET, Name: "socket", Why: "Connect", When: seccomp.Is(0, unix.AF_UNIX)},
			seccomp.Row{NR: unix.SYS_CONNECT, Name: "connect", Why: "Connect"})
	}
	if n.shared {
		rows = append(rows,
			seccomp.Row{NR: unix.SYS_INOTIFY_INIT1, Name: "inotify_init1", Why: "Watch"},
			seccomp.Row{NR: unix.SYS_INOTIFY_ADD_WATCH, Name: "inotify_add_watch", Why: "Watch"},
			seccomp.Row{NR: unix.SYS_INOTIFY_RM_WATCH, Name: "inotify_rm_watch", Why: "Unwatch"})
	}
	return rows
}

// atFDCWD is AT_FDCWD as the filter sees it: an int argument's upper half is what the
// caller left there, and x/sys/unix sign-extends.
const atFDCWD = 1<<64 + unix.AT_FDCWD
