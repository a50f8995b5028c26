package cli

import (
	"context"

	"bulkhead/runtime/bundle"
	"bulkhead/runtime/container"

	"github.com/spf13/cobra"
)

// making are the flags that create and run share.
type making struct {
	bundle, console, pidFile string
	preserve                 int
}

func (m *making) flags(c *cobra.Command) {
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&m.bundle, "bundle", "b", ".", "directory with config.json")
	f.StringVar(&m.pidFile, "pid-file", "", "file to write the sandbox's process number to")
	f.StringVar(&m.console, "console-socket", "", "Unix socket to send the master of the container's terminal to")
	f.IntVar(&m.preserve, "preserve-fds", 0, "number of descriptors, from 3 on, to hand to the container")
	f.Bool("no-pivot", false, "for runc's sake: nothing here changes a root that it could not")
	f.Bool("no-new-keyring", false, "for runc's sake: containers have no keys of the host's")
	f.MarkHidden("no-pivot")
	f.MarkHidden("no-new-keyring")
}

func (m *making) options(id string) (*container.Create, error) {
	b, err := bundle.Load(m.bundle)
	if err != nil {
		return nil, err
	}
	return &container.Create{ID: id, Bundle: b, PidFile: m.pidFile, ConsoleSocket: m.console, PreserveFDs: m.preserve}, nil
}

func (a *app) create() *cobra.Command {
	var m making
	c := &cobra.Command{
		Use:   "create [flags] ID",
		Short: "Make a container from a bundle, up to just before its program",
		Long: `Make a container from an OCI bundle (a directory with config.json): check it,
start its sandbox, load its program. "start" then lets the program run.`,
		Example: "  bulkhead create --bundle ./b my-container\n  bulkhead start my-container",
		Args:    exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return on(args[0], a.makeContainer(cmd.Context(), &m, args[0]))
		},
	}
	m.flags(c)
	return c
}

func (a *app) makeContainer(ctx context.Context, m *making, id string) error {
	o, err := m.options(id)
	if err != nil {
		return err
	}
	c, err := a.rt.Create(ctx, o)
	if err != nil {
		return err
	}
	c.Release()
	return nil
}

func (a *app) start() *cobra.Command {
	return &cobra.Command{
		Use:               "start ID",
		Short:             "Let a created container's program run",
		Args:              exactly("ID"),
		ValidArgsFunction: a.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.rt.Open(args[0])
			if err == nil {
				err = c.Start(cmd.Context())
			}
			return on(args[0], err)
		},
	}
}
