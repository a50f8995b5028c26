// Package cli is the program bulkhead as people and engines type it: one file a
// verb, with runc's names and flags, so that what drives runc drives this. It
// turns arguments into calls of runtime/container and errors into one line and
// an exit code, and decides nothing about containers.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"bulkhead/runtime/config"
	"bulkhead/runtime/container"
	"bulkhead/runtime/program"
	"bulkhead/runtime/state"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Program is what the runtime's main hands over: what it knows and the runtime
// does not.
type Program struct {
	Began  time.Time
	Kernel string // what the Sentry calls itself to programs
	// Syscalls prints the compatibility table; nil where the Sentry is not linked in.
	Syscalls func(w io.Writer) error
	// CallName is a system call's name by its number, "" if there is none.
	CallName func(nr int) string
	// Machine says why this host runs no machine, for --isolation=vm.
	Machine func() error
}

// app is one invocation.
type app struct {
	Program
	rt     container.Runtime
	log    *slog.Logger
	format string // of the log
	config string // the path of the configuration file

	metricsAt string // --metrics of run and do
}

// exit is an error that carries nothing but an exit code.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Exit codes of our own, beside those of the container's programs.
const (
	failed      = 1
	execFailed  = 255 // as runc's exec
	commandFail = 126 // do and run: the program cannot be run
	notFound    = 127 // do and run: no such program
)

// Main runs the program and gives its exit code.
func (p Program) Main(args []string) int {
	a := &app{Program: p}
	a.rt.Machine = p.Machine
	root := a.root()
	root.SetArgs(args)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	command, err := root.ExecuteContextC(ctx)
	var code exit
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	a.report(err)
	if command != nil {
		return exitCode(command.Name(), err)
	}
	return failed
}

// exitCode is that of a failed verb. Who runs a program by us gets what a shell
// gives where it cannot run one.
func exitCode(verb string, err error) int {
	switch verb {
	case "exec":
		return execFailed
	case "do", "run":
		switch text := err.Error(); {
		case strings.Contains(text, "executable file not found"), strings.HasPrefix(text, "exec:") && strings.Contains(text, "no such file"):
			return notFound
		case strings.HasPrefix(text, "exec:"):
			return commandFail
		}
	}
	return failed
}

// report says once what went wrong: on standard error and, for engines, in the log.
func (a *app) report(err error) {
	// One line, and nothing that a container could have put there for a terminal to obey.
	text := printable(strings.ReplaceAll(err.Error(), "\n", `\n`))
	fmt.Fprintln(os.Stderr, "bulkhead: "+text)
	if a.log != nil && a.rt.LogFile != "" && a.rt.LogFile != "-" {
		a.log.Error(text)
	}
}

// levels are names as containerd's shim reads them.
func lowerLevels(groups []string, at slog.Attr) slog.Attr {
	if len(groups) == 0 && at.Key == slog.LevelKey {
		at.Value = slog.StringValue(strings.ToLower(at.Value.String()))
	}
	return at
}

// openLog makes the log that --log, --log-format and --debug ask for.
func (a *app) openLog(file string) error {
	var out io.Writer = os.Stderr
	if file != "" {
		path, err := filepath.Abs(file)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("--log: %w", err)
		}
		out, a.rt.LogFile = f, path
	} else if a.rt.Debug {
		a.rt.LogFile = "-"
	}
	options := &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: lowerLevels}
	if a.rt.Debug {
		options.Level = slog.LevelDebug
	} else if file == "" {
		options.Level = slog.LevelWarn
	}
	switch a.format {
	case "text":
		a.log = slog.New(slog.NewTextHandler(out, options))
	case "json":
		a.log = slog.New(slog.NewJSONHandler(out, options))
	default:
		return fmt.Errorf("--log-format=%s is neither text nor json", a.format)
	}
	a.rt.Log, a.rt.LogFormat = a.log, a.format
	return nil
}

// defaultRoot is where state lives unless --root says otherwise.
func defaultRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); program.Rootless() && dir != "" {
		return filepath.Join(dir, "bulkhead")
	}
	return "/run/bulkhead"
}

const about = `Bulkhead runs containers that do not share the host's kernel.

A container's programs run in user mode, under KVM where there is /dev/kvm or
under ptrace where there is not, and every system call they make is answered by
an application kernel of our own, the Sentry. With --isolation=vm they run on a
Linux of their own, in a machine of ours, where the host's KVM runs one natively.
The verbs are those of runc, so that docker and containerd use bulkhead as they
use runc.`

const examples = `  Try a command behind the wall, with the host's files to read and nothing to break:
    bulkhead do uname -a
    bulkhead do --rw . make

  See where the start's time goes, or choose how the programs run:
    bulkhead --debug do true
    bulkhead --platform=ptrace do true

  In a machine with a Linux kernel of its own (make kernel; hwtest says whether this host can):
    bulkhead --isolation=vm do uname -a

  An OCI bundle by hand:
    mkdir -p b/rootfs && cd b && bulkhead spec     # then fill rootfs
    bulkhead run my-container

  With docker, containerd and Podman:
    bulkhead install                               # shows what it writes, and asks
    docker run --rm --runtime=bulkhead busybox uname -a`

// Command is the program's tree of commands, for what is made of it: manual pages, completions.
func Command() *cobra.Command { return (&app{}).root() }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "bulkhead",
		Short:         "Run containers that do not share the host's kernel",
		Long:          about,
		Example:       examples,
		Version:       program.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetVersionTemplate(versionText())
	root.CompletionOptions.HiddenDefaultCmd = false
	// Global flags stand before the verb, as with runc; behind it, everything is
	// the verb's or its command's.
	root.TraverseChildren = true
	a.globalFlags(root)
	root.AddGroup(
		&cobra.Group{ID: "easy", Title: "Run something:"},
		&cobra.Group{ID: "life", Title: "A container's life (OCI):"},
		&cobra.Group{ID: "look", Title: "Look at containers:"},
		&cobra.Group{ID: "engines", Title: "Let engines use it:"},
		&cobra.Group{ID: "about", Title: "About bulkhead:"},
	)
	for _, group := range []struct {
		id    string
		verbs []*cobra.Command
	}{
		{"easy", []*cobra.Command{a.do(), a.run(), a.exec()}},
		{"life", []*cobra.Command{a.create(), a.start(), a.kill(), a.pause(), a.resume(), a.update(), a.delete(), a.checkpoint(), a.restore()}},
		{"look", []*cobra.Command{a.list(), a.state(), a.ps(), a.events(), a.top(), a.trace(), a.tcpdump(), a.metrics(), a.logs(), a.debug()}},
		{"engines", []*cobra.Command{a.install(), a.uninstall()}},
		{"about", []*cobra.Command{a.spec(), a.features(), a.syscalls(), a.version()}},
	} {
		for _, verb := range group.verbs {
			verb.GroupID = group.id
			root.AddCommand(verb)
		}
	}
	root.SetHelpCommandGroupID("about")
	root.SetCompletionCommandGroupID("about")
	return root
}

func (a *app) globalFlags(root *cobra.Command) {
	f := root.Flags()
	f.SortFlags = false
	f.StringVar(&a.rt.Platform, "platform", "", "how programs run: auto, kvm or ptrace (default: the bundle's annotation, or auto)")
	f.StringVar(&a.rt.Isolation, "isolation", "", "which wall: sentry, vm, or auto: vm where this host runs a guest natively (default: the bundle's annotation, or sentry)")
	f.StringVar(&a.rt.Disks, "disks", "", "disks and files of the host that annotations may give to machines: patterns, with colons between them")
	f.StringVar(&a.rt.Overlay, "overlay", "", "where writes to the root go: none (to the rootfs), memory, or dir=/some/directory (default none; do: memory)")
	f.StringVar(&a.rt.Template, "template", "", "with --isolation=vm, whether a machine goes on from one that has booted: auto, off, or a directory to keep such in (default auto)")
	f.StringVar(&a.rt.Root, "root", defaultRoot(), "directory for the containers' state")
	f.BoolVar(&a.rt.Debug, "debug", false, "log more, milestones of the start with their times among it")
	log := f.String("log", "", "file to log to (default: standard error)")
	f.StringVar(&a.format, "log-format", "text", "text or json")
	f.BoolVar(&a.rt.SystemdCgroup, "systemd-cgroup", false, "let systemd make the control groups; linux.cgroupsPath is slice:prefix:name then")
	rootless := f.String("rootless", "auto", "true, false or auto; for runc's sake: who is not root is rootless")
	f.Bool("criu", false, "for runc's sake; there is no CRIU here")
	f.MarkHidden("criu")
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		a.rt.Began = a.Began
		if err := a.openLog(*log); err != nil {
			return err
		}
		if *rootless != "auto" && *rootless != "true" && *rootless != "false" {
			return fmt.Errorf("--rootless=%s is none of true, false, auto", *rootless)
		}
		path, err := filepath.Abs(a.rt.Root)
		if err != nil {
			return err
		}
		a.rt.Root = path
		return config.Read(a.config, &a.rt)
	}
}

// exactly is cobra.ExactArgs with the arguments' names in the complaint.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return fmt.Errorf("%s: %s is missing; see bulkhead %s --help", c.Name(), names[len(args)], c.Name())
		}
		if len(args) > len(names) {
			return fmt.Errorf("%s: %q is one argument too many; see bulkhead %s --help", c.Name(), args[len(names)], c.Name())
		}
		return nil
	}
}

// on says which container an error is about.
func on(id string, err error) error {
	if err == nil {
		return nil
	}
	var code exit
	if errors.As(err, &code) || state.CheckID(id) != nil || errors.Is(err, state.ErrNotExist) || errors.Is(err, state.ErrExist) {
		return err // names it already
	}
	return fmt.Errorf("container %s: %w", id, err)
}

// ids completes container names.
func (a *app) ids(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, _ := listIDs(a.rt.Root)
	return list, cobra.ShellCompDirectiveNoFileComp
}
