package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// copyUp fills a directory with what there is in another: the option tmpcopyup of a tmpfs,
// which hides nothing then. Names, contents, owners, modes, times and extended attributes
// come along; two names of one file become two files. No symlink is followed, whoever else
// has the directory it comes from.
func copyUp(from, to int) error {
	names, err := namesIn(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyName(from, to, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func namesIn(dir int) ([]string, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "directory")
	defer f.Close()
	return f.Readdirnames(-1)
}

func copyName(from, to int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var err error
	switch kind := st.Mode & unix.S_IFMT; kind {
	case unix.S_IFDIR:
		err = copyDir(from, to, name)
	case unix.S_IFREG:
		err = copyFile(from, to, name)
	case unix.S_IFLNK:
		err = copyLink(from, to, name)
	default:
		err = unix.Mknodat(to, name, kind|0o600, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	// An owner takes set-id bits away, and everything else changes times.
	if err := unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(to, name, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(to, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// both opens a name in each directory.
func both(from, to int, name string, in, out int, do func(in, out *os.File) error) error {
	a, err := unix.Openat(from, name, in|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(a), name)
	defer src.Close()
	b, err := unix.Openat(to, name, out|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(b), name)
	if err := do(src, dst); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}

func copyDir(from, to int, name string) error {
	if err := unix.Mkdirat(to, name, 0o700); err != nil {
		return err
	}
	return both(from, to, name, unix.O_DIRECTORY, unix.O_DIRECTORY, func(in, out *os.File) error {
		if err := copyUp(int(in.Fd()), int(out.Fd())); err != nil {
			return err
		}
		return copyXattrs(in, out)
	})
}

func copyFile(from, to int, name string) error {
	// Without O_NONBLOCK a FIFO that took the file's place would keep us.
	return both(from, to, name, unix.O_RDONLY|unix.O_NONBLOCK, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, func(in, out *os.File) error {
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
		return copyXattrs(in, out)
	})
}

func copyLink(from, to int, name string) error {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(from, name, b)
	if err != nil {
		return err
	}
	return unix.Symlinkat(string(b[:n]), to, name)
}

// copyXattrs passes over those that a tmpfs has not.
func copyXattrs(in, out *os.File) error {
	const most = 64 << 10 // XATTR_LIST_MAX, XATTR_SIZE_MAX
	list, value := make([]byte, most), make([]byte, most)
	n, err := unix.Flistxattr(int(in.Fd()), list)
	if err != nil {
		return passOver(err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Fgetxattr(int(in.Fd()), name, value)
		if err == nil {
			err = unix.Fsetxattr(int(out.Fd()), name, value[:n], 0)
		}
		if passOver(err) != nil {
			return fmt.Errorf("extended attribute %q: %w", name, err)
		}
	}
	return nil
}

func passOver(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}
