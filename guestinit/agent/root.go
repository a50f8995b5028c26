package agent

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/jail"
)

// building is where a container's root is put together, in its mount namespace.
const building = "/run/bulkhead/root"

// makeRoot mounts what the specification lists, in its order, and makes it the
// root. What the container's files say (a symlink where a mount is to go) leads
// no further than the container's root.
func (st *stage) makeRoot() error {
	if !slices.Contains(st.Share, "uts") {
		if err := unix.Sethostname([]byte(st.Spec.Hostname)); err != nil {
			return fmt.Errorf("hostname: %w", err)
		}
		if err := unix.Setdomainname([]byte(st.Spec.Domainname)); err != nil {
			return fmt.Errorf("domainname: %w", err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil { // in the container's group, which becomes the root
		return fmt.Errorf("cgroup namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := os.MkdirAll(building, 0o700); err != nil {
		return err
	}
	if err := st.mountRoot(); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	root, err := unix.Open(building, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	for i, m := range st.Spec.Mounts {
		if err := st.mount(root, m, st.Binds[uint32(i)]); err != nil {
			return fmt.Errorf("mounts[%d] %s: %w", i, m.Destination, err)
		}
	}
	if err := st.fillDev(root); err != nil {
		return fmt.Errorf("/dev: %w", err)
	}
	if err := unix.Fchdir(root); err != nil {
		return err
	}
	return jail.ChangeRoot()
}

// mountRoot puts the share's directory, or a disk's, or an overlay of it, in place.
func (st *stage) mountRoot() error {
	from := filepath.Join(shared, path.Clean("/"+st.Root))
	var upper *disk
	for i := range st.Disks {
		d := &st.Disks[i]
		if d.Root != "" {
			const image = "/run/bulkhead/image"
			if err := d.mount(d.Root, image); err != nil {
				return err
			}
			from = image + "/root"
		}
		if d.Upper != "" {
			upper = d
		}
	}
	if !st.Overlay {
		return unix.Mount(from, building, "", unix.MS_BIND, "")
	}
	const layers = "/run/bulkhead/layers"
	var err error
	if upper != nil {
		err = upper.mount(upper.Upper, layers)
	} else if err = os.MkdirAll(layers, 0o700); err == nil {
		err = unix.Mount("layers", layers, "tmpfs", 0, "mode=0700")
	}
	if err != nil {
		return err
	}
	for _, dir := range []string{"upper", "work"} {
		if err := os.Mkdir(layers+"/"+dir, 0o755); err != nil {
			return err
		}
	}
	var info unix.Stat_t
	if err := unix.Stat(from, &info); err != nil {
		return err
	}
	// It shows as the root's own.
	if err := os.Chown(layers+"/upper", int(info.Uid), int(info.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(layers+"/upper", info.Mode&0o7777); err != nil {
		return err
	}
	return unix.Mount("overlay", building, "overlay", 0, "lowerdir="+from+",upperdir="+layers+"/upper,workdir="+layers+"/work")
}

// words are what fstab(5) has for a mount's flags.
var words = map[string]struct {
	clear bool
	flag  uintptr
}{
	"ro": {false, unix.MS_RDONLY}, "rw": {true, unix.MS_RDONLY},
	"nosuid": {false, unix.MS_NOSUID}, "suid": {true, unix.MS_NOSUID},
	"nodev": {false, unix.MS_NODEV}, "dev": {true, unix.MS_NODEV},
	"noexec": {false, unix.MS_NOEXEC}, "exec": {true, unix.MS_NOEXEC},
	"noatime": {false, unix.MS_NOATIME}, "atime": {true, unix.MS_NOATIME},
	"nodiratime": {false, unix.MS_NODIRATIME}, "diratime": {true, unix.MS_NODIRATIME},
	"relatime": {false, unix.MS_RELATIME}, "norelatime": {true, unix.MS_RELATIME}, "strictatime": {false, unix.MS_STRICTATIME},
	"nosymfollow": {false, unix.MS_NOSYMFOLLOW}, "symfollow": {true, unix.MS_NOSYMFOLLOW},
	"sync": {false, unix.MS_SYNCHRONOUS}, "async": {true, unix.MS_SYNCHRONOUS}, "dirsync": {false, unix.MS_DIRSYNC},
}

// passed over: how mounts propagate has no meaning where nobody else sees them, and
// what is bound was bound on the host.
var passed = []string{"bind", "rbind", "private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable",
	"runbindable", "defaults", "remount", "nostrictatime", "rnostrictatime", "lazytime", "nolazytime", "iversion", "noiversion", "mand", "nomand", "loud", "silent",
	"tmpcopyup"}

// parseOptions divides options into flags and the file system's data. A recursive one, with
// an r before it, is that of the mount: what is mounted beneath a bound directory on the host
// comes with it, and is no mount here.
func parseOptions(options []string) (flags uintptr, data string) {
	var rest []string
	for _, o := range options {
		w, ok := words[o]
		if all, recursive := strings.CutPrefix(o, "r"); !ok && recursive {
			w, ok = words[all]
		}
		switch {
		case ok && w.clear:
			flags &^= w.flag
		case ok:
			flags |= w.flag
		case !slices.Contains(passed, o):
			rest = append(rest, o)
		}
	}
	return flags, strings.Join(rest, ",")
}

// mount does one entry of the specification's list.
func (st *stage) mount(root int, m specs.Mount, bound string) error {
	flags, data := parseOptions(m.Options)
	kind := m.Type
	if kind == "cgroup" { // the guest has version 2 alone
		kind, data = "cgroup2", ""
	}
	file := false
	if bound != "" {
		bound = filepath.Join(shared, path.Clean("/"+bound))
		info, err := os.Stat(bound)
		if err != nil {
			return err
		}
		file = !info.IsDir()
	}
	at, err := mountPoint(root, m.Destination, file)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if bound == "" {
		source := m.Source
		if source == "" {
			source = m.Type
		}
		if kind == "tmpfs" && slices.Contains(m.Options, "tmpcopyup") {
			return mountCopy(root, m.Destination, at, source, flags, data)
		}
		return unix.Mount(source, fdPath(at), kind, flags, data)
	}
	if err := unix.Mount(bound, fdPath(at), "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if flags == 0 {
		return nil
	}
	// The descriptor is of what lies beneath: look again.
	over, err := mountPoint(root, m.Destination, file)
	if err != nil {
		return err
	}
	defer unix.Close(over)
	return unix.Mount("", fdPath(over), "", unix.MS_BIND|unix.MS_REMOUNT|flags, "")
}

// mountCopy mounts a tmpfs with a copy of what it covers.
func mountCopy(root int, name string, at int, source string, flags uintptr, data string) error {
	if err := unix.Mount(source, fdPath(at), "tmpfs", flags&^unix.MS_RDONLY, data); err != nil {
		return err
	}
	over, err := mountPoint(root, name, false)
	if err != nil {
		return err
	}
	defer unix.Close(over)
	if err := copyUp(at, over); err != nil {
		return fmt.Errorf("tmpcopyup: %w", err)
	}
	if flags&unix.MS_RDONLY == 0 {
		return nil
	}
	return unix.Mount("", fdPath(over), "", unix.MS_REMOUNT|flags, data)
}

// fdPath names what a descriptor is of. /proc is the guest's until the root changes.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// within opens a path inside root, whatever symlinks it has.
func within(root int, name string, flags int, mode uint64) (int, error) {
	return unix.Openat2(root, strings.TrimPrefix(path.Clean("/"+name), "/")+"/.", &unix.OpenHow{
		Flags: uint64(flags) | unix.O_CLOEXEC, Mode: mode, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// lookWithin opens what a path inside root leads to, of any kind.
func lookWithin(root int, name string) (int, error) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		name = "."
	}
	return unix.Openat2(root, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
}

// mountPoint finds the place of a mount, and makes it where it is not there.
func mountPoint(root int, name string, file bool) (int, error) {
	at, err := lookWithin(root, name)
	if !errors.Is(err, unix.ENOENT) {
		return at, err
	}
	name = path.Clean("/" + name)
	dir := name
	if file {
		dir = path.Dir(name)
	}
	parent, err := makeAll(root, dir)
	if err != nil {
		return -1, fmt.Errorf("make mount point %s: %w", dir, err)
	}
	if !file {
		return parent, nil
	}
	defer unix.Close(parent)
	if err := unix.Mknodat(parent, path.Base(name), unix.S_IFREG|0o644, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, fmt.Errorf("make mount point %s: %w", name, err)
	}
	return lookWithin(root, name)
}

// makeAll opens a directory inside root, and makes it and those above it.
func makeAll(root int, name string) (int, error) {
	name = path.Clean("/" + name)
	fd, err := within(root, name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if !errors.Is(err, unix.ENOENT) || name == "/" {
		return fd, err
	}
	parent, err := makeAll(root, path.Dir(name))
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, path.Base(name), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return within(root, name, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// nodes are what runtime-spec's config-linux.md, "Default Devices", lists.
var nodes = []struct {
	name         string
	major, minor uint32
}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}

var links = [][2]string{{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"}}

// fillDev makes all the nodes that the container is to have.
func (st *stage) fillDev(root int) error {
	defer unix.Umask(unix.Umask(0))
	if err := st.makeDevices(root); err != nil {
		return err
	}
	for _, d := range st.Disks {
		if d.Node == "" {
			continue
		}
		if err := d.makeNode(root, st.Process.User.UID, st.Process.User.GID); err != nil {
			return fmt.Errorf("disk at %s: %w", d.Node, err)
		}
	}
	return nil
}

// makeDevices fills /dev where that is a file system of the container's own. What is there stays.
func (st *stage) makeDevices(root int) error {
	ownDev := slices.ContainsFunc(st.Spec.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == "/dev" && m.Type == "tmpfs" })
	if !ownDev {
		return nil
	}
	dev, err := within(root, "/dev", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dev)
	for _, n := range nodes {
		if err := unix.Mknodat(dev, n.name, unix.S_IFCHR|0o666, int(unix.Mkdev(n.major, n.minor))); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	for _, l := range links {
		if err := unix.Symlinkat(l[0], dev, l[1]); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s: %w", l[1], err)
		}
	}
	for i, d := range st.Spec.Linux.Devices {
		if err := makeDevice(root, d); err != nil {
			return fmt.Errorf("linux.devices[%d] %s: %w", i, d.Path, err)
		}
	}
	return nil
}

// makeDevice makes one node, whose number means the guest's device, if it has one.
func makeDevice(root int, d specs.LinuxDevice) error {
	kind, ok := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}[d.Type]
	if !ok {
		return fmt.Errorf("type %q: %w", d.Type, unix.EINVAL)
	}
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	dir, err := makeAll(root, path.Dir(path.Clean("/"+d.Path)))
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	name := path.Base(d.Path)
	err = unix.Mknodat(dir, name, kind|mode, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor))))
	if err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return err
	}
	uid, gid := -1, -1
	if d.UID != nil {
		uid = int(*d.UID)
	}
	if d.GID != nil {
		gid = int(*d.GID)
	}
	return unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}

// finishRoot is what comes behind all mounts, from inside: sysctls, what is
// hidden, and what is only to be read.
func (st *stage) finishRoot() error {
	if st.Join {
		return nil
	}
	for name, value := range st.Spec.Linux.Sysctl {
		file := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
		if err := os.WriteFile(file, []byte(value), 0); err != nil {
			if errors.Is(err, unix.ENOENT) && strings.HasPrefix(name, "net.") {
				continue // engines set them for every container
			}
			return fmt.Errorf("linux.sysctl %s=%s: %w", name, value, err)
		}
	}
	for _, name := range st.Spec.Linux.ReadonlyPaths {
		if err := readOnly(name); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("linux.readonlyPaths %s: %w", name, err)
		}
	}
	for _, name := range st.Spec.Linux.MaskedPaths {
		if err := mask(name); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("linux.maskedPaths %s: %w", name, err)
		}
	}
	if st.Spec.Root.Readonly {
		if err := unix.Mount("", "/", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("read-only root: %w", err)
		}
	}
	return nil
}

func readOnly(name string) error {
	if err := unix.Mount(name, name, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(name, &st); err != nil {
		return err
	}
	const kept = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC // ST_ and MS_ are the same bits of these
	return unix.Mount("", name, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|uintptr(st.Flags)&kept, "")
}

// mask puts an empty directory or file over a path.
func mask(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return unix.Mount("tmpfs", name, "tmpfs", unix.MS_RDONLY, "size=0")
	}
	return unix.Mount("/dev/null", name, "", unix.MS_BIND, "")
}
