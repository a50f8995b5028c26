package fs

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// nameMax is NAME_MAX of Linux.
const nameMax = 255

// checkName refuses what is not the name of one entry in a directory.
func checkName(name string) error {
	switch {
	case len(name) > nameMax:
		return unix.ENAMETOOLONG
	case name == "", name == ".", name == "..", strings.ContainsAny(name, "/\x00"):
		return unix.EINVAL
	}
	return nil
}

// beneath opens a checked name in dir, and never what a symlink there points to.
// One component without "..", opened with O_NOFOLLOW, could not leave dir in any
// case; openat2(2) makes it impossible rather than unlikely.
func beneath(dir int, name string, flags, mode uint32) (int, error) {
	return open(dir, name, unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
}

func open(dir int, name string, how unix.OpenHow) (int, error) {
	for {
		fd, err := unix.Openat2(dir, name, &how)
		if err != unix.EINTR { // the Go runtime's signals
			return fd, err
		}
	}
}

// links is /proc/self/fd, which alone turns an O_PATH descriptor into one that
// reads and writes, or into a new name. It is opened before a jail takes /proc away.
type links int

func openLinks() (links, error) {
	fd, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("fs: open /proc/self/fd: %w", err)
	}
	return links(fd), nil
}

// open opens the file of an O_PATH descriptor. The caller knows that it is a
// regular file or a directory: a device could do anything on being opened.
func (l links) open(fd int, flags uint32) (int, error) {
	if flags&unix.O_PATH == 0 {
		flags |= unix.O_NONBLOCK | unix.O_NOCTTY // openat2 takes none of these beside O_PATH
	}
	return open(int(l), strconv.Itoa(fd), unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC)})
}

// found is what the host says of a file.
type found struct {
	identity
	stat unix.Statx_t
}

func (f *found) kind() uint32 { return uint32(f.stat.Mode) & unix.S_IFMT }

// look asks after an open file, of any kind of descriptor.
func look(fd int) (found, error) {
	var f found
	const flags = unix.AT_EMPTY_PATH | unix.AT_SYMLINK_NOFOLLOW | unix.AT_STATX_SYNC_AS_STAT
	if err := unix.Statx(fd, "", flags, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &f.stat); err != nil {
		return f, err
	}
	f.identity = identity{dev: unix.Mkdev(f.stat.Dev_major, f.stat.Dev_minor), ino: f.stat.Ino}
	if f.stat.Mask&unix.STATX_BTIME != 0 {
		f.born = f.stat.Btime
	}
	return f, nil
}

// status is the answer for an error: what the host said, or EIO for what is no
// errno.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	if errno, ok := err.(unix.Errno); ok {
		return fuse.Status(errno)
	}
	return fuse.EIO
}

// failure is the reverse of status.
func failure(s fuse.Status) error {
	if s.Ok() {
		return nil
	}
	return unix.Errno(s)
}
