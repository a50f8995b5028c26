// Package cli is the program vmm as people type it: it turns words into a
// machine.Config, opens what those name on the host, and turns endings and
// errors into one line and an exit code. What a machine is, it leaves to
// vmm/machine.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// Version is set by the linker (Makefile).
var Version = "0.1.0-dev"

// Program is what main hands over.
type Program struct {
	Began time.Time
}

// exit is an error that carries nothing but an exit code.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// failed is the exit code of what never came to run a guest. Those of guests
// are in machine.Reason.
const failed = 1

// Command is the program's tree of commands, for what is made of it: manual pages, completions.
func Command() *cobra.Command { return Program{}.root() }

func (p Program) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "vmm",
		Short:         "Run Linux in a small virtual machine",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(p.boot(), info(), version())
	return root
}

// Main runs the program and gives its exit code.
func (p Program) Main(args []string) int {
	root := p.root()
	root.SetArgs(args)
	var code exit
	switch err := root.Execute(); {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	default:
		report(os.Stderr, err)
		return failed
	}
}

// report says in one line what went wrong.
func report(w io.Writer, err error) { fmt.Fprintf(w, "vmm: %v\n", err) }

func version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(c.OutOrStdout(), "vmm %s\n", Version)
			return err
		},
	}
}
