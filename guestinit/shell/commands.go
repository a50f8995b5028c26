package shell

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"

	"github.com/u-root/u-root/pkg/core"
	"github.com/u-root/u-root/pkg/core/cat"
	"github.com/u-root/u-root/pkg/core/chmod"
	"github.com/u-root/u-root/pkg/core/cp"
	"github.com/u-root/u-root/pkg/core/find"
	"github.com/u-root/u-root/pkg/core/ls"
	"github.com/u-root/u-root/pkg/core/mkdir"
	"github.com/u-root/u-root/pkg/core/mv"
	"github.com/u-root/u-root/pkg/core/rm"
	"github.com/u-root/u-root/pkg/core/shasum"
	"github.com/u-root/u-root/pkg/core/touch"
)

// A command is one name of the userland. What the shell itself has (echo, cd,
// test, printf, read, kill, wait …) is not here.
type command struct {
	name, usage string
	run         func(ctx context.Context, s stdio, args []string) error
}

// commands are sorted by name. Those of u-root's core come as they are.
func commands() []command {
	return []command{
		{"cat", "[FILE]…", uroot(cat.New)},
		{"chmod", "MODE FILE…", uroot(chmod.New)},
		{"cp", "[-r] FROM… TO", uroot(cp.New)},
		{"date", "", date},
		{"dd", "if=FILE of=FILE [bs=N] [count=N] [skip=N] [seek=N] [conv=fsync]", dd},
		{"df", "", df},
		{"dmesg", "", dmesg},
		{"env", "", env},
		{"find", "[DIR] [-name PATTERN]", uroot(find.New)},
		{"free", "", free},
		{"grep", "TEXT [FILE]…", grep},
		{"halt", "", ask("halt")},
		{"head", "[-n LINES] [FILE]…", head},
		{"help", "", help},
		{"hexdump", "[FILE]…", hexdump},
		{"ip", "addr|link|route [show]", ip},
		{"kill", "[-SIGNAL] PID…", kill},
		{"ln", "[-s] TARGET NAME", ln},
		{"ls", "[-la] [FILE]…", uroot(ls.New)},
		{"mkdir", "[-p] DIR…", uroot(mkdir.New)},
		{"mount", "[-t TYPE] [-o OPTIONS] SOURCE DIR", mount},
		{"mv", "FROM… TO", uroot(mv.New)},
		{"nproc", "", nproc},
		{"poweroff", "", ask("poweroff")},
		{"ps", "", ps},
		{"reboot", "", ask("reboot")},
		{"rm", "[-rf] FILE…", uroot(rm.New)},
		{"sha256sum", "[FILE]…", sha256sum},
		{"shasum", "[-a 1|256|512] [FILE]…", uroot(shasum.New)},
		{"sleep", "SECONDS", sleep},
		{"sync", "", syncAll},
		{"touch", "FILE…", uroot(touch.New)},
		{"umount", "DIR…", umount},
		{"uname", "[-a]", uname},
		{"wc", "[FILE]…", wc},
	}
}

func lookup(name string) *command {
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == name })
	if i < 0 {
		return nil
	}
	return &all[i]
}

// errUsage makes a command print its usage.
var errUsage = errors.New("usage")

// runCommand runs our command args[0] and returns its exit code.
func (s stdio) runCommand(ctx context.Context, args []string) int {
	c := lookup(args[0])
	if c == nil {
		fmt.Fprintf(s.err, "%s: not a command of guestinit; help lists them\n", args[0])
		return 127
	}
	var code exitError
	err := c.run(ctx, s, args[1:])
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, errUsage):
		fmt.Fprintf(s.err, "usage: %s %s\n", c.name, c.usage)
		return 2
	}
	fmt.Fprintf(s.err, "%s: %v\n", c.name, err)
	return 1
}

// exitError is an exit code that needs no words.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func uroot[C core.Command](construct func() C) func(context.Context, stdio, []string) error {
	return func(ctx context.Context, s stdio, args []string) error {
		c := construct()
		c.SetIO(s.in, s.out, s.err)
		c.SetWorkingDir(s.dir)
		return c.RunContext(ctx, args...)
	}
}

func help(_ context.Context, s stdio, _ []string) error {
	w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	for _, c := range commands() {
		fmt.Fprintf(w, "%s\t%s\n", c.name, c.usage)
	}
	fmt.Fprintln(w, "and what a POSIX shell has: cd, echo, export, printf, read, set, test, trap, wait …")
	return w.Flush()
}
