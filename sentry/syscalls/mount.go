package syscalls

import (
	"math/bits"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func mountCalls() []row {
	return []row{
		{unix.SYS_MOUNT, mount, Full, ""},
		{unix.SYS_UMOUNT2, umount, Full, ""},
		{unix.SYS_PIVOT_ROOT, pivotRoot, Full, ""},
		{unix.SYS_OPEN_TREE, openTree, Full, ""},
		{unix.SYS_MOVE_MOUNT, moveMount, Partial, "not beneath another mount"},
		{unix.SYS_FSOPEN, fsopen, Full, ""},
		{unix.SYS_FSCONFIG, fsconfig, Partial, "no binary or path parameters, which no file system here takes"},
		{unix.SYS_FSMOUNT, fsmount, Full, ""},
		{unix.SYS_FSPICK, fspick, Full, ""},
		{unix.SYS_MOUNT_SETATTR, mountSetattr, Partial, "no id-mapped mounts: no file system here allows them"},
		{unix.SYS_STATMOUNT, statmount, Full, ""},
		{unix.SYS_LISTMOUNT, listmount, Full, ""},
		{sysOpenTreeAttr, openTreeAttr, Full, ""},
	}
}

// sysOpenTreeAttr is open_tree_attr(2), of Linux 6.15; x/sys lacks it.
const sysOpenTreeAttr = 467

// mountString reads a string argument of mount(2), which may be NULL.
func mountString(t *kernel.Task, at memory.Addr) (string, error) {
	if at == 0 {
		return "", nil
	}
	s, err := t.MM().String(at, 4096)
	if err == unix.ENAMETOOLONG {
		err = unix.EINVAL
	}
	return s, err
}

// mountData reads the options of mount(2): a page, or as much as there is up to its zero.
func mountData(t *kernel.Task, at memory.Addr) (string, error) {
	if at == 0 {
		return "", nil
	}
	b := make([]byte, 4095)
	n, err := t.MM().Read(at, b)
	if n == 0 && err != nil {
		return "", unix.EFAULT
	}
	s, _, _ := strings.Cut(string(b[:n]), "\x00")
	return s, nil
}

const propagations = unix.MS_SHARED | unix.MS_PRIVATE | unix.MS_SLAVE | unix.MS_UNBINDABLE

// mountFlagsOf are the flags of a mount that mount(2)'s ask for (fs/namespace.c, path_mount).
func mountFlagsOf(flags uint64) vfs.MountFlags {
	const plain = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NODIRATIME | unix.MS_NOSYMFOLLOW
	f := vfs.MountFlags(flags & plain)
	switch {
	case flags&unix.MS_STRICTATIME != 0:
	case flags&unix.MS_NOATIME != 0:
		f |= unix.MS_NOATIME
	default:
		f |= unix.MS_RELATIME
	}
	return f
}

func mount(t *kernel.Task, a *Args) (uintptr, error) {
	flags := a[3]
	typ, err := mountString(t, a.Addr(2))
	if err != nil {
		return 0, err
	}
	source, err := mountString(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	data, err := mountData(t, a.Addr(4))
	if err != nil {
		return 0, err
	}
	at, err := lookup(t, cwd, a.Addr(1), 0, true)
	if err != nil {
		return 0, err
	}
	const magic, magicMask = 0xc0ed0000, 0xffff0000
	if flags&magicMask == magic {
		flags &^= magicMask
	}
	ns := t.FS().Namespace()
	if flags&unix.MS_NOUSER != 0 {
		return 0, unix.EINVAL
	}
	if err := ns.MayMount(t); err != nil {
		return 0, err
	}
	mflags := mountFlagsOf(flags)
	const atime = unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME
	if flags&unix.MS_REMOUNT != 0 && flags&(atime|unix.MS_STRICTATIME) == 0 {
		mflags = mflags&^atime | at.Mount.Flags()&atime
	}
	switch {
	case flags&unix.MS_REMOUNT != 0:
		return 0, ns.Remount(t, at, mflags|vfs.MountFlags(flags&unix.MS_BIND), data)
	case flags&unix.MS_BIND != 0:
		from, err := mountSource(t, source)
		if err != nil {
			return 0, err
		}
		return 0, ns.Bind(t, from, at, flags&unix.MS_REC != 0, 0)
	case flags&propagations != 0:
		p := flags &^ (unix.MS_REC | unix.MS_SILENT)
		if p&^propagations != 0 || bits.OnesCount64(p) != 1 {
			return 0, unix.EINVAL
		}
		return 0, ns.SetPropagation(t, at, vfs.Propagation(p), flags&unix.MS_REC != 0)
	case flags&unix.MS_MOVE != 0:
		from, err := mountSource(t, source)
		if err != nil {
			return 0, err
		}
		return 0, ns.Move(t, from, at)
	}
	if a[2] == 0 {
		return 0, unix.EINVAL
	}
	return 0, newMount(t, at, typ, source, data, mflags, flags&unix.MS_RDONLY != 0)
}

// mountSource is the place that a bind or a move takes from.
func mountSource(t *kernel.Task, name string) (vfs.Path, error) {
	if name == "" {
		return vfs.Path{}, unix.EINVAL
	}
	return vfs.Resolve(t, t.FS().Start(), name, 0)
}

// newMount is do_new_mount.
func newMount(t *kernel.Task, at vfs.Path, typ, source, data string, flags vfs.MountFlags, readonly bool) error {
	// A type may say what it is a kind of: fuse.sshfs (get_fs_type).
	name, subtype, dotted := strings.Cut(typ, ".")
	kind, ok := local(t).FSTypes[name]
	switch {
	case !ok:
		return unix.ENODEV
	case dotted && (subtype == "" || name != "fuse"):
		return unix.EINVAL
	case dotted:
		data = strings.TrimPrefix(data+",subtype="+subtype, ",")
	}
	o := vfs.FSOptions{Source: source, Start: t.FS().Start(), ReadOnly: readonly}
	var rest []string
	for f := range strings.SplitSeq(data, ",") {
		switch f {
		case "":
		case "ro":
			o.ReadOnly = true
		case "rw":
			o.ReadOnly = false
		default:
			rest = append(rest, f)
		}
	}
	o.Data = strings.Join(rest, ",")
	fs, err := makeFS(t, kind, o, flags)
	if err != nil {
		return err
	}
	return t.FS().Namespace().Mount(t, at, fs, vfs.MountOptions{Flags: flags, Source: source, Data: o.Data, ReadOnly: o.ReadOnly})
}

// makeFS makes a file system. What another part of the tree hides must not come to
// light by a new mount of a lesser user.
func makeFS(t *kernel.Task, kind *vfs.FSType, o vfs.FSOptions, flags vfs.MountFlags) (vfs.FileSystem, error) {
	if !t.Creds().HasHere(unix.CAP_SYS_ADMIN) {
		return nil, unix.EPERM
	}
	if kind.Revealing && t.FS().Namespace().Owner() != nil && t.FS().Namespace().Covered(kind.Name, flags) {
		return nil, unix.EPERM
	}
	return kind.New(t, o)
}

func umount(t *kernel.Task, a *Args) (uintptr, error) {
	flags := a.Int(1)
	if flags&^(unix.MNT_DETACH|unix.MNT_FORCE|unix.MNT_EXPIRE|unix.UMOUNT_NOFOLLOW) != 0 {
		return 0, unix.EINVAL
	}
	look := 0
	if flags&unix.UMOUNT_NOFOLLOW != 0 {
		look = unix.AT_SYMLINK_NOFOLLOW
	}
	at, err := lookup(t, cwd, a.Addr(0), look, true)
	if err != nil {
		return 0, err
	}
	return 0, t.FS().Namespace().Unmount(t, at, flags)
}

func pivotRoot(t *kernel.Task, a *Args) (uintptr, error) {
	ns := t.FS().Namespace()
	if err := ns.MayMount(t); err != nil {
		return 0, err
	}
	root := t.FS().Root()
	var to [2]vfs.Path
	for i := range to {
		name, err := path(t, a.Addr(i))
		if err != nil {
			return 0, err
		}
		if to[i], err = vfs.Resolve(t, t.FS().Start(), name, vfs.ResolveDirectory); err != nil {
			return 0, err
		}
	}
	if err := ns.PivotRoot(t, root, to[0], to[1]); err != nil {
		return 0, err
	}
	t.Kernel().MoveRoots(root, to[0])
	return 0, nil
}
