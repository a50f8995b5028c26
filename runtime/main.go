// Command bulkhead is the OCI runtime. It is also, under hidden verbs, every
// process that it starts: the sandbox, the gofer, what stands in their places where
// the wall is a machine, and the stand-in of exec. Those
// are told apart here, before anything of the command line is built, since a
// start has milliseconds and a helper should stay small.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"text/tabwriter"
	"time"

	"bulkhead/runtime/cli"
	"bulkhead/runtime/container"
	"bulkhead/runtime/sandbox"
	"bulkhead/sentry/boot"
	"bulkhead/sentry/gofer"
	"bulkhead/sentry/syscalls"
	"bulkhead/vmm/host"
	"bulkhead/vmm/image"
	machine "bulkhead/vmm/sandbox"
	"bulkhead/vmm/share"
)

// began is as early as a program of Go's can tell.
var began = time.Now()

// helpers are the hidden verbs.
var helpers = map[string]func(args []string) int{
	sandbox.Verb:        boot.Main,
	sandbox.GoferVerb:   gofer.Main,
	sandbox.MachineVerb: machine.Program{Number: syscalls.Number}.Main,
	sandbox.ShareVerb:   share.Main,
	sandbox.AttachVerb:  share.Attach,
	sandbox.DetachVerb:  share.Detach,
	sandbox.ImageVerb:   image.Main,
	container.StandInVerb: func(args []string) int {
		signals := make(chan os.Signal, 64)
		signal.Notify(signals)
		return container.RunStandIn(args, signals)
	},
}

func main() {
	if len(os.Args) > 1 {
		if helper := helpers[os.Args[1]]; helper != nil {
			os.Exit(helper(os.Args[2:]))
		}
	}
	os.Exit(cli.Program{Began: began, Kernel: syscalls.Sysname + " " + syscalls.Release, Syscalls: syscallTable, CallName: callName, Machine: host.Check}.Main(os.Args[1:]))
}

func callName(nr int) string {
	if nr < 0 || nr >= len(syscalls.Table) {
		return ""
	}
	return syscalls.Table[nr].Name
}

// syscallTable prints what the Sentry answers, a line a call, and a summary.
func syscallTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 1, 2, ' ', 0)
	fmt.Fprint(t, "NR\tNAME\tSUPPORT\tNOTE\n")
	calls, have := 0, map[syscalls.Support]int{}
	for _, c := range syscalls.Table {
		if c.Name == "" {
			continue // x86-64 has no call of this number
		}
		calls++
		have[c.Support]++
		fmt.Fprintf(t, "%d\t%s\t%v\t%s\n", c.Number, c.Name, c.Support, c.Note)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d calls: %d full, %d partial, %d none\n", calls, have[syscalls.Full], have[syscalls.Partial], have[syscalls.None])
	return err
}
