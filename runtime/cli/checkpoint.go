package cli

import (
	"errors"

	"bulkhead/runtime/container"

	"github.com/spf13/cobra"
)

func (a *app) checkpoint() *cobra.Command {
	var image, parent string
	var leave bool
	c := &cobra.Command{
		Use:   "checkpoint [flags] ID",
		Short: "Save a container's state to a directory, and end it",
		Long: `Save the state of a container of one process to a directory, from which "restore"
lets it go on. What cannot be saved is named, and the container goes on.`,
		Example:           "  bulkhead checkpoint --image-path ./image my-container",
		Args:              exactly("ID"),
		ValidArgsFunction: a.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			if parent != "" {
				return on(args[0], errors.New("checkpoint: --parent-path: an image is whole, and has no parent"))
			}
			c, err := a.rt.Open(args[0])
			if err == nil {
				err = c.Checkpoint(cmd.Context(), image, leave)
			}
			return on(args[0], err)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&image, "image-path", "checkpoint", "directory to save to")
	f.BoolVar(&leave, "leave-running", false, "let the container go on")
	f.StringVar(&parent, "parent-path", "", "for runc's sake: refused")
	f.String("work-path", "", "for runc's sake: nothing is written there")
	f.MarkHidden("parent-path")
	f.MarkHidden("work-path")
	return c
}

func (a *app) restore() *cobra.Command {
	var (
		m      making
		image  string
		detach bool
	)
	c := &cobra.Command{
		Use:     "restore [flags] ID",
		Short:   "Make a container that goes on from a saved state",
		Long:    `Make a container from a bundle that goes on where "checkpoint" has saved one.`,
		Example: "  bulkhead restore --image-path ./image --bundle ./b my-container",
		Args:    exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := m.options(args[0])
			if err != nil {
				return on(args[0], err)
			}
			if o.Restore, err = container.OpenImage(image); err != nil {
				return on(args[0], err)
			}
			defer o.Restore.Close()
			if detach {
				return on(args[0], a.runDetached(cmd.Context(), o))
			}
			return on(args[0], a.runForeground(cmd.Context(), o, false))
		},
	}
	m.flags(c)
	f := c.Flags()
	f.StringVar(&image, "image-path", "checkpoint", "directory that checkpoint has saved to")
	f.BoolVarP(&detach, "detach", "d", false, "return when the program goes on")
	f.String("work-path", "", "for runc's sake: nothing is written there")
	f.MarkHidden("work-path")
	return c
}
