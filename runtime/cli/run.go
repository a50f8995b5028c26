package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"bulkhead/runtime/console"
	"bulkhead/runtime/container"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func (a *app) run() *cobra.Command {
	var (
		m            making
		detach, keep bool
	)
	c := &cobra.Command{
		Use:   "run [flags] ID",
		Short: "Create and start a container, wait for it, delete it",
		Long: `Create and start a container, stay with it until its program ends, delete it,
and end with the program's exit status (128 and the signal's number if a signal
ended it). Signals go to the program; a terminal is connected to this one.`,
		Example: "  bulkhead run --bundle ./b my-container\n  bulkhead run --detach --console-socket s.sock --bundle ./b my-container",
		Args:    exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := m.options(args[0])
			if err != nil {
				return on(args[0], err)
			}
			if detach && a.metricsAt != "" {
				return errors.New("run: --metrics needs somebody who stays; see bulkhead metrics --listen")
			}
			if detach {
				return on(args[0], a.runDetached(cmd.Context(), o))
			}
			return on(args[0], a.runForeground(cmd.Context(), o, keep))
		},
	}
	m.flags(c)
	c.Flags().BoolVarP(&detach, "detach", "d", false, "return when the program has started")
	a.metricsFlag(c)
	c.Flags().BoolVar(&keep, "keep", false, "do not delete the container after its end")
	return c
}

func (a *app) runDetached(ctx context.Context, o *container.Create) error {
	c, err := a.rt.Create(ctx, o)
	if err != nil {
		return err
	}
	c.Release()
	if err := c.Start(ctx); err != nil {
		c.Remove(context.WithoutCancel(ctx))
		return err
	}
	return nil
}

// runForeground is the whole life of a container.
func (a *app) runForeground(ctx context.Context, o *container.Create, keep bool) (err error) {
	stop, err := a.serveMetrics(ctx, o.ID)
	if err != nil {
		return err
	}
	defer stop()
	attach := o.Bundle.Spec.Process.Terminal && o.ConsoleSocket == ""
	if attach {
		var rows, columns uint16
		if console.IsTerminal(os.Stdin) {
			if rows, columns, err = console.Size(os.Stdin); err != nil {
				return err
			}
		}
		if o.Pty, err = console.New(rows, columns); err != nil {
			return err
		}
		defer o.Pty.Master.Close()
	}
	o.Start = true
	c, err := a.rt.Create(ctx, o)
	if err != nil {
		return err
	}
	c.Release()
	// From here on a signal is the program's.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	defer signal.Stop(signals)

	var proxy *container.Terminal
	if attach {
		if proxy, err = container.AttachTerminal(o.Pty.Master); err != nil {
			c.Remove(context.Background())
			return err
		}
	}
	err = c.Start(context.WithoutCancel(ctx))
	if err == nil {
		go container.Forward(signals, func(n unix.Signal) {
			if n != unix.SIGWINCH || !attach {
				c.Signal(context.Background(), n, false)
			}
		})
		err = a.await(c)
	} else {
		c.Process.Kill()
	}
	if proxy != nil {
		proxy.Finish()
	}
	if keep {
		return err
	}
	var code exit
	if rerr := c.Remove(context.Background()); rerr != nil && (err == nil || errors.As(err, &code)) {
		a.report(fmt.Errorf("container %s: delete: %w", o.ID, rerr))
	}
	a.rt.Milestone("deleted")
	return err
}

// await waits for the sandbox, which ends as the program did.
func (a *app) await(c *container.Container) error {
	state, err := c.Process.Process.Wait()
	if err != nil {
		return err
	}
	a.rt.Milestone("ended")
	status := state.Sys().(syscall.WaitStatus)
	if err := c.Crash(status.ExitStatus()); err != nil {
		a.report(err)
		return exit(container.ExitCrash)
	}
	switch {
	case status.Signaled():
		return exit(128 + int(status.Signal()))
	case status.ExitStatus() != 0:
		return exit(status.ExitStatus())
	}
	return nil
}
