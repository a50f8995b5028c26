package boot

import (
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// copyUp fills a directory with what there is in another: the option tmpcopyup of a tmpfs,
// which hides nothing then. Names, contents, owners, modes, times and extended attributes
// come along; two names of one file become two files.
func copyUp(ctx vfs.Context, from, to vfs.Path) error {
	d, err := vfs.OpenPath(ctx, from, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	var names []string
	err = d.ReadDir(ctx, func(e vfs.Dirent) bool {
		names = append(names, e.Name)
		return true
	})
	d.Unref()
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == "." || name == ".." {
			continue
		}
		if err := copyName(ctx, vfs.Start{Root: from, At: from}, vfs.Start{Root: to, At: to}, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func copyName(ctx vfs.Context, from, to vfs.Start, name string) error {
	old, err := vfs.Resolve(ctx, from, name, vfs.ResolveNoFollow)
	if err != nil {
		return err
	}
	a, err := vfs.Stat(ctx, old)
	if err != nil {
		return err
	}
	switch a.Type() {
	case unix.S_IFDIR:
		err = vfs.Mkdir(ctx, to, name, 0o700)
	case unix.S_IFLNK:
		var target string
		if target, err = vfs.Readlink(ctx, old); err == nil {
			err = vfs.MakeSymlink(ctx, target, to, name)
		}
	default:
		_, err = vfs.Mknod(ctx, to, name, a.Mode&unix.S_IFMT|0o600, a.Rdev)
	}
	if err != nil {
		return err
	}
	made, err := vfs.Resolve(ctx, to, name, vfs.ResolveNoFollow)
	if err != nil {
		return err
	}
	switch a.Type() {
	case unix.S_IFDIR:
		err = copyUp(ctx, old, made)
	case unix.S_IFREG:
		err = copyContents(ctx, old, made)
	}
	if err != nil {
		return err
	}
	return copyAttributes(ctx, old, made, &a)
}

func copyContents(ctx vfs.Context, from, to vfs.Path) error {
	in, err := vfs.OpenPath(ctx, from, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer in.Unref()
	out, err := vfs.OpenPath(ctx, to, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer out.Unref()
	b := make([]byte, 64<<10)
	for {
		n, err := in.Read(ctx, memory.Buffers{b})
		if err != nil || n <= 0 {
			return err
		}
		for rest := b[:n]; len(rest) > 0; {
			n, err := out.Write(ctx, memory.Buffers{rest})
			if err != nil {
				return err
			}
			if n <= 0 {
				return io.ErrShortWrite
			}
			rest = rest[n:]
		}
	}
}

// copyAttributes comes last: the others change times, and an owner takes set-id bits away.
func copyAttributes(ctx vfs.Context, from, to vfs.Path, a *vfs.Attr) error {
	if err := vfs.Chown(ctx, to, a.UID, a.GID); err != nil {
		return err
	}
	if a.Type() != unix.S_IFLNK {
		if err := vfs.Chmod(ctx, to, a.Mode&0o7777); err != nil {
			return err
		}
	}
	unsupported := []error{unix.EOPNOTSUPP, unix.ENODATA, unix.EPERM}
	names, err := vfs.Listxattr(ctx, from)
	if err != nil && !slices.Contains(unsupported, err) {
		return err
	}
	for _, name := range names {
		b, err := vfs.Getxattr(ctx, from, name)
		if err == nil {
			err = vfs.Setxattr(ctx, to, name, b, 0)
		}
		if err != nil && !slices.Contains(unsupported, err) {
			return fmt.Errorf("extended attribute %q: %w", name, err)
		}
	}
	return vfs.Utimens(ctx, to, &[2]unix.Timespec{a.Atime, a.Mtime})
}
