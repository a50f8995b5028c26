package proc

import (
	"slices"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// subject is whom a directory tells of: a process by its leader, or one thread.
type subject struct {
	t     *kernel.Task
	g     *kernel.ThreadGroup
	whole bool // /proc/PID, not /proc/PID/task/TID
}

// alive says ESRCH where the process has been reaped or the thread has ended.
func (s subject) alive() error {
	k := s.t.Kernel()
	if s.t == s.g.Leader() {
		if k.Group(s.g.PID()) == s.g {
			return nil
		}
	} else if k.Task(s.t.ID().Global()) == s.t {
		return nil
	}
	return unix.ESRCH
}

func (s subject) fs() *kernel.FSContext { f, _, _ := s.t.Look(); return f }
func (s subject) fds() *vfs.FDTable     { _, t, _ := s.t.Look(); return t }

// memory is the address space, held against its end while in use; nil if the
// process is a zombie.
func (s subject) memory() *memory.Space { _, _, m := s.t.Look(); return m }

// owner is the effective user, or root where the process is not dumpable
// (fs/proc/base.c, task_dump_owner).
func (s subject) owner() (uid, gid uint32) {
	c := s.t.Creds()
	if s.g.Dumpable.Load() != 1 {
		return 0, 0
	}
	return c.EUID, c.EGID
}

func (s subject) dirOwner() (uid, gid uint32) {
	c := s.t.Creds()
	return c.EUID, c.EGID
}

// mayTrace is ptrace_may_access(PTRACE_MODE_READ_FSCREDS), kernel/ptrace.c.
func mayTrace(ctx vfs.Context, s subject) error {
	from, ok := caller(ctx)
	if !ok || from.Group() == s.g || kernel.MayTrace(ctx.Creds(), s.t, true) == nil {
		return nil
	}
	return unix.EACCES
}

// taskDir is /proc/PID or /proc/PID/task/TID.
type taskDir struct {
	*kernfs.Dir
	subject
	tasks map[*kernel.Task]*taskDir // of /proc/PID/task; under FileSystem.mu
}

// fewDirs is from how many directories on those of the dead are looked for.
const fewDirs = 16

// dir is the directory of a process; the same as long as that lives.
func (fs *FileSystem) dir(s subject) *taskDir {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.dirLocked(fs.dirs, s)
}

func (fs *FileSystem) dirLocked(in map[*kernel.Task]*taskDir, s subject) *taskDir {
	if d := in[s.t]; d != nil {
		return d
	}
	if len(fs.dirs) > fs.prune {
		for t, d := range fs.dirs {
			if d.alive() != nil {
				delete(fs.dirs, t)
			}
		}
		fs.prune = max(fewDirs, 2*len(fs.dirs))
	}
	d := fs.newTaskDir(s)
	in[s.t] = d
	return d
}

func (fs *FileSystem) newTaskDir(s subject) *taskDir {
	d := &taskDir{Dir: fs.NewDir(0o555), subject: s, tasks: map[*kernel.Task]*taskDir{}}
	d.Owner = s.dirOwner
	if s.whole {
		d.Subject = s.g
	}
	if fs.HidePID == 1 {
		d.Check = func(ctx vfs.Context, want vfs.Access) error {
			if ctx.Creds().In(fs.HideGID) || mayTrace(ctx, s) == nil {
				uid, gid := s.dirOwner()
				return kernfs.Allowed(ctx.Creds(), unix.S_IFDIR|0o555, uid, gid, want)
			}
			return unix.EPERM
		}
	}
	for _, f := range taskFiles {
		if f.on == wholeOnly && !s.whole || f.on == threadOnly && s.whole {
			continue
		}
		d.AddLazy(f.name, func() vfs.Inode { return fs.newTaskFile(s, f) })
	}
	fs.addLinks(d)
	fs.addFDs(d)
	if s.whole {
		fs.addMapFiles(d)
	}
	fs.addNamespaces(d)
	d.Add("net", fs.net)
	if s.whole {
		fs.addTasks(d)
	}
	attr := d.Sub("attr")
	for _, name := range []string{"current", "prev", "exec", "fscreate", "keycreate", "sockcreate"} {
		attr.Add(name, fs.newTaskFile(s, &taskFile{name: name, perm: 0o666, read: noModule, write: refuseModule}))
	}
	return d
}

// addTasks is the directory of threads.
func (fs *FileSystem) addTasks(d *taskDir) {
	dir := fs.NewDir(0o555)
	dir.Owner = d.dirOwner
	dir.Find = func(_ vfs.Context, name string) (vfs.Inode, error) {
		id, ok := parseID(name)
		if !ok {
			return nil, unix.ENOENT
		}
		for _, t := range fs.threads(d.g) {
			if t.ID().In(fs.pids()) == id {
				return fs.thread(d, t).Dir, nil
			}
		}
		return nil, unix.ENOENT
	}
	dir.List = func(vfs.Context) ([]kernfs.Entry, error) {
		var out []kernfs.Entry
		for _, t := range fs.threads(d.g) {
			id := t.ID().In(fs.pids())
			out = append(out, kernfs.Entry{Name: itoa(id), Ino: fs.thread(d, t).Ino(), Type: unix.DT_DIR, Key: int64(id)})
		}
		return out, nil
	}
	dir.Links = func() uint32 { return uint32(len(fs.threads(d.g))) }
	d.Add("task", dir)
}

// threads are the living ones and the leader, which may be a zombie.
func (fs *FileSystem) threads(g *kernel.ThreadGroup) []*kernel.Task {
	ts := g.Tasks()
	if l := g.Leader(); !slices.Contains(ts, l) && fs.Kernel.Group(g.PID()) == g {
		ts = append(ts, l)
	}
	slices.SortFunc(ts, func(a, b *kernel.Task) int { return int(a.ID().Global() - b.ID().Global()) })
	return ts
}

func (fs *FileSystem) thread(d *taskDir, t *kernel.Task) *taskDir {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for old := range d.tasks {
		if old != t && fs.Kernel.Task(old.ID().Global()) != old && old != d.g.Leader() {
			delete(d.tasks, old)
		}
	}
	return fs.dirLocked(d.tasks, subject{t, d.g, false})
}

// groups are the processes that the mount's namespace sees, by number.
func (fs *FileSystem) groups() []*kernel.ThreadGroup {
	ns := fs.pids()
	gs := slices.DeleteFunc(fs.Kernel.Groups(), func(g *kernel.ThreadGroup) bool { return g.ID().In(ns) == 0 })
	slices.SortFunc(gs, func(a, b *kernel.ThreadGroup) int { return int(a.ID().In(ns) - b.ID().In(ns)) })
	return gs
}

// addLinks adds the magic links to directories and the program.
func (fs *FileSystem) addLinks(d *taskDir) {
	s := d.subject
	for name, get := range map[string]func() (vfs.Path, error){
		"cwd":  func() (vfs.Path, error) { return s.place((*kernel.FSContext).Cwd) },
		"root": func() (vfs.Path, error) { return s.place((*kernel.FSContext).Root) },
		"exe": func() (vfs.Path, error) {
			if p, ok := s.g.Exe(); ok && s.memory() != nil {
				return p, nil
			}
			return vfs.Path{}, unix.ENOENT
		},
	} {
		to := func(ctx vfs.Context) (vfs.Path, error) {
			if err := mayTrace(ctx, s); err != nil {
				return vfs.Path{}, err
			}
			return get()
		}
		l := fs.NewMagicLink(0o777, func(ctx vfs.Context) (string, error) {
			p, err := to(ctx)
			if err != nil {
				return "", err
			}
			return vfs.Name(rootOf(ctx), p), nil
		}, to)
		l.Owner = s.owner
		d.Add(name, l)
	}
}

func (s subject) place(which func(*kernel.FSContext) vfs.Path) (vfs.Path, error) {
	f := s.fs()
	if f == nil {
		return vfs.Path{}, unix.ENOENT
	}
	return which(f), nil
}

// rootOf is the root of whoever asks.
func rootOf(ctx vfs.Context) vfs.Path {
	if t, ok := caller(ctx); ok {
		return t.FS().Root()
	}
	return vfs.Path{}
}
