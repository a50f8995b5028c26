package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"bulkhead/runtime/agent"

	"github.com/spf13/cobra"
)

func (a *app) trace() *cobra.Command {
	var r agent.TraceRequest
	var asJSON bool
	c := &cobra.Command{
		Use:   "trace [flags] ID",
		Short: "Print the system calls of a container as they are made",
		Long: `Print the system calls of a container as the Sentry answers them, until it ends or
you interrupt. Nothing inside is stopped, and nothing inside can see it. If the
calls come faster than they can be printed, some are left out and counted.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.rt.Open(args[0])
			if err != nil {
				return on(args[0], err)
			}
			out, in, err := os.Pipe()
			if err != nil {
				return err
			}
			defer out.Close()
			printed := make(chan error, 1)
			go func() { printed <- printTrace(os.Stdout, out, asJSON) }()
			err = c.Trace(cmd.Context(), &r, in)
			in.Close()
			if perr := <-printed; err == nil {
				err = perr
			}
			return on(args[0], err)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringSliceVarP(&r.Calls, "call", "e", nil, "only these calls: open,openat")
	f.IntSliceVarP(&r.PIDs, "pid", "p", nil, "only these processes, by their numbers in ps")
	f.StringVarP(&r.Path, "path", "P", "", "only calls with this in a file name")
	f.BoolVarP(&r.Failed, "failed", "Z", false, "only calls that fail")
	f.BoolVar(&asJSON, "json", false, "a line of JSON a call")
	return c
}

// printTrace shows what a sandbox tells, which may be hostile.
func printTrace(w io.Writer, from io.Reader, asJSON bool) error {
	b := bufio.NewWriter(w)
	in := bufio.NewReader(from)
	d := json.NewDecoder(in)
	enc := json.NewEncoder(b)
	for {
		var e agent.TraceEvent
		if err := d.Decode(&e); err != nil {
			b.Flush()
			if err == io.EOF {
				return nil
			}
			return fmt.Errorf("trace: %w", err)
		}
		if asJSON {
			enc.Encode(&e)
		} else {
			fmt.Fprintln(b, printable(traceLine(&e)))
		}
		if in.Buffered() == 0 {
			if err := b.Flush(); err != nil {
				return nil // nobody reads
			}
		}
	}
}

// traceLine is like strace's.
func traceLine(e *agent.TraceEvent) string {
	var s strings.Builder
	if e.Lost > 0 {
		fmt.Fprintf(&s, "… %d calls lost … ", e.Lost)
	}
	fmt.Fprintf(&s, "%s [%d", time.Unix(0, e.Time).Format("15:04:05.000000"), e.PID)
	if e.TID != e.PID {
		fmt.Fprintf(&s, "/%d", e.TID)
	}
	fmt.Fprintf(&s, " %s] %s(%s) = ", e.Command, e.Call, strings.Join(e.Args, ", "))
	switch {
	case e.Result == nil:
		s.WriteString("?")
		return s.String()
	case strings.HasPrefix(e.Errno, "ERESTART"): // which no program sees
		s.WriteString("? " + e.Errno + " (a signal came first)")
	case e.Errno != "":
		s.WriteString("-1 " + e.Errno)
	case *e.Result > 1<<32 || *e.Result < -1<<32:
		fmt.Fprintf(&s, "%#x", uint64(*e.Result))
	default:
		fmt.Fprintf(&s, "%d", *e.Result)
	}
	fmt.Fprintf(&s, " <%.6f>", time.Duration(e.Took).Seconds())
	return s.String()
}
