package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func (a *app) kill() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:               "kill [flags] ID [SIGNAL]",
		Short:             "Send a signal to a container's program",
		Long:              "Send a signal (a name with or without SIG, or a number; default TERM) to a\ncontainer's program, or with --all to every process in it.",
		Example:           "  bulkhead kill my-container\n  bulkhead kill --all my-container KILL",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "TERM"
			if len(args) == 2 {
				name = args[1]
			}
			n, err := parseSignal(name)
			if err != nil {
				return err
			}
			c, err := a.rt.Open(args[0])
			if err == nil {
				err = c.Signal(cmd.Context(), n, all)
			}
			return on(args[0], err)
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "every process in the container")
	return c
}

// parseSignal takes KILL, SIGKILL, sigkill, 9, RTMIN+1.
func parseSignal(s string) (unix.Signal, error) {
	const rtmin, rtmax = 34, 64 // as glibc counts them
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > rtmax {
			return 0, fmt.Errorf("signal %d is not between 1 and %d", n, rtmax)
		}
		return unix.Signal(n), nil
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	for _, base := range []struct {
		prefix string
		n      int
	}{{"SIGRTMIN", rtmin}, {"SIGRTMAX", rtmax}} {
		if rest, ok := strings.CutPrefix(name, base.prefix); ok {
			offset := 0
			if rest != "" {
				var err error
				if offset, err = strconv.Atoi(rest); err != nil {
					break
				}
			}
			if n := base.n + offset; n >= rtmin && n <= rtmax {
				return unix.Signal(n), nil
			}
		}
	}
	return 0, fmt.Errorf("signal %q is unknown", s)
}
