package cli

import (
	"context"

	"bulkhead/runtime/container"

	"github.com/spf13/cobra"
)

func (a *app) pause() *cobra.Command {
	return a.simple("pause ID", "Stop all processes of a container", (*container.Container).Pause)
}

func (a *app) resume() *cobra.Command {
	return a.simple("resume ID", "Let the processes of a paused container go on", (*container.Container).Resume)
}

// simple is a verb that takes a container and nothing else.
func (a *app) simple(use, short string, do func(*container.Container, context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: exactly("ID"), ValidArgsFunction: a.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.rt.Open(args[0])
			if err == nil {
				err = do(c, cmd.Context())
			}
			return on(args[0], err)
		},
	}
}
