// Package proc is /proc: what programs are told of processes and of the machine,
// in the formats of Linux's fs/proc and Documentation/filesystems/proc.rst.
//
// The machine is the container: its memory limit is all memory, its CPUs are all
// CPUs. What nobody inside could have caused (interrupts, disks) is absent or
// zero. Not here: /proc/kcore, kallsyms, kmsg and what else shows a kernel's
// inside; of clear_refs the bits, which are not kept.
package proc

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/vfs"
)

// Config is what only the sandbox knows.
type Config struct {
	Kernel               *kernel.Kernel
	OSRelease, OSVersion string   // of uname(2)
	CPUInfo              []byte   // the host's /proc/cpuinfo, read before the jail
	Filesystems          []string // the lines of /proc/filesystems: "nodev\tproc"
	// NetUnix writes /proc/net/unix; nil: no sockets.
	NetUnix func() []byte
	// NetFile writes those files of /proc/net that depend on what ctx's network has.
	NetFile func(ctx vfs.Context, name string) ([]byte, bool)
	// Network is that of ctx, for values of /proc/sys/net that sockets go by; nil:
	// they are kept, and that is all.
	Network func(ctx vfs.Context) Network
	PIDs    *kernel.PIDNamespace // that it was mounted in; nil: the first
	Cgroup  *kernel.Cgroup       // of the container that it is in; nil: the first's
	// UIDMap and GIDMap are what is said to lie below the first user namespace; nil: itself.
	UIDMap, GIDMap *vfs.IDMap
	HidePID        int // the mount option
	HideGID        uint32
}

// Network is a network namespace.
type Network interface {
	// Sysctl is the value of a file of /proc/sys, false if it is not one of its own.
	Sysctl(path string) (string, bool)
	SetSysctl(path, value string) error
}

// With is c changed by mount(2)'s data. fs/proc/root.c, proc_fs_parameters.
func (c Config) With(data string) (Config, error) {
	for f := range strings.SplitSeq(data, ",") {
		key, value, _ := strings.Cut(f, "=")
		var ok bool
		switch key {
		case "":
			ok = f == ""
		case "hidepid":
			i := slices.Index(hidePIDs, value)
			c.HidePID, ok = i%5, i >= 0 && value != ""
		case "gid":
			n, err := strconv.ParseUint(value, 10, 32)
			c.HideGID, ok = uint32(n), err == nil
		}
		if !ok {
			return c, unix.EINVAL
		}
	}
	return c, nil
}

// hidePIDs are values of hidepid, by number and by name.
var hidePIDs = []string{"0", "1", "2", "", "4", "off", "noaccess", "invisible", "", "ptraceable"}

// FileSystem is one instance.
type FileSystem struct {
	*kernfs.FileSystem
	Config
	tunables *tunables
	net      *kernfs.Dir

	mu    sync.Mutex
	dirs  map[*kernel.Task]*taskDir // of processes and threads somebody looked at
	prune int                       // how many dirs there may be before dead ones go

	load load

	cpuMu sync.Mutex
	cpu   [2]uint64 // user and system ticks shown last: they never go back
}

// Transient implements vfs.Transient.
func (*FileSystem) Transient() {}

// New makes one.
func New(c Config) *FileSystem {
	fs := &FileSystem{FileSystem: kernfs.New("proc", unix.PROC_SUPER_MAGIC), Config: c,
		dirs: map[*kernel.Task]*taskDir{}, prune: fewDirs, tunables: newTunables()}
	fs.NoNew = true
	fs.net = fs.newNet()
	root := fs.Dir()
	root.Find, root.List = fs.find, fs.list
	root.Links = func() uint32 { return uint32(fs.group().Live()) }
	for _, f := range systemFiles {
		root.Add(f.name, fs.NewFile(f.mode(), func(ctx vfs.Context) ([]byte, error) { return f.read(fs, ctx) }))
	}
	root.Add("self", fs.NewLink(fs.self))
	root.Add("thread-self", fs.NewLink(fs.threadSelf))
	root.Add("mounts", fs.TextLink("self/mounts"))
	root.Add("net", fs.TextLink("self/net"))
	fs.addSysctls(root.Sub("sys"))
	fs.addPressure(root)
	fs.addEmpty(root)
	return fs
}

// ShowOptions is fs/proc/root.c, proc_show_options.
func (fs *FileSystem) ShowOptions(ctx vfs.Context) string {
	var b []byte
	if fs.HideGID != 0 {
		b = fmt.Appendf(b, ",gid=%d", ctx.Creds().User.ShowGID(fs.HideGID))
	}
	if fs.HidePID != 0 {
		b = fmt.Appendf(b, ",hidepid=%s", hidePIDs[fs.HidePID+5])
	}
	return strings.TrimPrefix(string(b), ",")
}

// addEmpty adds directories that programs look into and find little.
func (fs *FileSystem) addEmpty(root *kernfs.Dir) {
	root.Sub("fs")
	root.Sub("bus")
	root.Sub("irq")
	tty := root.Sub("tty")
	tty.Add("drivers", fs.Text(ttyDrivers))
	tty.Sub("driver")
	tty.Sub("ldisc")
	fs.addSysvipc(root.Sub("sysvipc"))
}

// group is the control group of the container that the instance is in.
func (fs *FileSystem) group() *kernel.Cgroup {
	if fs.Cgroup != nil {
		return fs.Cgroup
	}
	return fs.Kernel.Cgroup()
}

// pids is the namespace whose processes this instance shows.
func (fs *FileSystem) pids() *kernel.PIDNamespace {
	if fs.PIDs != nil {
		return fs.PIDs
	}
	return fs.Kernel.Namespaces().PIDForChildren
}

// caller is the task that asks.
func caller(ctx vfs.Context) (*kernel.Task, bool) {
	t, ok := ctx.(*kernel.Task)
	return t, ok
}

func (fs *FileSystem) self(ctx vfs.Context) (string, error) {
	t, ok := caller(ctx)
	if !ok {
		return "", unix.ENOENT
	}
	if id := t.Group().ID().In(fs.pids()); id != 0 {
		return itoa(id), nil
	}
	return "", unix.ENOENT
}

func (fs *FileSystem) threadSelf(ctx vfs.Context) (string, error) {
	t, ok := caller(ctx)
	if !ok {
		return "", unix.ENOENT
	}
	if id := t.ID().In(fs.pids()); id != 0 {
		return itoa(t.Group().ID().In(fs.pids())) + "/task/" + itoa(id), nil
	}
	return "", unix.ENOENT
}

func itoa[T ~int | ~int32 | ~int64](n T) string { return strconv.FormatInt(int64(n), 10) }

// parseID reads a task's id as a name; it has one spelling.
func parseID(name string) (int32, bool) {
	n, err := strconv.ParseInt(name, 10, 32)
	return int32(n), err == nil && n > 0 && name[0] >= '1' && name[0] <= '9'
}

// find is a process by its id, or a thread, which has a directory but is not
// listed.
func (fs *FileSystem) find(ctx vfs.Context, name string) (vfs.Inode, error) {
	id, ok := parseID(name)
	if !ok {
		return nil, unix.ENOENT
	}
	if g := fs.Kernel.GroupIn(fs.pids(), id); g != nil {
		return fs.visible(ctx, fs.dir(subject{g.Leader(), g, true}))
	}
	if t := fs.Kernel.TaskIn(fs.pids(), id); t != nil {
		return fs.visible(ctx, fs.dir(subject{t, t.Group(), true}))
	}
	return nil, unix.ENOENT
}

// visible applies hidepid=2 (and 4: only what may be traced).
func (fs *FileSystem) visible(ctx vfs.Context, d *taskDir) (vfs.Inode, error) {
	if fs.HidePID >= 2 && !ctx.Creds().In(fs.HideGID) && mayTrace(ctx, d.subject) != nil {
		return nil, unix.ENOENT
	}
	return d.Dir, nil
}

func (fs *FileSystem) list(ctx vfs.Context) ([]kernfs.Entry, error) {
	var out []kernfs.Entry
	for _, g := range fs.groups() {
		i, err := fs.visible(ctx, fs.dir(subject{g.Leader(), g, true}))
		if err != nil {
			continue
		}
		out = append(out, kernfs.Entry{Name: itoa(g.ID().In(fs.pids())), Ino: i.(*kernfs.Dir).Ino(), Type: unix.DT_DIR, Key: int64(g.ID().In(fs.pids()))})
	}
	return out, nil
}
