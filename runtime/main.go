// Command bulkhead is the OCI runtime. It is also, under hidden verbs, every
// process that it starts: the sandbox, the gofer and the stand-in of exec. Those
// are told apart here, before anything of the command line is built, since a
// start has milliseconds and a helper should stay small.
package main

import (
	"io"
	"os"
	"os/signal"
	"time"

	"bulkhead/runtime/cli"
	"bulkhead/runtime/container"
	"bulkhead/runtime/sandbox"
	"bulkhead/sentry/boot"
	"bulkhead/sentry/gofer"
)

// began is as early as a program of Go's can tell.
var began = time.Now()

// helpers are the hidden verbs.
var helpers = map[string]func(args []string) int{
	sandbox.Verb:      boot.Main,
	sandbox.GoferVerb: gofer.Main,
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
	os.Exit(cli.Program{Began: began, Syscalls: syscallTable}.Main(os.Args[1:]))
}

var syscallTable func(io.Writer) error
