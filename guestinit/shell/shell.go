// Package shell is a userland for a guest that has none: a POSIX shell (mvdan.cc/sh)
// and a handful of commands, in the program that is the guest's init. Each
// command is a link to it; the shell runs them in its own process.
package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

const (
	// Path of the shell in a root, ours or another.
	Path = "/bin/sh"
	// SearchPath is the PATH of a guest that was not told another.
	SearchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Install gives the root a link for the shell and for each command, unless it
// has a shell.
func Install(root string) error {
	if _, err := os.Lstat(root + Path); err == nil {
		return nil
	}
	bin := filepath.Join(root, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	names := []string{"sh"}
	for _, c := range commands() {
		names = append(names, c.name)
	}
	for _, name := range names {
		if err := os.Symlink("/init", filepath.Join(bin, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// Main runs the command that args[0] names and returns its exit code.
func Main(args []string) int {
	s := stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Environ()}
	name := strings.TrimPrefix(filepath.Base(args[0]), "-") // "-sh" is a login shell
	if name != "sh" {
		return s.runCommand(context.Background(), append([]string{name}, args[1:]...))
	}
	code, err := s.shell(args[1:])
	if err != nil {
		fmt.Fprintln(s.err, "sh:", err)
	}
	return code
}

// stdio is what a command reads, writes, and takes paths to be relative to.
type stdio struct {
	in       io.Reader
	out, err io.Writer
	dir      string   // "" is the process's own
	env      []string // NAME=value
}

// path is name, seen from where the command runs.
func (s stdio) path(name string) string {
	if filepath.IsAbs(name) || s.dir == "" {
		return name
	}
	return filepath.Join(s.dir, name)
}

// shell is sh(1): a string with -c, a script, standard input, or a person.
func (s stdio) shell(args []string) (int, error) {
	script, name, rest, err := s.script(args)
	if err != nil {
		return 127, err
	}
	asked := script == nil && isTerminal(s.in)
	runner, err := s.runner(asked, rest)
	if err != nil {
		return 2, err
	}
	if asked {
		return s.interact(runner)
	}
	if script == nil {
		script = s.in
	} else if c, ok := script.(io.Closer); ok {
		defer c.Close()
	}
	return s.runAll(runner, script, name)
}

// script finds what to run; nil is the standard input.
func (s stdio) script(args []string) (script io.Reader, name string, rest []string, err error) {
	var flags []string
	for len(args) > 0 && len(args[0]) > 1 && (args[0][0] == '-' || args[0][0] == '+') {
		flag := args[0]
		args = args[1:]
		if flag == "--" {
			break
		}
		if text, ok := strings.CutSuffix(flag, "c"); ok && flag[0] == '-' {
			if len(args) == 0 {
				return nil, "", nil, errors.New("-c: no command")
			}
			if text != "-" {
				flags = append(flags, text)
			}
			script, args = strings.NewReader(args[0]), args[1:]
			if len(args) > 0 { // $0
				name, args = args[0], args[1:]
			}
			break
		}
		flags = append(flags, flag)
	}
	if script == nil && len(args) > 0 {
		f, err := os.Open(s.path(args[0]))
		if err != nil {
			return nil, "", nil, err
		}
		script, name, args = f, args[0], args[1:]
	}
	return script, name, append(append(flags, "--"), args...), nil
}

func (s stdio) runner(asked bool, params []string) (*interp.Runner, error) {
	return interp.New(
		interp.StdIO(s.in, s.out, s.err),
		interp.Interactive(asked),
		interp.Params(params...),
		interp.CallHandler(unlessBuiltin),
		interp.ExecHandlers(ownCommands(asked)),
	)
}

// notBuiltin begins the name of a command that the interpreter takes for a
// builtin: it has no kill, and its help is of itself.
const notBuiltin = "guestinit-"

func unlessBuiltin(_ context.Context, args []string) ([]string, error) {
	if args[0] == "kill" || args[0] == "help" {
		args[0] = notBuiltin + args[0]
	}
	return args, nil
}

// ownCommands runs our commands where no other program has the name, or the one
// that has it is a link to us: in scripts without a process, which costs more
// than most of them do; for a person as a process, which Ctrl-C can end.
func ownCommands(asked bool) func(interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return func(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
		return func(ctx context.Context, args []string) error {
			hc := interp.HandlerCtx(ctx)
			args[0] = strings.TrimPrefix(args[0], notBuiltin)
			if lookup(args[0]) == nil || isAnother(hc, args[0]) {
				return next(ctx, args)
			}
			s := stdio{hc.Stdin, hc.Stdout, hc.Stderr, hc.Dir, exported(hc.Env)}
			run := s.runCommand
			if asked {
				run = s.runProcess
			}
			if code := run(ctx, args); code != 0 {
				return interp.ExitStatus(code)
			}
			return nil
		}
	}
}

// runProcess is runCommand in a process of its own.
func (s stdio) runProcess(_ context.Context, args []string) int {
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: args, Env: s.env, Dir: s.dir,
		Stdin: s.in, Stdout: s.out, Stderr: s.err,
	}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintf(s.err, "%s: %v\n", args[0], err)
		return 126
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func exported(vars expand.Environ) []string {
	var pairs []string
	vars.Each(func(name string, v expand.Variable) bool {
		if v.Exported && v.IsSet() {
			pairs = append(pairs, name+"="+v.String())
		}
		return true
	})
	return pairs
}

func isAnother(hc interp.HandlerContext, name string) bool {
	path, err := interp.LookPathDir(hc.Dir, hc.Env, name)
	if err != nil {
		return false
	}
	target, err := filepath.EvalSymlinks(path)
	self, selfErr := os.Executable()
	return err != nil || selfErr != nil || target != self
}

func (s stdio) runAll(r *interp.Runner, script io.Reader, name string) (int, error) {
	file, err := syntax.NewParser().Parse(script, name)
	if err != nil {
		return 2, err
	}
	return status(r.Run(context.Background(), file))
}

// interact reads lines from a person until the end of input or exit. Ctrl-C ends
// the command that runs, not the shell.
func (s stdio) interact(r *interp.Runner) (code int, err error) {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, unix.SIGINT)
	signal.Ignore(unix.SIGQUIT, unix.SIGTSTP)
	for {
		code, ended, err := s.session(r, interrupts)
		if ended {
			return code, err
		}
		fmt.Fprintln(s.err, "sh:", err) // a syntax error: begin anew
	}
}

func (s stdio) session(r *interp.Runner, interrupts <-chan os.Signal) (code int, ended bool, err error) {
	fmt.Fprint(s.out, s.prompt(r))
	parser := syntax.NewParser()
	for stmts, err := range parser.InteractiveSeq(s.in) {
		if err != nil {
			return 2, false, err
		}
		if parser.Incomplete() {
			fmt.Fprint(s.out, "> ")
			continue
		}
		for _, stmt := range stmts {
			var interrupted bool
			code, interrupted = s.runInterruptibly(r, stmt, interrupts)
			if interrupted { // the rest of the line with it
				break
			}
			if r.Exited() {
				return code, true, nil
			}
		}
		fmt.Fprint(s.out, s.prompt(r))
	}
	fmt.Fprintln(s.out)
	return code, true, nil
}

// runInterruptibly ends stmt with an interrupt, after which the runner takes
// itself for ended as well.
func (s stdio) runInterruptibly(r *interp.Runner, stmt *syntax.Stmt, interrupts <-chan os.Signal) (code int, interrupted bool) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	select {
	case <-interrupts: // one that came to the prompt
	default:
	}
	go func() {
		select {
		case <-interrupts:
			cancel()
		case <-ctx.Done():
		}
	}()
	code, err := status(r.Run(ctx, stmt))
	if err != nil {
		fmt.Fprintln(s.err, "sh:", err)
	}
	return code, ctx.Err() != nil
}

func (s stdio) prompt(r *interp.Runner) string {
	mark := "$"
	if os.Geteuid() == 0 {
		mark = "#"
	}
	host, err := os.Hostname()
	if err != nil || host == "(none)" {
		host = "guest"
	}
	return fmt.Sprintf("%s:%s%s ", host, r.Dir, mark)
}

// status tells an exit code from an error of the shell itself.
func status(err error) (int, error) {
	var code interp.ExitStatus
	switch {
	case errors.As(err, &code):
		return int(code), nil
	case errors.Is(err, context.Canceled):
		return 128 + int(unix.SIGINT), nil
	case err != nil:
		return 1, err
	}
	return 0, nil
}

func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
