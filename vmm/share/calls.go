package share

import (
	"bulkhead/jail/seccomp"

	"golang.org/x/sys/unix"
)

// Calls are those that virtio/fs makes, in whichever process that is.
func Calls() []seccomp.Row {
	return []seccomp.Row{
		{NR: unix.SYS_OPENAT2, Name: "openat2", Why: "fs: names, beneath the share"},
		{NR: unix.SYS_OPENAT, Name: "openat", Why: "fs: an open file again, by /proc/self/fd"},
		{NR: unix.SYS_NEWFSTATAT, Name: "newfstatat", Why: "fs: attributes"},
		{NR: unix.SYS_FSTAT, Name: "fstat", Why: "fs: attributes"},
		{NR: unix.SYS_STATX, Name: "statx", Why: "fs: attributes"},
		{NR: unix.SYS_FSTATFS, Name: "fstatfs", Why: "fs: room"},
		{NR: unix.SYS_UNLINKAT, Name: "unlinkat", Why: "fs"},
		{NR: unix.SYS_MKDIRAT, Name: "mkdirat", Why: "fs"},
		{NR: unix.SYS_MKNODAT, Name: "mknodat", Why: "fs: FIFOs, sockets"},
		{NR: unix.SYS_LINKAT, Name: "linkat", Why: "fs"},
		{NR: unix.SYS_SYMLINKAT, Name: "symlinkat", Why: "fs"},
		{NR: unix.SYS_READLINKAT, Name: "readlinkat", Why: "fs"},
		{NR: unix.SYS_RENAMEAT2, Name: "renameat2", Why: "fs"},
		{NR: unix.SYS_FCHOWNAT, Name: "fchownat", Why: "fs"},
		{NR: unix.SYS_FCHOWN, Name: "fchown", Why: "fs"},
		{NR: unix.SYS_FCHMODAT, Name: "fchmodat", Why: "fs"},
		{NR: unix.SYS_FCHMODAT2, Name: "fchmodat2", Why: "fs"},
		{NR: unix.SYS_FCHMOD, Name: "fchmod", Why: "fs"},
		{NR: unix.SYS_UTIMENSAT, Name: "utimensat", Why: "fs"},
		{NR: unix.SYS_FSETXATTR, Name: "fsetxattr", Why: "fs"},
		{NR: unix.SYS_FGETXATTR, Name: "fgetxattr", Why: "fs"},
		{NR: unix.SYS_FLISTXATTR, Name: "flistxattr", Why: "fs"},
		{NR: unix.SYS_FREMOVEXATTR, Name: "fremovexattr", Why: "fs"},
		{NR: unix.SYS_SETXATTR, Name: "setxattr", Why: "fs: of what is not open, by /proc/self/fd"},
		{NR: unix.SYS_GETXATTR, Name: "getxattr", Why: "fs: of what is not open"},
		{NR: unix.SYS_LISTXATTR, Name: "listxattr", Why: "fs: of what is not open"},
		{NR: unix.SYS_REMOVEXATTR, Name: "removexattr", Why: "fs: of what is not open"},
		{NR: unix.SYS_GETDENTS64, Name: "getdents64", Why: "fs"},
		{NR: unix.SYS_LSEEK, Name: "lseek", Why: "fs: directories, holes"},
		{NR: unix.SYS_PREADV, Name: "preadv", Why: "fs: reads"},
		{NR: unix.SYS_PWRITEV2, Name: "pwritev2", Why: "fs: writes"},
		{NR: unix.SYS_PWRITE64, Name: "pwrite64", Why: "fs: writes"},
		{NR: unix.SYS_FTRUNCATE, Name: "ftruncate", Why: "fs"},
		{NR: unix.SYS_FALLOCATE, Name: "fallocate", Why: "fs"},
		{NR: unix.SYS_COPY_FILE_RANGE, Name: "copy_file_range", Why: "fs"},
		{NR: unix.SYS_FSYNC, Name: "fsync", Why: "fs"},
		{NR: unix.SYS_FDATASYNC, Name: "fdatasync", Why: "fs"},
		{NR: unix.SYS_SYNCFS, Name: "syncfs", Why: "fs"},
		{NR: unix.SYS_FLOCK, Name: "flock", Why: "fs"},
		{NR: unix.SYS_CAPGET, Name: "capget", Why: "fs: files made for the guest's users"},
		{NR: unix.SYS_CAPSET, Name: "capset", Why: "fs: files made for the guest's users"},
		{NR: unix.SYS_SETFSUID, Name: "setfsuid", Why: "fs: files made for the guest's users"},
		{NR: unix.SYS_SETFSGID, Name: "setfsgid", Why: "fs: files made for the guest's users"},
		{NR: unix.SYS_GETEUID, Name: "geteuid", Why: "fs: back to ourselves"},
		{NR: unix.SYS_GETEGID, Name: "getegid", Why: "fs: back to ourselves"},
		{NR: unix.SYS_UMASK, Name: "umask", Why: "fs: modes are the guest's"},
	}
}
