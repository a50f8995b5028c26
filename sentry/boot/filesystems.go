package boot

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/devpts"
	"bulkhead/sentry/fs/fuse"
	"bulkhead/sentry/fs/mqueue"
	"bulkhead/sentry/fs/overlay"
	"bulkhead/sentry/fs/proc"
	"bulkhead/sentry/fs/sys"
	"bulkhead/sentry/fs/tmpfs"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/net/inet"
	"bulkhead/sentry/syscalls"
	"bulkhead/sentry/vfs"
)

// fsTypes are the file systems that can be mounted, by the specification's list
// and by mount(2) inside.
func (c *container) fsTypes() map[string]*vfs.FSType {
	types := []*vfs.FSType{
		{Name: "tmpfs", New: c.newTmpfs, Known: knownTmpfs},
		{Name: "shm", New: c.newTmpfs, Known: knownTmpfs, Hidden: true},
		{Name: "ramfs", New: c.newRamfs},
		{Name: "mqueue", New: c.newMqueue, Known: none},
		{Name: "sysfs", New: c.newSysfs, Known: none, Revealing: true},
		{Name: "proc", New: c.newProc, Known: knownProc, Revealing: true},
		{Name: "devpts", New: c.newDevpts, Known: knownDevpts},
		{Name: "overlay", New: newOverlay, Known: knownOverlay},
		{Name: "fuse", New: c.newFuse, Known: fuse.Known},
		{Name: "cgroup2", New: c.newCgroup, Known: func(string) error { return nil }},
	}
	byName := map[string]*vfs.FSType{}
	for _, t := range types {
		byName[t.Name] = t
	}
	return byName
}

// none: the type has no options.
func none(string) error { return unix.EINVAL }

func knownTmpfs(o string) error  { _, err := tmpfs.ParseOptions(o, 1<<30); return err }
func knownDevpts(o string) error { _, err := devpts.ParseOptions(o); return err }
func knownProc(o string) error   { _, err := proc.Config{}.With(o); return err }

// newTmpfs is a tmpfs that mount(2) made: half the memory, and the maker's, unless options say
// otherwise (mm/shmem.c, shmem_init_fs_context).
func (c *container) newTmpfs(ctx vfs.Context, o vfs.FSOptions) (vfs.FileSystem, error) {
	opts, err := tmpfs.ParseOptions(o.Data, c.home.Cgroup().Memory)
	if err != nil {
		return nil, err
	}
	if err := opts.Own(ctx, o.Data); err != nil {
		return nil, err
	}
	if _, task := ctx.(*kernel.Task); task {
		opts.Default(c.home.Cgroup().Memory)
	} else { // of a bundle's: the runtime that mounts it elsewhere is outside of the container's limit
		opts.Default(memoryTotal(0))
	}
	return tmpfs.New(c.arena, opts), nil
}

// newRamfs has no limits and no options but the mode; it ignores others.
func (c *container) newRamfs(ctx vfs.Context, o vfs.FSOptions) (vfs.FileSystem, error) {
	opts := tmpfs.Options{Mode: 0o755, Type: "ramfs"}
	for f := range strings.SplitSeq(o.Data, ",") {
		if strings.HasPrefix(f, "mode=") {
			p, err := tmpfs.ParseOptions(f, 0)
			if err != nil {
				return nil, err
			}
			opts.Mode = p.Mode
		}
	}
	if err := opts.Own(ctx, ""); err != nil {
		return nil, err
	}
	return tmpfs.New(c.arena, opts), nil
}

// newMqueue is the file system of POSIX message queues, which is one of each IPC namespace.
func (c *container) newMqueue(ctx vfs.Context, _ vfs.FSOptions) (vfs.FileSystem, error) {
	ns := c.home.IPC()
	if t, ok := ctx.(*kernel.Task); ok {
		ns = t.IPC()
	}
	return mqueue.Of(ctx, ns), nil
}

// newSysfs shows the network namespace that it is mounted in, to who rules that
// (fs/sysfs/mount.c).
func (c *container) newSysfs(ctx vfs.Context, _ vfs.FSOptions) (vfs.FileSystem, error) {
	if t, ok := ctx.(*kernel.Task); ok && !t.Creds().HasIn(t.Namespaces().Net.Owner(), unix.CAP_SYS_ADMIN) {
		return nil, unix.EPERM
	}
	stack := syscalls.NetOf(c.kernel, ctx)
	return sys.New(sys.Config{Cgroup: c.home.Cgroup(), Interfaces: func() []sys.Interface { return interfaces(stack) }, Caches: c.caches, HugePages: c.plat.Private()}), nil
}

// interfaces are a stack's as /sys shows them.
func interfaces(n *inet.Stack) (list []sys.Interface) {
	for _, l := range n.Links() {
		list = append(list, sys.Interface{Index: l.Index, Name: l.Name, Type: l.Type, Flags: l.Flags, MTU: l.MTU, Queue: l.Queue,
			Address: l.Address, Broadcast: l.Broadcast, State: l.State,
			RxPackets: l.Stats.RxPackets, RxBytes: l.Stats.RxBytes, TxPackets: l.Stats.TxPackets, TxBytes: l.Stats.TxBytes,
			RxDropped: l.Stats.RxDropped, RxMissed: l.Stats.RxMissed, TxDropped: l.Stats.TxDropped})
	}
	return list
}

// newProc shows the pid namespace that it is mounted in, to who rules that.
func (c *container) newProc(ctx vfs.Context, o vfs.FSOptions) (vfs.FileSystem, error) {
	cfg := proc.Config{
		Kernel: c.kernel, Cgroup: c.home.Cgroup(), PIDs: c.home.PIDs(), OSRelease: syscalls.Release, OSVersion: syscalls.Version, CPUInfo: c.cpuinfo,
		Filesystems: c.fsNames(), NetUnix: c.kernel.World.(*syscalls.World).Names.Table, NetFile: c.netFile, Network: c.network,
	}
	cfg.UIDMap, cfg.GIDMap = c.userIDs()
	if t, ok := ctx.(*kernel.Task); ok {
		if cfg.PIDs = t.PIDNamespace(); !t.Creds().HasIn(cfg.PIDs.Owner(), unix.CAP_SYS_ADMIN) {
			return nil, unix.EPERM
		}
	}
	cfg, err := cfg.With(o.Data)
	if err != nil {
		return nil, err
	}
	return proc.New(cfg), nil
}

// fsNames are the lines of /proc/filesystems.
func (c *container) fsNames() (lines []string) {
	for name, t := range c.fsTypes() {
		if !t.Hidden {
			lines = append(lines, "nodev\t"+name)
		}
	}
	slices.Sort(lines)
	return lines
}

// newDevpts is always an instance of its own, as on Linux since 4.7.
func (c *container) newDevpts(ctx vfs.Context, o vfs.FSOptions) (vfs.FileSystem, error) {
	opts, err := devpts.ParseOptions(o.Data)
	if err != nil {
		return nil, err
	}
	user := ctx.Creds().User
	for _, id := range []struct {
		at  *uint32
		ids *vfs.IDMap
	}{{opts.UID, user.UIDs()}, {opts.GID, user.GIDs()}} {
		if id.at == nil {
			continue
		}
		v, ok := id.ids.In(*id.at)
		if !ok {
			return nil, unix.EINVAL
		}
		*id.at = v
	}
	fs := devpts.New(opts, ctx.Now())
	if _, inside := ctx.(*kernel.Task); !inside {
		c.pts = fs
	}
	return fs, nil
}

func (c *container) newCgroup(vfs.Context, vfs.FSOptions) (vfs.FileSystem, error) {
	return sys.NewCgroup(c.home.Cgroup(), c.cgroupLimits), nil
}

// newFuse is a server's file system; the server has /dev/fuse open.
func (c *container) newFuse(ctx vfs.Context, o vfs.FSOptions) (vfs.FileSystem, error) {
	fs, err := fuse.New(ctx, c.arena, o.Data)
	if err != nil {
		return nil, err
	}
	return fs, nil
}

// overlayFlags are overlay's options that change nothing here, with the values that they may have.
var overlayFlags = map[string][]string{
	"index": {"on", "off"}, "nfs_export": {"off"}, "xino": {"on", "off", "auto"}, "metacopy": {"off"}, "uuid": {"on", "off", "null", "auto"},
	"verity": {"off"}, "redirect_dir": {"on", "off", "follow", "nofollow"}, "userxattr": {""}, "volatile": {""}, "default_permissions": {""},
}

func knownOverlay(o string) error {
	key, value, _ := strings.Cut(o, "=")
	switch key {
	case "lowerdir", "upperdir", "workdir", "lowerdir+":
		return nil
	}
	if !slices.Contains(overlayFlags[key], value) {
		return unix.EINVAL
	}
	return nil
}

// splitEscaped divides at sep where no backslash stands before it, and takes the backslashes away.
func splitEscaped(text string, sep byte) (parts []string) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text) && (text[i+1] == sep || sep == ':'):
			i++
			b.WriteByte(text[i])
		case text[i] == sep:
			parts = append(parts, b.String())
			b.Reset()
		default:
			b.WriteByte(text[i])
		}
	}
	return append(parts, b.String())
}

// newOverlay lays directories of the mounter's tree over each other
// (fs/overlayfs/params.c and super.c).
func newOverlay(ctx vfs.Context, o vfs.FSOptions) (vfs.FileSystem, error) {
	var lowers []string
	var upper, work string
	opts := overlay.Options{Trusted: true, NoRedirect: true, Shown: o.Data}
	for _, f := range splitEscaped(o.Data, ',') {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "":
		case "lowerdir":
			lowers = append(lowers, splitEscaped(value, ':')...)
		case "lowerdir+":
			lowers = append(lowers, value)
		case "upperdir":
			upper = value
		case "workdir":
			work = value
		default:
			if knownOverlay(f) != nil {
				return nil, unix.EINVAL
			}
			opts.NoRedirect = opts.NoRedirect && f != "redirect_dir=on"
			opts.Trusted = opts.Trusted && key != "userxattr"
		}
	}
	switch {
	case len(lowers) == 0, slices.Contains(lowers, ""), upper == "" && len(lowers) < 2, upper != "" && work == "":
		return nil, unix.EINVAL
	}
	if opts.Trusted && !ctx.Creds().Has(unix.CAP_SYS_ADMIN) {
		opts.Trusted = false // a lesser user has no trusted attributes
	}
	l := layers{ctx: ctx, start: o.Start}
	fs, err := l.mount(&opts, lowers, upper, work)
	if err != nil {
		l.unpin()
		return nil, err
	}
	return fs, nil
}

// layers are an overlay's, as they are found.
type layers struct {
	ctx    vfs.Context
	start  vfs.Start
	pinned []*vfs.Super
}

func (l *layers) unpin() {
	for _, s := range l.pinned {
		s.Unpin()
	}
}

func (l *layers) find(name string) (vfs.Path, vfs.Directory, error) {
	p, err := vfs.Resolve(l.ctx, l.start, name, 0)
	if err != nil {
		return p, nil, err
	}
	d, ok := p.Inode().(vfs.Directory)
	if !ok {
		return p, nil, unix.EINVAL // ovl_mount_dir_noesc
	}
	s := p.Mount.Super()
	s.Pin()
	l.pinned = append(l.pinned, s)
	return p, d, nil
}

func (l *layers) mount(opts *overlay.Options, lowers []string, upper, work string) (vfs.FileSystem, error) {
	if upper != "" {
		u, up, err := l.find(upper)
		if err != nil {
			return nil, err
		}
		w, workDir, err := l.find(work)
		if err != nil {
			return nil, err
		}
		_, nested := u.Mount.FS().(*overlay.FS)
		switch {
		case u.Mount.ReadOnly(), u.Mount != w.Mount, u.Under(w), w.Under(u):
			return nil, unix.EINVAL
		case nested: // it takes whiteouts for its own
			return nil, unix.EINVAL
		}
		opts.Upper = up
		if opts.Work, err = overlay.Work(workDir); err != nil {
			return nil, err
		}
		fs := u.Mount.FS()
		opts.Statfs, opts.Sync = fs.Statfs, fs.Sync
	}
	for _, name := range lowers {
		p, d, err := l.find(name)
		if err != nil {
			return nil, err
		}
		if opts.Statfs == nil {
			opts.Statfs = p.Mount.FS().Statfs
		}
		opts.Lowers = append(opts.Lowers, d)
	}
	opts.Release = l.unpin
	fs, err := overlay.New(*opts)
	if err != nil {
		return nil, unix.EINVAL
	}
	return fs, nil
}

// netFile and network are what /proc shows of the network of who looks.
func (s *sandbox) netFile(ctx vfs.Context, name string) ([]byte, bool) {
	return syscalls.NetOf(s.kernel, ctx).Proc(name)
}

func (s *sandbox) network(ctx vfs.Context) proc.Network { return syscalls.NetOf(s.kernel, ctx) }
