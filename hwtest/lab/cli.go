package lab

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// Exit is a job's exit code other than 0, as Command's error. The program ends
// with it and prints nothing.
type Exit int

func (e Exit) Error() string { return fmt.Sprintf("lab: the job ended with exit code %d", int(e)) }

// Command is `lab [-- CMD…]`.
func Command() *cobra.Command {
	var machine Machine
	var job Job
	var shares []string
	var verbose, bare bool
	command := &cobra.Command{
		Use:   "lab [flags] [-- CMD…]",
		Short: "Run a command, or a shell, in an emulated machine with AMD-V",
		Long: `lab boots an emulated machine with AMD-V, nested paging and /dev/kvm, and runs CMD
in it, or a shell on this terminal. CMD sees this host's root directory
(what it writes there stays in memory) and, read-write, the current one, where it starts.
Its standard streams and exit code are those of lab.`,
		Example: `  hwtest lab -- ls -l /dev/kvm
  go test -c -o /tmp/kvm.test ./kvm && hwtest lab -- /tmp/kvm.test -test.v
  hwtest lab --memory 8192 --share /srv/images:/images:ro`,
		SilenceUsage: true,
		RunE: func(command *cobra.Command, args []string) error {
			here, err := os.Getwd()
			if err != nil {
				return fmt.Errorf("lab: find the current directory: %w", err)
			}
			machine.HostRoot = !bare
			if here != "/" {
				job.Dir, job.Shares = here, append(job.Shares, Share{Host: here, Inside: here})
			}
			for _, text := range shares {
				share, err := parseShare(text)
				if err != nil {
					return err
				}
				job.Shares = append(job.Shares, share)
			}
			job.Cmd, job.Stdin, job.Stdout, job.Stderr = args, os.Stdin, os.Stdout, os.Stderr
			if len(args) == 0 {
				job.Cmd, job.Terminal = []string{"/bin/sh", "-i"}, true
			}
			if verbose {
				machine.Console = os.Stderr
			}
			code, err := machine.Run(command.Context(), job)
			if err == nil && code != 0 {
				err = Exit(code)
			}
			return err
		},
	}
	flags := command.Flags()
	flags.IntVar(&machine.Memory, "memory", 1024, "`MiB` of the machine")
	flags.IntVar(&machine.CPUs, "cpus", 0, "processors (1; with more, guests may fail by faults of QEMU)")
	flags.BoolVar(&machine.Icount, "icount", false, "let the clock count instructions, one a nanosecond")
	flags.BoolVar(&machine.Network, "network", false, "give it a network, behind this host's")
	flags.StringVar(&machine.KernelArgs, "kernel-args", "", "`words` for the end of the kernel's command line")
	flags.DurationVar(&job.Timeout, "timeout", 0, "end the machine after `TIME`, and print where its processors were")
	flags.BoolVar(&bare, "bare", false, "busybox alone in place of this host's root directory")
	flags.BoolVar(&verbose, "verbose", false, "print the kernel's and QEMU's messages")
	flags.StringArrayVar(&shares, "share", nil, "`HOST:INSIDE[:ro]`, a directory to share; may be repeated")
	flags.StringArrayVar(&job.Env, "env", nil, "`KEY=VALUE` for the command; may be repeated")
	return command
}

func parseShare(text string) (Share, error) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || !strings.HasPrefix(parts[1], "/") || len(parts) == 3 && parts[2] != "ro" {
		return Share{}, fmt.Errorf("lab: share %q: it is not HOST:INSIDE[:ro] with an absolute INSIDE", text)
	}
	return Share{Host: parts[0], Inside: parts[1], ReadOnly: len(parts) == 3}, nil
}
