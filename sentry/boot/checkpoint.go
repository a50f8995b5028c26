package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent"
	"bulkhead/sentry/checkpoint"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/loader"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

// image is the description in a checkpoint.
type image struct {
	Task     kernel.SavedTask
	Exe, Cwd string
	Space    memory.SavedSpace
	Areas    []savedArea
	Files    []savedFile
}

// savedArea is an area with what is behind it: nothing, a page of the kernel's, or a file.
type savedArea struct {
	memory.SavedArea
	Kernel  string `json:",omitempty"` // vvar, vdso
	File    string `json:",omitempty"`
	Stores  bool   `json:",omitempty"` // the file was open for writing
	Content stamp  // of File, if the area is private: what has not been stored into is the file's
	Pages   []savedPages
}

// stamp tells whether a file is still as it was.
type stamp struct {
	Size     int64
	Modified int64 // nanoseconds
}

func stampOf(p vfs.Path) (stamp, error) {
	a, err := vfs.Stat(vfs.SentryContext(), p)
	if err != nil {
		return stamp{}, err
	}
	return stamp{a.Size, unix.TimespecToNsec(a.Mtime)}, nil
}

type savedPages struct {
	At memory.Addr
	checkpoint.Chunk
}

// savedFile is an open file description and the descriptors that refer to it.
type savedFile struct {
	FDs      []int
	Cloexec  []bool
	Stream   int    // the descriptor that init was started with, if Path is ""
	Path     string `json:",omitempty"`
	Flags    int
	Position int64
}

// freezePatience is how long a task may take to come to where it can stand still.
const freezePatience = 5 * time.Second

var _ agent.Checkpointing = (*sandbox)(nil)

// Checkpoint implements agent.Checkpointing.
func (s *sandbox) Checkpoint(ctx context.Context, r *agent.CheckpointRequest, to *os.File) (err error) {
	c := s.first
	s.mu.Lock()
	pod, started, frozen := len(s.further), c.started, c.home.Cgroup().Frozen()
	s.mu.Unlock()
	switch {
	case pod > 0:
		return fmt.Errorf("the sandbox has %d further containers", pod)
	case !started || frozen:
		return fmt.Errorf("the container is not running")
	case c.config.Overlay.Kind != "" && c.config.Overlay.Kind != "none":
		return fmt.Errorf("changes to the root are in an overlay (--overlay=%s), which a checkpoint does not keep", c.config.Overlay.Kind)
	case c.init.bridge != nil:
		return fmt.Errorf("the container has a terminal, which a checkpoint does not keep")
	}
	c.home.Cgroup().Freeze(true)
	defer func() {
		if err != nil || r.LeaveRunning {
			c.home.Cgroup().Freeze(false)
		}
	}()
	wait, cancel := context.WithTimeout(ctx, freezePatience)
	defer cancel()
	if err := c.home.Cgroup().AllFrozen(wait); err != nil {
		return err
	}
	if err := c.save(checkpoint.NewWriter(to)); err != nil {
		return err
	}
	if err := to.Sync(); err != nil {
		return err
	}
	return ctx.Err() // who asked may have gone, and nobody would end what stands still
}

func (c *container) save(w *checkpoint.Writer) error {
	t, task, err := c.home.Save(c.filter)
	if err != nil {
		return err
	}
	if err := c.unchanged(); err != nil {
		return err
	}
	if ipc := c.home.IPC(); len(ipc.MsgQueues())+len(ipc.SemSets())+len(ipc.Segments()) > 0 {
		return fmt.Errorf("there are System V message queues, semaphores or shared memory, which a checkpoint does not keep")
	}
	fs, fds, mm := t.Look()
	img := image{Task: *task}
	if fs.Namespace() != c.ns || fs.Root() != c.root {
		return fmt.Errorf("process %d has another root or other mounts than the container", task.Number)
	}
	exe, ok := t.Group().Exe()
	if !ok || !exe.Named() || !fs.Cwd().Named() {
		return fmt.Errorf("process %d: its program or its working directory has been deleted", task.Number)
	}
	img.Exe, img.Cwd = vfs.Name(c.root, exe), vfs.Name(c.root, fs.Cwd())
	if img.Files, err = c.saveFiles(fds); err != nil {
		return fmt.Errorf("process %d: %w", task.Number, err)
	}
	if err := c.saveSpace(&img, mm, w); err != nil {
		return fmt.Errorf("process %d: %w", task.Number, err)
	}
	return w.Finish(&img)
}

// unchanged refuses what a new sandbox would not have: other mounts, and files in memory.
func (c *container) unchanged() error {
	if c.ns.Events() != c.mountEvents {
		return fmt.Errorf("the container has changed its mounts")
	}
	for _, m := range c.ns.Mounts(c.root) {
		if m.Type != "tmpfs" && m.Type != "devtmpfs" && m.Type != "mqueue" {
			continue
		}
		p, err := vfs.Resolve(vfs.SentryContext(), vfs.Start{Root: c.root, At: c.root}, m.Point, 0)
		if err == nil {
			err = c.untouched(p, m.Point)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// untouched refuses a directory in which something is newer than the container's mounts.
func (c *container) untouched(dir vfs.Path, name string) error {
	ctx := vfs.SentryContext()
	a, err := vfs.Stat(ctx, dir)
	if err != nil {
		return err
	}
	if unix.TimespecToNsec(a.Ctime) > c.mountedAt {
		return fmt.Errorf("%s has been changed, and is in memory, where a checkpoint does not keep it", name)
	}
	if a.Type() != unix.S_IFDIR {
		return nil
	}
	d, err := vfs.OpenPath(ctx, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Unref()
	var names []string
	if err := d.ReadDir(ctx, func(e vfs.Dirent) bool { names = append(names, e.Name); return true }); err != nil {
		return err
	}
	for _, n := range names {
		if n == "." || n == ".." {
			continue
		}
		p, err := vfs.Resolve(ctx, vfs.Start{Root: c.root, At: dir}, n, vfs.ResolveNoFollow)
		if err == nil && p.Mount == dir.Mount {
			err = c.untouched(p, name+"/"+n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *container) saveFiles(fds *vfs.FDTable) (all []savedFile, err error) {
	seen := map[*vfs.Description]int{}
	locked := map[vfs.Inode]bool{}
	for _, l := range vfs.HeldLocks() {
		locked[l.Inode] = true
	}
	for _, fd := range fds.FDs() {
		d, err := fds.Get(fd)
		if err != nil {
			return nil, err
		}
		d.Unref() // the table, which nobody changes now, has its own
		cloexec, err := fds.Cloexec(fd)
		if err != nil {
			return nil, err
		}
		i, ok := seen[d]
		if !ok {
			f, err := c.saveFile(d, locked)
			if err != nil {
				return nil, fmt.Errorf("descriptor %d: %w", fd, err)
			}
			i = len(all)
			seen[d] = i
			all = append(all, f)
		}
		all[i].FDs, all[i].Cloexec = append(all[i].FDs, fd), append(all[i].Cloexec, cloexec)
	}
	return all, nil
}

func (c *container) saveFile(d *vfs.Description, locked map[vfs.Inode]bool) (f savedFile, err error) {
	f.Flags, f.Position = d.Flags(), d.Position()
	for n, own := range c.init.streams {
		if own == d {
			f.Stream = n
			return f, nil
		}
	}
	p := d.Path()
	name := vfs.Name(c.root, p)
	a, err := vfs.Stat(vfs.SentryContext(), p)
	switch {
	case err != nil:
		return f, fmt.Errorf("%s: %w", name, err)
	case !p.Named():
		return f, fmt.Errorf("%s cannot be saved: it has no name in the file system", name)
	case locked[d.Inode()]:
		return f, fmt.Errorf("%s is locked, which a checkpoint does not keep", name)
	case d.Owner().Target != nil:
		return f, fmt.Errorf("%s sends signals (F_SETOWN), which a checkpoint does not keep", name)
	case a.Type() == unix.S_IFREG && p.Mount.FS().Type() != "proc" && p.Mount.FS().Type() != "sysfs":
	case a.Type() == unix.S_IFDIR && f.Position == 0:
	case a.Type() == unix.S_IFCHR && unix.Major(a.Rdev) == 1: // null, zero, random …
	default:
		return f, fmt.Errorf("%s cannot be saved: a checkpoint keeps regular files, directories that are not being read, and devices of memory", name)
	}
	f.Path = name
	return f, nil
}

func (c *container) saveSpace(img *image, mm *memory.Space, w *checkpoint.Writer) error {
	sp, areas, from, err := mm.Save()
	if err != nil {
		return err
	}
	img.Space = sp
	for i, a := range areas {
		s := savedArea{SavedArea: a}
		switch o := from[i].Object; {
		case o == nil:
		case a.Name == "[vvar]":
			s.Kernel = "vvar"
		case a.Name == "[vdso]":
			s.Kernel = "vdso"
		default:
			m, ok := from[i].Origin.(vfs.Mapped)
			if !ok || !m.Named() {
				return fmt.Errorf("memory at %#x (%s) cannot be saved: it is shared, or of a file without a name", a.Start, a.Name)
			}
			s.File, s.Stores = vfs.Name(c.root, m.Path), m.Writable && a.Shared()
			if !a.Shared() {
				if s.Content, err = stampOf(m.Path); err != nil {
					return fmt.Errorf("%s: %w", s.File, err)
				}
			}
		}
		anonymous := from[i].Object == nil
		if !a.Shared() {
			err := mm.SavePages(a.Start, a.End, checkpoint.MaxChunk, func(at memory.Addr, b []byte) error {
				if anonymous && len(bytes.TrimLeft(b, "\x00")) == 0 {
					return nil
				}
				chunk, err := w.Write(b)
				s.Pages = append(s.Pages, savedPages{at, chunk})
				return err
			})
			if err != nil {
				return err
			}
		}
		img.Areas = append(img.Areas, s)
	}
	return nil
}

// openImage reads the description of the checkpoint to restore, before the kernel is made,
// whose clock goes on from it.
func (s *sandbox) openImage() error {
	if s.config.Files.Restore == 0 {
		return nil
	}
	f := os.NewFile(uintptr(s.config.Files.Restore), "checkpoint")
	st, err := f.Stat()
	if err != nil {
		return err
	}
	s.image = new(image)
	if s.pages, err = checkpoint.NewReader(f, st.Size(), s.image); err != nil {
		return err
	}
	return kernel.ResumeClock(s.image.Task.Monotonic)
}

// restore makes init of the image, where prepare would load a program.
func (c *container) restore(files []*os.File) (*process, error) {
	img := c.image
	creds := img.Task.Creds
	if err := c.bound(&creds); err != nil {
		return nil, err
	}
	ctx := userContext{vfs.SentryContext(), &creds}
	start := vfs.Start{Root: c.root, At: c.root}
	cwd, err := vfs.Resolve(ctx, start, img.Cwd, vfs.ResolveDirectory)
	if err != nil {
		return nil, fmt.Errorf("working directory %q: %w", img.Cwd, err)
	}
	proc := &process{}
	given := vfs.NewFDTable()
	defer given.Unref()
	if err := c.giveFiles(proc, given, ctx, false, files); err != nil {
		return nil, err
	}
	proc.remember(given)
	fds := vfs.NewFDTable()
	for _, f := range img.Files {
		if err := c.reopen(fds, given, f); err != nil {
			fds.Unref()
			return nil, err
		}
	}
	mm, err := memory.NewSpace(c.arena, c.plat)
	if err != nil {
		fds.Unref()
		return nil, err
	}
	limits := img.Task.Limits
	for i, most := range rlimits(c.config.Spec.Process) {
		limits[i].Max = min(limits[i].Max, most.Max)
		limits[i].Cur = min(limits[i].Cur, limits[i].Max)
	}
	mm.SetLimits(limits[unix.RLIMIT_AS].Cur, limits[unix.RLIMIT_DATA].Cur, limits[unix.RLIMIT_STACK].Cur)
	t, err := c.kernel.Spawn(kernel.NewProcess{FS: kernel.NewFSContext(c.ns, c.root, cwd, img.Task.Umask&0o777), FDs: fds, MM: mm,
		Creds: &creds, Limits: limits, Comm: img.Task.Comm, Filter: c.filter, Home: c.home})
	if err != nil {
		return nil, err
	}
	proc.task = t
	err = c.remap(t)
	if err == nil {
		err = c.reexe(t)
	}
	if err == nil {
		err = t.Restore(&img.Task)
	}
	if err != nil {
		t.Abandon()
		return nil, err
	}
	return proc, nil
}

// bound holds credentials to what the bundle gives: the image may be a stranger's.
func (c *container) bound(creds *vfs.Creds) error {
	own, err := credentials(c.config.Spec.Process)
	if err != nil {
		return err
	}
	most := own.Bounding | own.Permitted
	for _, set := range []*uint64{&creds.Permitted, &creds.Inheritable, &creds.Effective, &creds.Bounding, &creds.Ambient} {
		*set &= most
	}
	creds.User = nil
	creds.NoNewPrivs = creds.NoNewPrivs || own.NoNewPrivs
	return nil
}

const mostFDs = 1 << 20

func (c *container) reopen(fds, given *vfs.FDTable, f savedFile) error {
	if len(f.FDs) == 0 || len(f.FDs) != len(f.Cloexec) {
		return fmt.Errorf("%w: a file without descriptors", checkpoint.ErrBroken)
	}
	var d *vfs.Description
	var err error
	if f.Path == "" {
		if d, err = given.Get(f.Stream); err != nil {
			return fmt.Errorf("descriptor %d of the container's, which it was started with, is not given now: %w", f.Stream, err)
		}
	} else {
		const not = unix.O_CREAT | unix.O_EXCL | unix.O_TRUNC | unix.O_ASYNC
		if d, err = vfs.Open(vfs.SentryContext(), vfs.Start{Root: c.root, At: c.root}, f.Path, vfs.OpenHow{Flags: f.Flags &^ not}); err != nil {
			return fmt.Errorf("open %q: %w", f.Path, err)
		}
		if err := d.SetPosition(f.Position); err != nil {
			d.Unref()
			return fmt.Errorf("%q: position %d: %w", f.Path, f.Position, err)
		}
	}
	defer d.Unref()
	for i, fd := range f.FDs {
		if fd < 0 || fd >= mostFDs {
			return fmt.Errorf("%w: descriptor %d", checkpoint.ErrBroken, fd)
		}
		if n, err := fds.Install(d, fd, f.Cloexec[i], mostFDs); err != nil || n != fd {
			return fmt.Errorf("%w: descriptor %d stands twice (%v)", checkpoint.ErrBroken, fd, err)
		}
	}
	return nil
}

func (c *container) remap(t *kernel.Task) error {
	img, mm := c.image, t.MM()
	for _, a := range img.Areas {
		if err := c.remapArea(t, &a); err != nil {
			return err
		}
		for _, p := range a.Pages {
			b, err := c.pages.Read(p.Chunk)
			if err == nil {
				err = mm.RestorePage(p.At, b)
			}
			if err != nil {
				return err
			}
		}
	}
	return mm.Restore(img.Space)
}

func (c *container) remapArea(t *kernel.Task, a *savedArea) error {
	var r memory.MapRequest
	switch {
	case a.Kernel == "vvar":
		r.Object, r.MaxProt = c.kernel.VVAR(t.Namespaces().Time), platform.Read
	case a.Kernel == "vdso":
		code, err := loader.VDSO(c.kernel)
		if err != nil {
			return err
		}
		if a.Shared() {
			return fmt.Errorf("%w: the vDSO is shared", checkpoint.ErrBroken)
		}
		r.Object = code
	case a.Kernel != "":
		return fmt.Errorf("%w: an area of %q", checkpoint.ErrBroken, a.Kernel)
	case a.File != "":
		flags := unix.O_RDONLY
		if a.Stores {
			flags = unix.O_RDWR
		}
		d, err := vfs.Open(t, t.FS().Start(), a.File, vfs.OpenHow{Flags: flags})
		if err != nil {
			return fmt.Errorf("map %q: %w", a.File, err)
		}
		defer d.Unref()
		if !a.Shared() {
			if now, err := stampOf(d.Path()); err != nil || now != a.Content {
				return errors.Join(fmt.Errorf("%s has changed since it was mapped by the saved program", a.File), err)
			}
		}
		if r.MaxProt = platform.Read | platform.Write | platform.Exec; a.Shared() && !a.Stores {
			r.MaxProt &^= platform.Write
		}
		if d.Path().Mount.Flags()&unix.MS_NOEXEC != 0 {
			r.MaxProt &^= platform.Exec
		}
		r.Shared, r.Prot, r.Offset, r.Length = a.Shared(), a.Prot&r.MaxProt, a.Off, uint64(a.End-a.Start)
		if err := loader.MapFile(t, d, &r); err != nil {
			return fmt.Errorf("map %q: %w", a.File, err)
		}
	}
	return t.MM().RestoreArea(a.SavedArea, r)
}

// reexe is what /proc/self/exe names.
func (c *container) reexe(t *kernel.Task) error {
	p, err := vfs.Resolve(t, t.FS().Start(), c.image.Exe, 0)
	if err == nil {
		err = vfs.DenyWrite(p.Inode())
	}
	if err != nil {
		return fmt.Errorf("program %q: %w", c.image.Exe, err)
	}
	t.Group().SetExe(p)
	return nil
}
