package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"bulkhead/runtime/agent"

	"github.com/spf13/cobra"
)

func (a *app) ps() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "ps [flags] ID",
		Short: "List the processes in a container",
		Long: `List the processes in a container, as they see themselves. With --format=json
print the numbers of its processes on the host, as engines want to know them:
that is the sandbox, which stands for all.`,
		Args:              cobra.MinimumNArgs(1), // runc hands what follows the ID to ps(1)
		ValidArgsFunction: a.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.rt.Open(args[0])
			if err != nil {
				return on(args[0], err)
			}
			switch format {
			case "json":
				pids, err := c.HostPIDs()
				if err != nil {
					return on(args[0], err)
				}
				return json.NewEncoder(os.Stdout).Encode(pids)
			case "table":
				list, err := c.Processes(cmd.Context())
				if err != nil {
					return on(args[0], err)
				}
				return processes(os.Stdout, list)
			}
			return fmt.Errorf("ps: --format=%s is neither table nor json", format)
		},
	}
	c.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	c.Flags().SetInterspersed(true)
	return c
}

// processes prints what ps -ef would.
func processes(w io.Writer, list []agent.Process) error {
	t := tabwriter.NewWriter(w, 8, 1, 2, ' ', 0)
	fmt.Fprint(t, "UID\tPID\tPPID\tTHREADS\tSTATE\tTTY\tTIME\tRSS\tCMD\n")
	for _, p := range list {
		tty := p.TTY
		if tty == "" {
			tty = "?"
		}
		command := strings.Join(p.Command, " ")
		if command == "" {
			command = "[" + p.Exe + "]"
		}
		cpu := time.Duration(p.CPU)
		fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%s\t%s\t%02d:%02d:%02d\t%s\t%s\n", p.UID, p.PID, p.Parent, p.Threads, p.State, tty,
			int(cpu.Hours()), int(cpu.Minutes())%60, int(cpu.Seconds())%60, size(p.Memory), printable(command))
	}
	return t.Flush()
}

// printable keeps a hostile command line from writing on our user's terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func size(bytes uint64) string {
	switch {
	case bytes >= 10<<30:
		return fmt.Sprintf("%dG", bytes>>30)
	case bytes >= 10<<20:
		return fmt.Sprintf("%dM", bytes>>20)
	}
	return fmt.Sprintf("%dK", bytes>>10)
}

func (a *app) debug() *cobra.Command {
	return &cobra.Command{
		Use: "debug ID [WHAT]", Short: "Ask a sandbox about itself", Args: cobra.RangeArgs(1, 2), ValidArgsFunction: a.ids,
		Long: `Print what a sandbox says of itself and of what runs inside:

  (nothing)  platform, tasks, memory, what the platform counts: calls by the way
             they came, call sites patched, and refused with the reason
  stacks     where each goroutine of the Sentry is
  tasks      each thread with its state, the system call it is in, its time
  maps       each process's memory
  fds        each process's open files
  mounts     each mount namespace
  calls      how often each system call was answered, and each error given`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.rt.Open(args[0])
			if err != nil {
				return on(args[0], err)
			}
			text, err := c.Debug(cmd.Context(), strings.Join(args[1:], " "))
			if err != nil {
				return on(args[0], err)
			}
			for line := range strings.Lines(text) {
				fmt.Println(printable(strings.ReplaceAll(strings.TrimRight(line, "\n"), "\t", "        ")))
			}
			return nil
		},
	}
}
