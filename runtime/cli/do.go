package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"bulkhead/runtime/bundle"
	"bulkhead/runtime/console"
	"bulkhead/runtime/container"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// doFlags are those of do.
type doFlags struct {
	rw, ro, env []string
	cwd, user   string
	netns       string
	annotations []string
}

func (a *app) do() *cobra.Command {
	var d doFlags
	c := &cobra.Command{
		Use:   "do [flags] COMMAND [ARG…]",
		Short: "Run a command behind the wall, with the host's files to read",
		Long: `Run a command in a sandbox of its own, without any configuration. It sees the
host's files, this directory and /tmp included, and this environment. What it
writes stays in memory and is gone afterwards, but for directories named by
--rw. It ends with the command's exit status.`,
		Example: `  bulkhead do uname -a
  bulkhead do --rw . make            # what make writes here, stays
  bulkhead do bash                   # a shell, with a terminal
  bulkhead do --netns web nginx      # with the interfaces of "ip netns add web", while it runs
  bulkhead --isolation=vm do --annotation dev.bulkhead.vm.memory=2G make`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("do: COMMAND is missing; see bulkhead do --help")
			}
			o, err := d.container(args)
			if err != nil {
				return err
			}
			if a.rt.Overlay == "" {
				a.rt.Overlay = "memory"
			}
			// The sandbox dies with this thread, should we be killed.
			runtime.LockOSThread()
			err = a.runForeground(cmd.Context(), o, false)
			a.sweep(context.WithoutCancel(cmd.Context()))
			return err
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows COMMAND is its own
	f.SortFlags = false
	f.StringArrayVarP(&d.rw, "rw", "w", nil, "directory or file where writes go to the host; may be repeated")
	f.StringArrayVar(&d.ro, "ro", nil, "directory or file where nothing can be written; may be repeated")
	f.StringArrayVarP(&d.env, "env", "e", nil, "set NAME=VALUE, or leave out -NAME; may be repeated")
	f.StringVarP(&d.cwd, "cwd", "C", "", "working directory (default: this one)")
	f.StringVarP(&d.user, "user", "u", "", "run as UID[:GID] (default: as we are)")
	f.StringVar(&d.netns, "netns", "", "take over the interfaces of a network namespace, by its name (ip netns) or path (default: loopback alone)")
	f.StringArrayVar(&d.annotations, "annotation", nil, "set NAME=VALUE, as dev.bulkhead.vm.memory=2G for --isolation=vm; may be repeated")
	a.metricsFlag(c)
	return c
}

// namedNamespaces is where ip(8) keeps network namespaces.
const namedNamespaces = "/var/run/netns"

// doPrefix begins the names of our containers.
const doPrefix = "do-"

// sweep removes what other do's have left that were killed; their sandboxes
// died with them.
func (a *app) sweep(ctx context.Context) {
	ids, err := listIDs(a.rt.Root)
	if err != nil {
		return
	}
	for _, id := range ids {
		if !strings.HasPrefix(id, doPrefix) {
			continue
		}
		c, err := a.rt.Open(id)
		if err == nil && c.Status() == specs.StateStopped {
			a.rt.Delete(ctx, id, false)
		}
		if errors.Is(err, fs.ErrNotExist) && settled(filepath.Join(a.rt.Root, id)) {
			a.rt.Delete(ctx, id, true) // killed before it could write its state
		}
	}
}

// settled says that nobody is just making the directory.
func settled(dir string) bool {
	const age = 10 * time.Second
	info, err := os.Stat(dir)
	return err == nil && time.Since(info.ModTime()) > age
}

// container describes the sandbox: a bundle without a directory.
func (d *doFlags) container(args []string) (*container.Create, error) {
	cwd := d.cwd
	if cwd == "" {
		cwd = "."
	}
	cwd, err := filepath.Abs(cwd)
	if err != nil {
		return nil, fmt.Errorf("do: working directory: %w", err)
	}
	p := &specs.Process{
		Args: args, Cwd: cwd, Env: environment(os.Environ(), d.env),
		User:         specs.User{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())},
		Terminal:     console.IsTerminal(os.Stdin) && console.IsTerminal(os.Stdout) && console.IsTerminal(os.Stderr),
		Rlimits:      ourLimits(),
		Capabilities: ourCapabilities(),
	}
	groups, err := os.Getgroups()
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(g))
	}
	if d.user != "" {
		if err := setUser(&p.User, d.user); err != nil {
			return nil, fmt.Errorf("do: %w", err)
		}
		if p.User.UID != 0 {
			p.Capabilities = &specs.LinuxCapabilities{}
		}
	}
	if err := bundle.CheckProcess(p); err != nil {
		return nil, fmt.Errorf("do: %w", err)
	}
	spec := &specs.Spec{
		Version: specs.Version, Process: p, Root: &specs.Root{Path: "/"},
		Mounts: bundle.StandardMounts(),
		Linux:  &specs.Linux{},
	}
	if spec.Hostname, err = os.Hostname(); err != nil {
		return nil, err
	}
	for _, text := range d.annotations {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("do: --annotation=%s is not NAME=VALUE", bundle.OneLine(text))
		}
		if spec.Annotations == nil {
			spec.Annotations = map[string]string{}
		}
		spec.Annotations[name] = value
	}
	spec.Linux.Namespaces = bundle.StandardNamespaces()
	if d.netns != "" {
		if err := d.setNetwork(spec.Linux.Namespaces); err != nil {
			return nil, fmt.Errorf("do: --netns=%s: %w", bundle.OneLine(d.netns), err)
		}
	}
	for _, list := range []struct {
		flag, mode string
		paths      []string
	}{{"rw", "rw", d.rw}, {"ro", "ro", d.ro}} {
		for _, path := range list.paths {
			m, err := visible(path, list.mode)
			if err != nil {
				return nil, fmt.Errorf("do: --%s=%s: %w", list.flag, bundle.OneLine(path), err)
			}
			spec.Mounts = append(spec.Mounts, m)
		}
	}
	return &container.Create{
		ID: doPrefix + strings.ToLower(rand.Text()[:12]), Bundle: &bundle.Bundle{Dir: cwd, Spec: spec},
		NoCgroup: true, DieWithCaller: true, OrdinaryInit: true, RootShared: true,
	}, nil
}

// setNetwork names the network namespace that the flag does.
func (d *doFlags) setNetwork(namespaces []specs.LinuxNamespace) error {
	path := d.netns
	if !strings.Contains(path, "/") {
		path = filepath.Join(namedNamespaces, path)
	}
	path, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(path)
	}
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err
	}
	for i := range namespaces {
		if namespaces[i].Type == specs.NetworkNamespace {
			namespaces[i].Path = path
		}
	}
	return err
}

// visible is a mount of the host's path upon itself.
func visible(path, mode string) (specs.Mount, error) {
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return specs.Mount{Destination: abs, Source: abs, Type: "bind", Options: []string{"rbind", mode}}, err
}

// environment is base with changes: NAME=VALUE, NAME (as it is here), -NAME.
func environment(base, changes []string) []string {
	env := append([]string{}, base...)
	remove := func(name string) {
		kept := env[:0]
		for _, e := range env {
			if n, _, _ := strings.Cut(e, "="); n != name {
				kept = append(kept, e)
			}
		}
		env = kept
	}
	for _, c := range changes {
		name, _, set := strings.Cut(c, "=")
		switch {
		case set:
			remove(name)
			env = append(env, c)
		case strings.HasPrefix(c, "-"):
			remove(c[1:])
		default:
			remove(name)
			if v, ok := os.LookupEnv(name); ok {
				env = append(env, name+"="+v)
			}
		}
	}
	// What is not NAME=VALUE (a shell lets such through) is no use to anyone.
	kept := env[:0]
	for _, e := range env {
		if i := strings.IndexByte(e, '='); i > 0 {
			kept = append(kept, e)
		}
	}
	return kept
}

// ourLimits hands our own soft limits on that a program may ask for.
func ourLimits() (limits []specs.POSIXRlimit) {
	for _, row := range []struct {
		name string
		n    int
	}{{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE}, {"RLIMIT_STACK", unix.RLIMIT_STACK}, {"RLIMIT_CORE", unix.RLIMIT_CORE}} {
		var l unix.Rlimit
		if unix.Getrlimit(row.n, &l) == nil {
			if row.n == unix.RLIMIT_NOFILE && l.Cur == l.Max-1 {
				l.Cur = notRaised(l)
			}
			limits = append(limits, specs.POSIXRlimit{Type: row.name, Soft: l.Cur, Hard: l.Max})
		}
	}
	return limits
}

// notRaised is the soft limit of files that we were started with. Go has raised ours for itself
// (syscall/rlimit.go), and does not tell what it was; whoever started us has the same, unless
// that is a program of Go's too.
func notRaised(ours unix.Rlimit) uint64 {
	var theirs unix.Rlimit
	if err := unix.Prlimit(os.Getppid(), unix.RLIMIT_NOFILE, nil, &theirs); err != nil || theirs.Max != ours.Max {
		return ours.Cur
	}
	return min(ours.Cur, theirs.Cur)
}

// ourCapabilities: root has them all, inside; others have none.
func ourCapabilities() *specs.LinuxCapabilities {
	if os.Getuid() != 0 {
		return &specs.LinuxCapabilities{}
	}
	return &specs.LinuxCapabilities{Bounding: allCapabilities, Effective: allCapabilities, Permitted: allCapabilities}
}

// allCapabilities are those of capability.h, up to CAP_CHECKPOINT_RESTORE.
var allCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
	"CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP",
	"CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ",
	"CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}
