package boot

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent"
	"bulkhead/sentry/fs/gofer"
	"bulkhead/sentry/fs/tmpfs"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// mountAll builds the container's tree: the root, then what the specification
// lists, in its order.
func (c *container) mountAll() (err error) {
	gofer.WatchHost(c.files, c.watch.watchSocket, c.Guard)
	c.mapIDs()
	root, flags, err := c.rootFS()
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	c.ns = vfs.NewNamespace(root, vfs.MountOptions{Flags: flags | unix.MS_RELATIME, Source: "overlay"})
	if c != c.first {
		c.ns.Renumber()
	}
	c.root = c.ns.Root()
	served := 1
	for i, m := range c.config.Spec.Mounts {
		var bound *vfs.FileSystem
		if slices.Contains(c.config.GoferMounts, i) {
			fs := vfs.FileSystem(c.files[served])
			bound = &fs
			served++
		}
		if err := c.mount(m, bound); err != nil {
			return fmt.Errorf("mounts[%d] %s: %w", i, m.Destination, err)
		}
	}
	if err := c.finishDev(); err != nil {
		return fmt.Errorf("/dev: %w", err)
	}
	if c.config.Spec.Linux != nil {
		if err := c.setSysctls(); err != nil {
			return err
		}
		if err := c.hidePaths(); err != nil {
			return err
		}
	}
	if c.config.Spec.Root.Readonly {
		err = c.ns.Remount(vfs.SentryContext(), c.root, flags|unix.MS_RELATIME|unix.MS_RDONLY, "")
	}
	return err
}

// parseOptions divides a mount's options into flags and the file system's data.
func parseOptions(options []string) (flags vfs.MountFlags, data string) {
	all, data := agent.ParseMountOptions(options)
	flags = vfs.MountFlags(all &^ unix.MS_STRICTATIME)
	if all&(unix.MS_NOATIME|unix.MS_STRICTATIME) == 0 {
		flags |= unix.MS_RELATIME // as mount(2) has it
	}
	return flags, data
}

// mount does one entry of the specification's list.
func (c *container) mount(m specs.Mount, bound *vfs.FileSystem) error {
	flags, data := parseOptions(m.Options)
	source := m.Source
	var fs vfs.FileSystem
	file := false
	switch {
	case bound != nil:
		fs = *bound
		g := fs.(interface {
			IsFile() bool
			ReadOnly() bool
		})
		file = g.IsFile()
		if g.ReadOnly() {
			flags |= unix.MS_RDONLY
		}
	case m.Type == "cgroup" || m.Type == "cgroup2":
		return c.mountCgroup(m, flags)
	default:
		kind := c.local().FSTypes[m.Type]
		if kind == nil {
			return fmt.Errorf("file system type %q is not known", m.Type)
		}
		var err error
		if fs, err = kind.New(vfs.SentryContext(), vfs.FSOptions{Source: source, Data: data, Start: vfs.Start{Root: c.root, At: c.root}}); err != nil {
			return err
		}
		if source == "" {
			source = m.Type
		}
	}
	at, err := c.mountPoint(m.Destination, file)
	if err != nil {
		return err
	}
	if m.Type == "tmpfs" && slices.Contains(m.Options, "tmpcopyup") {
		return c.mountCopy(m.Destination, at, fs, vfs.MountOptions{Flags: flags, Source: source, Data: data})
	}
	return c.ns.Mount(vfs.SentryContext(), at, fs, vfs.MountOptions{Flags: flags, Source: source, Data: data})
}

// mountCopy mounts a tmpfs with a copy of what it covers.
func (c *container) mountCopy(name string, at vfs.Path, fs vfs.FileSystem, o vfs.MountOptions) error {
	ctx := vfs.SentryContext()
	flags := o.Flags
	o.Flags &^= unix.MS_RDONLY
	if err := c.ns.Mount(ctx, at, fs, o); err != nil {
		return err
	}
	over, err := c.mountPoint(name, false)
	if err != nil {
		return err
	}
	if err := copyUp(ctx, at, over); err != nil {
		return fmt.Errorf("tmpcopyup: %w", err)
	}
	if flags&unix.MS_RDONLY == 0 {
		return nil
	}
	return c.ns.Remount(ctx, over, flags, o.Data)
}

// mountPoint finds the place of a mount, and makes it where it is not there.
func (c *container) mountPoint(name string, file bool) (vfs.Path, error) {
	ctx := vfs.SentryContext()
	start := vfs.Start{Root: c.root, At: c.root}
	name = path.Clean("/" + name)
	p, err := vfs.Resolve(ctx, start, name, 0)
	if err != unix.ENOENT {
		return p, err
	}
	dir := name
	if file {
		dir = path.Dir(name)
	}
	if err := mkdirAll(start, dir, 0o755); err != nil {
		return p, fmt.Errorf("make mount point %s: %w", dir, err)
	}
	if file {
		if _, err := vfs.Mknod(ctx, start, name, unix.S_IFREG|0o644, 0); err != nil {
			return p, fmt.Errorf("make mount point %s: %w", name, err)
		}
	}
	return vfs.Resolve(ctx, start, name, 0)
}

// setSysctls writes linux.sysctl to /proc/sys. One that the Sentry has not is
// refused by name, since the container was to depend on it.
func (c *container) setSysctls() error {
	ctx := vfs.SentryContext()
	start := vfs.Start{Root: c.root, At: c.root}
	for name, value := range c.config.Spec.Linux.Sysctl {
		file := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
		d, err := vfs.Open(ctx, start, file, vfs.OpenHow{Flags: unix.O_WRONLY})
		if err == nil {
			_, err = d.Write(ctx, memory.Buffers{[]byte(value + "\n")})
			d.Unref()
		}
		if err == unix.ENOENT && strings.HasPrefix(name, "net.") {
			// Engines set these for every container; without an IP network they mean nothing.
			c.log.Info("sysctl has no effect", "name", name, "value", value)
			continue
		}
		if err != nil {
			return fmt.Errorf("linux.sysctl %s=%s: %w", name, value, err)
		}
	}
	return nil
}

// hidePaths puts emptiness over masked paths and makes others read-only; those
// that do not exist are passed over (runtime-spec, config-linux.md).
func (c *container) hidePaths() error {
	ctx := vfs.SentryContext()
	start := vfs.Start{Root: c.root, At: c.root}
	for _, name := range c.config.Spec.Linux.MaskedPaths {
		p, err := vfs.Resolve(ctx, start, name, 0)
		if err != nil {
			continue
		}
		if err := c.mask(ctx, start, p); err != nil {
			return fmt.Errorf("linux.maskedPaths %s: %w", name, err)
		}
	}
	for _, name := range c.config.Spec.Linux.ReadonlyPaths {
		p, err := vfs.Resolve(ctx, start, name, 0)
		if err != nil {
			continue
		}
		if err := c.ns.Bind(ctx, p, p, true, unix.MS_RDONLY); err != nil {
			return fmt.Errorf("linux.readonlyPaths %s: %w", name, err)
		}
		// Bind keeps the flags of what it copies; the new mount gets them here.
		if p, err = vfs.Resolve(ctx, start, name, 0); err == nil {
			err = c.ns.Remount(ctx, p, p.Mount.Flags()|unix.MS_RDONLY, "")
		}
		if err != nil {
			return fmt.Errorf("linux.readonlyPaths %s: %w", name, err)
		}
	}
	return nil
}

// mask covers a directory by an empty one, and a file by /dev/null.
func (c *container) mask(ctx vfs.Context, start vfs.Start, p vfs.Path) error {
	if _, dir := p.Inode().(vfs.Directory); dir {
		fs := tmpfs.New(c.arena, tmpfs.Options{Mode: 0o755})
		return c.ns.Mount(ctx, p, fs, vfs.MountOptions{Flags: unix.MS_RDONLY, Source: "tmpfs"})
	}
	null, err := vfs.Resolve(ctx, start, "/dev/null", 0)
	if err != nil {
		return err
	}
	return c.ns.Bind(ctx, null, p, false, 0)
}
