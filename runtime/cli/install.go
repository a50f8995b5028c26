package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"bulkhead/runtime/console"
	"bulkhead/runtime/install"

	"github.com/spf13/cobra"
)

// notDone is the code of install and uninstall where they have shown what they would write
// and nobody has said yes to it.
const notDone = 2

// installation is what install and uninstall have in common.
type installation struct {
	host install.Host
	yes  bool
}

func (i *installation) flags(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVarP(&i.yes, "yes", "y", false, "write without asking")
	c.Flags().StringVar(&i.host.Destdir, "destdir", "", "read and write below this directory instead of /, as make install does")
	c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return install.Engines(), cobra.ShellCompDirectiveNoFileComp
	}
	return c
}

func (a *app) install() *cobra.Command {
	i := &installation{}
	c := i.flags(&cobra.Command{
		Use:   "install [flags] [docker] [containerd] [podman]",
		Short: "Tell docker, containerd and Podman of bulkhead",
		Long: `Write what engines want to read of a runtime into their configuration: those named, or
all that are here (by their directory in /etc, or their program on PATH).

  docker      /etc/docker/daemon.json: the runtimes bulkhead and bulkhead-vm
  containerd  /etc/containerd/config.toml: Kubernetes' handlers bulkhead and bulkhead-vm,
              and /etc/bulkhead/vm.toml, the latter's settings
  podman      /etc/containers/containers.conf.d/bulkhead.conf: the runtime bulkhead

bulkhead-vm runs containers in a machine (--isolation=vm). What stands in the files
stays as it is, to the byte; settings of your own for these names are left alone. You
see the changes as a diff, and are asked; without a terminal or --yes nothing is
written, and the exit code is 2 if something would be. The engines are not restarted.`,
		Example: "  bulkhead install\n  bulkhead install --yes docker\n  bulkhead install --destdir image --program /usr/bin/bulkhead containerd",
		RunE: func(cmd *cobra.Command, args []string) error {
			if i.host.Program == "" {
				var err error
				if i.host.Program, err = os.Executable(); err != nil {
					return fmt.Errorf("install: %w", err)
				}
			}
			return i.carryOut(cmd.Context(), "install", args, i.host.Install)
		},
	})
	c.Flags().StringVar(&i.host.Program, "program", "", "the path that engines shall call bulkhead by (default: this program's)")
	return c
}

func (a *app) uninstall() *cobra.Command {
	i := &installation{}
	return i.flags(&cobra.Command{
		Use:   "uninstall [flags] [docker] [containerd] [podman]",
		Short: "Take away again what install has written",
		Long: `Take what bulkhead install writes out of the configuration of engines: those named, or
all that are here. A file in which nothing else has changed is as it was before install,
to the byte, and one that install has made is removed. You see the changes and are
asked, as with install. Containers that exist keep running; remove them first, since
their engine cannot call bulkhead for them any more.`,
		Example: "  bulkhead uninstall\n  bulkhead uninstall --yes docker",
		RunE: func(cmd *cobra.Command, args []string) error {
			return i.carryOut(cmd.Context(), "uninstall", args, i.host.Uninstall)
		},
	})
}

// carryOut shows a plan, asks, and does it.
func (i *installation) carryOut(ctx context.Context, verb string, engines []string, plan func([]string) (*install.Plan, error)) error {
	i.host.Path = os.Getenv("PATH")
	if i.host.Destdir != "" {
		var err error
		if i.host.Destdir, err = filepath.Abs(i.host.Destdir); err != nil {
			return err
		}
	}
	p, err := plan(engines)
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	for _, c := range p.Changes {
		for line := range strings.Lines(c.Diff()) { // which holds text of others
			fmt.Println(printable(strings.ReplaceAll(strings.TrimRight(line, "\r\n"), "\t", "    ")))
		}
	}
	for _, note := range p.Notes {
		fmt.Println("note: " + printable(note))
	}
	if len(p.Changes) == 0 {
		fmt.Printf("nothing to %s: %s: everything is as it should be\n", verb, strings.Join(p.Engines, ", "))
		return nil
	}
	if !i.yes {
		if !console.IsTerminal(os.Stdin) || !console.IsTerminal(os.Stdout) {
			fmt.Fprintln(os.Stderr, "bulkhead: "+verb+": nothing was written, since there is no terminal to ask on; --yes writes")
			return exit(notDone)
		}
		if fmt.Print("Write this? [y/N] "); !yes(ctx) {
			fmt.Println("nothing was written")
			return exit(notDone)
		}
	}
	for n, c := range p.Changes {
		if err := c.Write(); err != nil {
			return fmt.Errorf("%s: %w (%d of %d files are written)", verb, err, n, len(p.Changes))
		}
	}
	for _, c := range p.Changes {
		fmt.Println("written: " + c.Path)
	}
	for _, next := range p.Next {
		fmt.Println("next: " + next)
	}
	return nil
}

// yes waits for an answer on standard input; an interrupt is a no.
func yes(ctx context.Context) bool {
	answers := make(chan string, 1)
	go func() {
		answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		answers <- strings.ToLower(strings.TrimSpace(answer))
	}()
	select {
	case answer := <-answers:
		return answer == "y" || answer == "yes"
	case <-ctx.Done():
		fmt.Println()
		return false
	}
}
