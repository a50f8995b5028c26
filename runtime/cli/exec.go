package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"bulkhead/runtime/bundle"
	"bulkhead/runtime/console"
	"bulkhead/runtime/container"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// execFlags are those of exec.
type execFlags struct {
	process, pidFile, console, cwd, user string
	env, caps                            []string
	groups                               []uint
	tty, detach, noNewPrivs, ignore      bool
	preserve                             int
}

func (a *app) exec() *cobra.Command {
	var x execFlags
	c := &cobra.Command{
		Use:   "exec [flags] ID COMMAND [ARG…]",
		Short: "Run a further command in a container",
		Long: `Run a further command in a running container, and end with its exit status.
What the flags do not say (user, environment, capabilities) is as the
container's own program has it.`,
		Example:           "  bulkhead exec -t my-container sh\n  bulkhead exec --user 1000:1000 --env A=b my-container id",
		ValidArgsFunction: a.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("exec: ID is missing; see bulkhead exec --help")
			}
			return on(args[0], a.execute(cmd.Context(), &x, args[0], args[1:]))
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows the ID is the command's
	f.SortFlags = false
	f.BoolVarP(&x.tty, "tty", "t", false, "give the command a terminal")
	f.BoolVarP(&x.detach, "detach", "d", false, "return when the command has started")
	f.StringArrayVarP(&x.env, "env", "e", nil, "set NAME=VALUE in its environment")
	f.StringVarP(&x.user, "user", "u", "", "run as UID[:GID]")
	f.UintSliceVarP(&x.groups, "additional-gids", "g", nil, "further groups")
	f.StringVar(&x.cwd, "cwd", "", "its working directory")
	f.StringArrayVarP(&x.caps, "cap", "c", nil, "add a capability")
	f.BoolVar(&x.noNewPrivs, "no-new-privs", false, "no gain of privileges by set-user-ID programs")
	f.StringVarP(&x.process, "process", "p", "", "file with the OCI process to run, instead of COMMAND")
	f.StringVar(&x.pidFile, "pid-file", "", "file to write the number of the process that stands for it on the host to")
	f.StringVar(&x.console, "console-socket", "", "Unix socket to send the master of its terminal to")
	f.IntVar(&x.preserve, "preserve-fds", 0, "number of descriptors, from 3 on, to hand on")
	f.BoolVar(&x.ignore, "ignore-paused", false, "for runc's sake: nothing runs in a paused container")
	f.String("process-label", "", "for runc's sake: no SELinux label reaches into a sandbox")
	f.String("apparmor", "", "for runc's sake: no AppArmor profile reaches into a sandbox")
	f.StringArray("cgroup", nil, "for runc's sake: all of a container is in one control group")
	for _, name := range []string{"ignore-paused", "process-label", "apparmor", "cgroup"} {
		f.MarkHidden(name)
	}
	return c
}

func (a *app) execute(ctx context.Context, x *execFlags, id string, args []string) error {
	c, err := a.rt.Open(id)
	if err != nil {
		return err
	}
	p, err := x.describe(c.State.Process, args)
	if err != nil {
		return err
	}
	if x.detach && p.Terminal != (x.console != "") {
		if p.Terminal {
			return errors.New("a detached command needs --console-socket for its terminal")
		}
		return errors.New("--console-socket is given, but the command has no terminal")
	}
	if !p.Terminal {
		return a.execPlain(ctx, c, p, x)
	}
	return a.execTerminal(ctx, c, p, x)
}

// describe makes the process to run: the file's, or the container's own with
// what the flags change.
func (x *execFlags) describe(base *specs.Process, args []string) (*specs.Process, error) {
	if x.process != "" {
		p, err := bundle.ReadProcess(x.process)
		if err == nil && x.tty {
			p.Terminal = true
		}
		return p, err
	}
	if len(args) == 0 {
		return nil, errors.New("exec: COMMAND or --process is missing")
	}
	p := *base
	p.Args, p.Terminal, p.ConsoleSize = args, x.tty, nil
	p.Env = append(append([]string{}, base.Env...), x.env...)
	if x.cwd != "" {
		p.Cwd = x.cwd
	}
	if x.noNewPrivs {
		p.NoNewPrivileges = true
	}
	if x.user != "" {
		if err := setUser(&p.User, x.user); err != nil {
			return nil, err
		}
	}
	for _, g := range x.groups {
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(g))
	}
	if len(x.caps) > 0 {
		p.Capabilities = addCapabilities(base.Capabilities, x.caps)
	}
	if err := bundle.CheckProcess(&p); err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	return &p, nil
}

func setUser(u *specs.User, s string) error {
	uid, gid, both := strings.Cut(s, ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return fmt.Errorf("--user=%s: %q is no user number", s, uid)
	}
	u.UID, u.AdditionalGids = uint32(n), nil
	if both {
		if n, err = strconv.ParseUint(gid, 10, 32); err != nil {
			return fmt.Errorf("--user=%s: %q is no group number", s, gid)
		}
		u.GID = uint32(n)
	}
	return nil
}

func addCapabilities(base *specs.LinuxCapabilities, more []string) *specs.LinuxCapabilities {
	c := specs.LinuxCapabilities{}
	if base != nil {
		c = *base
	}
	for _, name := range more {
		name = strings.ToUpper(name)
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		c.Bounding = append(append([]string{}, c.Bounding...), name)
		c.Effective = append(append([]string{}, c.Effective...), name)
		c.Permitted = append(append([]string{}, c.Permitted...), name)
	}
	return &c
}

// execPlain hands our own streams over.
func (a *app) execPlain(ctx context.Context, c *container.Container, p *specs.Process, x *execFlags) error {
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	preserved, err := container.Inherited(x.preserve)
	if err != nil {
		return err
	}
	e, err := c.Exec(ctx, p, append(files, preserved...))
	if err != nil {
		return err
	}
	if x.detach {
		return leave(e, nil, x.pidFile)
	}
	return follow(e, x.pidFile, false, nil)
}

// execTerminal makes a pty whose slave the process gets.
func (a *app) execTerminal(ctx context.Context, c *container.Container, p *specs.Process, x *execFlags) error {
	preserved, err := container.Inherited(x.preserve)
	if err != nil {
		return err
	}
	var rows, columns uint16
	if p.ConsoleSize != nil {
		rows, columns = uint16(p.ConsoleSize.Height), uint16(p.ConsoleSize.Width)
	} else if !x.detach && console.IsTerminal(os.Stdin) {
		if rows, columns, err = console.Size(os.Stdin); err != nil {
			return err
		}
	}
	pty, err := console.New(rows, columns)
	if err != nil {
		return err
	}
	defer pty.Close()
	if x.console != "" {
		if err := pty.Send(x.console); err != nil {
			return err
		}
	}
	e, err := c.Exec(ctx, p, append([]*os.File{pty.Slave}, preserved...))
	if err != nil {
		return err
	}
	if x.detach {
		return leave(e, pty.Slave, x.pidFile)
	}
	if x.console != "" {
		return follow(e, x.pidFile, false, nil)
	}
	pty.Slave.Close()
	t, err := container.AttachTerminal(pty.Master)
	if err != nil {
		e.Kill()
		return err
	}
	err = follow(e, x.pidFile, true, func(rows, columns uint16) { e.Resize(context.Background(), rows, columns) })
	t.Finish()
	return err
}

// leave puts a stand-in in our place.
func leave(e *container.Exec, slave *os.File, pidFile string) error {
	p, err := e.StandIn(slave)
	if err == nil {
		if err = container.WritePid(pidFile, p.Pid); err != nil {
			p.Kill()
		}
	}
	if err != nil {
		e.Kill()
	}
	return err
}

// follow waits for the process, passes signals on, and gives its status.
func follow(e *container.Exec, pidFile string, attached bool, resize func(rows, columns uint16)) error {
	if err := container.WritePid(pidFile, os.Getpid()); err != nil {
		e.Kill()
		return err
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	defer signal.Stop(signals)
	go container.Forward(signals, func(n unix.Signal) {
		if n == unix.SIGWINCH && attached {
			if rows, columns, err := console.Size(os.Stdin); err == nil {
				resize(rows, columns)
			}
			return
		}
		e.Signal(context.Background(), n)
	})
	status, err := e.Wait(context.Background())
	if err != nil {
		return err
	}
	if n := status.Exit(); n != 0 {
		return exit(n)
	}
	return nil
}
