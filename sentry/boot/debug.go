package boot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/syscalls"
	"bulkhead/sentry/vfs"
)

// debugLimit bounds an answer: a container can have any number of mappings.
const debugLimit = 3 << 20 // bytes; a frame holds 4 MiB

// views are what Debug shows, by name; "" is the summary.
func (s *sandbox) views() map[string]func(io.Writer) {
	return map[string]func(io.Writer){
		"":       s.debugSummary,
		"stacks": func(w io.Writer) { pprof.Lookup("goroutine").WriteTo(w, 2) },
		"tasks":  s.debugTasks,
		"maps":   s.debugMaps,
		"fds":    s.debugFDs,
		"mounts": s.debugMounts,
		"calls":  s.debugCalls,
	}
}

// Debug shows the inside of the Sentry, or of the container as the Sentry sees it:
// nothing that a program there has mounted or hidden changes the answer.
func (s *sandbox) Debug(_ context.Context, what string) (string, error) {
	view := s.views()[what]
	if view == nil {
		return "", fmt.Errorf("debug: %q is none of stacks, tasks, maps, fds, mounts, calls: %w", what, unix.EINVAL)
	}
	w := &bounded{left: debugLimit}
	view(w)
	if w.left < 0 {
		w.b.WriteString("\n… and more\n")
	}
	return w.b.String(), nil
}

// bounded keeps what fits.
type bounded struct {
	b    bytes.Buffer
	left int
}

func (w *bounded) Write(p []byte) (int, error) {
	if w.left >= 0 {
		w.b.Write(p[:min(len(p), w.left)])
	}
	w.left -= len(p)
	return len(p), nil
}

func columns(w io.Writer, flags uint) *tabwriter.Writer {
	return tabwriter.NewWriter(w, 0, 1, 2, ' ', flags)
}

func (s *sandbox) debugSummary(w io.Writer) {
	n := s.kernel.Live()
	groups, fds := s.countOpen()
	f := s.arena.Figures()
	t := columns(w, 0)
	row := func(name string, v any) { fmt.Fprintf(t, "%s\t%v\n", name, v) }
	row("platform", fmt.Sprintf("%s (%s)", s.plat.Name(), s.why))
	row("tasks", fmt.Sprintf("%d in %d processes", n, groups))
	row("descriptors", fds)
	row("system calls", s.calls.Served())
	row("page faults", s.kernel.Faults.Load())
	row("memory", fmt.Sprintf("%d bytes", f.Used))
	row("  of it text", fmt.Sprintf("%d bytes", f.Text))
	row("memory kept free", fmt.Sprintf("%d bytes", f.Free))
	row("host files shown", fmt.Sprintf("%d bytes", f.Windows))
	row("goroutines", runtime.NumGoroutine())
	for _, c := range s.counters() {
		row("platform "+strings.ReplaceAll(c.Name, "_", " "), c.Value)
	}
	t.Flush()
}

// byPID are the processes in order.
func (s *sandbox) byPID() []*kernel.ThreadGroup {
	gs := s.kernel.Groups()
	slices.SortFunc(gs, func(a, b *kernel.ThreadGroup) int { return int(a.PID()) - int(b.PID()) })
	return gs
}

func (s *sandbox) debugTasks(w io.Writer) {
	t := columns(w, 0)
	fmt.Fprint(t, "PID\tTID\tSTATE\tCALL\tUSER\tSYSTEM\tFAULTS\tCOMM\n")
	for _, g := range s.byPID() {
		for _, x := range g.Tasks() {
			call := "-"
			if nr := x.SyscallNumber(); nr >= 0 {
				call = syscalls.Name(int(nr))
			}
			u, sys := x.CPUTime()
			fmt.Fprintf(t, "%d\t%d\t%c\t%s\t%.3fs\t%.3fs\t%d\t%s\n", g.PID(), x.ID().Global(), x.State(), call, u.Seconds(), sys.Seconds(),
				x.MinFaults.Load(), clean(x.Comm()))
		}
	}
	t.Flush()
}

// head begins the part of one process.
func head(w io.Writer, g *kernel.ThreadGroup) {
	fmt.Fprintf(w, "process %d (%s)\n", g.PID(), clean(g.Leader().Comm()))
}

// clean keeps names from breaking lines and columns.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

func (s *sandbox) debugMaps(w io.Writer) {
	for _, g := range s.byPID() {
		_, _, mm := g.Leader().Look()
		if mm == nil {
			continue
		}
		head(w, g)
		t := columns(w, 0)
		fmt.Fprint(t, "  RANGE\tACCESS\tOFFSET\tRESIDENT\tPRIVATE\tWHAT\n")
		for _, v := range mm.VMAs() {
			kind := "p"
			if v.Shared {
				kind = "s"
			}
			fmt.Fprintf(t, "  %012x-%012x\t%s%s\t%x\t%dK\t%dK\t%s\n", uint64(v.Start), uint64(v.End), v.Access, kind, v.Offset,
				v.Resident>>10, v.Private>>10, clean(v.Name))
		}
		t.Flush()
	}
}

func (s *sandbox) debugFDs(w io.Writer) {
	for _, g := range s.byPID() {
		fs, fds, _ := g.Leader().Look()
		if fds == nil || fs == nil {
			continue
		}
		head(w, g)
		t := columns(w, 0)
		fmt.Fprint(t, "  FD\tFLAGS\tPOS\tWHAT\n")
		for _, fd := range fds.FDs() {
			d, err := fds.Get(fd)
			if err != nil {
				continue // closed meanwhile
			}
			fmt.Fprintf(t, "  %d\t%#o\t%d\t%s\n", fd, d.Flags(), d.Pos(), clean(vfs.Name(fs.Root(), d.Path())))
			d.Unref()
		}
		t.Flush()
	}
}

// debugMounts shows each mount namespace once, as the first process in it sees it.
func (s *sandbox) debugMounts(w io.Writer) {
	seen := map[*vfs.Namespace]bool{}
	for _, g := range s.byPID() {
		fs, _, _ := g.Leader().Look()
		if fs == nil || seen[fs.Namespace()] {
			continue
		}
		seen[fs.Namespace()] = true
		head(w, g)
		t := columns(w, 0)
		fmt.Fprint(t, "  ID\tPARENT\tTYPE\tSOURCE\tROOT\tPOINT\tFLAGS\n")
		for _, m := range fs.Namespace().Mounts(fs.Root()) {
			fmt.Fprintf(t, "  %d\t%d\t%s\t%s\t%s\t%s\t%#x\n", m.ID, m.Parent, m.Type, clean(m.Source), clean(m.Root), clean(m.Point), uint64(m.Flags|m.SuperFlags))
		}
		t.Flush()
	}
}

func (s *sandbox) debugCalls(w io.Writer) {
	calls, errors := s.calls.Counts()
	t := columns(w, tabwriter.AlignRight)
	fmt.Fprint(t, "DONE\tFAILED\tINTERRUPTED\tCALL\t\n")
	slices.SortFunc(calls, func(a, b syscalls.Count) int { return int(b.Done+b.Failed) - int(a.Done+a.Failed) })
	for _, c := range calls {
		fmt.Fprintf(t, "%d\t%d\t%d\t%s\t\n", c.Done, c.Failed, c.Interrupted, syscalls.Name(c.Number))
	}
	t.Flush()
	t = columns(w, tabwriter.AlignRight)
	fmt.Fprint(t, "TIMES\tERROR\t\n")
	var es []unix.Errno
	for e := range errors {
		es = append(es, e)
	}
	slices.SortFunc(es, func(a, b unix.Errno) int { return int(errors[b]) - int(errors[a]) })
	for _, e := range es {
		fmt.Fprintf(t, "%d\t%s\t\n", errors[e], unix.ErrnoName(e))
	}
	t.Flush()
}
