package boot

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent"
	"bulkhead/sentry/fs/devpts"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/loader"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

// programError is a program that cannot be run: the container's fault, in the
// words that shells and engines use.
type programError struct {
	name string
	why  string
}

func (e *programError) Error() string { return fmt.Sprintf("exec: %q: %s", e.name, e.why) }

// prepare makes a process of an OCI process description, with its program
// loaded; Begin of its task lets it run. files are its descriptors 0, 1, 2 …; with
// terminal files[0] is a host pty's slave that becomes 0 to 2.
func (c *container) prepare(p *specs.Process, terminal bool, files []*os.File) (*process, error) {
	creds, err := credentials(p)
	if err != nil {
		return nil, err
	}
	ctx := userContext{vfs.SentryContext(), creds}
	fs := kernel.NewFSContext(c.ns, c.root, c.root, umask(p))
	cwd, err := c.workingDir(ctx, p.Cwd)
	if err != nil {
		return nil, err
	}
	fs.SetCwd(cwd)
	fds := vfs.NewFDTable()
	proc := &process{}
	if err := c.giveFiles(proc, fds, ctx, terminal, files); err != nil {
		fds.Unref()
		return nil, err
	}
	proc.remember(fds)
	if c := p.ConsoleSize; c != nil && proc.bridge != nil {
		proc.bridge.Resize(unix.Winsize{Row: uint16(c.Height), Col: uint16(c.Width)})
	}
	limits := rlimits(p)
	mm, err := memory.NewSpace(c.arena, c.plat)
	if err != nil {
		fds.Unref()
		return nil, err
	}
	args := p.Args
	if len(args) == 0 {
		return nil, errors.New("process.args is empty")
	}
	t, err := c.kernel.Spawn(kernel.NewProcess{FS: fs, FDs: fds, MM: mm, Creds: creds, Limits: limits, Comm: args[0], Filter: c.filter, Home: c.home})
	if err != nil {
		return nil, err
	}
	proc.task = t
	withHome := *p
	withHome.Env = c.withHome(p.Env, p.User.UID)
	p = &withHome
	if p.OOMScoreAdj != nil {
		t.Group().OOMScoreAdj.Store(int32(*p.OOMScoreAdj))
	}
	c.schedule(t, p)
	img, err := c.load(t, p, limits)
	if err != nil {
		t.Abandon()
		return nil, err
	}
	if proc.bridge != nil {
		proc.bridge.Terminal().Control(t.Group())
		if c.init == nil {
			if err := c.bindConsole(proc.bridge.Terminal().Index()); err != nil {
				t.Abandon()
				return nil, fmt.Errorf("/dev/console: %w", err)
			}
		}
	}
	t.Adopt(img)
	return proc, nil
}

// policies are those of sched(7) that need no right on the host; the bundle's check
// refuses others.
var policies = map[specs.LinuxSchedulerPolicy]int32{specs.SchedOther: unix.SCHED_NORMAL, specs.SchedBatch: unix.SCHED_BATCH, specs.SchedIdle: unix.SCHED_IDLE}

// schedule gives a task what decides where and when it runs, as far as the Sentry keeps
// it, and its execution domain. An affinity is exec's alone (config.md, "Linux Process").
func (c *container) schedule(t *kernel.Task, p *specs.Process) {
	if s := p.Scheduler; s != nil {
		t.Nice.Store(s.Nice)
		t.Policy.Store(policies[s.Policy])
	}
	if a := p.ExecCPUAffinity; a != nil && c.init != nil {
		cpus, _ := agent.ParseCPUs(a.Final) // was checked
		var mask uint64
		for _, n := range cpus {
			mask |= 1 << n
		}
		t.Affinity.Store(mask)
	}
	if l := c.config.Spec.Linux; l != nil && l.Personality != nil && l.Personality.Domain == specs.PerLinux32 {
		const perLinux32 = 8 // include/uapi/linux/personality.h
		t.Personality.Store(perLinux32)
	}
}

// load finds the program in PATH and loads it.
func (c *container) load(t *kernel.Task, p *specs.Process, limits [16]kernel.Limit) (kernel.Image, error) {
	var failed error
	for _, name := range candidates(p.Args[0], p.Env) {
		img, err := loader.Load(loader.Program{
			Kernel: c.kernel, Arena: c.arena, Context: t, Start: t.FS().Start(), Name: name, Args: p.Args, Env: p.Env, Limits: limits,
		})
		if err == nil {
			return img, nil
		}
		if failed == nil || err != unix.ENOENT && err != unix.ENOTDIR {
			failed = err
		}
	}
	return kernel.Image{}, &programError{p.Args[0], describe(p.Args[0], failed)}
}

func describe(name string, err error) string {
	if !strings.Contains(name, "/") && (err == nil || err == unix.ENOENT || err == unix.ENOTDIR) {
		return "executable file not found in $PATH"
	}
	return err.Error()
}

// candidates are the files that name may mean, as execvp(3) tries them.
func candidates(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	var all []string
	for _, dir := range strings.Split(path, ":") {
		if dir == "" {
			dir = "."
		}
		all = append(all, strings.TrimSuffix(dir, "/")+"/"+name)
	}
	return all
}

// workingDir resolves process.cwd, and makes it as engines expect.
func (c *container) workingDir(ctx vfs.Context, name string) (vfs.Path, error) {
	if name == "" {
		name = "/"
	}
	start := vfs.Start{Root: c.root, At: c.root}
	p, err := vfs.Resolve(ctx, start, name, vfs.ResolveDirectory)
	if err == unix.ENOENT {
		if err = mkdirAll(start, name, 0o755); err == nil {
			p, err = vfs.Resolve(ctx, start, name, vfs.ResolveDirectory)
		}
	}
	if err != nil {
		return p, fmt.Errorf("process.cwd %q: %w", name, err)
	}
	return p, nil
}

// mkdirAll makes a directory and those above it, as the Sentry itself.
func mkdirAll(start vfs.Start, name string, mode uint32) error {
	at := ""
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if at += "/" + part; part == "" {
			continue
		}
		if err := vfs.Mkdir(vfs.SentryContext(), start, at, mode); err != nil && err != unix.EEXIST {
			return err
		}
	}
	return nil
}

func umask(p *specs.Process) uint32 {
	if p.User.Umask != nil {
		return *p.User.Umask & 0o777
	}
	return 0o022
}

// credentials are the user, groups and capabilities of an OCI process.
func credentials(p *specs.Process) (*vfs.Creds, error) {
	u, g := p.User.UID, p.User.GID
	c := &vfs.Creds{
		UID: u, EUID: u, SUID: u, FSUID: u, GID: g, EGID: g, SGID: g, FSGID: g,
		Groups: p.User.AdditionalGids, NoNewPrivs: p.NoNewPrivileges,
	}
	if p.Capabilities == nil {
		return c, nil
	}
	sets := []struct {
		field string
		names []string
		set   *uint64
	}{
		{"bounding", p.Capabilities.Bounding, &c.Bounding},
		{"effective", p.Capabilities.Effective, &c.Effective},
		{"inheritable", p.Capabilities.Inheritable, &c.Inheritable},
		{"permitted", p.Capabilities.Permitted, &c.Permitted},
		{"ambient", p.Capabilities.Ambient, &c.Ambient},
	}
	for _, s := range sets {
		for _, name := range s.names {
			bit, ok := capability(name)
			if !ok {
				return nil, fmt.Errorf("process.capabilities.%s: %q is no capability", s.field, name)
			}
			*s.set |= 1 << bit
		}
	}
	return c, nil
}

// rlimits are the defaults with what the process asks for.
func rlimits(p *specs.Process) [16]kernel.Limit {
	l := kernel.DefaultLimits()
	for _, r := range p.Rlimits {
		if i, ok := rlimitNames[r.Type]; ok {
			l[i] = kernel.Limit{Cur: r.Soft, Max: r.Hard}
		}
	}
	return l
}

var rlimitNames = map[string]int{
	"RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4, "RLIMIT_RSS": 5,
	"RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10, "RLIMIT_SIGPENDING": 11,
	"RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}

// giveFiles fills the descriptor table.
func (c *container) giveFiles(p *process, fds *vfs.FDTable, ctx vfs.Context, terminal bool, files []*os.File) error {
	const limit = 1 << 20
	next := 0
	if terminal {
		b, err := devpts.NewBridge(ctx, c.pts, int(files[0].Fd()))
		if err != nil {
			return err
		}
		p.bridge = b
		start := vfs.Start{Root: c.root, At: c.root}
		d, err := vfs.Open(ctx, start, "/dev/pts/"+strconv.Itoa(b.Terminal().Index()), vfs.OpenHow{Flags: unix.O_RDWR | unix.O_NOCTTY})
		if err != nil {
			b.Close()
			return fmt.Errorf("open terminal: %w", err)
		}
		for range 3 {
			if _, err := fds.Install(d, next, false, limit); err != nil {
				return err
			}
			next++
		}
		d.Unref()
		files = files[1:]
	}
	for _, file := range files {
		// The File must not close the descriptor when it is collected.
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return fmt.Errorf("descriptor %d: %w", next, err)
		}
		file.Close()
		f, err := newHostFile(fd, c.watch, ctx.Creds().UID)
		if err != nil {
			return fmt.Errorf("descriptor %d: %w", next, err)
		}
		d := f.description()
		_, err = fds.Install(d, next, false, limit)
		d.Unref()
		if err != nil {
			return err
		}
		next++
	}
	return nil
}
