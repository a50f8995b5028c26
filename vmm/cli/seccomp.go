package cli

import (
	"fmt"
	"os"

	"bulkhead/jail/seccomp"
	words "bulkhead/vmm/config"
	"bulkhead/vmm/share"

	"golang.org/x/sys/unix"
)

// restrict leaves the process the system calls that a machine of these words
// makes. Everything that it opens by name is open by then, but for shares, a
// snapshot, and sockets of the host that a guest connects to.
func (r *run) restrict() error {
	m := r.words
	off := seccomp.Trap // a Go program dies of SIGSYS with its stacks, which name the call
	switch m.Seccomp {
	case "off":
		return nil
	case "log":
		off = seccomp.Log
	}
	rows := seccomp.Runtime(os.Getpid())
	for _, part := range calls {
		if part.wanted(m) {
			rows = append(rows, part.rows...)
		}
	}
	if err := seccomp.Install(rows, off); err != nil {
		return fmt.Errorf("%w; --seccomp off goes without", err)
	}
	return nil
}

// ioctls allows those of one driver: the second byte of a request is its letter.
func ioctls(letter uint64) []seccomp.Cond {
	return []seccomp.Cond{{Arg: 1, Mask: 0xff00, Value: letter << 8}}
}

// calls are what parts of a machine make beyond seccomp.Runtime.
var calls = []struct {
	wanted func(*words.Machine) bool
	rows   []seccomp.Row
}{
	{always, []seccomp.Row{
		{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "KVM", When: ioctls(0xae)},
		{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "consoles: the terminal's size", When: seccomp.Is(1, unix.TIOCGWINSZ)},
		{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "consoles: the terminal as it was", When: seccomp.Is(1, unix.TCSETS)},
		{NR: unix.SYS_FCNTL, Name: "fcntl", Why: "package os: flags of a descriptor"},
		{NR: unix.SYS_MMAP, Name: "mmap", Why: "ram: memory given back, of a snapshot", When: seccomp.Is(3, unix.MAP_FIXED|unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)},
	}},
	{func(m *words.Machine) bool { return len(m.Disks) > 0 }, []seccomp.Row{
		{NR: unix.SYS_PREADV2, Name: "preadv2", Why: "blk: reads"},
		{NR: unix.SYS_PWRITEV2, Name: "pwritev2", Why: "blk: writes"},
		{NR: unix.SYS_PWRITE64, Name: "pwrite64", Why: "blk: zeroes"},
		{NR: unix.SYS_FDATASYNC, Name: "fdatasync", Why: "blk: flush"},
		{NR: unix.SYS_FALLOCATE, Name: "fallocate", Why: "blk: discard, write zeroes"},
		{NR: unix.SYS_FSTAT, Name: "fstat", Why: "blk: the disk's size"},
		{NR: unix.SYS_LSEEK, Name: "lseek", Why: "blk: a device's size"},
		{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "blk: BLKDISCARD, BLKZEROOUT", When: ioctls(0x12)},
	}},
	{func(m *words.Machine) bool { return len(m.Nets) > 0 }, []seccomp.Row{
		{NR: unix.SYS_PPOLL, Name: "ppoll", Why: "net: the TAP and the doorbells"},
		{NR: unix.SYS_READV, Name: "readv", Why: "net: frames"},
		{NR: unix.SYS_WRITEV, Name: "writev", Why: "net: frames"},
		{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "net: TUNSETOFFLOAD", When: seccomp.Is(1, unix.TUNSETOFFLOAD)},
		{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "net: TUNSETQUEUE", When: seccomp.Is(1, unix.TUNSETQUEUE)},
	}},
	{func(m *words.Machine) bool { return len(m.Shares) > 0 }, share.Calls()},
	{func(m *words.Machine) bool { return m.API != "" || m.Vsock.CID != 0 }, []seccomp.Row{
		{NR: unix.SYS_ACCEPT4, Name: "accept4", Why: "api, vsock"},
		{NR: unix.SYS_GETSOCKNAME, Name: "getsockname", Why: "package net, after accept"},
		{NR: unix.SYS_GETPEERNAME, Name: "getpeername", Why: "package net, after accept"},
		{NR: unix.SYS_GETSOCKOPT, Name: "getsockopt", Why: "package net, after connect"},
		{NR: unix.SYS_SETSOCKOPT, Name: "setsockopt", Why: "package net"},
		{NR: unix.SYS_SHUTDOWN, Name: "shutdown", Why: "one half of a connection"},
		{NR: unix.SYS_UNLINKAT, Name: "unlinkat", Why: "the socket's name, in the end"},
	}},
	{func(m *words.Machine) bool { return m.Vsock.CID != 0 }, []seccomp.Row{
		{NR: unix.SYS_SOCKET, Name: "socket", Why: "vsock: to the host's programs", When: seccomp.Is(0, unix.AF_UNIX)},
		{NR: unix.SYS_CONNECT, Name: "connect", Why: "vsock: to the host's programs"},
		{NR: unix.SYS_POLL, Name: "poll", Why: "vsock: is there more"},
		{NR: unix.SYS_PPOLL, Name: "ppoll", Why: "vsock: is there more"},
		{NR: unix.SYS_WRITEV, Name: "writev", Why: "vsock: the guest's bytes"},
		{NR: unix.SYS_READV, Name: "readv", Why: "vsock: to the guest"},
	}},
	{func(m *words.Machine) bool { return m.API != "" || m.SnapshotTo != "" }, []seccomp.Row{
		{NR: unix.SYS_OPENAT, Name: "openat", Why: "snapshot: its file"},
		{NR: unix.SYS_FSTAT, Name: "fstat", Why: "snapshot: package os"},
		{NR: unix.SYS_NEWFSTATAT, Name: "newfstatat", Why: "snapshot: package os, before a rename"},
		{NR: unix.SYS_FTRUNCATE, Name: "ftruncate", Why: "snapshot: holes"},
		{NR: unix.SYS_LSEEK, Name: "lseek", Why: "snapshot: what a memfd holds"},
		{NR: unix.SYS_PWRITE64, Name: "pwrite64", Why: "snapshot: pages"},
		{NR: unix.SYS_FSYNC, Name: "fsync", Why: "snapshot: all of it"},
		{NR: unix.SYS_RENAMEAT, Name: "renameat", Why: "snapshot: under its name"},
		{NR: unix.SYS_UNLINKAT, Name: "unlinkat", Why: "snapshot: half a file"},
	}},
}

func always(*words.Machine) bool { return true }
