package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/console"

	"github.com/spf13/cobra"
)

// load is what a container, or a process of one, has done so far.
type load struct {
	name          string
	cpu           time.Duration
	calls, faults uint64
	memory        uint64
	rest          []string // of the row, as it is
}

// topView is one kind of screen.
type topView struct {
	heads []string // of what stands behind CPU; calls and faults if wide
	wide  bool
	look  func(ctx context.Context) ([]load, error)
}

func (a *app) top() *cobra.Command {
	var every time.Duration
	var times int
	c := &cobra.Command{
		Use:   "top [flags] [ID]",
		Short: "Show what containers, or one's processes, are doing",
		Long: `Show the running containers, or the processes of one, by the CPU time that they
take, again and again: CPU in percent of one CPU, system calls and page faults a
second, memory as their programs use it.`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			v := topView{heads: []string{"TASKS", "CONTAINER"}, wide: true, look: a.containerLoads}
			if len(args) > 0 {
				v = topView{heads: []string{"STATE", "PID", "COMMAND"}, look: func(ctx context.Context) ([]load, error) { return a.processLoads(ctx, args[0]) }}
			}
			if every <= 0 {
				return fmt.Errorf("top: --delay=%s is no time", every)
			}
			return refresh(cmd.Context(), os.Stdout, console.IsTerminal(os.Stdout), v, every, times)
		},
	}
	c.Flags().DurationVarP(&every, "delay", "d", time.Second, "time between two looks")
	c.Flags().IntVarP(&times, "times", "n", 0, "look so often; 0: until you interrupt")
	return c
}

// refresh prints a screen after each interval.
func refresh(ctx context.Context, w io.Writer, clear bool, v topView, every time.Duration, times int) error {
	before, err := v.look(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := time.Now()
	for n := 0; times == 0 || n < times; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := v.look(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if clear {
			io.WriteString(w, "\x1b[H\x1b[J")
		} else if n > 0 {
			io.WriteString(w, "\n")
		}
		if err := v.print(w, before, now, time.Since(last)); err != nil {
			return err
		}
		before, last = now, time.Now()
	}
	return nil
}

// print shows what has been done since the look before, d ago.
func (v *topView) print(w io.Writer, before, now []load, d time.Duration) error {
	was := map[string]load{}
	for _, l := range before {
		was[l.name] = l
	}
	type row struct {
		load
		share float64
	}
	var rows []row
	for _, l := range now {
		b, known := was[l.name]
		if !known {
			b = l
		}
		rows = append(rows, row{l, max(0, float64(l.cpu-b.cpu)/float64(d)*100)})
		r := &rows[len(rows)-1]
		r.calls, r.faults = l.calls-min(b.calls, l.calls), l.faults-min(b.faults, l.faults)
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(b.share, a.share), cmp.Compare(b.memory, a.memory), cmp.Compare(a.name, b.name))
	})
	t := tabwriter.NewWriter(w, 8, 1, 2, ' ', tabwriter.AlignRight)
	heads := []string{"CPU%"}
	if v.wide {
		heads = append(heads, "CALLS/S", "FAULTS/S")
	}
	fmt.Fprintln(t, strings.Join(append(append(heads, "MEMORY"), v.heads[:len(v.heads)-1]...), "\t")+"\t  "+v.heads[len(v.heads)-1])
	for _, r := range rows {
		fmt.Fprintf(t, "%.1f\t", r.share)
		if v.wide {
			fmt.Fprintf(t, "%.0f\t%.0f\t", float64(r.calls)/d.Seconds(), float64(r.faults)/d.Seconds())
		}
		fmt.Fprintf(t, "%s\t%s\t  %s\n", size(r.memory), strings.Join(r.rest[:len(r.rest)-1], "\t"), printable(r.rest[len(r.rest)-1]))
	}
	return t.Flush()
}

// containerLoads are the running containers. One that ends meanwhile is left out.
func (a *app) containerLoads(ctx context.Context) ([]load, error) {
	ids, err := listIDs(a.rt.Root)
	if err != nil {
		return nil, err
	}
	var out []load
	for _, id := range ids {
		c, err := a.rt.Open(id)
		if err != nil {
			continue
		}
		s, err := c.Stats(ctx)
		if err != nil || s.Inside == nil {
			continue
		}
		i := s.Inside
		out = append(out, load{name: id, cpu: time.Duration(i.CPUUser + i.CPUSystem), calls: i.Calls, faults: i.Faults,
			memory: i.Memory, rest: []string{fmt.Sprint(i.Processes), id}})
	}
	return out, nil
}

func (a *app) processLoads(ctx context.Context, id string) ([]load, error) {
	c, err := a.rt.Open(id)
	if err != nil {
		return nil, on(id, err)
	}
	list, err := c.Processes(ctx)
	if err != nil {
		return nil, on(id, err)
	}
	var out []load
	for _, p := range list {
		out = append(out, processLoad(&p))
	}
	return out, nil
}

func processLoad(p *agent.Process) load {
	command := strings.Join(p.Command, " ")
	if len(command) > 60 {
		command = command[:60]
	}
	pid := fmt.Sprint(p.PID)
	return load{name: pid, cpu: time.Duration(p.CPU), memory: p.Memory, rest: []string{p.State, pid, command}}
}
